//! The way to the SMTP server: one connection for each message, and what became of it.
//!
//! What the server says about a message or its recipient is final where it says so (5xx). Whatever keeps it from being asked,
//! also a certificate or a password that is not right, may be put right meanwhile, and is tried again.

use super::message::Message;
use crate::config::{MailConfig, SmtpServer, SmtpTls};
use lettre::{
    address::Address,
    message::Mailbox,
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters},
        commands::{Data, Mail, Rcpt},
        extension::ClientId,
    },
};
use secrecy::ExposeSecret;
use std::{fmt, future::Future, time::Duration};
use tokio::time::Instant;

/// How long each address of the server is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all of it may take, from the connection to the server's word that it has the message.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the good-bye may take. The message is sent by then.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer answers of a server are cut.
const LONGEST_ANSWER: usize = 300;

/// A message that was not sent, or of which nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SendError {
    /// Why, in a sentence.
    pub reason: String,
    /// Whether another try may go better.
    pub passing: bool,
    /// Whether the server was asked about this message; if not, it is the same for every other one.
    pub reached: bool,
}

/// Sends mail, if the configuration says how.
pub struct Mailer(Result<Ready, String>);

struct Ready {
    server: SmtpServer,
    from: Mailbox,
    tls: Option<TlsParameters>,
    /// How we greet.
    name: ClientId,
}

/// What was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connect,
    StartTls,
    Login,
    Sender,
    Recipient,
    Content,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Connect => "cannot be reached",
            Stage::StartTls => "does not become encrypted (SMTP_TLS=starttls)",
            Stage::Login => "does not accept SMTP_USER and SMTP_PASSWORD",
            Stage::Sender => "does not accept the sender of SMTP_FROM",
            Stage::Recipient => "does not accept the recipient",
            Stage::Content => "does not accept the message",
        })
    }
}

impl Mailer {
    /// Connects to nothing yet. Where mail is not configured, or cannot be encrypted, each message says why.
    #[must_use]
    pub fn new(config: &MailConfig) -> Mailer {
        Mailer(ready(config))
    }

    /// The sender, or why there is no mail.
    ///
    /// # Errors
    /// A sentence that names the variable which is missing or wrong.
    pub fn sender(&self) -> Result<&Mailbox, SendError> {
        self.ready().map(|ready| &ready.from)
    }

    fn ready(&self) -> Result<&Ready, SendError> {
        self.0.as_ref().map_err(|why| SendError { reason: why.clone(), passing: false, reached: false })
    }

    /// Sends a message. When it returns without an error, the server has taken it over. May be dropped at any time; then, as
    /// after an error that passes, the message may have been sent, and one that is sent again has the same identity.
    ///
    /// # Errors
    /// Why not, and whether that may pass.
    pub async fn send(&self, message: &Message) -> Result<(), SendError> {
        let ready = self.ready()?;
        let bytes = message.bytes(&ready.from).map_err(|reason| SendError { reason, passing: false, reached: true })?;
        let mut attempt = Attempt { ready, end: Instant::now() + SEND_TIMEOUT };
        let mut connection = attempt.connect().await?;
        let sent = attempt.send(&mut connection, &message.to.email, &bytes).await;
        // Neither its answer nor its silence changes anything.
        let _ = tokio::time::timeout(QUIT_TIMEOUT, connection.quit()).await;
        sent
    }
}

impl Default for Mailer {
    /// One that is not configured.
    fn default() -> Mailer {
        Mailer::new(&MailConfig { server: None, from: None })
    }
}

/// One try, with its deadline.
struct Attempt<'a> {
    ready: &'a Ready,
    end: Instant,
}

impl Attempt<'_> {
    async fn connect(&mut self) -> Result<AsyncSmtpConnection, SendError> {
        let Ready { server, tls, name, .. } = self.ready;
        let at_once = tls.clone().filter(|_| server.tls == SmtpTls::Tls);
        let address = (server.host.as_str(), server.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(address, Some(CONNECT_TIMEOUT), name, at_once, None);
        let mut connection = self.stage(Stage::Connect, connecting).await?;
        if let (SmtpTls::StartTls, Some(tls)) = (server.tls, tls) {
            self.stage(Stage::StartTls, connection.starttls(tls.clone(), name)).await?;
        }
        if let Some((user, password)) = &server.login {
            let login = Credentials::new(user.clone(), password.expose_secret().to_string());
            self.stage(Stage::Login, connection.auth(&[Mechanism::Plain, Mechanism::Login], &login)).await?;
        }
        Ok(connection)
    }

    async fn send(
        &mut self,
        connection: &mut AsyncSmtpConnection,
        to: &Address,
        bytes: &[u8],
    ) -> Result<(), SendError> {
        let from = Mail::new(Some(self.ready.from.email.clone()), Vec::new());
        self.stage(Stage::Sender, connection.command(from)).await?;
        self.stage(Stage::Recipient, connection.command(Rcpt::new(to.clone(), Vec::new()))).await?;
        self.stage(Stage::Content, connection.command(Data)).await?;
        self.stage(Stage::Content, connection.message(bytes)).await?;
        Ok(())
    }

    async fn stage<T>(&self, stage: Stage, doing: impl Future<Output = Result<T, Error>>) -> Result<T, SendError> {
        let SmtpServer { host, port, .. } = &self.ready.server;
        let place = format!("the mail server {host}:{port}");
        let reached = matches!(stage, Stage::Sender | Stage::Recipient | Stage::Content);
        match tokio::time::timeout_at(self.end, doing).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let passing = !(reached && error.is_permanent());
                Err(SendError { reason: format!("{place} {}", sentence(stage, &error)), passing, reached })
            }
            Err(_) => {
                let reason = format!("{place} did not answer within {} s", SEND_TIMEOUT.as_secs());
                Err(SendError { reason, passing: true, reached })
            }
        }
    }
}

