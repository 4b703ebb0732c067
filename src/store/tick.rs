//! Ticks of periodic jobs: (job name, due time) is unique, so that each tick is run once.

use super::{Identity, Store, StoreError};
use std::time::Duration;

impl Store {
    /// Claims a tick for a job; false if another job has it. The same job may claim it again: after a crash, on a retry.
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

    /// The last tick of a schedule that anybody claimed, and the database's clock, both in milliseconds.
    pub async fn last_tick(&self, name: &str) -> Result<(Option<i64>, i64), StoreError> {
        let client = self.client().await?;
        let sql = "SELECT (SELECT floor(extract(epoch FROM max(due_at)) * 1000)::bigint FROM job_tick WHERE name = $1),
            floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
        let row = client.query_one(sql, &[&name]).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// Gives ticks back that were claimed by jobs which never ended, and which the queue has lost: their claims go, and
    /// whoever may still run one of them commits nothing any more. Returns when they were due, milliseconds.
    pub async fn give_back_lost_ticks(&self, name: &str) -> Result<Vec<i64>, StoreError> {
        let client = self.client().await?;
        let sql = "WITH lost AS (
                UPDATE job_execution j SET epoch = nextval('job_epoch'), state = 'lost', updated_at = now()
                FROM job_tick t
                WHERE t.name = $1 AND j.queue = t.queue AND j.job_id = t.job_id AND j.job_timestamp = t.job_timestamp
                    AND j.state IN ('taken', 'handed_back', 'lost')
                    AND NOT EXISTS (SELECT FROM job_execution other WHERE other.queue = t.queue
                        AND other.job_id = t.job_id AND other.job_timestamp = t.job_timestamp
                        AND other.attempts_made > j.attempts_made)
                RETURNING t.name, t.due_at
            ), given_back AS (
                DELETE FROM job_tick t USING lost WHERE t.name = lost.name AND t.due_at = lost.due_at RETURNING t.due_at
            )
            SELECT floor(extract(epoch FROM due_at) * 1000)::bigint FROM given_back ORDER BY 1";
        let rows = client.query(sql, &[&name]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Forgets ticks claimed longer ago than `older_than`; returns how many.
    pub async fn prune_ticks(&self, older_than: Duration) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "DELETE FROM job_tick WHERE claimed_at < now() - make_interval(secs => $1)";
        client.execute(sql, &[&older_than.as_secs_f64()]).await
    }
}
