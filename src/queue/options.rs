//! A job's options, read one by one: an option that does not parse costs only itself.

use super::json;
use serde_json::{Map, Value};
use std::time::Duration;

/// Attempts of a job that says nothing: the first and up to three retries.
pub const DEFAULT_ATTEMPTS: u32 = 4;
/// First delay of the exponential backoff of a job that says nothing: 5 s, then 10 s, 20 s.
pub const DEFAULT_BACKOFF: Backoff = Backoff { kind: BackoffKind::Exponential, delay_ms: 5000, jitter: 0.0 };
/// Completed jobs that are kept where a job says nothing: this many, and none older than [`KEEP_COMPLETED_AGE`].
pub const KEEP_COMPLETED: i64 = 1000;
/// Seconds.
pub const KEEP_COMPLETED_AGE: i64 = 24 * 3600;
/// Failed jobs that are kept where a job says nothing.
pub const KEEP_FAILED: i64 = 5000;
/// The longest delay that a backoff may reach, so that no exponent overflows a date.
const LONGEST_DELAY_MS: f64 = 1000.0 * 3600.0 * 24.0 * 365.0;

/// How long to wait before an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The curve.
    pub kind: BackoffKind,
    /// Milliseconds.
    pub delay_ms: u64,
    /// 0 to 1: the part of the delay that is left to chance.
    pub jitter: f64,
}

/// The curve of a [`Backoff`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackoffKind {
    /// The same each time.
    Fixed,
    /// Doubling.
    Exponential,
}

impl Backoff {
    /// The delay after `attempts_made` attempts, the failed one included. `chance` is in 0..1.
    pub fn delay(&self, attempts_made: u32, chance: f64) -> Duration {
        let full = match self.kind {
            BackoffKind::Fixed => self.delay_ms as f64,
            BackoffKind::Exponential => {
                let exponent = attempts_made.saturating_sub(1).min(1000);
                2f64.powi(i32::try_from(exponent).unwrap_or(1000)) * self.delay_ms as f64
            }
        }
        .min(LONGEST_DELAY_MS);
        let delay = if self.jitter > 0.0 { full * (1.0 - self.jitter) + chance * full * self.jitter } else { full };
        Duration::from_millis(delay as u64)
    }
}

/// What is kept of finished jobs: BullMQ's `keepJobs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Keep {
    /// At most this many; 0 removes the job itself; -1 keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// At most this old, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<i64>,
    /// At most this many are removed at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
}

/// The options that a worker acts on, and all of them as they came.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Attempts in all; `None` where the job says nothing (npm writes 0).
    pub attempts: Option<u32>,
    /// `None` where the job says nothing.
    pub backoff: Option<Backoff>,
    /// Whether a retry goes to the front.
    pub lifo: bool,
    /// `removeOnComplete`.
    pub on_complete: Option<Keep>,
    /// `removeOnFail`.
    pub on_fail: Option<Keep>,
    /// How many stack traces are kept.
    pub stack_traces: Option<usize>,
    /// How many log lines are kept.
    pub keep_logs: Option<u64>,
    /// The parent fails with this job.
    pub fail_parent: bool,
    /// The parent goes on when this job fails.
    pub continue_parent: bool,
    /// The parent ignores this job's failure.
    pub ignore_dependency: bool,
    /// The parent forgets this job when it fails.
    pub remove_dependency: bool,
    /// Everything as it came, for what is handed on (schedulers).
    pub raw: Map<String, Value>,
    /// One sentence for each option that could not be read.
    pub mistakes: Vec<String>,
}

impl Options {
    /// Reads the `opts` field of a job's hash.
    pub fn parse(text: Option<&str>) -> Options {
        let mut options = Options::default();
        let raw = match text.map(json::read) {
            None => return options,
            Some(Ok(Value::Object(raw))) => raw,
            Some(Ok(other)) => {
                options.mistakes.push(format!("opts is {}, expected an object", kind(&other)));
                return options;
            }
            Some(Err(error)) => {
                options.mistakes.push(format!("opts is not JSON ({error})"));
                return options;
            }
        };
        let mut read = Reader { raw: &raw, mistakes: &mut options.mistakes };
        options.attempts = read.number("attempts").filter(|n| *n > 0).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        options.backoff = read.backoff();
        options.lifo = read.flag(&["lifo"]);
        options.on_complete = read.keep("removeOnComplete");
        options.on_fail = read.keep("removeOnFail");
        options.stack_traces = read.number("stackTraceLimit").and_then(|n| usize::try_from(n).ok());
        options.keep_logs = read.number("kl").or_else(|| read.number("keepLogs"));
        // BullMQ stores these under short names; the long ones are what a hand-written job would say.
        options.fail_parent = read.flag(&["fpof", "failParentOnFailure"]);
        options.continue_parent = read.flag(&["cpof", "continueParentOnFailure"]);
        options.ignore_dependency = read.flag(&["idof", "ignoreDependencyOnFailure"]);
        options.remove_dependency = read.flag(&["rdof", "removeDependencyOnFailure"]);
        options.raw = raw;
        options
    }

