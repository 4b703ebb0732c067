//! A message: what is said to whom, and its form on the way. Whatever the texts hold, they end up in the place that is theirs.

use lettre::{
    Address, Message as Formatted,
    message::{
        Mailbox, MultiPart, SinglePart,
        header::{HeaderName, HeaderValue},
    },
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Of an address' hash, so many stand in an id: one run tells far too few people for two of them to have the same.
const DIGITS: usize = 16;

/// Longer subjects are cut: nobody reads them, and servers refuse endless headers.
const LONGEST_SUBJECT: usize = 300;

/// The identity of a message: the same however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageId(String);

impl MessageId {
    /// Of the message that a visit of a step sends to one of its recipients: told by the address, because places in a list
    /// change with it between two tries.
    #[must_use]
    pub fn of_visit(run: Uuid, step: &str, visit: i32, recipient: &Address) -> MessageId {
        let address: &str = recipient.as_ref();
        let digest = hex::encode(Sha256::digest(address.to_ascii_lowercase()));
        MessageId(format!("{run}.{step}.{visit}.{}", &digest[..DIGITS]))
    }

    /// Of another message, made of parts that together are the same whenever it is sent, and of no other message.
    #[must_use]
    pub fn of(parts: &[&str]) -> MessageId {
        MessageId(parts.join("."))
    }

    /// As the header says it. The domain is the sender's, because it is known to the servers on the way.
    #[must_use]
    pub fn header(&self, from: &Address) -> String {
        // Whatever cannot stand there is left out; ids of steps have none of it.
        let plain = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c);
        let id: String = self.0.chars().filter(plain).collect();
        let domain = from.domain();
        if domain.chars().all(|c| plain(&c)) {
            format!("<{id}@floh-worker.{domain}>")
        } else {
            format!("<{id}@floh-worker>")
        }
    }
}

/// A message to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// To whom.
    pub to: Mailbox,
    /// In one line.
    pub subject: String,
    /// As plain text.
    pub text: Option<String>,
    /// As HTML. Of both, the reader's program shows what it can.
    pub html: Option<String>,
    /// Its identity.
    pub id: MessageId,
}

impl Message {
    /// The bytes that go to the server: ASCII, in lines that end with CR LF.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn bytes(&self, from: &Mailbox) -> Result<Vec<u8>, String> {
        let automatic =
            HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_string());
        let builder = Formatted::builder()
            .from(from.clone())
            .to(self.to.clone())
            .subject(subject(&self.subject))
            .date_now()
            .message_id(Some(self.id.header(&from.email)))
            .raw_header(automatic);
        let formatted = match (&self.text, &self.html) {
            (Some(text), Some(html)) => builder.multipart(MultiPart::alternative_plain_html(lines(text), lines(html))),
            (Some(text), None) => builder.singlepart(SinglePart::plain(lines(text))),
            (None, Some(html)) => builder.singlepart(SinglePart::html(lines(html))),
            (None, None) => return Err("a message has a text, or HTML, or both".to_string()),
        };
        formatted.map(|message| message.formatted()).map_err(|error| format!("no message can be made of it: {error}"))
    }
}

/// The same text in one line: line ends and other control characters become blanks, and blanks one blank.
#[must_use]
pub fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

