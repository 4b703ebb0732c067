//! The registry from a job's name to its handler, and one file per job, named like the job.
//!
//! A handler gets a [`JobContext`] and returns its value or a [`JobError`]. Everything that it writes to PostgreSQL goes
//! through [`JobContext::begin`], whose transactions only commit while the lease is the job's latest.

mod again;
mod alone;
mod apart;
mod attempt;
pub mod audit_checkpoint;
mod batch;
pub mod catch_up;
mod circuit;
mod ending;
pub mod escalation_reassignment;
pub mod escalation_reminder;
pub mod holds;
mod memory;
mod outbox;
mod question_asked;
mod reconcile;
mod registry;
pub mod resume_run;
mod runner;
mod running;
pub mod stuck_run_recovery;
mod telling;
#[cfg(feature = "test-jobs")]
mod test_jobs;
pub mod trigger_workflow;
mod trouble;

pub use apart::{MOST_LOST, Threads};
pub use audit_checkpoint::AuditCheckpoint;
pub use batch::Batches;
pub use catch_up::CatchUp;
pub use escalation_reassignment::EscalationReassignment;
pub use escalation_reminder::EscalationReminder;
pub use memory::Memory;
pub use outbox::Sender;
pub use reconcile::Reconciler;
pub use registry::Registry;
pub use resume_run::ResumeRun;
pub use runner::Runner;
pub use running::Running;
pub use stuck_run_recovery::StuckRunRecovery;
#[cfg(feature = "test-jobs")]
pub use test_jobs::prepare as prepare_test_jobs;
pub use trigger_workflow::{Schedules, TriggerWorkflow};
pub use trouble::Trouble;

use crate::{
    audit::SigningKey,
    config::Config,
    engine::run::{Engine, Tools},
    queue::{BoxFuture, Execution, lease::Cancelled, schedulers::Builtin},
    store::{self, FencedTransaction, Policy, Store, StoreError, outbox::WakeUp},
};
use serde_json::Value;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// All handlers of this build.
pub fn registry(config: &Config) -> Registry {
    let mut registry = Registry::default();
    registry.add(StuckRunRecovery::new(config.worker.stuck_run_timeout));
    registry.add(AuditCheckpoint::new(signing_key(config)));
    let engine = Arc::new(Engine::new(Tools::new(config)));
    registry.add(ResumeRun::new(&engine));
    registry.add(EscalationReminder::new(&engine));
    registry.add(EscalationReassignment);
    registry.add(TriggerWorkflow);
    #[cfg(feature = "test-jobs")]
    for job in test_jobs::all() {
        registry.add(job);
    }
    registry
}

/// The built-in schedules of this build and configuration.
pub fn schedulers(config: &Config) -> Vec<Builtin> {
    let mut schedulers = vec![Builtin::new(stuck_run_recovery::NAME, stuck_run_recovery::PATTERN)];
    if config.audit.checkpoint_key.is_some() {
        schedulers.push(Builtin::new(audit_checkpoint::NAME, &config.audit.checkpoint_schedule));
    }
    #[cfg(feature = "test-jobs")]
    schedulers.extend(test_jobs::scheduler());
    schedulers
}

/// The key for checkpoints. The configuration has checked its form, so an error here is a mistake of ours; it must not
/// keep the other jobs from being done.
fn signing_key(config: &Config) -> Option<SigningKey> {
    let key = config.audit.checkpoint_key.as_ref()?;
    SigningKey::from_config(key).inspect_err(|error| tracing::error!("{error}")).ok()
}

/// One kind of job.
pub trait Handler: Send + Sync + 'static {
    /// The job name that it handles.
    fn name(&self) -> &'static str;

    /// Whether its jobs are ticks of a schedule, each of which is to run once although several schedulers may announce it.
    fn once_per_tick(&self) -> bool {
        false
    }

    /// Runs one job, on a thread of its own. The future may be dropped at any await; what is not committed by then did not
    /// happen. It may also be run a second time in the same attempt: after an outage of PostgreSQL, where what it had
    /// committed in batches stays.
    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<Value, JobError>>;
}

/// Why a job did not complete. The variant is the policy.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Another attempt may help: charged, and tried again as the job's options say.
    #[error("{0}")]
    Retry(String),
    /// No attempt will help: failed at once.
    #[error("{0}")]
    Fail(String),
    /// Not the job's fault (the worker stops): handed back, nothing charged.
    #[error("{0}")]
    Interrupted(String),
    /// PostgreSQL is away, or takes no writes: nothing is fetched until it is well, and then the handler runs again, in the
    /// same attempt. Where that takes too long the job is handed back, nothing charged.
    #[error("{0}")]
    Unavailable(String),
    /// Another worker has the job: nothing more is written.
    #[error("{0}")]
    LeaseLost(String),
    /// The connection died in a commit: whether it happened is to be asked.
    #[error("{0}")]
    CommitUnknown(String),
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> JobError {
        let text = error.to_string();
        match error.policy() {
            Policy::Wait | Policy::Fatal => JobError::Unavailable(text),
            // A statement that the server refuses may be the fault of rows that change: the job's own options say how
            // often it is tried again, as for any other error of a handler.
            Policy::Retry | Policy::Fail => JobError::Retry(text),
            Policy::Yield => JobError::LeaseLost(text),
            Policy::Ask => JobError::CommitUnknown(text),
        }
    }
}

