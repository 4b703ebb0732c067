//! Which ticks of a schedule are started, when one of its jobs comes or when nobody came.
//!
//! The schedule knows up to when its ticks are dealt with. What is later and has come due is either the tick that is fired
//! just now or was missed: its job was lost, failed, or came so late that another one had come due. So whichever job comes
//! first makes up for what was missed, by the schedule's policy, and one that comes afterwards finds its tick dealt with.

use crate::{cron::Timetable, jobs::CatchUp};

/// A tick that has not begun so long after it was due is missed, although no other one has come due since.
pub(super) const LATE_MS: i64 = 3_600_000;

/// What a schedule is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// This tick (milliseconds), by a job that is due then.
    Tick(i64),
    /// A run now, whatever the time is.
    Now,
    /// What is overdue and has no job any more.
    Overdue,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice {
    /// Ticks to be started, earliest first.
    pub start: Vec<i64>,
    /// Those of them that were missed.
    pub made_up: Vec<i64>,
    /// The first and the last of the ticks that were missed and are given up.
    pub given_up: Option<(i64, i64)>,
    /// Up to when all ticks are dealt with now.
    pub until: i64,
    /// Why the tick that was asked for is not started.
    pub refused: Option<&'static str>,
}

/// Decides about a schedule whose ticks are dealt with up to `until`, at the time `now`; all in milliseconds.
#[must_use]
pub fn choose(table: &Timetable, policy: CatchUp, until: i64, now: i64, asked: Asked) -> Choice {
    let unchanged = Choice { until, ..Choice::default() };
    let tick = match asked {
        Asked::Now => return unchanged,
        Asked::Overdue => return overdue(table, policy, until, now, None),
        Asked::Tick(tick) => tick,
    };
    if !table.has(tick) {
        if table.repeats(tick) {
            let refused = Some("the clock shows this hour again, and the schedule has run in its first pass");
            return Choice { refused, ..unchanged };
        }
        // Somebody else's scheduler has times of its own, or the schedule had another expression.
        return Choice { start: vec![tick], ..unchanged };
    }
    if tick <= until {
        return Choice { refused: Some("this tick was dealt with before"), ..unchanged };
    }
    overdue(table, policy, until, now.max(tick), Some(tick))
}

