//! Ticks of periodic jobs: (job name, due time) is unique, so that each tick is run once.

use super::{
    Client, Identity, Store, StoreError,
    outbox::{self, WakeUp},
};
use std::time::Duration;

/// A claimed tick whose job has not ended, as far as the ledger knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTick {
    /// When it was due, milliseconds.
    pub due_ms: i64,
    /// The job that claimed it.
    pub job_id: String,
}

impl Store {
    /// Claims a tick for a job; false if another job has it. The same job may claim it again: after a crash, on a retry.
    ///
    /// The identity's timestamp tells a job from another one with the same id. A job of the outbox is the same one however
    /// often it is sent: it claims with 0.
    pub async fn claim_tick(&self, name: &str, due_ms: i64, job: &Identity) -> Result<bool, StoreError> {
        let sql = "INSERT INTO job_tick AS tick (name, due_at, queue, job_id, job_timestamp)
            VALUES ($1, to_timestamp($2::bigint / 1000.0), $3, $4, $5)
            ON CONFLICT (name, due_at) DO UPDATE SET claimed_at = tick.claimed_at
                WHERE tick.queue = excluded.queue AND tick.job_id = excluded.job_id
                    AND tick.job_timestamp = excluded.job_timestamp";
        let client = self.client().await?;
        let claimed = client.execute(sql, &[&name, &due_ms, &job.queue, &job.job_id, &job.timestamp_ms]).await?;
        Ok(claimed == 1)
    }

    /// The last tick of a schedule that anybody claimed, milliseconds.
    pub async fn last_tick(&self, name: &str) -> Result<Option<i64>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT floor(extract(epoch FROM max(due_at)) * 1000)::bigint FROM job_tick WHERE name = $1";
        Ok(client.query_one(sql, &[&name]).await?.try_get(0)?)
    }

    /// Ticks of a schedule that jobs of this queue claimed and have not ended. Those that wake-ups of the outbox claimed
    /// are not among them: the outbox itself looks after them.
    pub async fn open_ticks(&self, name: &str, queue: &str) -> Result<Vec<OpenTick>, StoreError> {
        let client = self.client().await?;
        let sql = format!(
            "SELECT floor(extract(epoch FROM t.due_at) * 1000)::bigint, t.job_id FROM job_tick t
            WHERE t.name = $1 AND t.queue = $2 AND EXISTS (SELECT FROM job_execution j WHERE {OPEN}) ORDER BY t.due_at"
        );
        let rows = client.query(&sql, &[&name, &queue]).await?;
        rows.iter().map(|row| Ok(OpenTick { due_ms: row.try_get(0)?, job_id: row.try_get(1)? })).collect()
    }

    /// Writes wake-ups that make up for ticks, and in the same transaction gives the ticks back that jobs claimed which the
    /// queue has `lost`: their claims go, and whoever may still run one of them commits nothing any more. A tick whose job
    /// has ended meanwhile is not given back. Returns how many wake-ups are new.
    pub async fn make_up_ticks(
        &self,
        name: &str,
        queue: &str,
        lost: &[String],
        wake_ups: &[WakeUp],
    ) -> Result<u64, StoreError> {
        let mut client = self.client().await?;
        client.batch_execute("BEGIN").await?;
        let written = async {
            if !lost.is_empty() {
                give_back(&client, name, queue, lost).await?;
            }
            let added = outbox::enqueue(&client, wake_ups).await?;
            client.batch_execute("COMMIT").await?;
            Ok(added)
        }
        .await;
        if written.is_err() {
            client.discard();
        }
        written
    }

    /// Forgets ticks claimed longer ago than `older_than`, except the last one of each schedule, from which it is known what
    /// was missed; returns how many.
    pub async fn prune_ticks(&self, older_than: Duration) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "DELETE FROM job_tick t WHERE claimed_at < now() - make_interval(secs => $1)
            AND EXISTS (SELECT FROM job_tick later WHERE later.name = t.name AND later.due_at > t.due_at)";
        client.execute(sql, &[&older_than.as_secs_f64()]).await
    }
}

/// The job of a tick has not ended: its latest attempt runs, waits for its retry, was handed back or lost.
const OPEN: &str = "j.queue = t.queue AND j.job_id = t.job_id AND j.job_timestamp = t.job_timestamp
    AND j.state IN ('taken', 'handed_back', 'retried', 'lost')
    AND NOT EXISTS (SELECT FROM job_execution other WHERE other.queue = t.queue AND other.job_id = t.job_id
        AND other.job_timestamp = t.job_timestamp AND other.attempts_made > j.attempts_made)";

/// The sessions in which the lost jobs may still work are ended, so that what they have locked does not hold up the next run.
async fn give_back(client: &Client, name: &str, queue: &str, job_ids: &[String]) -> Result<(), StoreError> {
    let sql = format!(
        "WITH lost AS (
            SELECT j.id, j.epoch, t.name, t.due_at FROM job_execution j, job_tick t
            WHERE t.name = $1 AND t.queue = $2 AND t.job_id = ANY ($3) AND {OPEN} FOR UPDATE OF j
        ), released AS (
            UPDATE job_execution j SET epoch = nextval('job_epoch'), state = 'lost', updated_at = now()
            FROM lost WHERE j.id = lost.id
        ), given_back AS (
            DELETE FROM job_tick t USING lost WHERE t.name = lost.name AND t.due_at = lost.due_at
        )
        SELECT terminate_epoch(epoch) FROM lost"
    );
    client.query(&sql, &[&name, &queue, &job_ids]).await.map(drop)
}