fn subject(text: &str) -> String {
    let line = one_line(text);
    match line.char_indices().nth(LONGEST_SUBJECT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A text with the line ends of mail, without characters that do not belong into one. A lone CR would be a line end to some
/// servers and none to others, and so a way to smuggle in what looks like the end of the message.
fn lines(text: &str) -> String {
    let mut lines = String::with_capacity(text.len() + text.len() / 32);
    let mut after_cr = false;
    for c in text.chars() {
        match c {
            '\n' if after_cr => {}
            '\r' | '\n' => lines.push_str("\r\n"),
            '\t' => lines.push(c),
            _ if c.is_control() => {}
            _ => lines.push(c),
        }
        after_cr = c == '\r';
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::parse;
    use proptest::prelude::*;

    fn message(subject: &str, text: Option<&str>, html: Option<&str>) -> Message {
        let to = parse("Ada <ada@example.org>").unwrap();
        let id = MessageId::of_visit(Uuid::nil(), "tell", 2, &to.email);
        Message { to, subject: subject.to_string(), text: text.map(Into::into), html: html.map(Into::into), id }
    }

    /// What `sha256sum` says of `ada@example.org`, its beginning.
    const ADA: &str = "cfe00dde46ef9426";

    fn address(text: &str) -> Address {
        parse(text).unwrap().email
    }

    fn bytes(message: &Message) -> String {
        String::from_utf8(message.bytes(&parse("Flöh <floh@example.com>").unwrap()).unwrap()).unwrap()
    }

    /// The names of the headers at its top.
    fn headers(bytes: &str) -> Vec<String> {
        let top = bytes.split("\r\n\r\n").next().unwrap();
        let lines = top.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
        lines.map(|line| line.split(':').next().unwrap().to_string()).collect()
    }

    const HEADERS: [&str; 6] = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"];

    #[test]
    fn a_message_has_the_headers_that_a_mail_of_a_program_has() {
        let bytes = bytes(&message("Grüße", Some("Hello"), Some("<p>Hello</p>")));
        assert_eq!(headers(&bytes)[..6], HEADERS);
        let id = format!("Message-ID: <{}.tell.2.{ADA}@floh-worker.example.com>", Uuid::nil());
        assert!(bytes.contains(&id), "{bytes}");
        assert!(bytes.contains("Auto-Submitted: auto-generated\r\n") && bytes.contains("multipart/alternative"));
        assert!(bytes.is_ascii() && bytes.contains("Subject: =?utf-8?"), "{bytes}");
        let order = ["text/plain; charset=utf-8", "text/html; charset=utf-8"].map(|kind| bytes.find(kind).unwrap());
        assert!(order[0] < order[1], "the last alternative is the best one");
    }

    #[test]
    fn a_message_needs_something_to_say() {
        let why = message("Empty", None, None).bytes(&parse("floh@example.com").unwrap()).unwrap_err();
        assert!(why.contains("a text, or HTML"), "{why}");
        assert!(bytes(&message("One", Some("a"), None)).contains("text/plain"));
        assert!(bytes(&message("One", None, Some("a"))).contains("text/html"));
    }

    #[test]
    fn subjects_are_one_line_and_not_endless() {
        assert_eq!(subject(" a\r\nBcc: b@c.org\u{85}\u{2028}d\0"), "a Bcc: b@c.org d");
        assert_eq!(subject(&"ä".repeat(1000)).chars().count(), LONGEST_SUBJECT + 1);
    }

    #[test]
    fn an_address_that_is_no_domain_is_not_in_the_id() {
        let id = MessageId::of_visit(Uuid::nil(), "a<b>", 1, &address("ada@example.org"));
        let header = id.header(&Address::new("floh", "[127.0.0.1]").unwrap());
        assert_eq!(header, format!("<{}.ab.1.{ADA}@floh-worker>", Uuid::nil()));
    }

    #[test]
    fn an_id_is_the_recipients_however_the_address_is_written() {
        let of = |visit, to: &str| MessageId::of_visit(Uuid::nil(), "tell", visit, &address(to));
        assert_eq!(of(1, "ada@example.org"), of(1, "ADA@Example.org"));
        assert_ne!(of(1, "ada@example.org"), of(1, "bob@example.org"));
        assert_ne!(of(1, "ada@example.org"), of(2, "ada@example.org"));
    }

    /// A text of nothing but line ends is the worst one for whoever mends them one by one.
    #[test]
    fn the_longest_text_is_formatted_in_time() {
        let worked = || -> std::time::Duration {
            nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
        };
        let begun = worked();
        let text = "\n".repeat(crate::mail::template::LONGEST_TEXT);
        let bytes = bytes(&message("Long", Some(&text), Some(&"ä".repeat(text.len() / 2))));
        assert!(bytes.len() > 2 * text.len());
        assert!(worked() - begun < std::time::Duration::from_secs(20), "{:?}", worked() - begun);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn hostile_texts_stay_where_they_belong(
            subject in "(a|é|\\r|\\n|\\.|:|Bcc: x@y.org|=\\?utf-8\\?q\\?|[\\x00-\\x1f]){0,40}",
            text in "(a|é|\\r|\\n|\\.|--|From |[\\x00-\\x1f]|\\u{2028}){0,60}",
            name in "(a|é|\\r|\\n|\"|<|>|,|@){0,12}",
        ) {
            let mut message = message(&subject, Some(&text), None);
            message.to = crate::mail::address::named(&message.to, &name);
            let bytes = bytes(&message);
            let found = headers(&bytes);
            prop_assert_eq!(&found[..6], &HEADERS[..]);
            prop_assert!(found[6..].iter().all(|name| ["MIME-Version", "Content-Type", "Content-Transfer-Encoding"].contains(&name.as_str())));
            prop_assert!(bytes.bytes().all(|byte| byte.is_ascii() && (byte >= 32 || b"\r\n\t".contains(&byte))));
            prop_assert!(!bytes.replace("\r\n", "").contains(['\r', '\n']), "a lone CR or LF");
            prop_assert!(bytes.split("\r\n").all(|line| line.len() <= 998));
        }
    }
}