    /// Attempts in all.
    pub fn attempts(&self) -> u32 {
        self.attempts.unwrap_or(DEFAULT_ATTEMPTS)
    }

    /// The backoff that applies: the job's own; a job that sets attempts and no backoff is retried at once, as BullMQ
    /// does; a job that says nothing, or something unreadable, gets the default.
    pub fn backoff(&self) -> Option<Backoff> {
        match (self.backoff, self.attempts) {
            (Some(backoff), _) => Some(backoff),
            (None, Some(_)) if !self.says("backoff") => None,
            (None, _) => Some(DEFAULT_BACKOFF),
        }
    }

    /// What is kept of completed jobs.
    pub fn keep_completed(&self) -> Keep {
        self.on_complete.unwrap_or(Keep { count: Some(KEEP_COMPLETED), age: Some(KEEP_COMPLETED_AGE), limit: None })
    }

    /// What is kept of failed jobs.
    pub fn keep_failed(&self) -> Keep {
        self.on_fail.unwrap_or(Keep { count: Some(KEEP_FAILED), age: None, limit: None })
    }

    fn says(&self, name: &str) -> bool {
        // `backoff: 0` is how npm spells "no backoff": the job has spoken, and its retry is immediate.
        self.raw.get(name).is_some_and(|value| !value.is_null() && value.as_f64() != Some(0.0))
    }
}

struct Reader<'a> {
    raw: &'a Map<String, Value>,
    mistakes: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn present(&self, name: &str) -> Option<&Value> {
        self.raw.get(name).filter(|value| !value.is_null())
    }

    fn mistake(&mut self, name: &str, expected: &str) {
        let value = self.raw.get(name).map(kind).unwrap_or_default();
        self.mistakes.push(format!("{name} is {value}, expected {expected}"));
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        let value = self.present(name)?;
        let number = whole(value);
        if number.is_none() {
            self.mistake(name, "a whole number of 0 or more");
        }
        number
    }

    fn flag(&mut self, names: &[&'static str]) -> bool {
        for name in names {
            match self.present(name) {
                None => {}
                Some(Value::Bool(value)) => return *value,
                Some(_) => self.mistake(name, "true or false"),
            }
        }
        false
    }

    fn backoff(&mut self) -> Option<Backoff> {
        const EXPECTED: &str = "milliseconds, or an object with type (fixed, exponential) and delay";
        let value = self.present("backoff")?.clone();
        let fixed = |delay_ms| Backoff { kind: BackoffKind::Fixed, delay_ms, jitter: 0.0 };
        let parsed = match &value {
            Value::Number(_) => whole(&value).filter(|delay| *delay > 0).map(fixed),
            Value::Object(fields) => {
                let kind = match fields.get("type").and_then(Value::as_str) {
                    Some("fixed") => Some(BackoffKind::Fixed),
                    Some("exponential") => Some(BackoffKind::Exponential),
                    _ => None,
                };
                let delay = fields.get("delay").map_or(Some(0), whole);
                let jitter = fields.get("jitter").filter(|value| !value.is_null()).map_or(Some(0.0), Value::as_f64);
                if jitter.is_none() {
                    self.mistakes.push("backoff.jitter is ignored, expected a number from 0 to 1".to_string());
                }
                let jitter = jitter.unwrap_or(0.0).clamp(0.0, 1.0);
                kind.zip(delay).map(|(kind, delay_ms)| Backoff { kind, delay_ms, jitter })
            }
            _ => None,
        };
        if parsed.is_none() && value.as_f64() != Some(0.0) {
            self.mistake("backoff", EXPECTED);
        }
        parsed
    }

    fn keep(&mut self, name: &'static str) -> Option<Keep> {
        const EXPECTED: &str = "true, false, a number, or an object with count, age, limit";
        let keep = |count| Some(Keep { count: Some(count), age: None, limit: None });
        let value = self.present(name)?.clone();
        match &value {
            Value::Bool(true) => keep(0),
            Value::Bool(false) => keep(-1),
            Value::Number(number) => match number.as_i64() {
                Some(count) if count >= -1 => keep(count),
                _ => {
                    self.mistake(name, EXPECTED);
                    None
                }
            },
            Value::Object(fields) => {
                let mut read = |field: &str, all: bool| {
                    let value = fields.get(field).filter(|value| !value.is_null())?;
                    let number = whole(value).and_then(|n| i64::try_from(n).ok());
                    let number = number.or_else(|| (all && value.as_f64() == Some(-1.0)).then_some(-1));
                    if number.is_none() {
                        let text = format!("{name}.{field} is {}, expected a whole number of 0 or more", kind(value));
                        self.mistakes.push(text);
                    }
                    number
                };
                let kept = Keep { count: read("count", true), age: read("age", false), limit: read("limit", false) };
                if kept.count.is_none() && kept.age.is_none() {
                    self.mistake(name, EXPECTED);
                    return None;
                }
                Some(kept)
            }
            _ => {
                self.mistake(name, EXPECTED);
                None
            }
        }
    }
}

