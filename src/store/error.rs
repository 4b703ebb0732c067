//! What can go wrong with PostgreSQL, sorted by what to do about it.

use std::{error::Error as _, fmt, io, sync::Arc, time::Duration};
use tokio_postgres::error::SqlState;

/// Where the database is, for messages: never with the password.
#[derive(Debug, Clone)]
pub struct Place(Arc<str>);

impl Place {
    /// From the words that name it.
    pub fn new(text: impl Into<Arc<str>>) -> Place {
        Place(text.into())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the caller should do about a [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Waiting heals it: try again, and take no new job meanwhile.
    Wait,
    /// The same statement may succeed when tried again (a conflict, a timeout).
    Retry,
    /// Somebody else has the job: stop working on it, touch nothing.
    Yield,
    /// Nobody knows whether it was committed: ask [`super::Store::outcome`].
    Ask,
    /// This statement will not succeed: the job fails with it.
    Fail,
    /// Waiting cannot heal it: end the process with exit code 78.
    Fatal,
}

/// An error of the store; each message is one sentence that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Refused, unresolved, closed, timed out, starting up or shutting down.
    #[error("{place} is not available: {reason}")]
    Unavailable {
        /// Which database.
        place: Place,
        /// What happened.
        reason: String,
    },
    /// The login, the database or the server's certificate is not accepted.
    #[error("{place} cannot be used: {reason}")]
    Rejected {
        /// Which database.
        place: Place,
        /// What happened and what to do.
        reason: String,
    },
    /// Our schema is missing or older than this worker needs.
    #[error("{place}: {reason}; run `flohctl migrate`")]
    NotMigrated {
        /// Which database.
        place: Place,
        /// What is missing.
        reason: String,
    },
    /// Our schema was made by a newer version that excludes this worker.
    #[error(
        "{place}: the schema {schema} needs floh-worker {needs} or newer and this is {ours}; upgrade the package \
         floh-worker on this host"
    )]
    SchemaTooNew {
        /// Which database.
        place: Place,
        /// Schema name.
        schema: String,
        /// The oldest worker that may use it.
        needs: super::Version,
        /// This worker.
        ours: super::Version,
    },
    /// Between us and the server is a pooler that hands each transaction to another session.
    #[error(
        "{place} is behind a connection pooler in transaction mode, which does not keep sessions ({reason}); point \
         DB_HOST and DB_PORT at PostgreSQL itself, or at a pool in session mode"
    )]
    Pooler {
        /// Which database.
        place: Place,
        /// How it was noticed.
        reason: String,
    },
    /// The job was taken by another worker meanwhile; nothing was committed.
    #[error("the lease of epoch {epoch} is lost: another worker has taken the job")]
    LeaseLost {
        /// The epoch that was outranked.
        epoch: i64,
    },
    /// The connection died while the server was asked to commit.
    #[error("whether transaction {transaction} was committed is unknown: {reason}")]
    CommitUnknown {
        /// PostgreSQL's number of the transaction, for [`super::Store::transaction_committed`].
        transaction: String,
        /// How the connection died.
        reason: String,
    },
    /// The server does not accept a statement.
    #[error("PostgreSQL: {message} (SQLSTATE {code})")]
    Query {
        /// SQLSTATE, or a word for errors that have none.
        code: String,
        /// The server's sentence.
        message: String,
        /// True for conflicts and timeouts: the same statement may succeed later.
        transient: bool,
    },
}

impl StoreError {
    /// What to do about it.
    pub fn policy(&self) -> Policy {
        match self {
            StoreError::Unavailable { .. } | StoreError::NotMigrated { .. } => Policy::Wait,
            StoreError::Rejected { .. } | StoreError::SchemaTooNew { .. } | StoreError::Pooler { .. } => Policy::Fatal,
            StoreError::LeaseLost { .. } => Policy::Yield,
            StoreError::CommitUnknown { .. } => Policy::Ask,
            StoreError::Query { transient: true, .. } => Policy::Retry,
            StoreError::Query { transient: false, .. } => Policy::Fail,
        }
    }

    /// The job paused inside a transaction for longer than the server allows: its own fault, and no outage.
    pub(super) fn paused(pause: Duration) -> StoreError {
        StoreError::Query {
            code: PAUSED.to_string(),
            message: format!(
                "the job paused for {} s inside a transaction; PostgreSQL ended the session",
                pause.as_secs()
            ),
            transient: true,
        }
    }

    /// Whether it says that a transaction paused for too long.
    pub(super) fn is_pause(&self) -> bool {
        matches!(self, StoreError::Query { code, .. } if code == PAUSED)
    }

