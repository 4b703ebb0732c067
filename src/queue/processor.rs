//! The seam between the queue and the jobs: who processes a fetched job, and what it may tell the queue.

use super::{Error, Job, Queue, connection::COMMAND_DEADLINE, lease::Lease, panics::Panic, scripts};
use redis::Value;
use std::{future::Future, pin::Pin, sync::Arc};

/// A future that a trait object returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs jobs. The consumer gives it one fetched job at a time per slot.
pub trait Processor: Send + Sync + 'static {
    /// Runs one job to its outcome. The future is dropped when the lease is lost or the drain's deadline passes, unless it
    /// ends soon by itself; a handler that does not react is its own matter: nobody waits for it.
    fn process(self: Arc<Self>, execution: Arc<Execution>) -> BoxFuture<'static, Outcome>;

    /// Why nothing may be fetched now, if so (a dependency is down). Asked before every fetch.
    fn hold(&self) -> Option<String>;

    /// Whether workers died while this job ran. Asked where another worker's stalled check has condemned it.
    ///
    /// # Errors
    /// It cannot be known now, and why: the job is handed back.
    fn is_suspected<'a>(&'a self, _execution: &'a Execution) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(async { Ok(false) })
    }
}

/// How a job's processing ended.
#[derive(Debug)]
pub enum Outcome {
    /// Completed with this value; `epoch` if the result was committed in PostgreSQL.
    Completed {
        /// The return value.
        value: serde_json::Value,
        /// The epoch whose result is acknowledged.
        epoch: Option<i64>,
    },
    /// Failed.
    Failed(Failure),
    /// Could not be finished for reasons that are not the job's: it is handed back, no attempt is charged.
    Interrupted(String),
    /// The lease is not ours any more: nothing is written.
    Lost(String),
}

/// Why a job failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// One sentence.
    pub reason: String,
    /// A stack, where there is one.
    pub stack: Option<String>,
    /// Whether another attempt may help.
    pub retry: bool,
    /// Whether the job could not be run at all: an unknown name, or data that cannot be read.
    pub refused: bool,
}

impl From<Panic> for Failure {
    fn from(panic: Panic) -> Failure {
        Failure { stack: panic.stack, ..Failure::again(format!("panic: {}", panic.message)) }
    }
}

impl Failure {
    /// The attempt failed; another one may help.
    pub fn again(reason: impl Into<String>) -> Failure {
        Failure { reason: reason.into(), stack: None, retry: true, refused: false }
    }

    /// The attempt failed, and no other will help.
    pub fn for_good(reason: impl Into<String>) -> Failure {
        Failure { retry: false, ..Failure::again(reason) }
    }

    /// There was no attempt: the job cannot be run.
    pub fn refused(reason: impl Into<String>) -> Failure {
        Failure { refused: true, ..Failure::for_good(reason) }
    }
}

/// One attempt in progress.
pub struct Execution {
    /// The job.
    pub job: Job,
    /// The right to work on it.
    pub lease: Arc<Lease>,
    pub(crate) queue: Arc<Queue>,
}

impl Execution {
    /// Name of the queue with its prefix, `prefix:name`.
    pub fn queue_name(&self) -> &str {
        &self.queue.qualified_name
    }

    /// Whether the lock in Redis still holds our token.
    pub async fn holds_lock(&self) -> Result<bool, Error> {
        let mut command = redis::cmd("GET");
        command.arg(self.queue.keys.lock(&self.job.id));
        let token: Option<String> = self.queue.link.query(&command, "GET", COMMAND_DEADLINE).await?;
        Ok(token.as_deref() == Some(self.lease.token.as_str()))
    }

    /// Tells the job's progress: a number, or any JSON.
    pub async fn progress(&self, progress: &serde_json::Value) -> Result<(), Error> {
        let keys = &self.queue.keys;
        let (hash, text) = (keys.job(&self.job.id), progress.to_string());
        let _: Value = scripts::UPDATE_PROGRESS
            .call(
                &self.queue.link,
                COMMAND_DEADLINE,
                &[&hash, &keys.events, &keys.meta],
                self.queue.settle(),
                &[self.job.id.as_bytes(), text.as_bytes()],
            )
            .await?;
        Ok(())
    }

    /// Adds a line to the job's log, which `keepLogs` trims.
    pub async fn log(&self, line: &str) -> Result<(), Error> {
        let keys = &self.queue.keys;
        let (hash, logs) = (keys.job(&self.job.id), keys.logs(&self.job.id));
        let keep = self.job.options.keep_logs.map(|n| n.to_string()).unwrap_or_default();
        let _: Value = scripts::ADD_LOG
            .call(
                &self.queue.link,
                COMMAND_DEADLINE,
                &[&hash, &logs],
                self.queue.settle(),
                &[self.job.id.as_bytes(), line.as_bytes(), keep.as_bytes()],
            )
            .await?;
        Ok(())
    }
}
