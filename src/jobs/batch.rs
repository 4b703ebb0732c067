//! What a job that works in batches needs of its surroundings, so that its logic can be tried without a queue.

use super::{JobContext, JobError};
use crate::store::{FencedTransaction, StoreError};
use serde_json::Value;
use std::future::Future;

/// The surroundings of a job in batches. [`JobContext`] is the one in production.
pub trait Batches: Sync {
    /// Begins the next batch's transaction.
    fn begin(&self) -> impl Future<Output = Result<FencedTransaction, StoreError>> + Send;

    /// Commits the last batch with the job's return value.
    fn complete(
        &self,
        transaction: FencedTransaction,
        value: Value,
    ) -> impl Future<Output = Result<Value, JobError>> + Send;

    /// Shows progress.
    fn progress(&self, progress: &Value) -> impl Future<Output = ()> + Send;

    /// An error if the job should stop between two batches.
    fn check_cancelled(&self) -> Result<(), JobError>;
}

impl Batches for JobContext {
    async fn begin(&self) -> Result<FencedTransaction, StoreError> {
        JobContext::begin(self).await
    }

    async fn complete(&self, transaction: FencedTransaction, value: Value) -> Result<Value, JobError> {
        JobContext::complete(self, transaction, value).await
    }

    async fn progress(&self, progress: &Value) {
        JobContext::progress(self, progress).await;
    }

    fn check_cancelled(&self) -> Result<(), JobError> {
        JobContext::check_cancelled(self)
    }
}
