//! The `repeat` options of an iteration: when the next one is due, and whether there is one.

use crate::cron::{Cron, Zone};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// Where a schedule names no zone, the machine's counts, as for Node's workers.
static HERE: LazyLock<Zone> = LazyLock::new(Zone::of_this_machine);

/// What decides about the next iteration. Times are milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Repeat {
    pub(super) pattern: Option<String>,
    pub(super) every: Option<i64>,
    pub(super) tz: Option<String>,
    pub(super) limit: Option<i64>,
    pub(super) count: i64,
    pub(super) start: Option<i64>,
    pub(super) end: Option<i64>,
    pub(super) offset: Option<i64>,
    /// `jobId` of a repeatable, part of its old keys.
    pub(super) job_id: Option<String>,
    pub(super) hash_seed: Option<String>,
}

/// The next iteration, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Due at this time.
    At(i64),
    /// The limit of iterations or the end date is reached.
    Over,
    /// The options do not say when.
    Unreadable(String),
}

impl Repeat {
    /// A schedule of ours, before its pattern is known.
    pub(super) fn in_zone(zone: &str) -> Repeat {
        Repeat { tz: Some(zone.to_string()), ..Repeat::default() }
    }

    /// Reads `opts.repeat` of a job, or the fields of a scheduler's hash, which have the same names.
    pub(super) fn read(options: &Map<String, Value>) -> Repeat {
        let text = |name: &str| options.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let number = |name: &str| options.get(name).and_then(millis);
        Repeat {
            // `cron` is how it was called before BullMQ 3.
            pattern: text("pattern").or_else(|| text("cron")).map(str::to_string),
            every: number("every").filter(|every| *every > 0),
            tz: text("tz").map(str::to_string),
            limit: number("limit"),
            count: number("count").unwrap_or(0).max(0),
            start: options.get("startDate").and_then(date),
            end: options.get("endDate").and_then(date),
            offset: number("offset"),
            job_id: text("jobId").map(str::to_string),
            hash_seed: text("hashSeed").map(str::to_string),
        }
    }

    /// The number of the next iteration, from 1.
    pub(super) fn next_count(&self) -> i64 {
        self.count.saturating_add(1)
    }

    /// Whether the limit or the end date forbids another iteration.
    pub(super) fn is_over(&self, now: i64) -> bool {
        self.limit.is_some_and(|limit| self.next_count() > limit) || self.end.is_some_and(|end| now > end)
    }

    /// The next time of the pattern after `now`.
    pub(super) fn next_by_pattern(&self, pattern: &str, now: i64) -> Next {
        let zone = match self.tz.as_deref().map(Zone::parse) {
            None => *HERE,
            Some(Ok(zone)) => zone,
            Some(Err(why)) => return Next::Unreadable(why),
        };
        let cron = match Cron::parse_seeded(pattern, self.hash_seed.as_deref()) {
            Ok(cron) => cron,
            Err(why) => return Next::Unreadable(format!("the pattern `{pattern}`: {why}")),
        };
        let from = self.start.map_or(now, |start| start.max(now));
        match cron.next_after(from, zone) {
            Some(next) if self.end.is_none_or(|end| next <= end) => Next::At(next),
            _ => Next::Over,
        }
    }
}

/// A whole number, also as text and with a fraction, as JavaScript would take it.
fn millis(value: &Value) -> Option<i64> {
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    // Beyond this JavaScript has no dates either.
    (number.is_finite() && number.abs() <= 8.64e15).then_some(number as i64)
}

/// A date as npm's clients store it: milliseconds, or one of the texts that JavaScript prints or people write.
fn date(value: &Value) -> Option<i64> {
    if let Some(number) = millis(value) {
        return Some(number);
    }
    let text = value.as_str()?.trim();
    let utc = |naive: NaiveDateTime| naive.and_utc().timestamp_millis();
    DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_rfc2822(text))
        .map(|at| at.timestamp_millis())
        .ok()
        .or_else(|| Some(utc(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::hostile::json_with;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(value: Value) -> Repeat {
        Repeat::read(value.as_object().unwrap())
    }

    #[test]
    fn options_are_read_in_every_spelling() {
        let repeat = read(json!({
            "cron": "0 5 * * *", "every": "1000", "limit": 3, "count": 2, "tz": "UTC",
            "startDate": "2026-01-01T00:00:00.000Z", "endDate": 1_800_000_000_000_i64,
        }));
        assert_eq!(repeat.pattern.as_deref(), Some("0 5 * * *"));
        assert_eq!((repeat.every, repeat.limit, repeat.next_count()), (Some(1000), Some(3), 3));
        assert_eq!((repeat.start, repeat.end), (Some(1_767_225_600_000), Some(1_800_000_000_000)));
        assert_eq!(read(json!({"startDate": "2026-01-01"})).start, Some(1_767_225_600_000));
        let strange = read(json!({"every": -5, "limit": {}, "count": "x", "tz": 7, "endDate": "soon", "pattern": ""}));
        assert_eq!(strange, Repeat::default());
    }

    #[test]
    fn limit_and_end_date_end_the_chain() {
        assert!(!read(json!({"limit": 3, "count": 2})).is_over(0));
        assert!(read(json!({"limit": 3, "count": 3})).is_over(0));
        assert!(read(json!({"endDate": 5})).is_over(6) && !read(json!({"endDate": 5})).is_over(5));
        let daily = read(json!({"tz": "UTC", "endDate": 86_400_000}));
        assert_eq!(daily.next_by_pattern("0 0 * * *", 0), Next::At(86_400_000));
        assert_eq!(daily.next_by_pattern("0 0 * * *", 86_400_000), Next::Over);
        assert_eq!(read(json!({"tz": "UTC"})).next_by_pattern("0 0 31 4,6 *", 0), Next::Over);
    }

    #[test]
    fn a_start_date_is_waited_for_and_nonsense_is_told() {
        let later = read(json!({"tz": "UTC", "startDate": 90_000_000}));
        assert_eq!(later.next_by_pattern("0 0 * * *", 0), Next::At(172_800_000));
        assert!(matches!(read(json!({"tz": "Mars/Base"})).next_by_pattern("* * * * *", 0), Next::Unreadable(_)));
        assert!(matches!(read(json!({"tz": "UTC"})).next_by_pattern("99 * * * *", 0), Next::Unreadable(_)));
    }

    const NAMES: [&str; 11] =
        ["pattern", "cron", "every", "tz", "limit", "count", "startDate", "endDate", "offset", "jobId", "hashSeed"];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn hostile_options_have_a_later_tick_or_none(value in json_with(&NAMES), now in any::<i64>()) {
            let empty = Map::new();
            let repeat = Repeat::read(value.as_object().unwrap_or(&empty));
            prop_assert!(repeat.count >= 0 && repeat.next_count() > 0);
            prop_assert!(repeat.every.is_none_or(|every| every > 0));
            let _ = repeat.is_over(now);
            if let Some(pattern) = repeat.pattern.as_deref()
                && let Next::At(next) = repeat.next_by_pattern(pattern, now)
            {
                prop_assert!(next > now, "{next} is not after {now}");
            }
        }
    }
}
