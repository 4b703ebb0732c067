//! The outbox: jobs that a transaction wants added to the queue, committed with its effects and sent afterwards.
//!
//! A row is a wake-up's identity. It stays until its job has ended, so that a queue that lost the job gets it again; and
//! only the latest take of it may commit (see `migrations/V6__outbox.sql`), so that none runs twice.

use super::{Client, Store, StoreError};
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::time::Duration;

/// A job to be added when the transaction has committed.
#[derive(Debug, Clone, PartialEq)]
pub struct WakeUp {
    /// The queue, as everywhere in the store.
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

/// A row to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Unsent {
    /// The row.
    pub id: i64,
    /// The job's id in the queue.
    pub job_id: String,
    /// The job's name.
    pub name: String,
    /// The job's data.
    pub data: Value,
    /// How long from now, by the database's clock, until it is due.
    pub delay: Duration,
    /// 0 is none.
    pub priority: u32,
    /// Attempts in all.
    pub attempts: u32,
}

/// Rows that this session has to itself until it says which of them were sent. Dropped before that, nothing is noted and
/// the rows are sent again: adding an id that exists changes nothing in the queue.
pub struct OutboxBatch {
    client: Client,
    /// What to send, oldest first.
    pub rows: Vec<Unsent>,
    open: bool,
}

impl OutboxBatch {
    /// Notes that the rows with these ids are in the queue.
    pub async fn sent(mut self, ids: &[i64]) -> Result<(), StoreError> {
        self.client.execute("UPDATE job_outbox SET sent_at = now() WHERE id = ANY ($1)", &[&ids]).await?;
        self.client.batch_execute("COMMIT").await?;
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

/// A row that was sent and whose job has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The row.
    pub id: i64,
    /// The job's id in the queue.
    pub job_id: String,
}

/// Writes a wake-up inside the caller's transaction; false if there is one with its id already.
pub async fn enqueue(client: &Client, wake_up: &WakeUp) -> Result<bool, StoreError> {
    let sql = "INSERT INTO job_outbox (queue, job_id, name, data, due_at, priority, attempts, tick_at)
        VALUES ($1, $2, $3, $4, coalesce($5, now()), $6, $7, $8) ON CONFLICT (queue, job_id) DO NOTHING";
    let WakeUp { queue, job_id, name, data, due_at, priority, attempts, tick_at } = wake_up;
    Ok(client.execute(sql, &[queue, job_id, name, data, due_at, priority, attempts, tick_at]).await? == 1)
}

impl Store {
    /// Writes a wake-up that belongs to no transaction.
    pub async fn enqueue(&self, wake_up: &WakeUp) -> Result<bool, StoreError> {
        let client = self.client().await?;
        enqueue(&client, wake_up).await
    }

    /// The next rows to send, which no other worker is sending; `None` if there are none.
    pub async fn outbox_batch(&self, queue: &str, limit: i64) -> Result<Option<OutboxBatch>, StoreError> {
        let sql = "SELECT id, job_id, name, data,
                greatest(0, ceil(extract(epoch FROM due_at - clock_timestamp()) * 1000))::bigint, priority, attempts
            FROM job_outbox WHERE queue = $1 AND sent_at IS NULL AND ended_at IS NULL
            ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED";
        let client = self.client().await?;
        let mut batch = OutboxBatch { client, rows: Vec::new(), open: true };
        batch.client.batch_execute("BEGIN").await?;
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

    /// The queue has lost the jobs of these rows: they are to be sent again, unless they have ended meanwhile. Returns how
    /// many.
    pub async fn outbox_lost(&self, ids: &[i64]) -> Result<u64, StoreError> {
        let client = self.client().await?;
        client.execute("UPDATE job_outbox SET sent_at = NULL WHERE id = ANY ($1) AND ended_at IS NULL", &[&ids]).await
    }

    /// The jobs of these rows failed for good: nothing brings them back but a retry by hand.
    pub async fn outbox_failed(&self, ids: &[i64]) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "UPDATE job_outbox SET ended = 'failed', ended_at = now() WHERE id = ANY ($1) AND ended_at IS NULL";
        client.execute(sql, &[&ids]).await
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
