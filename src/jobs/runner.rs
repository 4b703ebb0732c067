//! Runs a fetched job: its handler by name, its epoch from the ledger, its outcome from what the handler did.

use super::{
    Handler, JobContext,
    alone::Alone,
    apart::Threads,
    attempt::{Attempt, Claim},
    circuit::Circuit,
    holds::Holds,
    registry::Registry,
    running::Running,
};
use crate::{
    config::JobTimeouts,
    events,
    queue::{BoxFuture, Execution, Failure, Job, Outcome, Processor, panics},
    store::{self, Epoch, Identity, Start, Store, StoreError, Take, suspicion},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often a question to a dependency that is away is asked again within one job before the job is handed back.
const ASK_AGAIN: u32 = 3;

/// The worker's processor of jobs.
pub struct Runner {
    registry: Registry,
    pub(super) store: Store,
    pub(super) circuit: Arc<Circuit>,
    pub(super) timeouts: JobTimeouts,
    pub(super) threads: Arc<Threads>,
    pub(super) running: Running,
    alone: Alone,
    draining: CancellationToken,
    holds: Arc<Holds>,
    instance: Arc<str>,
    invocation: Uuid,
}

impl Runner {
    /// A runner for one process life, which starts no job any more once `draining` is cancelled.
    pub fn new(
        registry: Registry,
        store: Store,
        instance: &str,
        invocation: Uuid,
        timeouts: JobTimeouts,
        draining: CancellationToken,
    ) -> Runner {
        let holds = Arc::<Holds>::default();
        Runner {
            circuit: Circuit::new(store.clone(), Arc::clone(&holds)),
            alone: Alone::new(Arc::clone(&holds), draining.clone()),
            draining,
            threads: Arc::default(),
            running: Running::default(),
            holds,
            timeouts,
            registry,
            store,
            instance: instance.into(),
            invocation,
        }
    }

    /// Why nothing may be fetched: others may have a reason too.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    /// The attempts that run now.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The threads that were given up.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    async fn run(&self, execution: Arc<Execution>) -> Outcome {
        let job = &execution.job;
        let Some(handler) = self.registry.get(&job.name) else {
            return Outcome::Failed(Failure::refused(self.registry.unknown(&job.name)));
        };
        let data = match job.data() {
            Ok(data) => data,
            Err(reason) => return Outcome::Failed(Failure::refused(reason)),
        };
        match self.run_beside_or_alone(handler, data, execution).await {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }

    /// Takes the job when its turn has come, and runs it. What waits is not taken in the ledger, so that it is not charged
    /// with the death that another job may bring upon the worker.
    async fn run_beside_or_alone(
        &self,
        handler: Arc<dyn Handler>,
        data: Value,
        execution: Arc<Execution>,
    ) -> Result<Outcome, Outcome> {
        let beside = self.turn(&execution, self.alone.beside(&execution.lease)).await?;
        let lease = self.taken(&execution).await?;
        if lease.suspicions == 0 {
            return Ok(self.run_taken(lease, handler, data, execution).await);
        }
        tracing::warn!("a worker died while this job ran ({} so far): it runs alone", lease.suspicions);
        drop(beside);
        // Where nothing else runs it goes on under its lease: a worker that it kills now is charged to it.
        if let Some(_alone) = self.alone.alone_now(&execution.lease) {
            return Ok(self.run_taken(lease, handler, data, execution).await);
        }
        self.note(&execution.job, &lease, &Outcome::Interrupted("it waits to run alone".into())).await;
        let _alone = self.turn(&execution, self.alone.alone(&execution.lease)).await?;
        let lease = self.taken(&execution).await?;
        Ok(self.run_taken(lease, handler, data, execution).await)
    }

    /// Waits for the job's turn. One that was cancelled meanwhile has failed, and its wake-up with it.
    async fn turn<G>(
        &self,
        execution: &Execution,
        gate: impl Future<Output = Result<G, Outcome>>,
    ) -> Result<G, Outcome> {
        let turn = gate.await;
        if let Err(Outcome::Failed(failure)) = &turn {
            self.note_not_run(&identity(execution), &failure.reason).await;
        }
        turn
    }

    /// Takes the job in the ledger, or says what becomes of it otherwise.
    async fn taken(&self, execution: &Execution) -> Result<store::Lease, Outcome> {
        Err(match self.take(execution).await {
            Ok(Take::Taken(lease)) => return Ok(lease),
            Ok(Take::Committed { epoch, value }) => {
                tracing::warn!("its result was committed and not acknowledged: acknowledged now, not run again");
                Outcome::Completed { value, epoch: Some(epoch.0) }
            }
            Ok(Take::Done) => {
                tracing::info!("a wake-up that was done before: completed, not run again");
                Outcome::Completed { value: json!({ "skipped": "done before" }), epoch: None }
            }
            Ok(Take::Quarantined { identity }) => self.quarantine(&identity).await,
            Ok(Take::Outranked) => Outcome::Lost("a later attempt has taken the job".into()),
            Err(error) => self.interrupted_by(&error),
        })
    }

    /// Runs a job that was taken, and notes how it ended.
    async fn run_taken(
        &self,
        lease: store::Lease,
        handler: Arc<dyn Handler>,
        data: Value,
        execution: Arc<Execution>,
    ) -> Outcome {
        let (held, ended) = (lease.clone(), Arc::clone(&execution));
        // Caught here, so that the ledger learns of a panic too.
        let outcome = match panics::catch(self.run_under(lease, handler, data, execution)).await {
            Ok(outcome) => outcome,
            Err(panic) => Outcome::Failed(Failure::from(panic)),
        };
        self.note(&ended.job, &held, &outcome).await;
        outcome
    }

    /// Everything between the take and its note.
    async fn run_under(
        &self,
        lease: store::Lease,
        handler: Arc<dyn Handler>,
        data: Value,
        execution: Arc<Execution>,
    ) -> Outcome {
        if let Err(outcome) = self.confirm(&execution).await {
            return outcome;
        }
        let claim = match self.claim_tick(handler.as_ref(), &execution.job, &lease).await {
            Ok(claim) => claim,
            Err(outcome) => return outcome,
        };
        let limit = self.timeouts.of(&execution.job.name);
        let context = JobContext {
            data,
            store: self.store.clone(),
            lease,
            instance: Arc::clone(&self.instance),
            // Also cancelled alone, when the attempt has run for too long.
            cancellation: execution.lease.token_of_cancellation().child_token(),
            draining: self.draining.clone(),
            half_time: Instant::now() + limit / 2,
            execution,
            committed: OnceLock::new(),
            given_up: AtomicBool::new(false),
        };
        Attempt::new(self, handler, context, claim).run().await
    }

    /// A job that too many workers died of fails for good, with the evidence.
    async fn quarantine(&self, job: &Identity) -> Outcome {
        let evidence = match self.store.suspicions(job).await {
            Ok(suspicions) => suspicions.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            Err(error) => format!("what is known of them could not be read: {error}"),
        };
        let reason = format!(
            "quarantined, because {} workers died while it ran: {evidence}. To run it again: flohctl job quarantine release {}",
            suspicion::LIMIT,
            job.job_id
        );
        tracing::error!(message_id = events::JOB_QUARANTINED, "{reason}");
        self.note_not_run(job, &reason).await;
        Outcome::Failed(Failure::for_good(reason))
    }

    async fn take(&self, execution: &Execution) -> Result<Take, StoreError> {
        let job = &execution.job;
        let identity = identity(execution);
        let start = Start {
            name: &job.name,
            attempts_started: signed(job.attempts_started),
            processed_on_ms: job.processed_on_ms,
            instance: &self.instance,
            invocation: self.invocation,
            acknowledged: job.acknowledged.map(Epoch),
        };
        let mut asked = 0;
        loop {
            match self.store.take(&identity, &start).await {
                Err(error) if error.policy() == store::Policy::Retry && asked < ASK_AGAIN => asked += 1,
                other => return other,
            }
        }
    }

    /// Whether the lock in Redis still holds our token after the take: a worker that froze between fetch and take must
    /// not outrank the one that has the job now.
    async fn confirm(&self, execution: &Execution) -> Result<(), Outcome> {
        #[cfg(feature = "test-jobs")]
        if crate::switches::off("confirm") {
            return Ok(());
        }
        loop {
            match execution.holds_lock().await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Outcome::Lost("the lock passed on before the job was taken".into())),
                // The renewal thread cancels us before the lock can pass on, so asking again is bounded.
                Err(error) if error.is_unavailable() => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(error) => return Err(Outcome::Interrupted(error.to_string())),
            }
        }
    }

    /// Each tick of a periodic job is run once, whoever announced it first. A wake-up that makes up for a tick is the same
    /// job however often the queue lost it, so it claims without the timestamp that each sending has of its own.
    async fn claim_tick(&self, handler: &dyn Handler, job: &Job, lease: &store::Lease) -> Result<Claim, Outcome> {
        let made_up = lease.outbox.and(lease.tick_ms);
        let Some(due_ms) = made_up.or_else(|| job.due_ms()).filter(|_| handler.once_per_tick()) else {
            return Ok(Claim::NoTick);
        };
        let mut claimant = lease.identity.clone();
        if lease.outbox.is_some() {
            claimant.timestamp_ms = 0;
        }
        match self.store.claim_tick(&job.name, due_ms, &claimant).await {
            Ok(true) => Ok(Claim::Claimed),
            Ok(false) => Ok(Claim::Others),
            Err(error) => Err(self.interrupted_by(&error)),
        }
    }

    fn interrupted_by(&self, error: &StoreError) -> Outcome {
        let why = error.to_string();
        #[cfg(feature = "test-jobs")]
        if crate::switches::off("interruptions") {
            return Outcome::Failed(Failure::again(why));
        }
        match error.policy() {
            store::Policy::Fail => Outcome::Failed(Failure::again(why)),
            store::Policy::Yield => Outcome::Lost(why),
            store::Policy::Retry => Outcome::Interrupted(why),
            _ => {
                self.circuit.trip(&why);
                Outcome::Interrupted(why)
            }
        }
    }
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// What the ledger knows the attempt by.
fn identity(execution: &Execution) -> Identity {
    let job = &execution.job;
    Identity {
        queue: execution.queue_name().to_string(),
        job_id: job.id.clone(),
        timestamp_ms: job.timestamp_ms,
        attempts_made: signed(job.attempts_made),
    }
}

impl Processor for Runner {
    fn process(self: Arc<Self>, execution: Arc<Execution>) -> BoxFuture<'static, Outcome> {
        Box::pin(async move { self.run(execution).await })
    }

    fn hold(&self) -> Option<String> {
        self.holds.why()
    }

    fn is_suspected<'a>(&'a self, execution: &'a Execution) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(async move {
            match self.store.suspicions(&identity(execution)).await {
                Ok(suspicions) => Ok(!suspicions.is_empty()),
                Err(error) => {
                    if error.is_unavailable() {
                        self.circuit.trip(&error.to_string());
                    }
                    Err(format!("whether it is suspected is not known: {error}"))
                }
            }
        })
    }
}
