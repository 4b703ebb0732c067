//! A cron expression in a zone: the times of a schedule.

use super::{Cron, Zone};
use chrono::TimeDelta;

const DAY_MS: i64 = 86_400_000;

/// The times of a schedule, in milliseconds since 1970. They are the same at each look, on every machine.
#[derive(Debug, Clone)]
pub struct Timetable {
    cron: Cron,
    zone: Zone,
}

impl Timetable {
    /// Reads an expression and the name of a zone.
    ///
    /// # Errors
    /// A sentence that says what is wrong. What depends on chance (`H`) or on the machine (`local`) is refused, and an
    /// expression that never comes.
    pub fn parse(expression: &str, zone: &str) -> Result<Timetable, String> {
        let cron = Cron::parse(expression).map_err(|why| format!("the cron expression `{expression}`: {why}"))?;
        if cron.is_hashed() {
            return Err(format!(
                "the cron expression `{expression}`: with `H` it would mean other times on each worker; write a number"
            ));
        }
        if ["local", "system"].iter().any(|word| zone.eq_ignore_ascii_case(word)) {
            return Err(format!("the zone `{zone}` is another one on each machine; name one of the IANA database"));
        }
        let table = Timetable { cron, zone: Zone::parse(zone)? };
        if table.next_after(0).is_none() {
            return Err(format!("the cron expression `{expression}` never comes"));
        }
        Ok(table)
    }

    /// The zone.
    #[must_use]
    pub fn zone(&self) -> Zone {
        self.zone
    }

    /// The expression.
    #[must_use]
    pub fn cron(&self) -> &Cron {
        &self.cron
    }

    /// What the zone's clock shows at an instant, for people: `Sun 2026-03-29 03:30:00 +02:00`.
    #[must_use]
    pub fn clock(&self, instant: i64) -> Option<String> {
        self.zone.text(instant)
    }

    /// The first of its times after an instant. What is listed for a repeated hour is over when its first pass is.
    #[must_use]
    pub fn next_after(&self, instant: i64) -> Option<i64> {
        let next = self.cron.next_uninterrupted(instant, self.zone)?;
        // What was moved out of a gap is found from before the gap only.
        let moved = if self.clocks_were_set(instant) { self.last_between(instant - DAY_MS, next) } else { None };
        Some(moved.filter(|moved| *moved > instant).unwrap_or(next))
    }

    /// Whether the zone's clocks were set within the day before an instant.
    fn clocks_were_set(&self, instant: i64) -> bool {
        let clock = |at: i64| self.zone.local(at);
        clock(instant).zip(clock(instant - DAY_MS)).is_some_and(|(now, before)| now - before != TimeDelta::days(1))
    }

    /// The last of its times after one instant and before another.
    #[must_use]
    pub fn last_between(&self, after: i64, before: i64) -> Option<i64> {
        self.cron.last_between(after, before, self.zone)
    }

    /// Whether an instant is one of its times.
    #[must_use]
    pub fn has(&self, instant: i64) -> bool {
        self.next_after(instant - 1) == Some(instant)
    }

    /// Whether a scheduler may announce an instant although it is none of its times: one that looks for its next time within
    /// the second pass of a repeated hour finds what has run in the first one.
    #[must_use]
    pub fn repeats(&self, instant: i64) -> bool {
        !self.has(instant) && self.cron.next_after(instant - 1, self.zone) == Some(instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    fn times(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let table = Timetable::parse(cron, zone).unwrap();
        let text = |ms: &i64| DateTime::from_timestamp_millis(*ms).unwrap().format("%m-%dT%H:%MZ").to_string();
        let next = |ms: &i64| table.next_after(*ms);
        std::iter::successors(table.next_after(at(from)), next).take(count).map(|ms| text(&ms)).collect()
    }

    #[test]
    fn a_skipped_hour_has_one_time_and_a_repeated_hour_one() {
        let daily = "30 2 * * *";
        assert_eq!(times(daily, "Europe/Berlin", "2026-03-28T12:00:00Z", 2), ["03-29T01:30Z", "03-30T00:30Z"]);
        assert_eq!(times(daily, "Europe/Berlin", "2026-10-24T12:00:00Z", 2), ["10-25T00:30Z", "10-26T01:30Z"]);
        assert_eq!(times(daily, "America/New_York", "2026-03-07T12:00:00Z", 2), ["03-08T07:30Z", "03-09T06:30Z"]);
        let nightly = "30 1 * * *";
        assert_eq!(times(nightly, "America/New_York", "2026-10-31T12:00:00Z", 2), ["11-01T05:30Z", "11-02T06:30Z"]);
        // The clocks of Lord Howe Island are set by half an hour.
        let quarter = "15 2 * * *";
        assert_eq!(times(quarter, "Australia/Lord_Howe", "2026-10-03T06:00:00Z", 2), ["10-03T15:45Z", "10-04T15:15Z"]);
        let late = "45 1 * * *";
        assert_eq!(times(late, "Australia/Lord_Howe", "2026-04-04T06:00:00Z", 2), ["04-04T14:45Z", "04-05T15:15Z"]);
    }

    #[test]
    fn from_within_the_second_pass_what_is_listed_for_the_hour_is_over() {
        assert_eq!(times("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1), ["10-26T01:30Z"]);
        let table = Timetable::parse("30 2 * * *", "Europe/Berlin").unwrap();
        let (first, second) = (at("2026-10-25T00:30:00Z"), at("2026-10-25T01:30:00Z"));
        assert_eq!((table.has(first), table.repeats(first)), (true, false));
        assert_eq!((table.has(second), table.repeats(second)), (false, true));
        assert_eq!((table.has(second + 1), table.repeats(second + 1)), (false, false));
        let hourly = Timetable::parse("30 * * * *", "Europe/Berlin").unwrap();
        assert!(hourly.has(first) && hourly.has(second), "every real hour is one");
    }

    #[test]
    fn from_behind_a_gap_what_was_moved_out_of_it_is_still_to_come() {
        assert_eq!(times("30 2 * * *", "Europe/Berlin", "2026-03-29T01:10:00Z", 2), ["03-29T01:30Z", "03-30T00:30Z"]);
        let table = Timetable::parse("30 2 * * *", "Europe/Berlin").unwrap();
        assert!(table.has(at("2026-03-29T01:30:00Z")) && !table.has(at("2026-03-29T00:30:00Z")));
        let lord_howe = Timetable::parse("15 2 * * *", "Australia/Lord_Howe").unwrap();
        assert!(lord_howe.has(at("2026-10-03T15:45:00Z")));
    }

    #[test]
    fn what_is_no_timetable_is_refused_in_a_sentence() {
        for (cron, zone, says) in [
            ("every day", "UTC", "the cron expression `every day`: "),
            ("0 0 31 4,6 *", "UTC", "never comes"),
            ("H 2 * * *", "UTC", "write a number"),
            ("0 2 * * *", "Mars/Base", "the zone `Mars/Base` is not in the IANA database"),
            ("0 2 * * *", "local", "another one on each machine"),
        ] {
            let why = Timetable::parse(cron, zone).unwrap_err();
            assert!(why.contains(says) && !why.contains('\n'), "{why}");
        }
    }
}
