//! One connection to PostgreSQL: address, TLS, timeouts, and the settings that every session of ours has.

use super::{
    error::{Place, StoreError},
    tls,
};
use crate::config::{DatabaseConfig, DatabaseHost, SslMode};
use futures_util::{StreamExt, stream};
use secrecy::ExposeSecret;
use std::{future::Future, pin::Pin, time::Duration};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_postgres::{AsyncMessage, Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

/// How long the TCP handshake with one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long name look-up, TCP, TLS, login and the session's settings may take together.
pub(super) const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Sent data that nobody acknowledges for this long ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// What the server allows one statement, and one pause inside a transaction.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is waited for: beyond the server's own limit, so that normally the server speaks first.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Opens sessions.
#[derive(Clone)]
pub(super) struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
    settings: String,
    pub(super) place: Place,
}

impl Connector {
    /// For a database as the configuration names it. Fails where TLS cannot be set up or the schema's name is no plain
    /// identifier.
    pub(super) fn new(database: &DatabaseConfig, application: &str) -> Result<Connector, StoreError> {
        let place = place(database);
        let reject = |reason: String| StoreError::Rejected { place: place.clone(), reason };
        let schema = quote_schema(&database.schema).map_err(reject)?;
        // libpq, too, speaks no TLS over a Unix socket, whatever the mode.
        let mode = match database.host {
            DatabaseHost::Socket(_) => SslMode::Disable,
            DatabaseHost::Tcp(_) => database.ssl,
        };
        let tls = tls::client_config(mode, database.ssl_ca.as_deref()).map_err(reject)?;
        let mut config = Config::new();
        match &database.host {
            DatabaseHost::Tcp(host) => config.host(host),
            DatabaseHost::Socket(folder) => config.host_path(folder),
        };
        config
            .port(database.port)
            .dbname(&database.name)
            .user(&database.user)
            .application_name(application)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(USER_TIMEOUT)
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(3))
            .keepalives_retries(3)
            .ssl_mode(match mode {
                SslMode::Disable => tokio_postgres::config::SslMode::Disable,
                SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
                SslMode::Require | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
            });
        if let Some(password) = &database.password {
            config.password(password.expose_secret());
        }
        Ok(Connector { config, tls: MakeRustlsConnect::new(tls), settings: settings(&schema), place })
    }

    /// A session as the server gives it, and the task that moves its bytes.
    pub(super) async fn open_bare(&self) -> Result<(Client, JoinHandle<()>), Error> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                // The statement that was under way reports it; here it is only for the curious.
                tracing::debug!(%error, "a connection to PostgreSQL ended");
            }
        });
        Ok((client, task))
    }

    /// A session with our settings.
    async fn open(&self) -> Result<(Client, JoinHandle<()>), Error> {
        let (client, task) = self.open_bare().await?;
        match client.batch_execute(&self.settings).await {
            Ok(()) => Ok((client, task)),
            Err(error) => {
                task.abort();
                Err(error)
            }
        }
    }

    /// The same under [`SESSION_TIMEOUT`], with our own errors.
    pub(super) async fn open_within(&self) -> Result<(Client, JoinHandle<()>), StoreError> {
        match tokio::time::timeout(SESSION_TIMEOUT, self.open()).await {
            Ok(opened) => opened.map_err(|e| StoreError::sort(&self.place, &e)),
            Err(_) => Err(StoreError::Unavailable { place: self.place.clone(), reason: no_session() }),
        }
    }
}

/// What is said when [`SESSION_TIMEOUT`] is over.
pub(super) fn no_session() -> String {
    format!("no session within {} s: it does not answer", SESSION_TIMEOUT.as_secs())
}

/// A session that hands on what others say.
pub(super) struct Listening {
    pub(super) client: Client,
    /// The payloads, as they come; closed with the session.
    pub(super) said: mpsc::UnboundedReceiver<String>,
    /// Moves the bytes; the session ends with it.
    pub(super) task: AbortOnDropHandle<()>,
}

impl Connector {
    /// A session with our settings that listens to nothing yet.
    pub(super) async fn open_listening(&self) -> Result<Listening, StoreError> {
        let sort = |error: Error| StoreError::sort(&self.place, &error);
        let late = || StoreError::Unavailable { place: self.place.clone(), reason: no_session() };
        let connecting = tokio::time::timeout(SESSION_TIMEOUT, self.config.connect(self.tls.clone()));
        let (client, mut connection) = connecting.await.map_err(|_| late())?.map_err(sort)?;
        let (tell, said) = mpsc::unbounded_channel();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(notification) = message
                    && tell.send(notification.payload().to_string()).is_err()
                {
                    return;
                }
            }
        }));
        let settings = tokio::time::timeout(SESSION_TIMEOUT, client.batch_execute(&self.settings));
        settings.await.map_err(|_| late())?.map_err(sort)?;
        Ok(Listening { client, said, task })
    }
}

type Connecting<'a> = Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + 'a>>;

impl deadpool_postgres::Connect for Connector {
    fn connect(&self, _: &Config) -> Connecting<'_> {
        Box::pin(self.open())
    }
}

/// `PostgreSQL at db.example:5432 (database floh, user floh)`.
fn place(database: &DatabaseConfig) -> Place {
    let host = match &database.host {
        DatabaseHost::Tcp(host) if host.contains(':') => format!("[{host}]:{}", database.port),
        DatabaseHost::Tcp(host) => format!("{host}:{}", database.port),
        DatabaseHost::Socket(folder) => folder.join(format!(".s.PGSQL.{}", database.port)).display().to_string(),
    };
    Place::new(format!("PostgreSQL at {host} (database {}, user {})", database.name, database.user))
}

/// The settings are sent after the login and not with it: poolers in session mode refuse them there.
///
/// `client_connection_check_interval` (PostgreSQL 14) lets the server notice during a statement that we are gone.
fn settings(schema: &str) -> String {
    let milliseconds = STATEMENT_TIMEOUT.as_millis();
    format!(
        "SET search_path = {schema}; SET statement_timeout = {milliseconds}; \
         SET idle_in_transaction_session_timeout = {milliseconds}; \
         SELECT set_config(name, '2s', false) FROM pg_settings WHERE name = 'client_connection_check_interval'"
    )
}

/// The schema as a quoted identifier, if it is a plain one.
pub(super) fn quote_schema(schema: &str) -> Result<String, String> {
    let plain = !schema.is_empty()
        && schema.len() <= 48
        && schema.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !schema.starts_with(|c: char| c.is_ascii_digit())
        && !schema.starts_with("pg_")
        && schema != "information_schema";
    if plain {
        Ok(format!("\"{schema}\""))
    } else {
        Err(format!(
            "DB_SCHEMA={schema:?} is not a plain name (lower-case letters, digits and _, at most 48, not pg_…)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_schema_names_reach_sql() {
        assert_eq!(quote_schema("floh_worker").unwrap(), "\"floh_worker\"");
        for bad in ["", "a\"b", "a b", "Upper", "1st", "pg_catalog", "information_schema", "a;b", &"a".repeat(49)] {
            assert!(quote_schema(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
