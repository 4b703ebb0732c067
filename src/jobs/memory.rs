//! What a job remembers outside PostgreSQL, so that its logic can be tried without a queue.

use super::{JobContext, JobError};
use crate::queue;
use std::future::Future;

/// A job's memory outside PostgreSQL. [`JobContext`], with Redis, is the one in production. It may be empty at any time
/// (Redis is allowed to lose everything), so it can only ever add to what the database says.
pub trait Memory: Sync {
    /// Where a text is kept, for people who may have to remove it.
    fn place(&self, name: &str) -> String;

    /// The text that is kept under this name, if any.
    fn recall(&self, name: &str) -> impl Future<Output = Result<Option<String>, JobError>> + Send;

    /// Keeps a text in place of the one before. An error is logged and forgotten: the next job tries again.
    fn remember(&self, name: &str, text: &str) -> impl Future<Output = ()> + Send;
}

impl Memory for JobContext {
    fn place(&self, name: &str) -> String {
        format!("the key {} in Redis", self.execution.queue.memory_key(name))
    }

    async fn recall(&self, name: &str) -> Result<Option<String>, JobError> {
        self.execution.queue.recall(name).await.map_err(|error| match error {
            queue::Error::Unavailable { .. } => JobError::Interrupted(error.to_string()),
            _ => JobError::Retry(error.to_string()),
        })
    }

    async fn remember(&self, name: &str, text: &str) {
        if let Err(error) = self.execution.queue.remember(name, text).await {
            tracing::warn!("{} was not written: {error}", self.place(name));
        }
    }
}
