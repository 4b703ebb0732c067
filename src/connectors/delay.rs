//! The connector `delay`: it says until when a run waits.

use super::{Call, Connector, DELAY, Failure, Reply};
use crate::values::{path::kind, span};
use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

/// As far as a run may wait.
const LONGEST: TimeDelta = TimeDelta::days(3660);

/// `wait` for a `duration`, or `until` a `time`.
pub struct Delay;

impl Connector for Delay {
    fn call<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Failure>> {
        let due = due(call.command, call.params, call.now);
        Box::pin(async { due.map(Reply::Later).map_err(|wrong| Failure::new(wrong.code, wrong.message)) })
    }
}

/// What is wrong with a delay, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The code of a finding, and of a failure.
    pub code: &'static str,
    /// The parameter; nothing for the command itself.
    pub param: Option<&'static str>,
    /// One sentence.
    pub message: String,
}

fn wrong(code: &'static str, param: &'static str, message: impl Into<String>) -> Wrong {
    Wrong { code, param: Some(param), message: message.into() }
}

/// When the wait is over. A time that has passed is over at once.
///
/// # Errors
/// A sentence, and which parameter it is about.
pub fn due(command: &str, params: &Map<String, Value>, now: DateTime<Utc>) -> Result<DateTime<Utc>, Wrong> {
    let get = |name: &'static str| {
        let value = params.get(name).filter(|value| !value.is_null());
        value.ok_or_else(|| wrong("MISSING", name, format!("`{command}` of `{DELAY}` needs `{name}`")))
    };
    let due = match command {
        "wait" => {
            let span = span::read(get("duration")?).map_err(|why| wrong("WRONG_VALUE", "duration", why))?;
            TimeDelta::from_std(span).ok().and_then(|span| now.checked_add_signed(span)).unwrap_or(now)
        }
        "until" => time(get("time")?, zone(params)?)?,
        _ => {
            let message = format!("`{DELAY}` has no command `{command}`; it has `wait` and `until`");
            return Err(Wrong { code: "UNKNOWN_COMMAND", param: None, message });
        }
    };
    if due - now > LONGEST {
        let param = if command == "wait" { "duration" } else { "time" };
        return Err(wrong("WRONG_VALUE", param, format!("`{due}` is more than ten years away")));
    }
    Ok(due)
}

/// Where a time without an offset is meant; UTC if nothing is said.
fn zone(params: &Map<String, Value>) -> Result<Tz, Wrong> {
    match params.get("zone") {
        None | Some(Value::Null) => Ok(Tz::UTC),
        Some(zone) => zone.as_str().and_then(|name| name.parse().ok()).ok_or_else(|| {
            wrong("WRONG_VALUE", "zone", format!("{zone} is no time zone; write one such as \"Europe/Berlin\""))
        }),
    }
}

/// A moment with its offset, or a local time or date of the zone.
fn time(value: &Value, zone: Tz) -> Result<DateTime<Utc>, Wrong> {
    let expected =
        "expected a time such as \"2026-03-29T09:00:00Z\", \"2026-03-29T09:00\" or \"2026-03-29\" (midnight)";
    let Some(text) = value.as_str().map(str::trim) else {
        return Err(wrong("WRONG_VALUE", "time", format!("`time` is {}; {expected}", kind(value))));
    };
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.to_utc());
    }
    let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"];
    let local = forms
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        .or_else(|| Some(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_time(NaiveTime::MIN)));
    let local = local.ok_or_else(|| wrong("WRONG_VALUE", "time", format!("`{text}` is no time; {expected}")))?;
    Ok(at(local, zone))
}

/// A local time that the clocks show twice is the first of them; one that they skip is when they jump over it.
fn at(local: NaiveDateTime, zone: Tz) -> DateTime<Utc> {
    // No jump was ever longer than a day.
    let minutes = (0..24 * 60).filter_map(|minutes| local.checked_add_signed(TimeDelta::minutes(minutes)));
    let mut found = minutes.filter_map(|local| match zone.from_local_datetime(&local) {
        LocalResult::Single(time) | LocalResult::Ambiguous(time, _) => Some(time.to_utc()),
        LocalResult::None => None,
    });
    found.next().unwrap_or_else(|| local.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ask(command: &str, params: Value) -> Result<String, Wrong> {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        due(command, params.as_object().unwrap(), now).map(|due| due.to_rfc3339())
    }

    #[test]
    fn both_commands_say_when_it_is_over() {
        for (command, params, expected) in [
            ("wait", json!({"duration": "2h"}), "2026-03-01T14:00:00+00:00"),
            ("wait", json!({"duration": 90}), "2026-03-01T12:01:30+00:00"),
            ("until", json!({"time": "2026-03-29T09:00:00+02:00"}), "2026-03-29T07:00:00+00:00"),
            ("until", json!({"time": "2026-03-02"}), "2026-03-02T00:00:00+00:00"),
            ("until", json!({"time": "2026-03-02 08:00", "zone": "Europe/Berlin"}), "2026-03-02T07:00:00+00:00"),
            ("until", json!({"time": "2020-01-01"}), "2020-01-01T00:00:00+00:00"),
            // Skipped, and shown twice.
            ("until", json!({"time": "2026-03-29T02:30", "zone": "Europe/Berlin"}), "2026-03-29T01:00:00+00:00"),
            ("until", json!({"time": "2026-10-25T02:30", "zone": "Europe/Berlin"}), "2026-10-25T00:30:00+00:00"),
        ] {
            assert_eq!(ask(command, params.clone()).as_deref(), Ok(expected), "{command} {params}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_parameter() {
        for (command, params, code, param) in [
            ("wait", json!({}), "MISSING", Some("duration")),
            ("wait", json!({"duration": "soon"}), "WRONG_VALUE", Some("duration")),
            ("until", json!({"time": null}), "MISSING", Some("time")),
            ("until", json!({"time": "tomorrow"}), "WRONG_VALUE", Some("time")),
            ("until", json!({"time": 5}), "WRONG_VALUE", Some("time")),
            ("until", json!({"time": "9999-12-31"}), "WRONG_VALUE", Some("time")),
            ("until", json!({"time": "2026-03-02", "zone": "Mars"}), "WRONG_VALUE", Some("zone")),
            ("sleep", json!({}), "UNKNOWN_COMMAND", None),
        ] {
            let wrong = ask(command, params.clone()).unwrap_err();
            assert_eq!((wrong.code, wrong.param), (code, param), "{command} {params}: {}", wrong.message);
        }
    }
}
