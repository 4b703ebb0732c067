//! The outbox: jobs that a transaction wants added to the queue, committed with its effects and sent afterwards.
//!
//! A row is a wake-up's identity. It stays until its job has ended, so that a queue that lost the job gets it again; and
//! only the latest take of it may commit (see `migrations/V6__outbox.sql`), so that none runs twice. What a row may hold is in `V7__wake_up.sql`.

use super::{Client, Identity, Store, StoreError};
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::time::Duration;

/// A job to be added when the transaction has committed.
#[derive(Debug, Clone, PartialEq)]
pub struct WakeUp {
    /// The queue, as everywhere in the store. A job's own context fills it in.
    pub queue: String,
    /// Its id in the queue, one per wake-up (`resume-RUN-SEQ`): a second row with it adds nothing. Not empty, no integer,
    /// no colon.
    pub job_id: String,
    /// The job's name.
    pub name: String,
    /// The job's data.
    pub data: Value,
    /// Not before this time; `None` is now.
    pub due_at: Option<DateTime<Utc>>,
    /// 0 is none; 1 is the most urgent.
    pub priority: i32,
    /// Attempts in all.
    pub attempts: i32,
    /// The tick of a schedule that it makes up for.
    pub tick_at: Option<DateTime<Utc>>,
}

impl WakeUp {
    /// A job that is due at once, with the project's attempts, for the queue that [`WakeUp::queue`] still has to name.
    pub fn new(job_id: impl Into<String>, name: impl Into<String>, data: Value) -> WakeUp {
        WakeUp {
            queue: String::new(),
            job_id: job_id.into(),
            name: name.into(),
            data,
            due_at: None,
            priority: 0,
            attempts: ATTEMPTS,
            tick_at: None,
        }
    }
}

/// How long a sender may do nothing while it holds rows: the takes of their jobs wait for them. Longer than one call to
/// Redis may take, so that a Redis that is silent ends no session.
const SENDER_PAUSE: &str = "4s";

/// Attempts of a job that says nothing, as in the table.
const ATTEMPTS: i32 = 4;

/// A row to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Unsent {
    /// The row.
    pub id: i64,
    /// The job's id in the queue.
    pub job_id: String,
    /// The job's name.
    pub name: String,
    /// The job's data, as JSON text: a number that only PostgreSQL can hold arrives as it was written.
    pub data: String,
    /// How long from now, by the database's clock, until it is due.
    pub delay: Duration,
    /// 0 is none.
    pub priority: u32,
    /// Attempts in all.
    pub attempts: u32,
}

/// Rows that this session has to itself until it says what became of them. Dropped before that, nothing is noted and the
/// rows are sent again: adding an id that exists changes nothing in the queue.
pub struct OutboxBatch {
    client: Client,
    /// What to send, oldest first.
    pub rows: Vec<Unsent>,
    open: bool,
}

impl OutboxBatch {
    /// Notes that the rows `sent` are in the queue, and that those of `refused` will never be.
    pub async fn close(mut self, sent: &[i64], refused: &[Failed]) -> Result<(), StoreError> {
        self.client.execute("UPDATE job_outbox SET sent_at = now() WHERE id = ANY ($1)", &[&sent]).await?;
        if !refused.is_empty() {
            fail(&self.client, refused).await?;
        }
        self.client.batch_execute("COMMIT").await?;
        self.open = false;
        Ok(())
    }

    /// Notes nothing: the rows are sent another time.
    pub async fn give_up(mut self) -> Result<(), StoreError> {
        self.client.batch_execute("ROLLBACK").await?;
        self.open = false;
        Ok(())
    }
}

impl Drop for OutboxBatch {
    /// The session holds locks: it is closed.
    fn drop(&mut self) {
        if self.open {
            self.client.discard();
        }
    }
}

/// A row whose job failed for good: nothing brings it back but a retry by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The row.
    pub id: i64,
    /// Why, as far as somebody knows.
    pub reason: String,
}

/// A row that was sent and whose job has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The row.
    pub id: i64,
    /// The job's id in the queue.
    pub job_id: String,
}

/// Writes wake-ups inside the caller's transaction, in one statement; one whose id is there already adds nothing. Returns
/// how many were added.
pub async fn enqueue(client: &Client, wake_ups: &[WakeUp]) -> Result<u64, StoreError> {
    let sql = "INSERT INTO job_outbox (queue, job_id, name, data, due_at, priority, attempts, tick_at)
        SELECT queue, job_id, name, data, coalesce(due_at, now()), priority, attempts, tick_at
        FROM unnest($1::text[], $2::text[], $3::text[], $4::jsonb[], $5::timestamptz[], $6::integer[], $7::integer[],
            $8::timestamptz[]) AS new (queue, job_id, name, data, due_at, priority, attempts, tick_at)
        ON CONFLICT (queue, job_id) DO NOTHING";
    fn column<'a, T>(wake_ups: &'a [WakeUp], field: impl Fn(&'a WakeUp) -> T) -> Vec<T> {
        wake_ups.iter().map(field).collect()
    }
    let queues = column(wake_ups, |row| row.queue.as_str());
    let job_ids = column(wake_ups, |row| row.job_id.as_str());
    let names = column(wake_ups, |row| row.name.as_str());
    let data = column(wake_ups, |row| &row.data);
    let due = column(wake_ups, |row| row.due_at);
    let priorities = column(wake_ups, |row| row.priority);
    let attempts = column(wake_ups, |row| row.attempts);
    let ticks = column(wake_ups, |row| row.tick_at);
    client.execute(sql, &[&queues, &job_ids, &names, &data, &due, &priorities, &attempts, &ticks]).await
}

