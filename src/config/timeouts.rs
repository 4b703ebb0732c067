//! How long jobs may run: one number for all, and a list of exceptions by name.

use super::{
    reader::{Reader, quoted, whole},
    types::JobTimeouts,
};
use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

const ALL: &str = "JOB_TIMEOUT_SECONDS";
const BY_NAME: &str = "JOB_TIMEOUTS";

/// A day: whatever takes longer is to be cut into jobs.
const SECONDS: RangeInclusive<u64> = 1..=86_400;
const DEFAULT: Duration = Duration::from_secs(900);

pub(super) fn read(reader: &mut Reader) -> JobTimeouts {
    let default = reader.checked(ALL, DEFAULT, seconds);
    let mut by_name = BTreeMap::new();
    let list = reader.text(BY_NAME).unwrap_or_default();
    for entry in list.split(',').map(str::trim).filter(|_| !list.is_empty()) {
        match parse(entry) {
            Ok((name, _)) if by_name.contains_key(name) => {
                reader.mistake(BY_NAME, Some(entry), &format!("{} is named twice: keep one of them", quoted(name)));
            }
            Ok((name, timeout)) => {
                by_name.insert(name.to_string(), timeout);
            }
            Err(expected) => reader.mistake(BY_NAME, Some(entry), &expected),
        }
    }
    JobTimeouts { default, by_name }
}

/// `name=seconds`.
fn parse(entry: &str) -> Result<(&str, Duration), String> {
    let (name, number) = entry.split_once('=').unwrap_or((entry, ""));
    let (name, number) = (name.trim_end(), number.trim_start());
    if name.is_empty() || name.contains(char::is_whitespace) || number.is_empty() {
        return Err("name=seconds is expected, with commas between".to_string());
    }
    Ok((name, seconds(number)?))
}

fn seconds(text: &str) -> Result<Duration, String> {
    whole(SECONDS, "a number of seconds")(text).map(Duration::from_secs)
}
