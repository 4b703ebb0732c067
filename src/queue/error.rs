//! What can go wrong between us and Redis, sorted by what is to be done about it.

use std::time::Duration;

/// An error of the queue. The variant is the policy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis cannot be reached, or cannot serve now: wait and try again. What was asked may have been done.
    #[error("Redis at {place} {what}")]
    Unavailable {
        /// Host and port, or socket.
        place: String,
        /// Half a sentence.
        what: String,
    },
    /// Redis refuses this login: waiting does not heal it.
    #[error("Redis at {place} refuses us: {what}; check REDIS_USERNAME, REDIS_PASSWORD and the server's ACL")]
    Rejected {
        /// Host and port, or socket.
        place: String,
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

    /// Whether no waiting will heal this (exit 78).
    pub fn is_fatal(&self) -> bool {
        matches!(self, Error::Rejected { .. } | Error::Settings(_))
    }

    /// Sorts an error of the `redis` crate.
    pub(crate) fn from_redis(place: &str, command: &str, error: &redis::RedisError) -> Self {
        // The codes with which a server says "not now" (loading its data, failing over, cluster down) or "not you".
        const NOT_NOW: [&str; 10] = [
            "LOADING",
            "MASTERDOWN",
            "READONLY",
            "UNBLOCKED",
            "TRYAGAIN",
            "CLUSTERDOWN",
            "BUSY",
            // It cannot save, has no memory left, or too few replicas: writes are refused until that is mended.
            "MISCONF",
            "OOM",
            "NOREPLICAS",
        ];
        const NOT_YOU: [&str; 4] = ["NOAUTH", "WRONGPASS", "NOPERM", "DENIED"];
        let code = error.code().unwrap_or_default();
        let place = place.to_string();
        let text = error.to_string();
        if error.kind() == redis::ErrorKind::AuthenticationFailed || NOT_YOU.contains(&code) {
            return Error::Rejected { place, what: text };
        }
        if NOT_NOW.contains(&code) {
            return Error::Unavailable { place, what: format!("is not ready: {text}") };
        }
        // Redis older than 6 answers a wrong password with a plain ERR.
        if code == "ERR" && (text.contains("invalid password") || text.contains("AUTH")) && command == "connect" {
            return Error::Rejected { place, what: text };
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

    pub(crate) fn timeout(place: &str, command: &str, after: Duration) -> Self {
        Error::Unavailable {
            place: place.to_string(),
            what: format!("did not answer {command} within {:.1} s", after.as_secs_f32()),
        }
    }

    pub(crate) fn answer(command: &str, what: impl Into<String>) -> Self {
        Error::Answer { command: command.to_string(), what: what.into() }
    }
}
