//! The end of a lease, as PostgreSQL is told of it.
//!
//! What the outbox and the ticks promise hangs on it: a job that went well and is one of theirs ends by a committed result,
//! so that its wake-up or tick is done exactly when the job is; and one that failed for good ends its row of the outbox.

use super::{JobContext, JobError, Runner};
use crate::{
    queue::{Failure, Job, Outcome},
    store::{self, Identity, Release},
};
use serde_json::Value;
use std::time::Duration;

/// How long the ledger may take to note how a lease ended: the job waits for it.
const NOTE: Duration = Duration::from_millis(500);
/// How often that is tried where something depends on it.
const TRIES: usize = 4;

impl JobContext {
    /// Commits the value of a handler that did not, where a wake-up or a tick is to end with it.
    pub(super) async fn settle(&self, value: Value, claimed_tick: bool) -> Result<Value, JobError> {
        let owed = claimed_tick || self.lease.outbox.is_some();
        if !owed || self.committed.get().is_some() {
            return Ok(value);
        }
        let transaction = self.begin().await?;
        self.complete(transaction, value).await
    }
}

/// What a failure means for the lease: whether another attempt follows.
pub(super) fn release_of(job: &Job, failure: &Failure) -> Release {
    if failure.retry && !job.is_last_attempt() { Release::Retried } else { Release::Failed }
}

impl Runner {
    /// Notes in the ledger how a lease ended that has no committed result. The recovery of stuck runs tells a hand-back
    /// from a death by it; where it cannot be noted, the run counts as held for as long as this worker is heard of.
    ///
    /// A wake-up that failed for good ends with it. Where that cannot be noted, the comparison of outbox and queue finds
    /// the failed job.
    pub(super) async fn note(&self, job: &Job, lease: &store::Lease, outcome: &Outcome) {
        let (how, why) = match outcome {
            Outcome::Completed { .. } => return,
            Outcome::Failed(failure) => (release_of(job, failure), Some(failure.reason.as_str())),
            Outcome::Interrupted(_) => (Release::HandedBack, None),
            Outcome::Lost(_) => (Release::Lost, None),
        };
        let owed = how == Release::Failed && (lease.outbox.is_some() || job.due_ms().is_some());
        let release = || self.store.release_because(lease, how, why);
        self.tell_ledger(if owed { TRIES } else { 1 }, "how the lease ended", release).await;
    }

    /// Notes that a job has failed for good without being run, which ends its wake-up if it is one.
    pub(super) async fn note_not_run(&self, job: &Identity, why: &str) {
        self.tell_ledger(TRIES, "that the job has failed", || self.store.outbox_job_failed(job, why)).await;
    }

    async fn tell_ledger<F>(&self, tries: usize, what: &str, tell: impl Fn() -> F)
    where
        F: Future<Output = Result<bool, store::StoreError>>,
    {
        for _ in 0..tries {
            match tokio::time::timeout(NOTE, tell()).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => tracing::debug!("the ledger was not told {what}: {error}"),
                Err(_) => tracing::debug!("the ledger was not told in time {what}"),
            }
        }
    }
}
