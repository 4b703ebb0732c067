//! Schedules, and the runs that their ticks start: each tick one, whoever fires it. See `migrations/V15__schedules.sql`.

mod admin;

pub use admin::{LastTick, Listed, NewSchedule};

use super::{Client, Store, StoreError};
use chrono::{DateTime, Utc};
use std::time::Duration;
use tokio_postgres::Row;
use uuid::Uuid;

/// A schedule, as it stands in its table.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Name of the definition.
    pub definition: String,
    /// When, as a cron expression.
    pub cron: String,
    /// The zone of its wall clock.
    pub zone: String,
    /// Whether it starts runs.
    pub enabled: bool,
    /// What is done about ticks that were missed: `skip`, `one`, `all`.
    pub catch_up: String,
    /// Of `all`, at most as many.
    pub catch_up_limit: u16,
    /// What a tick does while a run has not ended: `allow`, `skip`, `queue`.
    pub overlap: String,
    /// Ticks up to this time are dealt with, milliseconds.
    pub ticked_until_ms: i64,
}

/// Its columns, in the order of [`Schedule::read`].
const COLUMNS: &str = "s.id, s.name, s.definition, s.cron, s.zone, s.enabled, s.catch_up, s.catch_up_limit, s.overlap,
    floor(extract(epoch FROM s.ticked_until) * 1000)::bigint";
/// How many those are.
const WIDTH: usize = 10;

impl Schedule {
    fn read(row: &Row) -> Result<Schedule, StoreError> {
        Ok(Schedule {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            definition: row.try_get(2)?,
            cron: row.try_get(3)?,
            zone: row.try_get(4)?,
            enabled: row.try_get(5)?,
            catch_up: row.try_get(6)?,
            catch_up_limit: u16::try_from(row.try_get::<_, i32>(7)?).unwrap_or(u16::MAX),
            overlap: row.try_get(8)?,
            ticked_until_ms: row.try_get(9)?,
        })
    }
}

/// A schedule that this transaction has locked, so that nobody else fires its ticks meanwhile.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// The schedule.
    pub schedule: Schedule,
    /// The version that its runs would start with now; none if no version is active.
    pub definition_id: Option<Uuid>,
    /// The database's time, milliseconds.
    pub now_ms: i64,
}

/// What came of one tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fired {
    /// The tick, milliseconds; none where a run was asked for without one.
    pub tick_ms: Option<i64>,
    /// What came of it.
    pub result: FireResult,
    /// The run, if there is one now.
    pub run: Option<Uuid>,
}

/// What may come of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FireResult {
    /// A run was started.
    Started,
    /// A run was stored that waits for its turn.
    Held,
    /// Nothing was started, because a run had not ended.
    Skipped,
    /// It had been fired before.
    Known,
}

/// Locks a schedule until the caller's transaction has ended, and reads it; `None` if there is none of this id.
pub async fn open(client: &Client, id: Uuid) -> Result<Option<Opened>, StoreError> {
    client.query_one("SELECT lock_schedule($1)", &[&id]).await?;
    // A statement of its own: what was committed while we waited for the lock is to be seen.
    let sql = format!(
        "SELECT {COLUMNS}, (SELECT d.id FROM workflow_definition d WHERE d.name = s.definition AND d.status = 'active'),
            floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
        FROM workflow_schedule s WHERE s.id = $1 FOR NO KEY UPDATE OF s"
    );
    let Some(row) = client.query_opt(&sql, &[&id]).await? else { return Ok(None) };
    Ok(Some(Opened {
        schedule: Schedule::read(&row)?,
        definition_id: row.try_get(WIDTH)?,
        now_ms: row.try_get(WIDTH + 1)?,
    }))
}