    /// True if the database cannot be reached now and may be later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. })
    }

    /// Sorts an error that the driver reported.
    pub(super) fn sort(place: &Place, error: &tokio_postgres::Error) -> StoreError {
        match error.as_db_error() {
            Some(db) => sort_answer(place, db),
            None => sort_failure(place, error),
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> StoreError {
        StoreError::sort(&Place::new("PostgreSQL"), &error)
    }
}

/// The SQLSTATE with which our SQL functions say that a lease is lost.
const LEASE_LOST: &str = "FL001";

/// `idle_in_transaction_session_timeout`.
const PAUSED: &str = "25P03";

/// An error that the server itself reported.
fn sort_answer(place: &Place, db: &tokio_postgres::error::DbError) -> StoreError {
    let code = db.code();
    let message = db.message();
    let place = place.clone();
    match code.code() {
        LEASE_LOST => {
            let epoch = message.split(' ').find_map(|word| word.parse().ok()).unwrap_or_default();
            StoreError::LeaseLost { epoch }
        }
        // A prepared statement that is not there, or is there already: another session answers than before.
        "26000" | "42P05" => StoreError::Pooler { place, reason: message.to_string() },
        "28P01" => StoreError::Rejected {
            place,
            reason: format!("{message}; check DB_USER and DB_PASSWORD ({})", code.code()),
        },
        "28000" => StoreError::Rejected {
            place,
            reason: format!("{message}; check DB_USER, DB_SSL and the server's pg_hba.conf ({})", code.code()),
        },
        "3D000" => StoreError::Rejected { place, reason: format!("{message}; check DB_NAME ({})", code.code()) },
        _ if is_unavailable(code) => {
            StoreError::Unavailable { place, reason: format!("{message} (SQLSTATE {})", code.code()) }
        }
        _ => StoreError::Query {
            code: code.code().to_string(),
            message: match db.constraint() {
                Some(constraint) => format!("{message} [{constraint}]"),
                None => message.to_string(),
            },
            transient: is_transient(db),
        },
    }
}

/// Connection exceptions, shutdown and start, no room, a standby that does not accept writes (yet).
fn is_unavailable(code: &SqlState) -> bool {
    matches!(code.code(), "57P01" | "57P02" | "57P03" | "57P05" | "25006")
        || code.code().starts_with("08")
        || code.code().starts_with("53")
}

/// Serialisation failure, deadlock, lock and statement timeouts, a transaction that paused for too long, and a plan that a
/// migration has outdated.
fn is_transient(db: &tokio_postgres::error::DbError) -> bool {
    matches!(db.code().code(), "40001" | "40P01" | "55P03" | "57014" | PAUSED)
        || (db.code().code() == "0A000" && db.message().contains("cached plan"))
}

/// An error on this side: the network, TLS, a value that does not fit a type.
fn sort_failure(place: &Place, error: &tokio_postgres::Error) -> StoreError {
    let place = place.clone();
    let mut reason = error.to_string();
    let mut cause = error.source();
    let mut network = error.is_closed();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !reason.contains(&words) {
            reason = format!("{reason}: {words}");
        }
        if let Some(tls) = as_tls_error(inner) {
            return StoreError::Rejected {
                place,
                reason: format!("{tls}; check DB_SSL, DB_SSL_CA and the name in DB_HOST"),
            };
        }
        network |= inner.is::<io::Error>();
        cause = inner.source();
    }
    // The driver keeps the kind of an error to itself and tells it only in words; tests watch over these.
    let says = |words: &str| reason.contains(words);
    if says("server does not support TLS") {
        return StoreError::Rejected { place, reason: format!("{reason}; check DB_SSL, or turn `ssl` on there") };
    }
    if says("TLS handshake") && !network {
        return StoreError::Rejected { place, reason };
    }
    if says("password missing") {
        return StoreError::Rejected { place, reason: "it asks for a password; set DB_PASSWORD".into() };
    }
    if says("authentication error") || says("invalid configuration") {
        return StoreError::Rejected { place, reason };
    }
    if says("unexpected message") || says("error parsing response") {
        return StoreError::Unavailable { place, reason: format!("{reason}; is this PostgreSQL's port?") };
    }
    if network || says("timeout waiting") {
        return StoreError::Unavailable { place, reason };
    }
    StoreError::Query { code: "driver".into(), message: reason, transient: false }
}

/// The TLS library's own error, which travels inside an I/O error. A connection that broke off has none.
fn as_tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref::<rustls::Error>().or_else(|| {
        let io = error.downcast_ref::<io::Error>()?;
        io.get_ref()?.downcast_ref::<rustls::Error>()
    })
}
