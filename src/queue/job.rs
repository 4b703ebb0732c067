//! A job as it stands in its Redis hash.

use super::{json, options::Options};
use serde_json::Value;

/// The reason that BullMQ's stalled check of a Node worker writes.
const STALL_VERDICT: &str = "job stalled more than allowable limit";
/// The field in which our finish records which epoch's result it acknowledged.
const ACKNOWLEDGED_FIELD: &str = "floh:epoch";

/// A fetched job. Nothing in it is trusted: what cannot be read is `None`, or a [`Job::defect`].
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// Id.
    pub id: String,
    /// Name, which chooses the handler; empty if the hash has none.
    pub name: String,
    /// The JSON text of its data, unparsed.
    pub data: String,
    /// Options.
    pub options: Options,
    /// When it was added, milliseconds.
    pub timestamp_ms: i64,
    /// Attempts that ended (`atm`).
    pub attempts_made: u32,
    /// Attempts that started, this one included (`ats`).
    pub attempts_started: u32,
    /// When this attempt was fetched, milliseconds by Redis' clock.
    pub processed_on_ms: i64,
    /// How often a stalled check put it back (`stc`).
    pub stalled_count: u32,
    /// The scheduler or repeatable that it is an iteration of (`rjk`).
    pub repeat_job_key: Option<String>,
    /// A failure that somebody decided before this attempt (`defa`).
    pub deferred_failure: Option<String>,
    /// Stack traces of earlier attempts.
    pub stacktrace: Vec<String>,
    /// The epoch whose result a finish of ours acknowledged: present after a retry by hand.
    pub acknowledged: Option<i64>,
    /// Why it cannot be run at all.
    pub defect: Option<String>,
    /// A field is not what BullMQ's scripts take it for, who would end half-way: see [`super::Queue::mend_fields`].
    pub broken_fields: bool,
}

impl Job {
    /// Reads the fields of a hash, as `HGETALL` gives them. None with more than `largest` bytes is read.
    pub fn read<'a>(id: String, fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>, largest: usize) -> Job {
        let mut job = Job { id, ..Job::default() };
        let mut data: &[u8] = b"";
        let mut too_large = None;
        for (name, value) in fields {
            match name {
                b"data" => data = value,
                b"name" | b"opts" if value.len() > largest => {
                    let what = if name == b"opts" { "options have" } else { "name has" };
                    too_large = Some(surplus(what, value.len(), largest));
                }
                // What is for people to read, and what only the scripts need.
                b"stacktrace" | b"parent" if value.len() > largest => {}
                b"defa" if value.len() > largest => job.deferred_failure = Some(text(&value[..largest])),
                b"name" => job.name = text(value),
                b"opts" => job.options = Options::parse(Some(&String::from_utf8_lossy(value))),
                b"timestamp" => job.timestamp_ms = number(value).map_or(0, |n| n as i64),
                b"processedOn" => job.processed_on_ms = number(value).map_or(0, |n| n as i64),
                b"atm" => job.attempts_made = job.count(value),
                b"ats" => job.attempts_started = job.count(value),
                b"stc" => job.stalled_count = job.count(value),
                b"parent" => job.broken_fields |= !is_parent(&String::from_utf8_lossy(value)),
                b"rjk" => job.repeat_job_key = Some(text(value)).filter(|key| !key.is_empty()),
                b"defa" => job.deferred_failure = Some(text(value)).filter(|reason| !reason.is_empty()),
                b"stacktrace" => job.stacktrace = serde_json::from_str(&text(value)).unwrap_or_default(),
                #[cfg(feature = "test-jobs")]
                _ if name == ACKNOWLEDGED_FIELD.as_bytes() && crate::switches::off("acknowledged") => {}
                _ if name == ACKNOWLEDGED_FIELD.as_bytes() => job.acknowledged = number(value).map(|n| n as i64),
                _ => {}
            }
        }
        job.defect = too_large.or_else(|| defect(&job.name, data, largest));
        if data.len() <= largest {
            job.data = text(data);
        }
        job
    }

    /// A counter, and a note if BullMQ's scripts will not be able to count it up.
    fn count(&mut self, value: &[u8]) -> u32 {
        // As Redis writes it: 01, +1 and -0 are no integers to it.
        let is_written = |text: &str| text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
        let whole = value.len() <= 15 && str::from_utf8(value).is_ok_and(is_written);
        self.broken_fields |= !whole;
        number(value).map_or(0, |n| n.max(0.0) as u32)
    }

    /// The data as JSON.
    pub fn data(&self) -> Result<Value, String> {
        json::read(&self.data).map_err(|error| format!("the job's data is not JSON: {error}"))
    }

    /// The attempt that runs now, from 1, as it is logged.
    pub fn attempt(&self) -> u32 {
        self.attempts_made.saturating_add(1)
    }

    /// Whether there are no attempts behind the one that runs now.
    pub fn is_last_attempt(&self) -> bool {
        self.attempt() >= self.options.attempts()
    }

    /// When it was due, milliseconds, if it is an iteration of a scheduler or repeatable: the end of `repeat:ID:MILLIS`.
    pub fn due_ms(&self) -> Option<i64> {
        self.repeat_job_key.as_ref()?;
        self.id.strip_prefix("repeat:")?.rsplit_once(':')?.1.parse().ok()
    }

    /// Whether its deferred failure is a stalled check's verdict, and not a parent's or a client's decision.
    pub fn is_stall_verdict(&self) -> bool {
        self.deferred_failure.as_deref().is_some_and(|reason| reason.starts_with(STALL_VERDICT))
    }

    /// The stack traces with one more, as many as the job keeps.
    pub fn stacktrace_with(&self, stack: Option<&str>) -> Vec<String> {
        let mut traces = self.stacktrace.clone();
        traces.extend(stack.map(str::to_string));
        if let Some(limit) = self.options.stack_traces {
            let surplus = traces.len().saturating_sub(limit);
            traces.drain(..surplus);
        }
        traces
    }
}

