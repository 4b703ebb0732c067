//! Addresses of mail, as people and other systems write them.

use lettre::{Address, message::Mailbox};

/// Longer ones no server takes (RFC 5321).
const LONGEST: usize = 254;

/// Reads `ada@example.org` or `Ada Lovelace <ada@example.org>`. A domain of other letters becomes its ASCII form.
///
/// # Errors
/// A sentence that names the text.
pub fn parse(text: &str) -> Result<Mailbox, String> {
    let text = text.trim();
    let shown = || format!("\"{}\"", text.chars().take(80).collect::<String>().escape_debug());
    let wrong = || format!("{} is no mail address", shown());
    if text.len() > 4 * LONGEST || text.chars().any(char::is_control) {
        return Err(wrong());
    }
    let mailbox: Mailbox = text.parse().map_err(|_| wrong())?;
    let (user, domain) = (mailbox.email.user(), mailbox.email.domain());
    if !user.is_ascii() {
        return Err(format!("{} has letters beyond ASCII before its @, which not every mail server takes", shown()));
    }
    let email = if domain.is_ascii() {
        mailbox.email
    } else {
        let host = url::Host::parse(domain).map_err(|_| wrong())?;
        Address::new(user, host.to_string()).map_err(|_| wrong())?
    };
    let written: &str = email.as_ref();
    if written.len() > LONGEST || written.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok(Mailbox::new(mailbox.name, email))
}

/// The same address with a name for people, on one line.
#[must_use]
pub fn named(mailbox: &Mailbox, name: &str) -> Mailbox {
    let name = super::message::one_line(name);
    Mailbox::new((!name.is_empty()).then_some(name), mailbox.email.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_name() {
        for (text, name, address) in [
            (" ada@example.org ", None, "ada@example.org"),
            ("Ada Lovelace <ada+x@example.org>", Some("Ada Lovelace"), "ada+x@example.org"),
            ("\"Lovelace, Ada\" <ada@example.org>", Some("Lovelace, Ada"), "ada@example.org"),
            ("ada@bücher.example", None, "ada@xn--bcher-kva.example"),
        ] {
            let found = parse(text).unwrap();
            assert_eq!((found.name.as_deref(), found.email.as_ref()), (name, address), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (text, word) in [
            ("", "\"\" is no mail address"),
            ("ada", "\"ada\" is no mail address"),
            ("ada@", "no mail address"),
            ("ada@example.org, bob@example.org", "no mail address"),
            ("ada@example.org\r\nBcc: bob@example.org", "\\r\\nBcc"),
            ("\"a b\"@example.org", "no mail address"),
            ("adá@example.org", "beyond ASCII before its @"),
            (&format!("{}@example.org", "a".repeat(250)), "no mail address"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn a_name_is_one_line() {
        let ada = named(&parse("ada@example.org").unwrap(), "Ada\r\nBcc: bob@example.org");
        assert_eq!(ada.name.as_deref(), Some("Ada Bcc: bob@example.org"));
        assert_eq!(named(&ada, "\n").name, None);
    }
}
