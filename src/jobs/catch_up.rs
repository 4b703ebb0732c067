//! Ticks of schedules that came due and were never run, because the queue lost them or their chain broke: how many of them
//! are made up for, and how.
//!
//! A made-up tick is a row of the outbox, named after the tick: whichever workers notice it at once, there is one row; and
//! the tick is claimed by whichever job begins first, so that it is run once even where the lost one comes back.

use super::Trouble;
use crate::{
    cron::{Cron, Zone},
    events,
    queue::{Queue, Standing, schedulers::Builtin},
    store::{OpenTick, Store, outbox::WakeUp},
};
use chrono::DateTime;
use std::collections::BTreeSet;

/// What is done about ticks that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// Nothing: the schedule goes on with its next tick.
    Skip,
    /// The latest of them is run.
    One,
    /// Each of them is run, the earliest first; of too many only the latest.
    All {
        /// At most this many.
        most: u16,
    },
}

/// The built-in jobs do whatever is to be done by the time they run: one run does the work of all that were missed.
pub const BUILT_INS: CatchUp = CatchUp::One;

impl CatchUp {
    /// Which ticks are to be run now, earliest first. Missed are those of `cron` between the last one that was begun and the
    /// next one that is announced, both excluded, and `lost` ones, which were begun and cut off. All in milliseconds.
    #[must_use]
    pub fn choose(self, cron: &Cron, zone: Zone, last: i64, next: i64, lost: &[i64]) -> Vec<i64> {
        let most = match self {
            CatchUp::Skip => return Vec::new(),
            CatchUp::One => 1,
            CatchUp::All { most } => usize::from(most),
        };
        let mut missed: BTreeSet<i64> = lost.iter().copied().filter(|due| *due < next).collect();
        let mut before = next;
        for _ in 0..most {
            let Some(due) = cron.last_between(last, before, zone) else { break };
            missed.insert(due);
            before = due;
        }
        let surplus = missed.len().saturating_sub(most);
        missed.into_iter().skip(surplus).collect()
    }
}

/// Makes up for the missed ticks of a scheduler of ours whose next iteration is due at `next_ms`; returns how many are new.
/// To be called where its chain was interrupted. A schedule that has never run has missed nothing.
///
/// A tick whose job the queue still knows, whatever became of it, is not missed. When a tick is due is for the database's
/// clock to say: where that is behind, the row waits.
pub async fn make_up(
    store: &Store,
    queue: &Queue,
    builtin: &Builtin,
    policy: CatchUp,
    next_ms: i64,
) -> Result<u64, Trouble> {
    // It means the same times on all workers and at each look: settings with an `H` are refused.
    let (Ok(cron), Ok(zone)) = (Cron::parse(&builtin.pattern), Zone::parse(&builtin.zone)) else { return Ok(0) };
    if policy == CatchUp::Skip {
        return Ok(0);
    }
    let Some(last) = store.last_tick(&builtin.name).await? else { return Ok(0) };
    let open = store.open_ticks(&builtin.name, &queue.qualified_name).await?;
    let standing = queue.standing(open.iter().map(|tick| tick.job_id.as_str())).await?;
    let lost: Vec<&OpenTick> =
        open.iter().zip(standing).filter(|(_, found)| *found == Standing::Missing).map(|(tick, _)| tick).collect();
    let lost_due: Vec<i64> = lost.iter().map(|tick| tick.due_ms).collect();
    let mut missed = policy.choose(&cron, zone, last, next_ms, &lost_due);
    let iterations: Vec<String> = missed.iter().map(|due| builtin.iteration(*due)).collect();
    let mut standing = queue.standing(iterations.iter().map(String::as_str)).await?.into_iter();
    missed.retain(|_| standing.next() == Some(Standing::Missing));
    if missed.is_empty() {
        return Ok(0);
    }
    let given_back: Vec<String> =
        lost.iter().filter(|tick| missed.contains(&tick.due_ms)).map(|tick| tick.job_id.clone()).collect();
    let rows: Vec<WakeUp> = missed.iter().map(|due| wake_up(queue, builtin, *due)).collect();
    let added = store.make_up_ticks(&builtin.name, &queue.qualified_name, &given_back, &rows).await?;
    if added > 0 {
        tell(builtin, &missed);
    }
    Ok(added)
}

fn wake_up(queue: &Queue, builtin: &Builtin, due_ms: i64) -> WakeUp {
    let due = DateTime::from_timestamp_millis(due_ms);
    let id = format!("tick-{}-{due_ms}", builtin.name);
    WakeUp {
        queue: queue.qualified_name.clone(),
        due_at: due,
        tick_at: due,
        ..WakeUp::new(id, builtin.name.clone(), builtin.data.clone())
    }
}