/// What happened, in the server's words where it said something.
fn sentence(stage: Stage, error: &Error) -> String {
    let mut answer = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    if let Some(code) = error.status() {
        answer = format!("{code} {answer}");
    }
    let answer = super::message::one_line(&answer);
    let answer: String = answer.chars().take(LONGEST_ANSWER).collect();
    if error.status().is_some() || matches!(stage, Stage::Connect | Stage::StartTls) || error.is_client() {
        format!("{stage}: {answer}")
    } else {
        format!("broke off: {answer}")
    }
}

fn ready(config: &MailConfig) -> Result<Ready, String> {
    let missing = |name: &str| format!("no mail can be sent: {name} is not set");
    let server = config.server.clone().ok_or_else(|| missing("SMTP_HOST"))?;
    let from = config.from.clone().ok_or_else(|| missing("SMTP_FROM"))?;
    let tls = match server.tls {
        SmtpTls::None => None,
        SmtpTls::StartTls | SmtpTls::Tls => Some(tls(&server)?),
    };
    Ok(Ready { server, from, tls, name: name() })
}

/// The client side of TLS: rustls with ring, the chain and the host's name are checked.
fn tls(server: &SmtpServer) -> Result<TlsParameters, String> {
    let builder = TlsParameters::builder(server.host.clone());
    let builder = match &server.tls_ca {
        Some(file) => {
            let wrong = |why: String| format!("no mail can be sent: SMTP_TLS_CA={}: {why}", file.display());
            let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
            let trusted = Certificate::from_pem(&pem).map_err(|error| wrong(error.to_string()))?;
            builder.certificate_store(CertificateStore::None).add_root_certificate(trusted)
        }
        None if rustls_native_certs::load_native_certs().certs.is_empty() => {
            return Err("no mail can be sent: there are no certificate authorities on this machine; install \
                        ca-certificates or set SMTP_TLS_CA"
                .to_string());
        }
        None => builder,
    };
    builder.build().map_err(|error| format!("no mail can be sent: TLS cannot be set up: {error}"))
}

/// The name of this machine where it is a whole one, else an address that every server takes.
fn name() -> ClientId {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let plain = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if host.contains('.') && host.split('.').all(plain) { ClientId::Domain(host) } else { ClientId::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{MessageId, address};
    use std::path::PathBuf;

    fn config(host: Option<&str>, from: Option<&str>, tls: SmtpTls, tls_ca: Option<PathBuf>) -> MailConfig {
        let server = host.map(|host| SmtpServer { host: host.to_string(), port: 1, tls, tls_ca, login: None });
        MailConfig { server, from: from.map(|from| address::parse(from).unwrap()) }
    }

    async fn refusal(config: &MailConfig) -> SendError {
        let to = address::parse("ada@example.org").unwrap();
        let id = MessageId::of_visit(uuid::Uuid::nil(), "a", 1, &to.email);
        let message = Message { to, subject: "a".into(), text: Some("b".into()), html: None, id };
        Mailer::new(config).send(&message).await.unwrap_err()
    }

    #[tokio::test]
    async fn what_is_not_configured_is_named() {
        for (config, word) in [
            (config(None, Some("floh@example.org"), SmtpTls::None, None), "SMTP_HOST is not set"),
            (config(Some("localhost"), None, SmtpTls::None, None), "SMTP_FROM is not set"),
            (
                config(Some("localhost"), Some("floh@example.org"), SmtpTls::Tls, Some("/nowhere.pem".into())),
                "SMTP_TLS_CA=/nowhere.pem",
            ),
        ] {
            let error = refusal(&config).await;
            assert!(error.reason.contains(word) && !error.passing, "{error:?}");
        }
        assert!(Mailer::default().sender().unwrap_err().reason.contains("SMTP_HOST"));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_may_come() {
        let error = refusal(&config(Some("127.0.0.1"), Some("floh@example.org"), SmtpTls::None, None)).await;
        assert!(error.passing, "{error:?}");
        assert!(error.reason.starts_with("the mail server 127.0.0.1:1 cannot be reached: "), "{error}");
    }
}
