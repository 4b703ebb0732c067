//! Requests to cancel jobs, from whoever asks to whoever holds them.
//!
//! Whoever knows the token that locks a job asks for that fetch of it, which may also wait for its turn. Whoever knows the
//! job's id alone asks for the latest attempt that the ledger has.

use super::{Epoch, Store, StoreError};
use std::time::Duration;
use uuid::Uuid;

/// A job of ours that somebody wants cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// The job's id in its queue.
    pub job_id: String,
    /// What is to end.
    pub meant: Meant,
    /// Who asked, and why.
    pub reason: String,
}

/// What a request is for, so that it ends nothing that came later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant {
    /// This attempt.
    Attempt(Epoch),
    /// The job that is locked with this token, whether it runs or waits.
    Fetch(String),
}

/// Who was asked to cancel a running job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The instance that runs it.
    pub instance: String,
    /// The attempt.
    pub epoch: Epoch,
}

impl Store {
    /// Asks whoever runs a job's latest attempt to cancel it; `None` if the ledger knows of nobody. One that has completed
    /// without a result in the ledger looks as if it still ran.
    pub async fn ask_to_cancel(&self, queue: &str, job_id: &str, reason: &str) -> Result<Option<Asked>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT instance, epoch FROM ask_to_cancel($1, $2, $3)";
        let Some(row) = client.query_opt(sql, &[&queue, &job_id, &reason]).await? else { return Ok(None) };
        Ok(Some(Asked { instance: row.try_get(0)?, epoch: Epoch(row.try_get(1)?) }))
    }

    /// Asks the process life that locks a job with `token` to cancel it, whether it runs or waits for its turn; the
    /// instance, or `None` if the life is none of ours.
    pub async fn ask_to_cancel_held(
        &self,
        invocation: Uuid,
        job_id: &str,
        token: &str,
        reason: &str,
    ) -> Result<Option<String>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT ask_to_cancel_held($1, $2, $3, $4)";
        let row = client.query_opt(sql, &[&invocation, &job_id, &token, &reason]).await?;
        row.map(|row| Ok(row.try_get(0)?)).transpose()
    }

    /// How the ledger says that an attempt ended, for a job that the queue has forgotten: whether it failed on request.
    pub async fn was_cancelled(&self, queue: &str, job_id: &str, epoch: Epoch) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT EXISTS (SELECT FROM job_execution WHERE queue = $1 AND job_id = $2 AND epoch = $3
            AND state = 'failed' AND cancel_requested_at IS NOT NULL)";
        Ok(client.query_one(sql, &[&queue, &job_id, &epoch.0]).await?.try_get(0)?)
    }

    /// The requests for jobs that a process life holds.
    pub async fn cancel_requests(&self, invocation: Uuid) -> Result<Vec<CancelRequest>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT job_id, coalesce(cancel_reason, ''), epoch, NULL FROM job_execution
                WHERE invocation = $1 AND state = 'taken' AND cancel_requested_at IS NOT NULL
            UNION ALL SELECT job_id, reason, NULL, token FROM job_cancel_request WHERE invocation = $1";
        let rows = client.query(sql, &[&invocation]).await?;
        let read = |row: &tokio_postgres::Row| {
            let epoch: Option<i64> = row.try_get(2)?;
            let meant = match epoch {
                Some(epoch) => Meant::Attempt(Epoch(epoch)),
                None => Meant::Fetch(row.try_get(3)?),
            };
            Ok(CancelRequest { job_id: row.try_get(0)?, reason: row.try_get(1)?, meant })
        };
        rows.iter().map(read).collect()
    }

    /// Forgets requests by token that were made longer than `older_than` ago; returns how many.
    pub async fn prune_cancel_requests(&self, older_than: Duration) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "DELETE FROM job_cancel_request WHERE requested_at < now() - make_interval(secs => $1)";
        client.execute(sql, &[&older_than.as_secs_f64()]).await
    }
}
