//! Cron expressions as BullMQ's users write them, with the answers of npm's `cron-parser` 5.
//!
//! A scheduler's next iteration is computed by whichever worker takes the current one, a Node worker or ours, so both
//! must agree on what an expression means. The reading is ours (`fields`, `hashed`), because `cron-parser` takes
//! and refuses other texts than any Rust library: missing leading fields, `1/2`, `?` anywhere, names in either field,
//! doubled values refused, `H`. What was read is handed as plain lists to `croner`, which searches the calendar: months'
//! lengths, leap years, `L`, `5L`, `5#3`, and days of month and week that are both restricted (either is enough).
//! The search runs on the wall clock; what a wall-clock time means in a zone is decided here, by `cron-parser`'s rules:
//!
//! * Hours that are all wanted (`*`, `0-23`) follow the clock's real hours: a skipped hour does not run and a repeated
//!   hour runs twice.
//! * Hours that are listed run once a day: a skipped hour runs in the first hour after the gap, a repeated hour runs in
//!   its first pass only.
//!
//! Kept differences, each watched by the parity test:
//!
//! * Where clocks change over midnight (Havana), not on the hour (Chatham) or by less than one (Lord Howe Island),
//!   `cron-parser` loses runs, gives up, goes back in time, or takes the second pass of a repeated hour, depending on
//!   the way its search came along. Here the rules above hold there too, so the run comes earlier than by `cron-parser`.
//! * `cron-parser` lets nearly any text pass in a field that also holds an `H`. Here such a field may hold what other
//!   fields hold, and nothing else.

mod back;
mod fields;
mod hashed;
mod timetable;
mod zone;

pub use timetable::Timetable;
pub use zone::Zone;

use chrono::{NaiveDateTime, TimeDelta, Timelike};
use croner::parser::{CronParser, Seconds, Year};
use fields::Fields;
use zone::Local;

/// A gap of a day or more is a change of the date line, not of the season: its days do not exist and nothing of them
/// is made up for.
const LONGEST_GAP: TimeDelta = TimeDelta::hours(23);

/// The shortest overlap in which an expression for every hour runs again.
const SHORTEST_REPEAT: TimeDelta = TimeDelta::hours(1);

/// An expression that was read and can be asked for its next occurrence.
#[derive(Debug, Clone)]
pub struct Cron {
    calendar: croner::Cron,
    every_hour: bool,
    possible: bool,
    hashed: bool,
}

impl Cron {
    /// Reads an expression. An `H` in it gets a value by chance.
    ///
    /// # Errors
    /// A sentence that names the field and what is wrong with it.
    pub fn parse(expression: &str) -> Result<Self, String> {
        Self::parse_seeded(expression, None)
    }

    /// As [`Cron::parse`]; an `H` gets the value that `cron-parser` gives it for this `hashSeed`.
    ///
    /// # Errors
    /// A sentence that names the field and what is wrong with it.
    pub fn parse_seeded(expression: &str, seed: Option<&str>) -> Result<Self, String> {
        let fields = Fields::read(expression, seed)?;
        let calendar = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Disallowed)
            .build()
            .parse(&fields.to_lists())
            .map_err(|e| format!("the expression `{expression}` cannot be searched: {e}"))?;
        Ok(Self { calendar, every_hour: fields.every_hour(), possible: fields.possible(), hashed: fields.hashed() })
    }

    /// Whether an `H` leaves something of it to the seed: without one, each reading means other times.
    #[must_use]
    pub fn is_hashed(&self) -> bool {
        self.hashed
    }

    /// The first occurrence after an instant, both in milliseconds since 1970. `None`: there is none (31 April), or it
    /// lies beyond the years that can be searched.
    #[must_use]
    pub fn next_after(&self, instant: i64, zone: Zone) -> Option<i64> {
        if !self.possible {
            return None;
        }
        let start = zone.local(instant)?;
        let found = self.search(start, instant, zone)?;
        if self.every_hour
            && let Some((again, from)) = zone.second_pass(start, instant, SHORTEST_REPEAT)
            && found >= again
        {
            // The wall clock search went past the end of the repeated hour's first pass: the second pass comes first.
            let repeated = self.search(from.checked_sub_signed(TimeDelta::seconds(1))?, again - 1, zone)?;
            return Some(found.min(repeated));
        }
        Some(found)
    }

    /// The first occurrence on the wall clock after `civil` whose instant lies after `instant`.
    fn search(&self, civil: NaiveDateTime, instant: i64, zone: Zone) -> Option<i64> {
        let mut civil = civil.with_nanosecond(0)?;
        loop {
            let found = self.calendar.find_next_occurrence(&civil, false).ok()?;
            let candidate = match zone.resolve(found)? {
                Local::Once(at) => at,
                Local::Twice(first, second) => {
                    if first > instant {
                        first
                    } else {
                        second
                    }
                }
                Local::Never { length, resumes } if self.every_hour || length > LONGEST_GAP => {
                    civil = resumes.checked_sub_signed(TimeDelta::seconds(1))?;
                    continue;
                }
                Local::Never { length, resumes } => zone.earliest(landing(found, length, resumes)?)?,
            };
            if candidate > instant {
                return Some(candidate);
            }
            civil = found;
        }
    }
}