/// The ticks after `until` that have come due by `now`, `fired` perhaps among them.
fn overdue(table: &Timetable, policy: CatchUp, until: i64, now: i64, fired: Option<i64>) -> Choice {
    let Some(latest) = table.last_between(until, now + 1) else { return Choice { until, ..Choice::default() } };
    let in_time = fired.filter(|fired| *fired == latest && now - fired <= LATE_MS);
    // The latest is missed unless it is being fired in time; then it is what `one` stands for.
    let missed = match (in_time, policy) {
        (Some(_), CatchUp::One) => CatchUp::Skip,
        (_, policy) => policy,
    };
    let before = in_time.unwrap_or(latest + 1);
    let made_up = missed.choose(table.cron(), table.zone(), until, before, &[]);
    // What was chosen are the latest ones.
    let given_up = table.last_between(until, made_up.first().copied().unwrap_or(before));
    let given_up = given_up.and_then(|last| Some((table.next_after(until)?, last)));
    let start = made_up.iter().copied().chain(in_time).collect();
    let refused = (fired.is_some() && in_time.is_none()).then_some("it comes too late");
    Choice { start, made_up, given_up, until: latest, refused }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use proptest::prelude::*;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    fn hour(hour: i64) -> i64 {
        at("2026-05-01T00:00:00Z") + hour * 3_600_000
    }

    fn hourly(policy: CatchUp, until: i64, now: i64, asked: Asked) -> Choice {
        choose(&Timetable::parse("0 * * * *", "UTC").unwrap(), policy, until, now, asked)
    }

    const ALL: CatchUp = CatchUp::All { most: 3 };
    const POLICIES: [CatchUp; 3] = [CatchUp::Skip, CatchUp::One, ALL];

    #[test]
    fn a_tick_in_time_is_started_and_one_that_comes_again_is_not() {
        for policy in POLICIES {
            let choice = hourly(policy, hour(4), hour(5) + 900, Asked::Tick(hour(5)));
            assert_eq!(choice, Choice { start: vec![hour(5)], until: hour(5), ..Choice::default() });
            let again = hourly(policy, choice.until, hour(5) + 950, Asked::Tick(hour(5)));
            assert_eq!((again.start, again.until, again.refused.is_some()), (vec![], hour(5), true));
            // Ours is behind the queue's clock.
            assert_eq!(hourly(policy, hour(4), hour(5) - 400, Asked::Tick(hour(5))).start, [hour(5)]);
            // Nothing is overdue before another one has come due.
            assert_eq!(hourly(policy, hour(5), hour(6) - 1, Asked::Overdue).until, hour(5));
        }
    }

    #[test]
    fn what_was_missed_meanwhile_is_made_up_for_by_the_next_job_of_the_schedule() {
        let choice = |policy| hourly(policy, hour(2), hour(8) + 50, Asked::Tick(hour(8)));
        let given_up = |choice: &Choice| choice.given_up.map(|(first, last)| (first - hour(0), last - hour(0)));
        let hours = |first: i64, last: i64| Some((first * 3_600_000, last * 3_600_000));
        assert_eq!((choice(CatchUp::Skip).start, given_up(&choice(CatchUp::Skip))), (vec![hour(8)], hours(3, 7)));
        // The one in time is the one.
        assert_eq!((choice(CatchUp::One).start, given_up(&choice(CatchUp::One))), (vec![hour(8)], hours(3, 7)));
        assert_eq!(choice(ALL).start, [hour(5), hour(6), hour(7), hour(8)]);
        assert_eq!((choice(ALL).made_up, given_up(&choice(ALL))), (vec![hour(5), hour(6), hour(7)], hours(3, 4)));
        assert!(POLICIES.iter().all(|policy| choice(*policy).until == hour(8)));
    }

    #[test]
    fn a_job_that_comes_too_late_and_a_look_at_what_is_overdue_follow_the_policy() {
        for asked in [Asked::Tick(hour(3)), Asked::Tick(hour(6)), Asked::Overdue] {
            let choice = |policy| hourly(policy, hour(2), hour(7) + 50, asked);
            assert_eq!(choice(CatchUp::Skip).start, Vec::<i64>::new(), "{asked:?}");
            assert_eq!(choice(CatchUp::One).start, [hour(7)], "{asked:?}");
            assert_eq!(choice(ALL).start, [hour(5), hour(6), hour(7)], "{asked:?}");
            assert!(POLICIES.iter().all(|policy| choice(*policy).until == hour(7)), "{asked:?}");
        }
        let daily = Timetable::parse("0 2 * * *", "UTC").unwrap();
        let morning = |policy, now| choose(&daily, policy, hour(-22), now, Asked::Tick(hour(2))).start;
        assert_eq!(morning(CatchUp::Skip, hour(3)), [hour(2)]);
        assert_eq!(morning(CatchUp::Skip, hour(9)), Vec::<i64>::new());
        assert_eq!(morning(CatchUp::One, hour(9)), [hour(2)]);
    }

    #[test]
    fn a_tick_of_somebody_else_s_scheduler_has_a_time_of_its_own() {
        for policy in POLICIES {
            let odd = hour(4) + 1_800_000;
            let choice = hourly(policy, hour(4), odd + 20, Asked::Tick(odd));
            assert_eq!(choice, Choice { start: vec![odd], until: hour(4), ..Choice::default() });
            // Late as well: only the schedule's own times are dealt with by then.
            assert_eq!(hourly(policy, hour(5), hour(5) + 20, Asked::Tick(odd)).start, [odd]);
        }
    }

    #[test]
    fn each_day_of_a_change_of_clocks_has_one_tick_whoever_comes_when() {
        for (cron, zone, around, due) in [
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z"),
            ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
            ("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", "2026-03-08T07:30:00Z"),
            ("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", "2026-11-01T05:30:00Z"),
            ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T06:00:00Z", "2026-10-03T15:45:00Z"),
            ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T06:00:00Z", "2026-04-04T14:45:00Z"),
        ] {
            let table = Timetable::parse(cron, zone).unwrap();
            let (before, due) = (at(around), at(due));
            for policy in POLICIES {
                let first = choose(&table, policy, before, due + 10, Asked::Tick(due));
                assert_eq!(first.start, [due], "{zone} {cron}");
                // Half an hour and an hour later the clock shows the same, where it was set back.
                for later in [due, due + 1_800_000, due + 3_600_000] {
                    let again = choose(&table, policy, first.until, later + 10, Asked::Tick(later));
                    let foreign = !table.has(later) && !table.repeats(later);
                    assert!(foreign || again.start.is_empty(), "{zone} {cron} {later}");
                }
                let day = before + 86_400_000;
                assert!(choose(&table, policy, first.until, day, Asked::Overdue).start.is_empty(), "{zone} {cron}");
            }
            let lost = choose(&table, CatchUp::One, before, before + 86_400_000, Asked::Overdue);
            assert_eq!(lost.start, [due], "{zone} {cron}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        // Jobs come late, twice, in any order, or not at all: with room in its limit `all` starts each tick once.
        #[test]
        fn in_whatever_order_jobs_come_each_tick_is_started_once(
            jobs in proptest::collection::vec((0..60_i64, 0..5_i64, any::<bool>()), 0..80),
        ) {
            let table = Timetable::parse("0 * * * *", "UTC").unwrap();
            let (mut now, mut until, mut started) = (hour(0), hour(0), Vec::new());
            for (tick, pause, lost) in jobs {
                now += pause * 1_800_000;
                let asked = if lost { Asked::Overdue } else { Asked::Tick(hour(tick).min(now - now % 3_600_000)) };
                let choice = choose(&table, CatchUp::All { most: 1000 }, until, now, asked);
                prop_assert!(choice.until >= until && choice.given_up.is_none());
                until = choice.until;
                started.extend(choice.start);
            }
            started.extend(choose(&table, CatchUp::All { most: 1000 }, until, now, Asked::Overdue).start);
            let wanted: Vec<i64> = (1..=(now - hour(0)) / 3_600_000).map(hour).collect();
            prop_assert_eq!(started, wanted);
        }
    }
}
