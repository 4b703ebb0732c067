//! Requests to cancel running jobs, from whoever asks to whoever runs them.

use super::{Store, StoreError};
use uuid::Uuid;

/// A job of ours that somebody wants cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// The job's id in its queue.
    pub job_id: String,
    /// The epoch of the attempt that is meant.
    pub epoch: i64,
    /// Who asked, and why.
    pub reason: String,
}

impl Store {
    /// Asks whoever runs a job to cancel it; returns the instances that were asked, none if nobody runs it.
    pub async fn request_cancel(&self, queue: &str, job_id: &str, reason: &str) -> Result<Vec<String>, StoreError> {
        let client = self.client().await?;
        let rows = client.query("SELECT cancel_job($1, $2, $3)", &[&queue, &job_id, &reason]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Whether a request for a job still waits for whoever runs it.
    pub async fn cancel_is_pending(&self, queue: &str, job_id: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT EXISTS (SELECT FROM job_execution
            WHERE queue = $1 AND job_id = $2 AND state = 'taken' AND cancel_requested_at IS NOT NULL)";
        Ok(client.query_one(sql, &[&queue, &job_id]).await?.try_get(0)?)
    }

    /// The requests for jobs that a process life has taken and not ended.
    pub async fn cancel_requests(&self, invocation: Uuid) -> Result<Vec<CancelRequest>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT job_id, epoch, coalesce(cancel_reason, '') FROM job_execution
            WHERE invocation = $1 AND state = 'taken' AND cancel_requested_at IS NOT NULL";
        let rows = client.query(sql, &[&invocation]).await?;
        let read = |row: &tokio_postgres::Row| {
            Ok(CancelRequest { job_id: row.try_get(0)?, epoch: row.try_get(1)?, reason: row.try_get(2)? })
        };
        rows.iter().map(read).collect()
    }
}
