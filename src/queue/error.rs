//! What can go wrong between us and Redis, sorted by what is to be done about it.

use redis::RedisError;
use std::time::Duration;

/// The codes with which a server says that it is not the one to write to any more, or not yet (a replica, restarting):
/// what one connection is told holds for every other one to the same server.
const NO_PRIMARY: [&str; 4] = ["READONLY", "UNBLOCKED", "LOADING", "MASTERDOWN"];
/// Other codes for "not now".
const NOT_NOW: [&str; 6] = [
    "TRYAGAIN",
    "CLUSTERDOWN",
    "BUSY",
    // It cannot save, has no memory left, or too few replicas: writes are refused until that is mended.
    "MISCONF",
    "OOM",
    "NOREPLICAS",
];
/// The codes for "not you".
const NOT_YOU: [&str; 3] = ["NOAUTH", "WRONGPASS", "DENIED"];
/// The code for "not this, for you": a command or a key that the ACL keeps from somebody whom it lets in.
const NOT_THIS: &str = "NOPERM";
/// What Redis says in its place where it was a script that asked: version 7.0, and those after it.
const NOT_THIS_IN_SCRIPT: [&str; 2] = ["The user executing the script can't", "ACL failure in script"];

/// Where the login to Redis stands, for messages.
pub(crate) const LOGIN: &str = "REDIS_USERNAME, REDIS_PASSWORD and the server's ACL";

/// An error of the queue. The variant is the policy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Redis cannot be reached, or cannot serve now: wait and try again. What was asked may have been done.
    #[error("{place} {what}")]
    Unavailable {
        /// Which server: `Redis at host:port`, or the primary and its sentinels.
        place: String,
        /// Half a sentence.
        what: String,
    },
    /// Redis refuses this login: waiting does not heal it.
    #[error("{place} refuses us: {what}; check {check}")]
    Rejected {
        /// Which server.
        place: String,
        /// Redis' own words.
        what: String,
        /// The settings that may be wrong.
        check: &'static str,
    },
    /// Redis lets this login in and does not permit it this command, or one of its keys: waiting does not heal it.
    #[error("{place} refuses {command}: {what}; check {LOGIN}")]
    Forbidden {
        /// Which server.
        place: String,
        /// Command or script.
        command: String,
        /// Redis' own words.
        what: String,
    },
    /// Redis answered with an error, or with something that a script of BullMQ does not answer.
    #[error("Redis answered {command} with: {what}")]
    Answer {
        /// Command or script.
        command: String,
        /// Redis' own words.
        what: String,
    },
    /// The settings cannot work (an unreadable certificate, a malformed address).
    #[error("{0}")]
    Settings(String),
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Error::Unavailable { .. })
    }

    /// Whether Redis cannot be reached, or does not let us in: this says nothing about what was asked, and would be the same
    /// whatever is asked.
    pub fn is_outage(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Rejected { .. })
    }

    /// Whether this is no matter of the job or the schedule that was asked about: it would be the same for every other one.
    pub fn concerns_all(&self) -> bool {
        self.is_outage() || matches!(self, Error::Forbidden { .. })
    }

    /// Whether no waiting will heal this (exit 78).
    pub fn is_fatal(&self) -> bool {
        matches!(self, Error::Rejected { .. } | Error::Forbidden { .. } | Error::Settings(_))
    }

    /// Sorts an error of the `redis` crate.
    pub(crate) fn from_redis(place: &str, command: &str, error: &RedisError) -> Self {
        let code = code(error);
        let place = place.to_string();
        let text = error.to_string();
        if error.kind() == redis::ErrorKind::AuthenticationFailed || NOT_YOU.contains(&code) {
            return Error::Rejected { place, what: text, check: LOGIN };
        }
        if code == NOT_THIS && command == "connect" {
            return Error::Rejected { place, what: text, check: LOGIN };
        }
        if code == NOT_THIS {
            return Error::Forbidden { place, command: command.to_string(), what: text };
        }
        if NO_PRIMARY.contains(&code) || NOT_NOW.contains(&code) {
            return Error::Unavailable { place, what: format!("is not ready: {text}") };
        }
        // Redis older than 6 answers a wrong password with a plain ERR.
        if code == "ERR" && (text.contains("invalid password") || text.contains("AUTH")) && command == "connect" {
            return Error::Rejected { place, what: text, check: LOGIN };
        }
        if error.is_timeout() {
            return Error::Unavailable { place, what: format!("did not answer {command} in time") };
        }
        if error.is_io_error()
            || error.is_connection_dropped()
            || error.is_connection_refusal()
            || error.is_unrecoverable_error()
        {
            return Error::Unavailable { place, what: format!("cannot be reached ({command}): {text}") };
        }
        Error::Answer { command: command.to_string(), what: text }
    }

    /// Whether the server says with this that it is not the primary, or not ready to be it.
    pub(crate) fn denies_primary(error: &RedisError) -> bool {
        NO_PRIMARY.contains(&code(error))
    }

    pub(crate) fn unavailable(place: &str, what: impl Into<String>) -> Self {
        Error::Unavailable { place: place.to_string(), what: what.into() }
    }

    pub(crate) fn timeout(place: &str, command: &str, after: Duration) -> Self {
        Error::unavailable(place, format!("did not answer {command} within {:.1} s", after.as_secs_f32()))
    }

    pub(crate) fn answer(command: &str, what: impl Into<String>) -> Self {
        Error::Answer { command: command.to_string(), what: what.into() }
    }
}

/// The code of an error. Before version 7 a script that met one answers `ERR Error running script …: -CODE …`.
fn code(error: &RedisError) -> &str {
    let code = error.code().unwrap_or_default();
    if code != "ERR" {
        return code;
    }
    if error.detail().is_some_and(|detail| NOT_THIS_IN_SCRIPT.iter().any(|words| detail.contains(words))) {
        return NOT_THIS;
    }
    let script = error.detail().filter(|detail| detail.starts_with("Error running script"));
    let inner = script.and_then(|detail| {
        let known = NO_PRIMARY.iter().chain(&NOT_NOW);
        known.copied().find(|known| detail.contains(&format!(": -{known} ")))
    });
    inner.unwrap_or(code)
}
