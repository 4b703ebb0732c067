//! Spans of time as definitions write them: `90s`, `15m`, `2h`, `3d`, or a number of seconds.

use serde_json::Value;
use std::time::Duration;

/// Longer than anybody waits for an approval, and short enough for every clock.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// What was expected, for messages.
const EXPECTED: &str = "expected a span of time such as \"90s\", \"15m\", \"2h\" or \"3d\", or a number of seconds";

/// Reads a span of at least one millisecond.
///
/// # Errors
/// A sentence that says what was expected.
pub fn read(value: &Value) -> Result<Duration, String> {
    let seconds = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => seconds(text.trim()),
        _ => None,
    };
    let seconds = seconds.ok_or_else(|| format!("{value} is no span of time; {EXPECTED}"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(span) if span >= Duration::from_millis(1) && span <= LONGEST => Ok(span),
        _ => Err(format!("{value} is not between a millisecond and ten years; {EXPECTED}")),
    }
}

fn seconds(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    // Digits and a point alone: `parse` would take "inf" and "1e3" too.
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain.then(|| number.parse::<f64>().ok())?.map(|number| number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_unit_and_plain_seconds_are_read() {
        for (value, seconds) in [
            (json!("90s"), 90.0),
            (json!("15m"), 900.0),
            (json!("1.5h"), 5400.0),
            (json!("3d"), 259_200.0),
            (json!(2), 2.0),
            (json!(0.25), 0.25),
        ] {
            assert_eq!(read(&value), Ok(Duration::from_secs_f64(seconds)), "{value}");
        }
    }

    #[test]
    fn anything_else_says_what_is_expected() {
        for value in [
            json!(""),
            json!("s"),
            json!("5"),
            json!("-5s"),
            json!("1e3s"),
            json!("infs"),
            json!("5 weeks"),
            json!("5µ"),
            json!(0),
            json!(-1),
            json!(1e300),
            json!("99999d"),
            json!(null),
            json!([]),
        ] {
            let why = read(&value).unwrap_err();
            assert!(why.contains("\"90s\""), "{value}: {why}");
        }
    }
}
