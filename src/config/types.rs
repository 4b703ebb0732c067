//! The validated settings: what the rest of the program sees.

use lettre::message::Mailbox;
use secrecy::SecretString;
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

/// Everything that the environment says, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// PostgreSQL, the truth.
    pub database: DatabaseConfig,
    /// Redis, which carries the wake-ups.
    pub redis: RedisConfig,
    /// Which BullMQ queue is consumed.
    pub queue: QueueConfig,
    /// The worker's own behaviour.
    pub worker: WorkerConfig,
    /// The audit log's checkpoints.
    pub audit: AuditConfig,
    /// What connectors may call, and how.
    pub connectors: ConnectorsConfig,
    /// How mail is sent.
    pub mail: MailConfig,
    /// Lines below this level are not logged (`LOG_LEVEL`).
    pub log_level: LogLevel,
}

/// How PostgreSQL is reached (`DB_*`, or `DATABASE_URL`, which overrides them all).
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// A host name or address, or the folder of a Unix socket.
    pub host: DatabaseHost,
    /// TCP port, also the suffix of the socket's name.
    pub port: u16,
    /// Database name.
    pub name: String,
    /// Role.
    pub user: String,
    /// Absent for peer, trust and certificate authentication.
    pub password: Option<SecretString>,
    /// What is asked of TLS.
    pub ssl: SslMode,
    /// A PEM file with the authorities to trust instead of the system's.
    pub ssl_ca: Option<PathBuf>,
    /// The schema of our own tables: a plain identifier, lower-case letters, digits and `_`, at most 48 characters.
    pub schema: String,
}

/// Where PostgreSQL listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseHost {
    /// Host name or address.
    Tcp(String),
    /// The folder that holds `.s.PGSQL.<port>`.
    Socket(PathBuf),
}

/// libpq's words for TLS, those that make sense for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server offers it; the certificate is not checked.
    Prefer,
    /// Always; the certificate is not checked, unless an authority is given.
    Require,
    /// Always; chain and host name are checked.
    VerifyFull,
}

/// How Redis is reached (`REDIS_*`, or `REDIS_URL`, which overrides them all).
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Host and port, a Unix socket, or who knows where the primary is.
    pub endpoint: RedisEndpoint,
    /// ACL user; absent means `default`.
    pub username: Option<String>,
    /// Absent when the server asks for none.
    pub password: Option<SecretString>,
    /// Database number.
    pub database: i64,
    /// The sentinels' own ACL user (`REDIS_SENTINEL_USERNAME`).
    pub sentinel_username: Option<String>,
    /// The sentinels' own password (`REDIS_SENTINEL_PASSWORD`).
    pub sentinel_password: Option<SecretString>,
    /// TLS (rustls), with the system's authorities or `tls_ca`; to the sentinels too.
    pub tls: bool,
    /// A PEM file with the authorities to trust instead of the system's.
    pub tls_ca: Option<PathBuf>,
}

/// Where Redis listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisEndpoint {
    /// Host name or address, and port.
    Tcp {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// Path of the socket.
    Unix(PathBuf),
    /// Wherever the sentinels say that the primary is.
    Sentinels {
        /// Host name or address, and port, of each (`REDIS_SENTINELS`); at least one, each once.
        sentinels: Vec<(String, u16)>,
        /// The name under which they watch the primary (`REDIS_SENTINEL_MASTER`).
        master: String,
    },
}

/// Which BullMQ queue is consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// Queue name (`QUEUE_NAME`).
    pub name: String,
    /// Key prefix (`QUEUE_PREFIX`).
    pub prefix: String,
    /// Jobs with more bytes of data, or of options, fail without being read (`MAX_JOB_BYTES`).
    pub max_job_bytes: usize,
}

/// The worker's own behaviour.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Jobs at a time (`WORKER_CONCURRENCY`).
    pub concurrency: usize,
    /// How long a drain waits for running jobs before they are handed back (`SHUTDOWN_TIMEOUT_SECONDS`).
    pub shutdown_timeout: Duration,
    /// How long a job may run (`JOB_TIMEOUT_SECONDS`, `JOB_TIMEOUTS`).
    pub job_timeouts: JobTimeouts,
    /// A run without progress for this long is stuck (`STUCK_RUN_TIMEOUT_MINUTES`, whole minutes).
    pub stuck_run_timeout: Duration,
    /// The API server's switch `WORKER_MODE`, as it stands in the file.
    pub mode: Option<String>,
}