async fn fail(client: &Client, rows: &[Failed]) -> Result<u64, StoreError> {
    let sql = "UPDATE job_outbox o SET ended = 'failed', ended_at = now(), failure_reason = new.reason
        FROM unnest($1::bigint[], $2::text[]) AS new (id, reason) WHERE o.id = new.id AND o.ended_at IS NULL";
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let reasons: Vec<String> = rows.iter().map(|row| sentence(&row.reason)).collect();
    client.execute(sql, &[&ids, &reasons]).await
}

/// A reason as PostgreSQL can store it, and not endless: a panic's can be anything.
pub(super) fn sentence(reason: &str) -> String {
    const LONGEST: usize = 2000;
    reason.chars().take(LONGEST).map(|one| if one == '\0' { '\u{fffd}' } else { one }).collect()
}

impl Store {
    /// Writes wake-ups that belong to no transaction.
    pub async fn enqueue(&self, wake_ups: &[WakeUp]) -> Result<u64, StoreError> {
        let client = self.client().await?;
        enqueue(&client, wake_ups).await
    }

    /// The next rows to send, which no other worker is sending; `None` if there are none.
    pub async fn outbox_batch(&self, queue: &str, limit: i64) -> Result<Option<OutboxBatch>, StoreError> {
        let sql = "SELECT id, job_id, name, data::text,
                greatest(0, ceil(extract(epoch FROM due_at - clock_timestamp()) * 1000))::bigint, priority, attempts
            FROM job_outbox WHERE queue = $1 AND sent_at IS NULL AND ended_at IS NULL
            ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED";
        let client = self.client().await?;
        let mut batch = OutboxBatch { client, rows: Vec::new(), open: true };
        let begin = format!("BEGIN; SET LOCAL idle_in_transaction_session_timeout = '{SENDER_PAUSE}'");
        batch.client.batch_execute(&begin).await?;
        for row in batch.client.query(sql, &[&queue, &limit]).await? {
            batch.rows.push(Unsent {
                id: row.try_get(0)?,
                job_id: row.try_get(1)?,
                name: row.try_get(2)?,
                data: row.try_get(3)?,
                delay: Duration::from_millis(row.try_get::<_, i64>(4)?.unsigned_abs()),
                priority: row.try_get::<_, i32>(5)?.unsigned_abs(),
                attempts: row.try_get::<_, i32>(6)?.unsigned_abs(),
            });
        }
        if batch.rows.is_empty() {
            batch.client.batch_execute("ROLLBACK").await?;
            batch.open = false;
            return Ok(None);
        }
        Ok(Some(batch))
    }

    /// Rows behind `after` that were sent longer than `older_than` ago and whose jobs have not ended: the queue should
    /// know them.
    pub async fn outbox_pending(
        &self,
        queue: &str,
        after: i64,
        older_than: Duration,
        limit: i64,
    ) -> Result<Vec<Pending>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT id, job_id FROM job_outbox
            WHERE queue = $1 AND id > $2 AND sent_at < now() - make_interval(secs => $3) AND ended_at IS NULL
            ORDER BY id LIMIT $4";
        let rows = client.query(sql, &[&queue, &after, &older_than.as_secs_f64(), &limit]).await?;
        rows.iter().map(|row| Ok(Pending { id: row.try_get(0)?, job_id: row.try_get(1)? })).collect()
    }

    /// The queue has lost the jobs of these rows: they are to be sent again, unless they have ended meanwhile. Tells all
    /// senders. Returns how many.
    pub async fn outbox_lost(&self, ids: &[i64]) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "UPDATE job_outbox SET sent_at = NULL WHERE id = ANY ($1) AND ended_at IS NULL";
        let lost = client.execute(sql, &[&ids]).await?;
        if lost > 0 {
            client.query_one("SELECT pg_notify(worker_channel(), 'outbox')", &[]).await?;
        }
        Ok(lost)
    }

    /// The jobs of these rows have completed, and no worker of ours had them then: another consumer ran them.
    pub async fn outbox_completed(&self, ids: &[i64]) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql =
            "UPDATE job_outbox SET ended = 'completed', ended_at = now() WHERE id = ANY ($1) AND ended_at IS NULL";
        client.execute(sql, &[&ids]).await
    }

    /// The jobs of these rows have failed for good, and no worker of ours had them then: they failed before they could be
    /// taken, or another consumer ran them.
    pub async fn outbox_failed(&self, rows: &[Failed]) -> Result<u64, StoreError> {
        fail(&self.client().await?, rows).await
    }

    /// A job failed for good without a lease (it is in quarantine): so has its row, if it has one.
    pub async fn outbox_job_failed(&self, job: &Identity, reason: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql = "UPDATE job_outbox SET ended = 'failed', ended_at = now(), failure_reason = $3
            WHERE queue = $1 AND job_id = $2 AND ended_at IS NULL";
        Ok(client.execute(sql, &[&job.queue, &job.job_id, &sentence(reason)]).await? == 1)
    }

    /// Removes rows whose jobs ended longer ago than `older_than`, in batches; returns how many.
    pub async fn prune_outbox(&self, older_than: Duration) -> Result<u64, StoreError> {
        const BATCH: i64 = 1000;
        let client = self.client().await?;
        let sql = "DELETE FROM job_outbox WHERE id IN (
                SELECT id FROM job_outbox WHERE ended_at < now() - make_interval(secs => $1)
                ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let mut removed = 0;
        loop {
            let batch = client.execute(sql, &[&older_than.as_secs_f64(), &BATCH]).await?;
            removed += batch;
            if batch < BATCH.unsigned_abs() {
                return Ok(removed);
            }
        }
    }
}