/// A whole number, also where JavaScript wrote it with a fraction of nought or as an exponent.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|n| *n >= 0.0 && n.fract() == 0.0 && *n < 9e15).map(|n| n as u64))
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) if text.chars().count() <= 40 => format!("{text:?}"),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Options {
        Options::parse(Some(json))
    }

    #[test]
    fn a_job_that_says_nothing_gets_four_attempts_after_5_10_and_20_seconds() {
        for options in [Options::parse(None), parse("{}"), parse(r#"{"attempts":0,"backoff":null}"#)] {
            assert_eq!(options.attempts(), 4);
            let delays: Vec<_> = (1..=3).filter_map(|n| Some(options.backoff()?.delay(n, 0.5).as_millis())).collect();
            assert_eq!(delays, [5000, 10_000, 20_000]);
            assert!(options.mistakes.is_empty());
        }
    }

    #[test]
    fn one_attempt_means_no_retry_and_attempts_without_backoff_mean_at_once() {
        assert_eq!(parse(r#"{"attempts":1}"#).attempts(), 1);
        assert_eq!(parse(r#"{"attempts":3}"#).backoff(), None);
        assert_eq!(parse(r#"{"attempts":3,"backoff":0}"#).backoff(), None);
        let fixed = parse(r#"{"attempts":3,"backoff":250}"#).backoff().unwrap();
        assert_eq!(fixed.delay(3, 0.0).as_millis(), 250);
    }

    #[test]
    fn one_option_that_does_not_parse_costs_only_itself() {
        let options =
            parse(r#"{"attempts":"many","backoff":{"type":"mine"},"removeOnFail":"x","lifo":true,"fpof":true}"#);
        assert_eq!(options.attempts(), 4);
        assert_eq!(options.backoff(), Some(DEFAULT_BACKOFF));
        assert_eq!(options.keep_failed().count, Some(5000));
        assert!(options.lifo && options.fail_parent);
        assert_eq!(options.mistakes.len(), 3, "{:?}", options.mistakes);
        let parts =
            parse(r#"{"removeOnFail":{"age":60,"count":"x"},"backoff":{"type":"fixed","delay":9,"jitter":"y"}}"#);
        assert_eq!(parts.keep_failed(), Keep { count: None, age: Some(60), limit: None });
        assert_eq!(parts.backoff().map(|backoff| backoff.delay_ms), Some(9));
        assert_eq!(parts.mistakes.len(), 2, "{:?}", parts.mistakes);
        assert_eq!(parse("[]").mistakes.len(), 1);
        assert_eq!(parse("{").mistakes.len(), 1);
    }

    #[test]
    fn what_is_kept_follows_every_spelling_of_bullmq() {
        let keep = |json: &str| parse(&format!(r#"{{"removeOnComplete":{json}}}"#)).keep_completed();
        assert_eq!(keep("true").count, Some(0));
        assert_eq!(keep("false").count, Some(-1));
        assert_eq!(keep("12").count, Some(12));
        assert_eq!(keep(r#"{"count":-1}"#), Keep { count: Some(-1), age: None, limit: None });
        assert_eq!(keep(r#"{"age":60,"limit":5}"#), Keep { count: None, age: Some(60), limit: Some(5) });
        assert_eq!(keep("null"), Keep { count: Some(1000), age: Some(86_400), limit: None });
    }

    #[test]
    fn jitter_stays_inside_its_part_and_no_exponent_overflows() {
        let backoff = parse(r#"{"backoff":{"type":"exponential","delay":1000,"jitter":0.5}}"#).backoff().unwrap();
        assert_eq!(backoff.delay(1, 0.0).as_millis(), 500);
        assert!(backoff.delay(1, 0.999).as_millis() < 1000);
        assert!(backoff.delay(u32::MAX, 0.9).as_millis() > 0);
    }
}