/// Whether a parent field names a job as BullMQ writes it.
fn is_parent(text: &str) -> bool {
    let parent: Value = json::read(text).unwrap_or_default();
    parent["id"].is_string() && parent["queueKey"].is_string()
}

/// Why a job with this name and data cannot be run at all, if so.
fn defect(name: &str, data: &[u8], largest: usize) -> Option<String> {
    let size = data.len();
    if name.is_empty() {
        Some("the job's hash has no name: it was removed, or written by hand".to_string())
    } else if size == 0 {
        // Every client writes at least "{}": an empty or missing field is a hash that lost something.
        Some("the job's hash has no data: it was written by hand, or lost a part".to_string())
    } else if size > largest {
        Some(surplus("data has", size, largest))
    } else if str::from_utf8(data).is_err() {
        Some("the job's data is not UTF-8".to_string())
    } else {
        None
    }
}

fn surplus(what: &str, size: usize, largest: usize) -> String {
    format!("the job's {what} {size} bytes, more than the {largest} that are allowed")
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn number(value: &[u8]) -> Option<f64> {
    str::from_utf8(value).ok()?.parse::<f64>().ok().filter(|n| n.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> Job {
        Job::read("7".into(), fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), 100)
    }

    #[test]
    fn a_hash_without_fields_is_a_defect_and_not_a_panic() {
        let job = read(&[("processedOn", "1"), ("ats", "1")]);
        assert!(job.defect.is_some_and(|reason| reason.contains("no name")));
    }

    #[test]
    fn a_counter_that_redis_cannot_count_up_is_noted() {
        for (value, broken) in [("0", false), ("12", false), ("-3", false), ("01", true), ("+5", true), ("-0", true)] {
            assert_eq!(read(&[("name", "x"), ("atm", value)]).broken_fields, broken, "{value}");
        }
    }

    #[test]
    fn data_beyond_the_limit_is_refused_before_it_is_parsed() {
        let job = read(&[("name", "x"), ("data", &"9".repeat(101))]);
        assert!(job.defect.is_some_and(|reason| reason.contains("101 bytes")));
        assert!(job.data.is_empty());
    }

    #[test]
    fn no_field_beyond_the_limit_is_read() {
        let many = "9".repeat(101);
        let job = |field: &str| read(&[("name", "x"), ("data", "{}"), (field, &many)]);
        let reason = job("opts").defect.unwrap();
        assert_eq!(reason, "the job's options have 101 bytes, more than the 100 that are allowed");
        assert!(job("opts").options.raw.is_empty());
        assert!(job("name").name.len() <= 100 && job("name").defect.unwrap().contains("name has 101 bytes"));
        assert_eq!((job("stacktrace").defect, job("parent").broken_fields), (None, false));
        assert_eq!(job("defa").deferred_failure.unwrap().len(), 100);
    }

    #[test]
    fn absent_data_is_a_defect_and_broken_data_a_sentence() {
        assert!(read(&[("name", "x")]).defect.is_some_and(|reason| reason.contains("no data")));
        assert_eq!(read(&[("name", "x"), ("data", "{}")]).defect, None);
        assert!(read(&[("name", "x"), ("data", "{")]).data().is_err());
    }

    #[test]
    fn a_parent_that_the_scripts_cannot_read_is_to_be_mended() {
        let broken = |parent: &str| read(&[("name", "x"), ("data", "{}"), ("parent", parent)]).broken_fields;
        assert!(!broken(r#"{"id":"7","queueKey":"bull:q"}"#));
        for parent in ["[]", "{", "5", r#"{"id":7}"#, r#"{"id":"7","queueKey":{}}"#] {
            assert!(broken(parent), "{parent}");
        }
    }

    #[test]
    fn only_a_stalled_check_s_verdict_is_one() {
        assert!(read(&[("name", "x"), ("defa", "job stalled more than allowable limit")]).is_stall_verdict());
        assert!(!read(&[("name", "x"), ("defa", "child bull:q:3 failed")]).is_stall_verdict());
    }

    #[test]
    fn the_job_keeps_as_many_stack_traces_as_it_says() {
        let mut job = read(&[("name", "x"), ("stacktrace", r#"["a","b"]"#), ("opts", r#"{"stackTraceLimit":2}"#)]);
        assert_eq!(job.stacktrace_with(Some("c")), ["b", "c"]);
        job.options.stack_traces = Some(0);
        assert!(job.stacktrace_with(Some("c")).is_empty());
    }
}
