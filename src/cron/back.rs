//! Looking back: the last occurrence before an instant. `cron-parser` has no part in it; what counts is which ticks a
//! schedule that was never interrupted would have had.

use super::{Cron, Zone};

impl Cron {
    /// The last occurrence after one instant and before another, all in milliseconds since 1970.
    #[must_use]
    pub fn last_between(&self, after: i64, before: i64, zone: Zone) -> Option<i64> {
        let within = |from: i64| self.next_uninterrupted(from, zone).filter(|next| *next < before);
        let mut found = within(after)?;
        // The later one looks from, the later what is found: so the last start that still finds something is halved out.
        let (mut finds, mut finds_none) = (after, before.checked_sub(1)?);
        while finds_none - finds > 1 {
            let middle = finds + (finds_none - finds) / 2;
            match within(middle) {
                Some(next) => (finds, found) = (middle, next),
                None => finds_none = middle,
            }
        }
        Some(found)
    }

    /// As [`Cron::next_after`], but from within the second pass of a repeated hour it finds what a schedule finds that came
    /// through the first pass: what is listed for that hour has run.
    pub(super) fn next_uninterrupted(&self, instant: i64, zone: Zone) -> Option<i64> {
        let began = if self.every_hour { None } else { zone.began_second_pass(instant) };
        self.next_after(began.map_or(instant, |began| began - 1), zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use proptest::prelude::*;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    fn last(expression: &str, zone: &str, after: &str, before: &str) -> Option<String> {
        let (cron, zone) = (Cron::parse(expression).unwrap(), Zone::parse(zone).unwrap());
        let found = cron.last_between(at(after), at(before), zone)?;
        Some(DateTime::from_timestamp_millis(found).unwrap().format("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

    #[test]
    fn both_ends_are_excluded() {
        let noon = |after, before| last("0 12 * * *", "UTC", after, before);
        assert_eq!(noon("2026-05-01T11:00:00Z", "2026-05-03T12:00:00Z").unwrap(), "2026-05-02T12:00:00Z");
        assert_eq!(noon("2026-05-01T11:00:00Z", "2026-05-03T12:00:00.001Z").unwrap(), "2026-05-03T12:00:00Z");
        assert_eq!(noon("2026-05-02T12:00:00Z", "2026-05-03T12:00:00Z"), None);
        assert_eq!(noon("2026-05-03T12:00:00Z", "2026-05-01T12:00:00Z"), None);
        assert_eq!(noon("2026-05-02T11:59:59.999Z", "2026-05-02T12:00:00.001Z").unwrap(), "2026-05-02T12:00:00Z");
    }

    #[test]
    fn a_repeated_hour_was_one_tick_wherever_one_looks_from() {
        for after in ["2026-10-24T12:00:00Z", "2026-10-25T00:10:00Z"] {
            assert_eq!(
                last("30 2 * * *", "Europe/Berlin", after, "2026-10-25T20:00:00Z").unwrap(),
                "2026-10-25T00:30:00Z"
            );
        }
        for after in ["2026-10-25T00:30:00Z", "2026-10-25T00:45:00Z", "2026-10-25T01:10:00Z"] {
            assert_eq!(last("30 2 * * *", "Europe/Berlin", after, "2026-10-25T20:00:00Z"), None, "{after}");
        }
        let hourly = last("30 * * * *", "Europe/Berlin", "2026-10-25T00:40:00Z", "2026-10-25T01:59:00Z");
        assert_eq!(hourly.unwrap(), "2026-10-25T01:30:00Z");
    }

    #[test]
    fn a_skipped_hour_was_a_tick_after_the_gap() {
        let skipped = |after, before| last("30 2 * * *", "Europe/Berlin", after, before);
        assert_eq!(skipped("2026-03-28T12:00:00Z", "2026-03-29T20:00:00Z").unwrap(), "2026-03-29T01:30:00Z");
        assert_eq!(skipped("2026-03-29T01:30:00Z", "2026-03-29T20:00:00Z"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_the_last_of_those_that_one_finds_going_forward(
            minutes in "[0-9*/,]{1,6}", hours in prop_oneof!["[0-9]", "\\*", "1,2,3", "\\*/5", "2-4"],
            after in 1_600_000_000_000_i64..1_900_000_000_000, days in 0..4_i64, zone in 0..600_usize,
        ) {
            let Ok(cron) = Cron::parse(&format!("{minutes} {hours} * * *")) else { return Ok(()) };
            let zone = Zone::from(chrono_tz::TZ_VARIANTS[zone % chrono_tz::TZ_VARIANTS.len()]);
            let before = after + days * 86_400_000 + 1;
            let mut last = None;
            let mut from = after;
            while let Some(next) = cron.next_uninterrupted(from, zone).filter(|next| *next < before) {
                (last, from) = (Some(next), next);
            }
            prop_assert_eq!(cron.last_between(after, before, zone), last);
        }
    }
}