/// How long a job may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobTimeouts {
    /// Any job (`JOB_TIMEOUT_SECONDS`).
    pub default: Duration,
    /// Jobs of these names (`JOB_TIMEOUTS`).
    pub by_name: BTreeMap<String, Duration>,
}

impl JobTimeouts {
    /// How long a job of this name may run.
    #[must_use]
    pub fn of(&self, name: &str) -> Duration {
        self.by_name.get(name).copied().unwrap_or(self.default)
    }
}

/// The audit log's checkpoints.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// Cron expression in UTC (`AUDIT_CHECKPOINT_SCHEDULE`), checked.
    pub checkpoint_schedule: String,
    /// Without a key no checkpoint is scheduled.
    pub checkpoint_key: Option<CheckpointKey>,
}

/// The key that signs checkpoints.
#[derive(Debug, Clone)]
pub struct CheckpointKey {
    /// Name of the key (`AUDIT_CHECKPOINT_KEY_ID`), stored beside each signature; `default` if not given.
    pub id: String,
    /// 32 bytes as 64 hex characters, checked.
    pub hex: SecretString,
}

/// What connectors may call, and how. By default, nothing.
#[derive(Debug, Clone, Default)]
pub struct ConnectorsConfig {
    /// Where they may connect to (`CONNECTOR_ALLOWED_HOSTS`): what one of these lets through.
    pub allowed_hosts: Vec<HostRule>,
    /// The key of secrets in their configuration, 64 hex characters, checked (`CONNECTOR_ENCRYPTION_KEY`).
    pub key: Option<SecretString>,
    /// The key before it, tried second (`CONNECTOR_ENCRYPTION_KEY_PREVIOUS`).
    pub previous_key: Option<SecretString>,
    /// All answer from their mocks (`CONNECTOR_MOCK_MODE`).
    pub mock_mode: bool,
}

/// One entry of `CONNECTOR_ALLOWED_HOSTS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRule {
    /// Every host with a public address: `*`.
    Public,
    /// A host by its name, in lower case.
    Name {
        /// The name, or the domain.
        name: String,
        /// Every host below the domain instead.
        below: bool,
        /// This port alone.
        port: Option<u16>,
    },
    /// Whatever has an address in this network, be it link-local.
    Network {
        /// An address in it.
        address: IpAddr,
        /// How many bits of it count.
        prefix: u8,
        /// This port alone.
        port: Option<u16>,
    },
}

/// How mail is sent (`SMTP_*`).
#[derive(Debug, Clone)]
pub struct MailConfig {
    /// Absent where mail is not configured: a step that has to send some fails.
    pub server: Option<SmtpServer>,
    /// Whom mail is from (`SMTP_FROM`); without it none can be sent either.
    pub from: Option<Mailbox>,
}

/// The server that takes mail.
#[derive(Debug, Clone)]
pub struct SmtpServer {
    /// Host name or address (`SMTP_HOST`).
    pub host: String,
    /// TCP port (`SMTP_PORT`); by the TLS mode 587, 465 or 25.
    pub port: u16,
    /// What is asked of TLS (`SMTP_TLS`).
    pub tls: SmtpTls,
    /// A PEM file with the authorities to trust instead of the system's (`SMTP_TLS_CA`).
    pub tls_ca: Option<PathBuf>,
    /// `SMTP_USER` and `SMTP_PASSWORD`; absent where the server asks for none.
    pub login: Option<(String, SecretString)>,
}

/// `SMTP_TLS`. The certificate is always checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// Never: for a relay on this machine, or in a network that is trusted.
    None,
    /// The connection begins as plain text and must become TLS before anything else is said.
    StartTls,
    /// From the first byte.
    Tls,
}

/// `LOG_LEVEL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Only what needs a person.
    Error,
    /// And what may need one.
    Warn,
    /// And one line per event (the default).
    Info,
    /// And the consumer's steps.
    Debug,
    /// Everything.
    Trace,
}
