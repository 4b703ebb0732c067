//! `formatDate`: a date as people read it. The letters of the pattern are those of JavaScript's libraries: `DD.MM.YYYY HH:mm`.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone, Timelike, Utc};
use serde_json::Value;

/// Longer texts are no dates, and no patterns for one.
const LONGEST: usize = 100;
/// The pattern where none is given.
const USUAL: &str = "YYYY-MM-DD";

/// Writes a part of a date.
type Write = fn(&NaiveDateTime) -> String;

/// The letters that stand for something, the longer of each kind before the shorter.
const LETTERS: [(&str, Write); 15] = [
    ("YYYY", |at| format!("{:04}", at.year())),
    ("YY", |at| format!("{:02}", at.year().rem_euclid(100))),
    ("MMMM", |at| at.format("%B").to_string()),
    ("MMM", |at| at.format("%b").to_string()),
    ("MM", |at| format!("{:02}", at.month())),
    ("M", |at| at.month().to_string()),
    ("DD", |at| format!("{:02}", at.day())),
    ("D", |at| at.day().to_string()),
    ("dddd", |at| at.format("%A").to_string()),
    ("ddd", |at| at.format("%a").to_string()),
    ("HH", |at| format!("{:02}", at.hour())),
    ("H", |at| at.hour().to_string()),
    ("mm", |at| format!("{:02}", at.minute())),
    ("m", |at| at.minute().to_string()),
    ("ss", |at| format!("{:02}", at.second())),
];

/// Writes a date: RFC 3339, a day such as `2026-03-29`, or milliseconds since 1970.
///
/// # Errors
/// A sentence: the value is no date, the pattern no pattern, the zone not known.
pub(super) fn format(value: &Value, pattern: Option<&Value>, zone: Option<&Value>) -> Result<String, String> {
    let zone = match zone {
        None => chrono_tz::UTC,
        Some(zone) => zone
            .as_str()
            .and_then(|name| name.parse::<chrono_tz::Tz>().ok())
            .ok_or_else(|| format!("`formatDate`: {} is no time zone such as \"Europe/Berlin\"", shown(zone)))?,
    };
    let at = match read(value) {
        Some(Read::Instant(instant)) => local(instant, zone),
        // A day is the same day everywhere.
        Some(Read::Day(day)) => Some(day.and_time(NaiveTime::MIN)),
        None => None,
    };
    let at = at.ok_or_else(|| format!("`formatDate`: {} is no date", shown(value)))?;
    let pattern = match pattern {
        None => USUAL,
        Some(pattern) => pattern
            .as_str()
            .filter(|text| text.len() <= LONGEST)
            .ok_or_else(|| format!("`formatDate`: {} is no pattern such as \"DD.MM.YYYY\"", shown(pattern)))?,
    };
    fill(pattern, &at)
}

enum Read {
    Instant(DateTime<Utc>),
    Day(NaiveDate),
}

fn read(value: &Value) -> Option<Read> {
    match value {
        Value::Number(number) => DateTime::from_timestamp_millis(number.as_i64()?).map(Read::Instant),
        Value::String(text) if text.len() <= LONGEST => match NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            Ok(day) => Some(Read::Day(day)),
            Err(_) => DateTime::parse_from_rfc3339(text).ok().map(|at| Read::Instant(at.to_utc())),
        },
        _ => None,
    }
}

/// What the clocks of a zone show. At the very ends of the calendar there are instants without a local time, for which chrono
/// panics where it is asked by `naive_local`.
fn local(instant: DateTime<Utc>, zone: chrono_tz::Tz) -> Option<NaiveDateTime> {
    let utc = instant.naive_utc();
    utc.checked_add_offset(zone.offset_from_utc_datetime(&utc).fix())
}

fn fill(pattern: &str, at: &NaiveDateTime) -> Result<String, String> {
    let (mut text, mut left) = (String::new(), pattern);
    while let Some(next) = left.chars().next() {
        if let Some((plain, rest)) = left.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            text.push_str(plain);
            left = rest;
        } else if let Some((letters, write)) = LETTERS.iter().find(|(letters, _)| left.starts_with(letters)) {
            text.push_str(&write(at));
            left = &left[letters.len()..];
        } else if next.is_ascii_alphabetic() {
            return Err(format!("`formatDate`: `{next}` means nothing in a pattern; put words into [brackets]"));
        } else {
            text.push(next);
            left = &left[next.len_utf8()..];
        }
    }
    Ok(text)
}

/// A value in a message: on one line and not endless.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", text.chars().take(40).collect::<String>().escape_debug()),
        Value::Array(_) => "a list".to_string(),
        Value::Object(_) => "an object".to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn format(value: Value, pattern: &str, zone: Option<&str>) -> Result<String, String> {
        super::format(&value, Some(&json!(pattern)), zone.map(|zone| json!(zone)).as_ref())
    }

    #[test]
    fn dates_are_written_by_a_pattern_and_in_a_zone() {
        let at = "2026-03-09T23:05:07Z";
        assert_eq!(super::format(&json!(at), None, None), Ok("2026-03-09".to_string()));
        assert_eq!(format(json!(at), "D.M.YY H:mm:ss", None), Ok("9.3.26 23:05:07".to_string()));
        assert_eq!(format(json!(at), "DD.MM.YYYY HH:mm", Some("Europe/Berlin")), Ok("10.03.2026 00:05".to_string()));
        assert_eq!(
            format(json!(at), "dddd, D MMMM [at] HH:mm (ddd MMM)", None),
            Ok("Monday, 9 March at 23:05 (Mon Mar)".to_string())
        );
        assert_eq!(format(json!(0), "YYYY-MM-DD", None), Ok("1970-01-01".to_string()));
    }

    #[test]
    fn a_day_stays_that_day_in_every_zone() {
        assert_eq!(format(json!("2026-03-09"), "DD.MM.YYYY", Some("America/New_York")), Ok("09.03.2026".to_string()));
    }

    #[test]
    fn the_calendar_ends_where_a_zone_has_no_local_time() {
        let (first, last) = (DateTime::<Utc>::MIN_UTC.timestamp_millis(), DateTime::<Utc>::MAX_UTC.timestamp_millis());
        for (instant, zone) in [(last, "Asia/Tokyo"), (first, "America/New_York")] {
            let why = format(json!(instant), "YYYY", Some(zone)).unwrap_err();
            assert_eq!(why, format!("`formatDate`: {instant} is no date"));
            assert!(format(json!(instant), "YYYY", None).is_ok(), "{zone}");
        }
    }

    #[test]
    fn what_is_no_date_no_pattern_or_no_zone_is_named() {
        for (value, pattern, zone, word) in [
            (json!("tomorrow"), "DD", None, "\"tomorrow\" is no date"),
            (json!(true), "DD", None, "true is no date"),
            (json!("2026-02-30"), "DD", None, "is no date"),
            (json!(i64::MAX), "DD", None, "is no date"),
            (json!(0), "DD of MM", None, "`o` means nothing"),
            (json!(0), "DD", Some("Berlin"), "\"Berlin\" is no time zone"),
        ] {
            let why = format(value, pattern, zone).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
