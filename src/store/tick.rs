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

    /// Forgets ticks claimed longer ago than `older_than`; returns how many.
    pub async fn prune_ticks(&self, older_than: Duration) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "DELETE FROM job_tick WHERE claimed_at < now() - make_interval(secs => $1)";
        client.execute(sql, &[&older_than.as_secs_f64()]).await
    }
}
