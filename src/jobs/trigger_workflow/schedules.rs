//! The workers' care for the schedules: their job schedulers are what the table says, and a tick that no job fires any more
//! (the queue was emptied, a chain broke, its job failed) is found and dealt with.

use super::{Asked, NAME, settle};
use crate::{
    cron::Timetable,
    events,
    jobs::Trouble,
    queue::{
        Queue, Standing,
        connection::Backoff,
        schedulers::{Builtin, Done, Family, ID_PREFIX, Outcome},
    },
    store::{
        Notice, Notices, Store,
        schedule::{self, Schedule},
    },
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use uuid::Uuid;

/// What the ids of their schedulers begin with; the schedule's id follows. It begins with [`ID_PREFIX`], a test sees to that.
pub const PREFIX: &str = "floh-worker:schedule:";

/// How often each worker looks when nothing is heard. What it finds has begun within a minute.
const PERIOD: Duration = Duration::from_secs(40);
/// The same while a scheduler waits for the end of its due iteration.
const SOON: Duration = Duration::from_secs(4);
/// After a look the next one waits at least this long, however much is said.
const PAUSE: Duration = Duration::from_millis(100);
/// A tick that is overdue for less is its job's business, which may be on its way.
const PATIENCE_MS: i64 = 5_000;

/// Keeps the schedulers of the schedules, and looks after their ticks.
pub struct Schedules {
    store: Store,
    queue: Arc<Queue>,
    notices: Arc<Notices>,
}

/// What was told before, so that it is not told at each look.
#[derive(Debug, Default)]
struct Told {
    refused: BTreeMap<Uuid, String>,
    waiting: BTreeSet<String>,
}

impl Schedules {
    /// For the schedules of this queue.
    pub fn new(store: &Store, queue: &Arc<Queue>, notices: &Arc<Notices>) -> Schedules {
        Schedules { store: store.clone(), queue: Arc::clone(queue), notices: Arc::clone(notices) }
    }

    /// For ever: at once when a schedule was changed, and within a minute without.
    pub async fn run(&self) {
        let mut news = self.notices.subscribe(Notice::Schedules);
        let (mut backoff, mut told) = (Backoff::default(), Told::default());
        loop {
            news.borrow_and_update();
            let period = match self.turn(&mut told).await {
                Ok(waits) => {
                    backoff.reset();
                    tokio::time::sleep(PAUSE).await;
                    if waits { SOON } else { PERIOD }
                }
                Err(error) if error.is_unavailable() => {
                    tracing::debug!("the schedules wait: {error}");
                    tokio::time::sleep(backoff.next_delay()).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!("the schedules could not be looked after: {error}");
                    PERIOD
                }
            };
            tokio::select! {
                _ = news.changed() => {}
                () = tokio::time::sleep(period.mul_f64(rand::random_range(0.5..1.0))) => {}
            }
        }
    }

    /// One look; true if a scheduler is still to be changed when its due iteration has run.
    async fn turn(&self, told: &mut Told) -> Result<bool, Trouble> {
        // The queue first: a scheduler that is there and whose schedule is not, is one that was given up.
        let family = Family::read(&self.queue, PREFIX).await?;
        let (schedules, now) = self.store.enabled_schedules(&self.queue.qualified_name).await?;
        let (mut wanted, mut tables) = (Vec::new(), Vec::new());
        let mut refused = BTreeMap::new();
        for schedule in schedules {
            match Timetable::parse(&schedule.cron, &schedule.zone) {
                Ok(table) => {
                    wanted.push(builtin(&schedule));
                    tables.push((schedule, table));
                }
                Err(why) => refuse(&schedule, why, told, &mut refused),
            }
        }
        told.refused = refused;
        let waits = self.keep(&family, &wanted, told).await?;
        for ((schedule, table), builtin) in tables.iter().zip(&wanted) {
            match self.look_after(schedule, table, builtin, &family, now).await {
                Err(error) if !error.is_unavailable() => {
                    // What is wrong with one is not to hold up the others.
                    tracing::error!("what schedule {} missed could not be dealt with: {error}", schedule.name);
                }
                looked => looked?,
            }
        }
        let gone = self.store.let_stranded_runs_go().await?;
        if gone > 0 {
            tracing::info!("{gone} runs of schedules had waited for one that is gone, and begin now");
        }
        Ok(waits)
    }

    /// Deals with the ticks of a schedule that no job deals with.
    async fn look_after(
        &self,
        schedule: &Schedule,
        table: &Timetable,
        builtin: &Builtin,
        family: &Family,
        now: i64,
    ) -> Result<(), Trouble> {
        if self.is_neglected(schedule, table, builtin, family, now).await? {
            self.settle_overdue(schedule.id).await?;
        }
        Ok(())
    }

    /// Makes the schedulers what they should be.
    async fn keep(&self, family: &Family, wanted: &[Builtin], told: &mut Told) -> Result<bool, Trouble> {
        let mut waiting = BTreeSet::new();
        for outcome in family.become_like(&self.queue, wanted).await? {
            match outcome {
                Ok(Outcome { scheduler, done: Done::Due }) => {
                    if !told.waiting.contains(&scheduler) {
                        Outcome { scheduler: scheduler.clone(), done: Done::Due }.tell();
                    }
                    waiting.insert(scheduler);
                }
                Ok(outcome) => outcome.tell(),
                Err(error) => tracing::error!("a schedule has no scheduler: {error}"),
            }
        }
        told.waiting = waiting;
        Ok(!told.waiting.is_empty())
    }

    /// Whether a tick has come due, and no job of the schedule is there to deal with it.
    async fn is_neglected(
        &self,
        schedule: &Schedule,
        table: &Timetable,
        builtin: &Builtin,
        family: &Family,
        now: i64,
    ) -> Result<bool, Trouble> {
        let until = schedule.ticked_until_ms;
        let Some(first) = table.next_after(until).filter(|first| first + PATIENCE_MS <= now) else { return Ok(false) };
        let latest = table.last_between(until, now + 1);
        // One that waits, runs or is tried again deals with all that is overdue by then.
        let due = family.due_ms(&builtin.id).filter(|due| *due <= now);
        let ids: BTreeSet<String> =
            [Some(first), latest, due].into_iter().flatten().map(|due| builtin.iteration(due)).collect();
        let standing = self.queue.standing(ids.iter().map(String::as_str)).await?;
        Ok(!standing.contains(&Standing::Pending))
    }

    async fn settle_overdue(&self, id: Uuid) -> Result<(), Trouble> {
        let transaction = self.store.schedule_transaction().await?;
        let settled = match schedule::open(transaction.client(), id).await? {
            Some(opened) => settle(transaction.client(), &opened, Asked::Overdue).await?,
            None => return Ok(transaction.commit().await?),
        };
        transaction.commit().await?;
        match settled {
            Ok(settled) => settled.tell(),
            // Its jobs say so, and fail.
            Err(why) => tracing::debug!("{why}"),
        }
        Ok(())
    }
}

/// The scheduler of a schedule.
fn builtin(schedule: &Schedule) -> Builtin {
    debug_assert!(PREFIX.starts_with(ID_PREFIX));
    Builtin {
        id: format!("{PREFIX}{}", schedule.id),
        zone: schedule.zone.clone(),
        yields: false,
        data: json!({ "scheduleId": schedule.id }),
        ..Builtin::new(NAME, &schedule.cron)
    }
}

fn refuse(schedule: &Schedule, why: String, told: &Told, refused: &mut BTreeMap<Uuid, String>) {
    if told.refused.get(&schedule.id) != Some(&why) {
        tracing::warn!(
            message_id = events::SCHEDULE_REFUSED,
            "the schedule {} starts nothing until it is mended: {why}",
            schedule.name
        );
    }
    refused.insert(schedule.id, why);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn their_schedulers_are_among_ours() {
        assert!(PREFIX.starts_with(ID_PREFIX));
    }
}
