//! The queue's and the worker's own variables.

use super::{
    reader::{Reader, plain, quoted, whole},
    timeouts,
    types::{AuditConfig, CheckpointKey, LogLevel, QueueConfig, WorkerConfig},
};
use crate::cron::Cron;
use secrecy::ExposeSecret;
use std::time::Duration;

/// The unit's `TimeoutStopSec`: after it systemd kills what is left.
pub const UNIT_STOP_TIMEOUT: Duration = Duration::from_secs(35);

/// How long the jobs that are handed back at the end of a drain may take to be so.
pub const HAND_BACK_TIME: Duration = Duration::from_secs(2);

/// How long PostgreSQL and Redis may then take to say good-bye.
pub const CLOSE_TIME: Duration = Duration::from_secs(1);

/// The longest time to finish that fits: hand-back and good-bye follow, and a second is left before systemd kills.
pub const LONGEST_SHUTDOWN_TIMEOUT: Duration =
    UNIT_STOP_TIMEOUT.saturating_sub(AFTER_DEADLINE).saturating_sub(Duration::from_secs(1));

/// What a drain needs after its deadline.
const AFTER_DEADLINE: Duration = HAND_BACK_TIME.saturating_add(CLOSE_TIME);

/// Beyond this the pool would ask PostgreSQL for more connections than its default allows several times over.
const MOST_JOBS: usize = 256;

/// Thirty days. A run that nobody looked at for longer is not rescued by a larger number.
const MOST_MINUTES: u64 = 30 * 24 * 60;

/// What a job's data may have at most, unless `MAX_JOB_BYTES` says otherwise.
const DEFAULT_JOB_BYTES: usize = 1024 * 1024;

/// Below, ordinary jobs would fail; and no value in Redis is larger than 512 MiB.
const JOB_BYTES: std::ops::RangeInclusive<usize> = 1024..=512 * 1024 * 1024;

/// BullMQ puts the name between colons into every key.
const LONGEST_QUEUE_NAME: usize = 128;

pub(super) fn queue(reader: &mut Reader) -> QueueConfig {
    let key_part = |what: &'static str, colon: bool| {
        move |text: &str| {
            let name = plain(LONGEST_QUEUE_NAME, what)(text)?;
            if !colon && name.contains(':') {
                return Err(format!("{what} without colons is expected"));
            }
            Ok(name)
        }
    };
    QueueConfig {
        name: reader.checked("QUEUE_NAME", "workflow-scheduler".to_string(), key_part("a queue name", false)),
        prefix: reader.checked("QUEUE_PREFIX", "bull".to_string(), key_part("a key prefix", true)),
        max_job_bytes: reader.checked("MAX_JOB_BYTES", DEFAULT_JOB_BYTES, whole(JOB_BYTES, "a number of bytes")),
    }
}

pub(super) fn worker(reader: &mut Reader) -> WorkerConfig {
    let mode = reader.text("WORKER_MODE");
    if let Some(mode) = mode.as_deref().filter(|mode| !mode.eq_ignore_ascii_case("separate")) {
        let text = format!("{}, not \"separate\": the API server consumes this queue too", quoted(mode));
        reader.info("WORKER_MODE", &text);
    }
    let minutes = reader.checked("STUCK_RUN_TIMEOUT_MINUTES", 30, whole(1..=MOST_MINUTES, "a number of minutes"));
    WorkerConfig {
        concurrency: reader.checked("WORKER_CONCURRENCY", 1, whole(1..=MOST_JOBS, "a number of jobs")),
        shutdown_timeout: reader.checked("SHUTDOWN_TIMEOUT_SECONDS", Duration::from_secs(30), shutdown_timeout),
        job_timeouts: timeouts::read(reader),
        stuck_run_timeout: Duration::from_secs(minutes * 60),
        mode,
    }
}

/// The drain must end before systemd loses its patience, with time for the hand-back.
fn shutdown_timeout(text: &str) -> Result<Duration, String> {
    let most = LONGEST_SHUTDOWN_TIMEOUT.as_secs();
    let seconds = whole(0..=86_400, "a number of seconds")(text)?;
    if seconds > most {
        return Err(format!(
            "at most {most} is possible: the unit's TimeoutStopSec={} must leave {} s for handing jobs back",
            UNIT_STOP_TIMEOUT.as_secs(),
            AFTER_DEADLINE.as_secs(),
        ));
    }
    Ok(Duration::from_secs(seconds))
}

pub(super) fn audit(reader: &mut Reader) -> AuditConfig {
    let id = reader.checked("AUDIT_CHECKPOINT_KEY_ID", "default".to_string(), plain(64, "a name"));
    let given = reader.is_given("AUDIT_CHECKPOINT_KEY");
    let hex = reader.secret("AUDIT_CHECKPOINT_KEY").filter(|key| {
        let text = key.expose_secret();
        let fits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !fits {
            reader.mistake(
                "AUDIT_CHECKPOINT_KEY",
                None,
                "64 hexadecimal characters are expected (openssl rand -hex 32)",
            );
        }
        fits
    });
    if !given {
        let text =
            "not set, so no audit checkpoint is scheduled and a rewritten audit log cannot be told from a true one";
        reader.warn("AUDIT_CHECKPOINT_KEY", text);
    }
    AuditConfig {
        checkpoint_schedule: reader.checked("AUDIT_CHECKPOINT_SCHEDULE", "0 * * * *".to_string(), |text| {
            schedule(text).map(|()| text.to_string())
        }),
        checkpoint_key: hex.map(|hex| CheckpointKey { id, hex }),
    }
}

/// BullMQ fills in fields that are missing; in a setting, too few fields are a slip. An `H` would mean another time to
/// each worker, and at each look of the same one.
fn schedule(text: &str) -> Result<(), String> {
    let fields = text.split_whitespace().count();
    if !(5..=6).contains(&fields) && !text.starts_with('@') {
        return Err("a cron expression with five fields (or six, with seconds) is expected".to_string());
    }
    let cron = Cron::parse(text).map_err(|reason| format!("a cron expression is expected: {reason}"))?;
    if cron.is_hashed() {
        return Err(
            "H stands for another time at each look: write a number of your choice, such as 17 * * * *".to_string()
        );
    }
    let now = chrono::Utc::now().timestamp_millis();
    match cron.next_after(now, chrono_tz::UTC.into()) {
        Some(_) => Ok(()),
        None => Err("a cron expression is expected, and this one never comes".to_string()),
    }
}

pub(super) fn log_level(reader: &mut Reader) -> LogLevel {
    let mut quiet = false;
    let level = reader.checked("LOG_LEVEL", LogLevel::Info, |text| match text.to_ascii_lowercase().as_str() {
        "error" => Ok(LogLevel::Error),
        "warn" | "warning" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        // The API server's logger has two levels more; the file is shared with it.
        "fatal" | "silent" => {
            quiet = true;
            Ok(LogLevel::Error)
        }
        _ => Err("error, warn, info, debug or trace is expected".to_string()),
    });
    if quiet {
        reader.info("LOG_LEVEL", "a level of the API server's logger; the worker logs errors");
    }
    level
}
