//! The mail server's variables. Without `SMTP_HOST` there is no mail, and a step that has to send some fails.

use super::{
    reader::{Reader, authorities, host_name, plain, whole},
    types::{MailConfig, SmtpServer, SmtpTls},
};
use lettre::message::Mailbox;

/// Longer names are no logins.
const LONGEST_USER: usize = 255;

/// What is asked of TLS where nothing is said.
const DEFAULT_TLS: SmtpTls = SmtpTls::StartTls;

pub(super) fn read(reader: &mut Reader) -> MailConfig {
    let tls = reader.checked("SMTP_TLS", DEFAULT_TLS, tls_mode);
    let port = reader.checked("SMTP_PORT", usual_port(tls), whole(1..=u16::MAX, "a port"));
    let tls_ca = reader.checked("SMTP_TLS_CA", None, authorities);
    let user = reader.checked("SMTP_USER", None, |text| plain(LONGEST_USER, "a user name")(text).map(Some));
    let password = reader.secret("SMTP_PASSWORD");
    let from = reader.checked("SMTP_FROM", None, |text| sender(text).map(Some));
    let host = reader.checked("SMTP_HOST", None, |text| host_name(text).map(Some));
    let server = host.map(|host| SmtpServer { host, port, tls, tls_ca, login: user.zip(password) });
    if let Some(server) = &server {
        tell(reader, server, from.is_some());
    }
    MailConfig { server, from }
}