/// What a handler knows of its job and may do.
pub struct JobContext {
    /// The job's data.
    pub data: Value,
    /// PostgreSQL, for reading; writing goes through [`JobContext::begin`].
    pub store: Store,
    /// This attempt's lease and epoch.
    pub lease: store::Lease,
    /// Name of the instance that runs it.
    pub instance: Arc<str>,
    execution: Arc<Execution>,
    cancellation: CancellationToken,
    draining: CancellationToken,
    /// When half of the attempt's time is over.
    half_time: Instant,
    /// The return value, once it is committed.
    committed: OnceLock<Value>,
    given_up: AtomicBool,
}

impl JobContext {
    /// The job's id in its queue.
    pub fn job_id(&self) -> &str {
        &self.execution.job.id
    }

    /// When the tick that the job is, or makes up for, was due, milliseconds; none if it is no tick.
    pub fn due_ms(&self) -> Option<i64> {
        self.lease.outbox.and(self.lease.tick_ms).or_else(|| self.execution.job.due_ms())
    }

    /// The id of the scheduler or repeatable that it is an iteration of.
    pub fn scheduler(&self) -> Option<&str> {
        self.execution.job.repeat_job_key.as_deref()
    }

    /// Begins a transaction that commits only while this attempt is the job's latest.
    pub async fn begin(&self) -> Result<FencedTransaction, StoreError> {
        self.check_lease()?;
        self.store.begin(&self.lease).await
    }

    /// Wants a job added to this job's queue when the transaction has committed; it is sent then, by any worker, and never
    /// if the transaction comes to nothing. The wake-up's id is its identity (`resume-RUN-SEQ`): false if there is one with
    /// it already. It must be one of its own for each wake-up, and its queue is filled in here.
    pub async fn enqueue(&self, transaction: &FencedTransaction, wake_up: WakeUp) -> Result<bool, StoreError> {
        Ok(self.enqueue_all(transaction, vec![wake_up]).await? == 1)
    }

    /// The same for many, in one statement; returns how many are new.
    pub async fn enqueue_all(
        &self,
        transaction: &FencedTransaction,
        mut wake_ups: Vec<WakeUp>,
    ) -> Result<u64, StoreError> {
        for wake_up in &mut wake_ups {
            wake_up.queue.clone_from(&self.lease.identity.queue);
        }
        store::outbox::enqueue(transaction, &wake_ups).await
    }

    /// Commits the job's last transaction together with its return value: from here on the job is never run again, even
    /// if the acknowledgement to Redis is lost, and whatever the handler does afterwards: it has completed with this value.
    pub async fn complete(&self, transaction: FencedTransaction, value: Value) -> Result<Value, JobError> {
        self.check_lease()?;
        transaction.commit_result(&value).await?;
        self.committed.get_or_init(|| value.clone());
        Ok(value)
    }

    /// Refuses what could not be committed, or should not: the lock is not ours any more, or nobody waits for this
    /// handler. The ledger would refuse it too, once somebody has taken the job.
    fn check_lease(&self) -> Result<(), StoreError> {
        let lost = self.execution.lease.cancellation() == Some(Cancelled::LeaseLost);
        if lost || self.given_up.load(Ordering::Acquire) {
            return Err(StoreError::LeaseLost { epoch: self.lease.epoch.0 });
        }
        Ok(())
    }

    /// The handler did not react when it had to stop: what it may still do comes to nothing.
    fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Shows progress, a number or any JSON. It is only a hint for people: an error is logged and forgotten.
    pub async fn progress(&self, progress: &Value) {
        if let Err(error) = self.execution.progress(progress).await {
            tracing::debug!("progress not stored: {error}");
        }
    }

    /// Adds a line to the job's own log in Redis, and to ours.
    pub async fn log(&self, line: &str) {
        tracing::info!("{line}");
        if let Err(error) = self.execution.log(line).await {
            tracing::debug!("log line not stored: {error}");
        }
    }

    /// Says what the job is at, for the worker's status line.
    pub fn about(&self, about: String) {
        self.execution.lease.set_about(about);
    }

    /// Cancelled when the handler should stop at its next safe place.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }

    /// Cancelled when the worker takes no new work: a job of many parts, each of which is committed, ends before the next
    /// one and is handed back.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// When half of the attempt's time is over: a job that can hand on what is left of its work does so then.
    pub fn half_time(&self) -> Instant {
        self.half_time
    }

    /// An error if the handler should stop: for the boundary between two batches.
    pub fn check_cancelled(&self) -> Result<(), JobError> {
        if self.cancellation.is_cancelled() {
            return Err(JobError::Interrupted("told to stop".into()));
        }
        Ok(())
    }
}
