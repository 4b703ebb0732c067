//! Suspicion and quarantine: which jobs were running when their workers died.
//!
//! A suspicion is a death of a worker by signal, out-of-memory kill or watchdog, charged to the jobs that it ran. It is
//! kept by job, across attempts. It does not matter where the job is when the death becomes known: a job that another life
//! has taken meanwhile is remembered as lost by the one that died, and one that nobody has taken yet is charged by its next
//! take. From [`LIMIT`] on `take_job` quarantines the job instead of giving it out.

use super::{Client, Identity, Store, StoreError};
use chrono::{DateTime, Utc};
use std::{fmt, time::Duration};
use tokio_postgres::Row;
use uuid::Uuid;

/// From this many suspicions on a job is quarantined (`take_job` in `migrations/V9__attempts.sql` says the same).
pub const LIMIT: u32 = 3;

/// The end of a process life, with evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The process life.
    pub invocation: Uuid,
    /// The host's name.
    pub host: String,
    /// What systemd said of it, such as `oom-kill (KILL)`.
    pub evidence: String,
}

/// One suspicion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    /// The instance that died.
    pub instance: String,
    /// Its host.
    pub host: String,
    /// What systemd said of its end.
    pub evidence: String,
    /// When it was charged.
    pub at: DateTime<Utc>,
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Suspicion { instance, host, evidence, at } = self;
        write!(f, "{evidence} on floh-worker@{instance} of {host} at {}", at.format("%Y-%m-%d %H:%M:%S UTC"))
    }
}

/// A job in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its id in the queue.
    pub job_id: String,
    /// Its name.
    pub name: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why.
    pub suspicions: Vec<Suspicion>,
}

impl Store {
    /// Records a death and charges it to the jobs that others have taken from that process life since it was last heard of;
    /// returns them. What it ran and nobody has taken is charged by its next take. Asked again it changes nothing.
    pub async fn record_death(&self, death: &Death) -> Result<Vec<String>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT record_death($1, $2, $3)";
        let rows = client.query(sql, &[&death.invocation, &death.host, &death.evidence]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Forgets deaths, and lost runs, that were noted longer than `older_than` ago; returns how many.
    pub async fn prune_deaths(&self, older_than: Duration) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let seconds = older_than.as_secs_f64();
        let deaths = "DELETE FROM worker_death WHERE recorded_at < now() - make_interval(secs => $1)";
        let runs = "DELETE FROM job_lost_run WHERE lost_at < now() - make_interval(secs => $1)";
        Ok(client.execute(deaths, &[&seconds]).await? + client.execute(runs, &[&seconds]).await?)
    }

    /// Charges a death to those of the jobs `job_ids` that the ledger knows as taken in that process life; returns them.
    /// Asked again it changes nothing.
    pub async fn suspect(&self, death: &Death, queue: &str, job_ids: &[String]) -> Result<Vec<String>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT suspect_jobs($1, $2, $3, $4, $5)";
        let rows = client.query(sql, &[&death.invocation, &queue, &job_ids, &death.host, &death.evidence]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// What a job is suspected of, oldest first.
    pub async fn suspicions(&self, job: &Identity) -> Result<Vec<Suspicion>, StoreError> {
        suspicions(&self.client().await?, job).await
    }

    /// The jobs of a queue that are in quarantine, newest first, at most `limit`.
    pub async fn quarantined(&self, queue: &str, limit: i64) -> Result<Vec<Quarantined>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT DISTINCT ON (j.updated_at, j.job_id, j.job_timestamp)
                j.job_id, j.job_timestamp, j.attempts_made, j.name, j.updated_at
            FROM job_execution j
            WHERE j.queue = $1 AND j.state = 'quarantined'
            ORDER BY j.updated_at DESC, j.job_id, j.job_timestamp LIMIT $2";
        let mut found = Vec::new();
        for row in client.query(sql, &[&queue, &limit]).await? {
            let identity = Identity {
                queue: queue.to_string(),
                job_id: row.try_get(0)?,
                timestamp_ms: row.try_get(1)?,
                attempts_made: row.try_get(2)?,
            };
            let suspicions = suspicions(&client, &identity).await?;
            let (name, since) = (row.try_get(3)?, row.try_get(4)?);
            found.push(Quarantined { job_id: identity.job_id, name, since, suspicions });
        }
        Ok(found)
    }

    /// Forgets what a job is suspected of, so that it can run again; false if it was not suspected.
    pub async fn release_from_quarantine(&self, queue: &str, job_id: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql = "WITH forgotten AS (
                DELETE FROM job_suspicion WHERE queue = $1 AND job_id = $2 RETURNING 1
            ), released AS (
                UPDATE job_execution SET state = 'failed', updated_at = now()
                WHERE queue = $1 AND job_id = $2 AND state = 'quarantined' RETURNING 1
            )
            SELECT EXISTS (SELECT FROM forgotten) OR EXISTS (SELECT FROM released)";
        Ok(client.query_one(sql, &[&queue, &job_id]).await?.try_get(0)?)
    }

    /// Forgets suspicions older than `older_than`; returns how many.
    pub async fn prune_suspicions(&self, older_than: Duration) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "DELETE FROM job_suspicion WHERE suspected_at < now() - make_interval(secs => $1)";
        client.execute(sql, &[&older_than.as_secs_f64()]).await
    }
}

async fn suspicions(client: &Client, job: &Identity) -> Result<Vec<Suspicion>, StoreError> {
    let sql = "SELECT instance, host, evidence, suspected_at FROM job_suspicion
        WHERE queue = $1 AND job_id = $2 AND job_timestamp = $3 ORDER BY suspected_at, invocation";
    let rows = client.query(sql, &[&job.queue, &job.job_id, &job.timestamp_ms]).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Suspicion, StoreError> {
    Ok(Suspicion { instance: row.try_get(0)?, host: row.try_get(1)?, evidence: row.try_get(2)?, at: row.try_get(3)? })
}
