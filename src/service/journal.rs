//! Logging: natively to journald under systemd, as text on stderr elsewhere.
//!
//! [`init`] comes first in `main`, before the configuration is read, so that its mistakes are visible; the level from
//! the configuration follows with [`Log::set_level`]. Nothing here can keep the daemon from running: without journald
//! there is text, and without that there is silence.

use super::text::{Fields, Line};
use crate::config::{ConfigErrors, LogLevel, Notice, Severity};
use crate::events;
use nix::sys::stat::fstat;
use std::{
    io::{self, IsTerminal},
    time::Duration,
};
use tracing::level_filters::LevelFilter;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::{Registry, filter::Targets, fmt, prelude::*, reload};

/// What `journalctl -t` and the lines of `journalctl` show as the program's name.
const IDENTIFIER: &str = "floh-worker";

/// The library's and both programs' log target.
const OURS: &str = "floh_worker";

/// A handle on the logging of this process.
#[derive(Debug, Clone)]
pub struct Log {
    level: reload::Handle<Targets, Registry>,
}

impl Log {
    /// Changes what is logged, once the configuration is known.
    pub fn set_level(&self, level: LogLevel) {
        // The only error is a logging that is gone; then there is nobody to tell.
        let _ = self.level.reload(targets(level));
    }
}

/// Starts the logging of this process. `instance` is put on every entry in the journal as `FLOH_INSTANCE`.
///
/// Under systemd, where `$JOURNAL_STREAM` names stderr, entries go to journald with all their fields. Where that is not
/// possible, or stderr leads elsewhere, lines of text go to stderr. A second call changes nothing.
pub fn init(level: LogLevel, instance: Option<&str>) -> Log {
    let (filter, handle) = reload::Layer::new(targets(level));
    let registry = tracing_subscriber::registry().with(filter);
    // The error of `try_init` is that a logging exists already, which then is used.
    let _ = if stderr_is_journal() {
        match native(instance) {
            Ok(layer) => registry.with(layer).try_init(),
            Err(_) => registry.with(text(Line::Prefixed, io::stderr)).try_init(),
        }
    } else {
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        registry.with(text(Line::Dated { colour }, io::stderr)).try_init()
    };
    Log { level: handle }
}

/// Stays until the journal has read the last words, for a process that ends as soon as it has begun. journald finds out by
/// the sender's process of which unit a message is: of one that is gone it knows none, and `journalctl -u` does not show it.
pub fn linger() {
    const LAST_WORDS: Duration = Duration::from_millis(200);
    if stderr_is_journal() {
        std::thread::sleep(LAST_WORDS);
    }
}

/// Logs what was noticed in the configuration, one event each.
pub fn tell_notices(notices: &[Notice]) {
    for notice in notices {
        match notice.severity {
            Severity::Warning => tracing::warn!(message_id = events::CONFIG_NOTICE, "{notice}"),
            Severity::Info => tracing::info!(message_id = events::CONFIG_NOTICE, "{notice}"),
        }
    }
}

/// Logs every mistake in the configuration, one event each, after what was noticed.
pub fn tell_mistakes(errors: &ConfigErrors) {
    tell_notices(&errors.notices);
    for mistake in &errors.mistakes {
        tracing::error!(message_id = events::CONFIG_MISTAKE, "{mistake}");
    }
}

/// Our own lines from `level` on; of the libraries only what may need somebody's attention, unless all is asked for.
fn targets(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let others = if level == LogLevel::Trace { ours } else { ours.min(LevelFilter::WARN) };
    Targets::new().with_default(others).with_target(OURS, ours)
}

/// Whether stderr is the stream that systemd connected to the journal: `$JOURNAL_STREAM` is its device and inode.
/// The variable alone says nothing, since children inherit it with their stderr redirected.
fn stderr_is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let Ok(stat) = fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// The layer that writes to journald, with field names as they stand (in capitals) and syslog's priorities: the crate's
/// own would prefix fields, and log information as notices.
fn native(instance: Option<&str>) -> io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    Ok(tracing_journald::layer()?
        .with_field_prefix(None)
        .with_priority_mappings(priorities)
        .with_syslog_identifier(IDENTIFIER.to_string())
        .with_custom_fields(instance.map(|name| ("FLOH_INSTANCE", name))))
}

