//! Runs the JavaScript of `transform` steps where it can do no harm. Knows no step and no run.
//!
//! Whoever may publish a definition may run code here, so the code is taken for hostile. QuickJS stops most of it by
//! itself (memory, stack, an interrupt while it loops), but not all: a built-in function that takes minutes never looks at
//! the clock, and a fault of the engine would take the worker along. So scripts run in child processes of our own
//! program, which have nothing but two pipes, and which are killed when they do not answer in time.
//!
//! * `script`: one script in QuickJS, from its text to values; `values` reads what it returned, `console` its log;
//! * `child`: the process that runs them, one after another, and what it may not do (`confine`);
//! * `pool`: the children, on a thread of their own; `process` is one of them;
//! * `wire`: what the two say to each other.

pub mod check;
pub mod child;
mod confine;
mod console;
mod pool;
mod process;
mod script;
mod values;
mod wire;

pub use check::check;
pub use pool::{OURSELVES, Sandbox};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    fmt,
    time::{Duration, Instant},
};

/// How long a script may run.
pub const LONGEST_RUN: Duration = Duration::from_secs(5);

/// The memory of a script's values, bytes.
pub const MOST_MEMORY: usize = 16 * 1024 * 1024;

/// How many log entries of a script are kept.
pub const MOST_LOGS: usize = 100;

/// The longest log entry and the longest message of an error, characters. The rest is cut off.
pub const LONGEST_TEXT: usize = 1000;

/// The size of all results together, bytes of JSON.
pub const LARGEST_RESULT: usize = 1024 * 1024;

/// The size of all variables together, bytes of JSON.
pub const LARGEST_VARIABLES: usize = 4 * 1024 * 1024;

/// The longest code, bytes.
pub const LONGEST_CODE: usize = 64 * 1024;

/// A script and what it is given.
#[derive(Debug, Clone, Copy)]
pub struct Script<'a> {
    /// The body of a function that returns an object.
    pub code: &'a str,
    /// What `floh.variables` has.
    pub variables: &'a Map<String, Value>,
    /// The members of the returned object that are kept.
    pub outputs: &'a [String],
    /// What `floh.now()` says.
    pub now: DateTime<Utc>,
    /// When it has to be over, if that is before [`LONGEST_RUN`].
    pub deadline: Option<Instant>,
}

/// What became of a script that returned.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The declared outputs, all of them.
    pub values: Map<String, Value>,
    /// What it logged.
    pub logs: Logs,
    /// How long it ran.
    pub duration: Duration,
}

/// Why a script gave no values.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptError {
    /// One sentence.
    pub message: String,
    /// Where in the code, if that is known.
    pub position: Option<Position>,
    /// What kind of failure.
    pub kind: Kind,
    /// What it had logged; nothing if its process had to be killed.
    pub logs: Logs,
}

impl ScriptError {
    fn new(kind: Kind, message: impl Into<String>) -> ScriptError {
        ScriptError { message: message.into(), position: None, kind, logs: Logs::default() }
    }
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "{} ({position})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ScriptError {}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// It threw something, or does not compile.
    Thrown,
    /// It took too long.
    TimedOut,
    /// It wanted too much memory.
    OutOfMemory,
    /// What it is, needs or returns is not what a transform may.
    Refused,
    /// The machine's fault, not the script's: another attempt may go well.
    Machine,
}

/// A place in the code, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The character in it.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// What a script logged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// The first [`MOST_LOGS`] entries.
    pub lines: Vec<LogLine>,
    /// How many more there were.
    pub dropped: u64,
}

/// An entry of a script's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Which of the functions of `floh.log` was called.
    pub level: Level,
    /// At most [`LONGEST_TEXT`] characters.
    pub text: String,
}

/// The functions of `floh.log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// `floh.log.trace`
    Trace,
    /// `floh.log.debug`
    Debug,
    /// `floh.log.info`
    Info,
    /// `floh.log.warn`
    Warn,
    /// `floh.log.error`
    Error,
}

impl Level {
    /// All of them.
    pub const ALL: [Level; 5] = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];

    /// As scripts call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// A text for people that is not longer than it may be. PostgreSQL takes no U+0000 in a text, and a message has to be
/// stored whatever the script put into it.
fn bounded(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c });
    let mut short: String = chars.by_ref().take(LONGEST_TEXT).collect();
    if chars.next().is_some() {
        short.pop();
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_where_it_is_too_long_and_can_be_stored() {
        assert_eq!(bounded("a\0b"), "a\u{fffd}b");
        assert_eq!(bounded(&"ä".repeat(LONGEST_TEXT)), "ä".repeat(LONGEST_TEXT));
        let cut = bounded(&"ä".repeat(LONGEST_TEXT + 1));
        assert_eq!(cut.chars().count(), LONGEST_TEXT);
        assert!(cut.ends_with("ä…"));
    }
}