/// Where a skipped time runs: in the first hour after the gap, at its own minute and second.
fn landing(skipped: NaiveDateTime, length: TimeDelta, resumes: NaiveDateTime) -> Option<NaiveDateTime> {
    let in_first_hour = resumes.date().and_hms_opt(resumes.hour(), skipped.minute(), skipped.second())?;
    if in_first_hour >= resumes { Some(in_first_hour) } else { skipped.checked_add_signed(length) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use proptest::prelude::*;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    fn runs(expression: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let (cron, zone) = (Cron::parse(expression).unwrap(), Zone::parse(zone).unwrap());
        let mut instant = at(from);
        let mut found = Vec::new();
        for _ in 0..count {
            let Some(next) = cron.next_after(instant, zone) else { break };
            assert!(next > instant, "{expression} went back");
            instant = next;
            found.push(DateTime::from_timestamp_millis(next).unwrap().format("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
        found
    }

    #[test]
    fn a_skipped_hour_runs_after_the_gap_and_a_repeated_hour_once() {
        let spring = runs("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
        assert_eq!(spring, ["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]);
        let autumn = runs("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(autumn, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn every_hour_follows_the_real_hours() {
        let spring = runs("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3);
        assert_eq!(spring, ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"]);
        let autumn = runs("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3);
        assert_eq!(autumn, ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]);
    }

    #[test]
    fn a_gap_at_midnight_does_not_lose_the_day() {
        // The clocks of Havana go from 0:00 to 1:00.
        let runs = runs("30 0 * * *", "America/Havana", "2026-03-07T12:00:00Z", 2);
        assert_eq!(runs, ["2026-03-08T05:30:00Z", "2026-03-09T04:30:00Z"]);
    }

    #[test]
    fn a_gap_of_half_an_hour_does_not_lose_the_run() {
        let runs = runs("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T06:00:00Z", 1);
        assert_eq!(runs, ["2026-10-03T15:45:00Z"]);
    }

    #[test]
    fn a_day_that_the_date_line_took_is_gone() {
        // Samoa had no 30 December 2011.
        let runs = runs("0 12 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", 2);
        assert_eq!(runs, ["2011-12-29T22:00:00Z", "2011-12-30T22:00:00Z"]);
    }

    #[test]
    fn impossible_days_are_refused_or_never_come() {
        assert!(Cron::parse("0 0 30 2 *").is_err());
        assert!(Cron::parse("0 0 31 4 *").is_err());
        assert_eq!(runs("0 0 31 4,6 *", "UTC", "2026-01-01T00:00:00Z", 1), Vec::<String>::new());
        assert_eq!(runs("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", 1), ["2028-02-29T00:00:00Z"]);
        assert_eq!(runs("0 0 * 2 1#5", "UTC", "2026-01-01T00:00:00Z", 1), ["2044-02-29T00:00:00Z"]);
    }

    #[test]
    fn an_h_is_told_from_a_thursday() {
        for hashed in ["H * * * *", "0 H(1-5)/2 * * *", "0 0 H * 1"] {
            assert!(Cron::parse(hashed).unwrap().is_hashed(), "{hashed}");
        }
        for plain in ["0 0 * * THU", "0 0 * * 1-Thu", "@monthly"] {
            assert!(!Cron::parse(plain).unwrap().is_hashed(), "{plain}");
        }
    }

    #[test]
    fn instants_beyond_the_calendar_have_no_next() {
        let cron = Cron::parse("* * * * *").unwrap();
        for instant in [i64::MIN, i64::MAX, -99_000_000_000_000, 8_640_000_000_000_000] {
            let _ = cron.next_after(instant, Zone::UTC);
        }
        assert_eq!(cron.next_after(i64::MAX, Zone::UTC), None);
        assert_eq!(cron.next_after(-1, Zone::UTC), Some(0));
        assert_eq!(cron.next_after(0, Zone::UTC), Some(60_000));
        assert_eq!(cron.next_after(59_999, Zone::UTC), Some(60_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = Cron::parse(&text);
        }

        #[test]
        fn no_text_of_cron_characters_makes_it_panic(text in "[0-9*?,/LH#()a-z -]{0,30}", instant in -9e12 as i64..9e12 as i64) {
            if let Ok(cron) = Cron::parse(&text) {
                let _ = cron.next_after(instant, Zone::UTC);
            }
        }

        #[test]
        fn the_next_run_is_later_and_the_one_before_it_is_not_skipped(
            minute in 0..60_u32, hour in 0..24_u32, instant in 0..4_000_000_000_000_i64, zone in 0..600_usize,
        ) {
            let zone = Zone::from(chrono_tz::TZ_VARIANTS[zone % chrono_tz::TZ_VARIANTS.len()]);
            let cron = Cron::parse(&format!("{minute} {hour} * * *")).unwrap();
            let next = cron.next_after(instant, zone).unwrap();
            prop_assert!(next > instant);
            // Once a day: a day's run may move by the size of a gap; a date line may take a day.
            prop_assert!(next - instant <= 50 * 3_600_000, "{} h later", (next - instant) / 3_600_000);
            // A run that was moved out of a gap is found from before the gap only, as by `cron-parser`.
            if zone.local(next).is_some_and(|clock| (clock.hour(), clock.minute()) == (hour, minute)) {
                prop_assert_eq!(cron.next_after(next - 1, zone), Some(next));
            }
        }
    }
}