/// What is strange about it, but no mistake: the file may be the API server's, and runs without mail are to go on.
fn tell(reader: &mut Reader, server: &SmtpServer, has_sender: bool) {
    if !has_sender {
        reader.warn("SMTP_HOST", "of no use, because there is no SMTP_FROM: steps that send mail will fail");
    }
    if server.login.is_none() {
        for (one, other) in [("SMTP_USER", "SMTP_PASSWORD"), ("SMTP_PASSWORD", "SMTP_USER")] {
            if reader.is_given(one) && !reader.is_given(other) {
                reader.warn(one, &format!("not used, because there is no {other}"));
            }
        }
    }
    match (server.tls, server.port) {
        (SmtpTls::StartTls | SmtpTls::None, 465) => {
            let text = "465 is the port of servers that expect TLS from the first byte: is SMTP_TLS=tls meant?";
            reader.warn("SMTP_PORT", text);
        }
        (SmtpTls::Tls, 25 | 587) => {
            let text = "a port of servers that expect STARTTLS: is SMTP_TLS=starttls meant?";
            reader.warn("SMTP_PORT", text);
        }
        _ => {}
    }
    if server.tls == SmtpTls::None {
        if server.tls_ca.is_some() {
            reader.warn("SMTP_TLS_CA", "not used, because SMTP_TLS is none");
        }
        if server.login.is_some() && !is_this_machine(&server.host) {
            reader.warn("SMTP_TLS", "none, so the password goes over the network as plain text");
        }
    }
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Where servers listen by convention: submission (RFC 6409), submissions (RFC 8314), a relay.
fn usual_port(tls: SmtpTls) -> u16 {
    match tls {
        SmtpTls::None => 25,
        SmtpTls::StartTls => 587,
        SmtpTls::Tls => 465,
    }
}

fn tls_mode(text: &str) -> Result<SmtpTls, String> {
    match text.to_ascii_lowercase().as_str() {
        "none" => Ok(SmtpTls::None),
        "starttls" => Ok(SmtpTls::StartTls),
        "tls" => Ok(SmtpTls::Tls),
        // What the API server's mail library calls "secure".
        "true" | "1" | "yes" | "on" => {
            Err("none, starttls or tls is expected: tls from the first byte (port 465), or starttls (port 587)"
                .to_string())
        }
        "false" | "0" | "no" | "off" => {
            Err("none, starttls or tls is expected: starttls (port 587), or none for a relay without TLS".to_string())
        }
        _ => Err("none, starttls or tls is expected".to_string()),
    }
}

/// `Floh <floh@example.org>`, or the address alone.
fn sender(text: &str) -> Result<Mailbox, String> {
    let expected = "a sender is expected, such as floh@example.org or Floh <floh@example.org>";
    let mailbox: Mailbox = text.parse().map_err(|_| expected.to_string())?;
    let address: &str = mailbox.email.as_ref();
    if !address.is_ascii() {
        return Err("an address of ASCII characters is expected (write the domain as xn--…)".to_string());
    }
    if text.chars().any(char::is_control) { Err(expected.to_string()) } else { Ok(mailbox) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{good, mistakes, notices};
    use super::*;
    use secrecy::ExposeSecret;

    const HOST: (&str, &str) = ("SMTP_HOST", "mail.example.org");
    const FROM: (&str, &str) = ("SMTP_FROM", "Floh <floh@example.org>");

    fn server(pairs: &[(&str, &str)]) -> SmtpServer {
        good(&[&[HOST, FROM], pairs].concat()).mail.server.unwrap()
    }

    #[test]
    fn without_a_host_there_is_no_mail_and_nothing_to_say() {
        assert!(good(&[]).mail.server.is_none());
        assert_eq!(notices(&[FROM, ("SMTP_USER", "floh"), ("SMTP_TLS", "none")]), Vec::<String>::new());
    }

    #[test]
    fn the_port_follows_the_mode_unless_it_is_given() {
        for (mode, tls, port) in
            [("none", SmtpTls::None, 25), ("StartTLS", SmtpTls::StartTls, 587), ("tls", SmtpTls::Tls, 465)]
        {
            let found = server(&[("SMTP_TLS", mode)]);
            assert_eq!((found.tls, found.port), (tls, port));
        }
        let found = server(&[]);
        assert_eq!((found.tls, found.port, found.login.is_none()), (SmtpTls::StartTls, 587, true));
        assert_eq!(server(&[("SMTP_PORT", "2525")]).port, 2525);
    }

    #[test]
    fn a_login_is_a_user_and_a_password() {
        let (user, password) = server(&[("SMTP_USER", "floh"), ("SMTP_PASSWORD", "p w")]).login.unwrap();
        assert_eq!((user.as_str(), password.expose_secret()), ("floh", "p w"));
        assert_eq!(
            notices(&[HOST, FROM, ("SMTP_USER", "floh")]),
            ["SMTP_USER: not used, because there is no SMTP_PASSWORD"]
        );
        assert_eq!(
            notices(&[HOST, FROM, ("SMTP_PASSWORD", "x")]),
            ["SMTP_PASSWORD: not used, because there is no SMTP_USER"]
        );
    }

    #[test]
    fn the_sender_is_checked() {
        let from = good(&[FROM]).mail.from.unwrap();
        assert_eq!((from.name.as_deref(), from.email.to_string().as_str()), (Some("Floh"), "floh@example.org"));
        for wrong in ["Floh", "floh@", "a@b@c d", "flöh@example.org", "floh@exämple.org", "a@x.org, b@x.org"] {
            let lines = mistakes(&[("SMTP_FROM", wrong)]);
            assert!(lines.len() == 1 && lines[0].starts_with("SMTP_FROM="), "{wrong}: {lines:?}");
        }
        let lines = notices(&[HOST]);
        assert!(lines.len() == 1 && lines[0].contains("there is no SMTP_FROM"), "{lines:?}");
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let lines = mistakes(&[
            ("SMTP_HOST", "mail.example.org:25"),
            ("SMTP_PORT", "0"),
            ("SMTP_TLS", "true"),
            ("SMTP_TLS_CA", "ca.pem"),
            ("SMTP_USER", "a b"),
            ("SMTP_FROM", "nobody"),
        ]);
        assert_eq!(lines.len(), 6, "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("SMTP_TLS=\"true\": none, starttls or tls")), "{lines:?}");
        assert!(mistakes(&[("SMTP_TLS", "false")])[0].contains("starttls (port 587), or none"));
    }

    #[test]
    fn what_does_not_fit_together_is_told() {
        let warned = |pairs: &[(&str, &str)]| notices(&[&[HOST, FROM], pairs].concat()).join("\n");
        assert!(warned(&[("SMTP_PORT", "465")]).contains("is SMTP_TLS=tls meant?"));
        assert!(warned(&[("SMTP_PORT", "587"), ("SMTP_TLS", "tls")]).contains("is SMTP_TLS=starttls meant?"));
        let plain = [("SMTP_TLS", "none"), ("SMTP_USER", "u"), ("SMTP_PASSWORD", "p")];
        assert!(warned(&plain).contains("plain text"));
        assert_eq!(notices(&[&[("SMTP_HOST", "127.0.0.1"), FROM], &plain[..]].concat()), Vec::<String>::new());
    }

    #[test]
    fn the_api_server_s_names_are_recognised() {
        for (theirs, ours) in [
            ("SMTP_SECURE", "SMTP_TLS"),
            ("SMTP_PASS", "SMTP_PASSWORD"),
            ("SMTP_USERNAME", "SMTP_USER"),
            ("SMTP_SERVER", "SMTP_HOST"),
            ("SMTP_SENDER", "SMTP_FROM"),
        ] {
            assert_eq!(notices(&[(theirs, "x")]), [format!("{theirs}: not known, is {ours} meant?")]);
        }
    }
}