fn tell(builtin: &Builtin, missed: &[i64]) {
    let times = missed.iter().filter_map(|due| DateTime::from_timestamp_millis(*due)).map(|due| due.to_rfc3339());
    tracing::warn!(
        message_id = events::TICKS_MADE_UP,
        floh_job_name = %builtin.name,
        "missed, and run now: what {} should have done at {}",
        builtin.name,
        times.collect::<Vec<_>>().join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    fn chosen(policy: CatchUp, pattern: &str, zone: &str, (last, next): (&str, &str), lost: &[&str]) -> Vec<String> {
        let (cron, zone) = (Cron::parse(pattern).unwrap(), Zone::parse(zone).unwrap());
        let lost: Vec<i64> = lost.iter().map(|text| at(text)).collect();
        let chosen = policy.choose(&cron, zone, at(last), at(next), &lost);
        let text = |ms| DateTime::from_timestamp_millis(ms).unwrap().format("%m-%dT%H:%MZ").to_string();
        chosen.into_iter().map(text).collect()
    }

    const THREE_DAYS: (&str, &str) = ("2026-05-01T02:00:00Z", "2026-05-05T02:00:00Z");

    #[test]
    fn skip_makes_up_for_none_one_for_the_latest_all_for_each_up_to_a_limit() {
        let daily = |policy| chosen(policy, "0 2 * * *", "UTC", THREE_DAYS, &[]);
        assert!(daily(CatchUp::Skip).is_empty());
        assert_eq!(daily(CatchUp::One), ["05-04T02:00Z"]);
        assert_eq!(daily(CatchUp::All { most: 10 }), ["05-02T02:00Z", "05-03T02:00Z", "05-04T02:00Z"]);
        assert_eq!(daily(CatchUp::All { most: 2 }), ["05-03T02:00Z", "05-04T02:00Z"]);
        assert!(daily(CatchUp::All { most: 0 }).is_empty());
    }

    #[test]
    fn a_schedule_without_a_missed_tick_makes_up_for_none() {
        let range = ("2026-05-01T02:00:00Z", "2026-05-02T02:00:00Z");
        for policy in [CatchUp::One, CatchUp::All { most: 10 }] {
            assert!(chosen(policy, "0 2 * * *", "UTC", range, &[]).is_empty());
        }
    }

    #[test]
    fn a_tick_that_was_cut_off_counts_as_missed() {
        let range = ("2026-05-01T02:00:00Z", "2026-05-02T02:00:00Z");
        let cut_off = ["2026-05-01T02:00:00Z"];
        assert!(chosen(CatchUp::Skip, "0 2 * * *", "UTC", range, &cut_off).is_empty());
        assert_eq!(chosen(CatchUp::One, "0 2 * * *", "UTC", range, &cut_off), ["05-01T02:00Z"]);
        assert_eq!(chosen(CatchUp::One, "0 2 * * *", "UTC", THREE_DAYS, &cut_off), ["05-04T02:00Z"]);
        let all = chosen(CatchUp::All { most: 9 }, "0 2 * * *", "UTC", THREE_DAYS, &cut_off);
        assert_eq!(all, ["05-01T02:00Z", "05-02T02:00Z", "05-03T02:00Z", "05-04T02:00Z"]);
        // One that is still announced is none.
        assert!(chosen(CatchUp::One, "0 2 * * *", "UTC", range, &["2026-05-02T02:00:00Z"]).is_empty());
    }

    #[test]
    fn a_skipped_hour_is_made_up_for_once_and_a_repeated_one_once() {
        let all = CatchUp::All { most: 9 };
        let spring = ("2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z");
        assert_eq!(chosen(all, "30 2 * * *", "Europe/Berlin", spring, &[]), ["03-29T01:30Z"]);
        let autumn = ("2026-10-24T00:30:00Z", "2026-10-26T01:30:00Z");
        assert_eq!(chosen(all, "30 2 * * *", "Europe/Berlin", autumn, &[]), ["10-25T00:30Z"]);
        // The job of the repeated hour has run in the first pass: in the second nothing is missed.
        let between = ("2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z");
        assert!(chosen(all, "30 2 * * *", "Europe/Berlin", between, &[]).is_empty());
        let hourly = ("2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z");
        let each = ["10-25T00:30Z", "10-25T01:30Z", "10-25T02:30Z"];
        assert_eq!(chosen(all, "30 * * * *", "Europe/Berlin", hourly, &[]), each, "every real hour is one");
    }

    #[test]
    fn a_long_outage_of_a_busy_schedule_costs_no_long_look_back() {
        let began = std::time::Instant::now();
        let ten_years = ("2016-01-01T00:00:00Z", "2026-05-05T12:00:00Z");
        assert_eq!(chosen(CatchUp::One, "* * 2 1 *", "America/New_York", ten_years, &[]), ["01-03T04:59Z"]);
        let most = chosen(CatchUp::All { most: 100 }, "* * * * * *", "UTC", ten_years, &[]);
        assert_eq!(most.len(), 100);
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    }
}