/// The layer that writes lines of text.
fn text<S, W>(line: Line, writer: W) -> fmt::Layer<S, Fields, Line, W>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> fmt::MakeWriter<'a> + 'static,
{
    fmt::layer().with_writer(writer).fmt_fields(Fields).event_format(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What is written under `level` while `work` runs.
    fn captured(line: Line, level: LogLevel, work: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Buffer(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = text(line, move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(targets(level)).with(layer);
        tracing::subscriber::with_default(subscriber, work);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// The line without the time in front.
    fn undated(line: &str) -> &str {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
        rest
    }

    #[test]
    fn a_line_tells_the_event_then_its_fields_then_the_spans() {
        let text = captured(Line::Dated { colour: false }, LogLevel::Info, || {
            let span = crate::job_span!(id = "42", name = "stuck-run-recovery", attempt = 2);
            span.record("floh_run_id", "r1");
            span.in_scope(|| {
                tracing::info!(message_id = events::JOB_COMPLETED, took_ms = 12, reason = "a b", "job completed");
            });
        });
        assert_eq!(
            undated(&text),
            "INFO  job completed took_ms=12 reason=\"a b\" job_id=42 job_name=stuck-run-recovery attempt=2 run_id=r1\n"
        );
    }

    #[test]
    fn strangers_data_cannot_forge_lines_or_drive_the_terminal() {
        let text = captured(Line::Dated { colour: false }, LogLevel::Info, || {
            let name = "x\u{1b}[2J\nERROR forged";
            tracing::warn!(floh_job_name = name, shown = %name, empty = "", "job \u{7}{name}");
        });
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].starts_with("    ERROR forged job_name=\"x\\u{1b}[2J\\nERROR forged\""), "{lines:?}");
        assert!(lines[1].ends_with("empty=\"\""), "{lines:?}");
    }

    #[test]
    fn journald_reads_the_priority_from_text_where_it_must() {
        let text = captured(Line::Prefixed, LogLevel::Trace, || {
            tracing::error!("e\nmore");
            tracing::warn!("w");
            tracing::info!("i");
            tracing::debug!("d");
        });
        assert_eq!(text, "<3>e\n<3>    more\n<4>w\n<6>i\n<7>d\n");
    }

    #[test]
    fn colour_is_only_on_the_level() {
        let text = captured(Line::Dated { colour: true }, LogLevel::Info, || tracing::error!(n = 1, "e"));
        assert_eq!(undated(&text), "\u{1b}[31mERROR\u{1b}[0m e n=1\n");
    }

    #[test]
    fn levels_cut_ours_and_the_libraries_apart() {
        let log = || {
            tracing::debug!("ours");
            tracing::info!(target: "somebody::else", "theirs");
            tracing::warn!(target: "somebody::else", "warning");
        };
        let lines = |level| captured(Line::Prefixed, level, log).lines().count();
        assert_eq!((lines(LogLevel::Error), lines(LogLevel::Info)), (0, 1));
        assert_eq!((lines(LogLevel::Debug), lines(LogLevel::Trace)), (2, 3));
    }

    #[test]
    fn a_job_keeps_its_fields_at_every_level() {
        let text = captured(Line::Prefixed, LogLevel::Error, || {
            let span = crate::job_span!(id = "7", name = "x", attempt = 1);
            span.in_scope(|| tracing::error!("failed"));
        });
        assert_eq!(text, "<3>failed job_id=7 job_name=x attempt=1\n");
    }

    #[test]
    fn the_level_can_be_changed_later() {
        let (filter, handle) = reload::Layer::new(targets(LogLevel::Warn));
        let subscriber = tracing_subscriber::registry().with(filter);
        let log = Log { level: handle };
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            log.set_level(LogLevel::Debug);
            assert!(tracing::enabled!(tracing::Level::DEBUG));
        });
    }
}