/// Fires ticks of an open schedule (milliseconds; `None` is a run without a tick) in their order, and notes that all its
/// ticks up to `until_ms` are dealt with.
pub async fn fire(
    client: &Client,
    schedule: Uuid,
    definition: Option<Uuid>,
    ticks: &[Option<i64>],
    until_ms: i64,
) -> Result<Vec<Fired>, StoreError> {
    let sql = "SELECT floor(extract(epoch FROM tick) * 1000)::bigint, result, run FROM fire_schedule($1, $2, $3, $4)";
    let times: Vec<Option<DateTime<Utc>>> = ticks.iter().map(|tick| tick.and_then(time)).collect();
    let until = time(until_ms).unwrap_or(DateTime::UNIX_EPOCH);
    let rows = client.query(sql, &[&schedule, &definition, &times, &until]).await?;
    let fired = |row: &Row| {
        Ok(Fired {
            tick_ms: row.try_get(0)?,
            result: match row.try_get::<_, &str>(1)? {
                "started" => FireResult::Started,
                "held" => FireResult::Held,
                "skipped" => FireResult::Skipped,
                _ => FireResult::Known,
            },
            run: row.try_get(2)?,
        })
    };
    rows.iter().map(fired).collect()
}

fn time(ms: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(ms)
}

impl Store {
    /// The enabled schedules of this queue, by their ids, and the database's time in milliseconds.
    pub async fn enabled_schedules(&self, queue: &str) -> Result<(Vec<Schedule>, i64), StoreError> {
        let client = self.client().await?;
        let now = client
            .query_one("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint", &[])
            .await?
            .try_get(0)?;
        let sql = format!("SELECT {COLUMNS} FROM workflow_schedule s WHERE s.enabled AND s.queue = $1 ORDER BY s.id");
        let rows = client.query(&sql, &[&queue]).await?;
        Ok((rows.iter().map(Schedule::read).collect::<Result<_, _>>()?, now))
    }

    /// Runs of schedules that wait for their turn although no other one is under way are let go: an end that came to
    /// nothing, or a run that was deleted, would leave them behind. Returns how many.
    pub async fn let_stranded_runs_go(&self) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT DISTINCT r.schedule_id FROM workflow_run r
            WHERE r.schedule_id IS NOT NULL AND r.status IN ('pending', 'running', 'waiting') AND r.held_back
                AND NOT EXISTS (SELECT FROM workflow_run o WHERE o.schedule_id = r.schedule_id
                    AND o.status IN ('pending', 'running', 'waiting') AND NOT o.held_back)";
        let mut gone = 0;
        for row in client.query(sql, &[]).await? {
            // Each in a transaction of its own, which holds the lock of one schedule. A statement that ends runs of several
            // holds those of all: if two of them meet, PostgreSQL finds the deadlock, and who is refused tries again.
            let schedule: Uuid = row.try_get(0)?;
            let run: Option<Uuid> = client.query_one("SELECT let_next_run_go($1)", &[&schedule]).await?.try_get(0)?;
            gone += u64::from(run.is_some());
        }
        Ok(gone)
    }

    /// A transaction that belongs to no job.
    pub async fn schedule_transaction(&self) -> Result<ScheduleTransaction, StoreError> {
        let client = self.client().await?;
        let transaction = ScheduleTransaction { client, open: true };
        transaction.client.batch_execute("BEGIN").await?;
        Ok(transaction)
    }

    /// Forgets what came of ticks longer ago than `older_than`, except the last one of each schedule, which people see.
    /// A run of its own still tells that a tick was fired.
    pub async fn prune_schedule_ticks(&self, older_than: Duration) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "DELETE FROM schedule_tick t WHERE noted_at < now() - make_interval(secs => $1)
            AND EXISTS (SELECT FROM schedule_tick later WHERE later.schedule_id = t.schedule_id AND later.due_at > t.due_at)";
        client.execute(sql, &[&older_than.as_secs_f64()]).await
    }
}

/// A transaction that belongs to no job: dropped without a commit, its session is closed.
pub struct ScheduleTransaction {
    client: Client,
    open: bool,
}

impl ScheduleTransaction {
    /// Its session.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Commits it.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.client.batch_execute("COMMIT").await?;
        self.open = false;
        Ok(())
    }
}

impl Drop for ScheduleTransaction {
    fn drop(&mut self) {
        if self.open {
            self.client.discard();
        }
    }
}
