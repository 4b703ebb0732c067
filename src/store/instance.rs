//! The workers that are alive: one row per process life, kept fresh by a heartbeat.

use super::{Store, StoreError};
use std::time::Duration;
use uuid::Uuid;

/// A worker whose last heartbeat is older than this is not alive: many times the heartbeat's period, because a run
/// that is failed too early is worse than one that is failed a minute late.
pub(super) const ALIVE: Duration = Duration::from_secs(120);

/// One process life of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInstance {
    /// Random for each process life, as in lock tokens and ledger rows.
    pub invocation: Uuid,
    /// The instance's name, such as `3` of `floh-worker@3`.
    pub instance: String,
    /// The host's name.
    pub host: String,
    /// Process id.
    pub pid: i32,
    /// The worker's version.
    pub version: String,
}

impl Store {
    /// Says that a worker is alive: at start, and then every few seconds. Writes the row anew where it is gone. What
    /// others have taken from it meanwhile has not killed it.
    pub async fn heartbeat(&self, worker: &WorkerInstance) -> Result<(), StoreError> {
        let client = self.client().await?;
        let sql = "WITH survived AS (DELETE FROM job_lost_run WHERE invocation = $1)
            INSERT INTO worker_instance AS w (invocation, instance, host, pid, version) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (invocation) DO UPDATE SET last_seen = now(),
                alive_since = CASE WHEN w.last_seen < now() - make_interval(secs => $6) THEN now() ELSE w.alive_since END";
        let silence = ALIVE.as_secs_f64();
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&worker.invocation, &worker.instance, &worker.host, &worker.pid, &worker.version, &silence];
        client.execute(sql, &params).await?;
        Ok(())
    }

    /// Says that a worker has ended in order.
    pub async fn unregister(&self, invocation: Uuid) -> Result<(), StoreError> {
        let client = self.client().await?;
        client.execute("DELETE FROM worker_instance WHERE invocation = $1", &[&invocation]).await?;
        Ok(())
    }

    /// Forgets workers that have not been heard of for longer than `older_than` (killed ones); returns how many.
    pub async fn prune_instances(&self, older_than: Duration) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "DELETE FROM worker_instance WHERE last_seen < now() - make_interval(secs => $1)";
        client.execute(sql, &[&older_than.as_secs_f64()]).await
    }
}
