//! Runs a fetched job: its handler by name, its epoch from the ledger, its outcome from what the handler did.

use super::{Handler, JobContext, JobError, circuit::Circuit, registry::Registry};
use crate::{
    events,
    queue::{BoxFuture, Execution, Failure, Job, Outcome, Processor, lease::Cancelled, panics},
    store::{self, Epoch, Identity, Start, Store, StoreError, Take, suspicion},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// How often a question to a dependency that is away is asked again within one job before the job is handed back.
const ASK_AGAIN: u32 = 3;

/// How long a cancelled handler may take to come to its own end.
const GRACE: Duration = Duration::from_millis(100);

/// The worker's processor of jobs.
pub struct Runner {
    registry: Registry,
    pub(super) store: Store,
    circuit: Arc<Circuit>,
    instance: Arc<str>,
    invocation: Uuid,
}

impl Runner {
    /// A runner for one process life.
    pub fn new(registry: Registry, store: Store, instance: &str, invocation: Uuid) -> Runner {
        Runner { circuit: Circuit::new(store.clone()), registry, store, instance: instance.into(), invocation }
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
        let lease = match self.take(&execution).await {
            Ok(Take::Taken(lease)) => lease,
            Ok(Take::Committed { epoch, value }) => {
                tracing::warn!("its result was committed and not acknowledged: acknowledged now, not run again");
                return Outcome::Completed { value, epoch: Some(epoch.0) };
            }
            Ok(Take::Done) => {
                tracing::info!("a wake-up that was done before: completed, not run again");
                return Outcome::Completed { value: json!({ "skipped": "done before" }), epoch: None };
            }
            Ok(Take::Quarantined { identity }) => return self.quarantine(&identity).await,
            Ok(Take::Outranked) => return Outcome::Lost("a later attempt has taken the job".into()),
            Err(error) => return self.interrupted_by(&error),
        };
        let (held, ended) = (lease.clone(), Arc::clone(&execution));
        // Caught here, so that the ledger learns of a panic too.
        let outcome = match panics::catch(self.run_under(lease, handler.as_ref(), data, execution)).await {
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
        handler: &dyn Handler,
        data: Value,
        execution: Arc<Execution>,
    ) -> Outcome {
        if let Err(outcome) = self.confirm(&execution).await {
            return outcome;
        }
        let claim = match self.claim_tick(handler, &execution.job, &lease).await {
            Ok(claim) => claim,
            Err(outcome) => return outcome,
        };
        let context = JobContext {
            data,
            store: self.store.clone(),
            lease,
            instance: Arc::clone(&self.instance),
            execution,
            committed: AtomicBool::new(false),
        };
        self.handle(handler, &context, claim).await
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
        self.note_quarantined(job).await;
        Outcome::Failed(Failure::for_good(reason))
    }

    async fn take(&self, execution: &Execution) -> Result<Take, StoreError> {
        let job = &execution.job;
        let signed = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        let identity = Identity {
            queue: execution.queue_name().to_string(),
            job_id: job.id.clone(),
            timestamp_ms: job.timestamp_ms,
            attempts_made: signed(job.attempts_made),
        };
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

    async fn handle(&self, handler: &dyn Handler, context: &JobContext, claim: Claim) -> Outcome {
        let epoch = context.lease.epoch.0;
        let result = if claim == Claim::Others {
            let why = "another job has run this tick";
            tracing::info!(message_id = events::TICK_SKIPPED, "not run: {why}");
            Ok(json!({ "skipped": why }))
        } else {
            run_until_cancelled(handler, context).await
        };
        let result = match result {
            Ok(value) => context.settle(value, claim == Claim::Claimed).await,
            error => error,
        };
        if result.is_ok() {
            self.circuit.well();
        }
        let committed = context.committed.load(Ordering::Acquire).then_some(epoch);
        match result {
            Ok(value) => Outcome::Completed { value, epoch: committed },
            Err(JobError::Retry(reason)) => Outcome::Failed(Failure::again(reason)),
            Err(JobError::Fail(reason)) => Outcome::Failed(Failure::for_good(reason)),
            Err(JobError::LeaseLost(why)) => Outcome::Lost(why),
            Err(JobError::Interrupted(why)) => Outcome::Interrupted(why),
            Err(JobError::Unavailable(why)) => {
                self.circuit.trip(&why);
                Outcome::Interrupted(why)
            }
            Err(JobError::CommitUnknown(why)) => self.ask_what_became(context, &why).await,
        }
    }

    /// A commit whose answer was lost: the ledger knows whether the job is done.
    async fn ask_what_became(&self, context: &JobContext, why: &str) -> Outcome {
        let epoch = context.lease.epoch.0;
        let mut pause = Duration::from_millis(50);
        loop {
            match self.store.outcome(&context.lease).await {
                Ok(store::Outcome::Committed(value)) => return Outcome::Completed { value, epoch: Some(epoch) },
                Ok(store::Outcome::NotCommitted) => return Outcome::Interrupted(why.to_string()),
                Ok(store::Outcome::Lost) => return Outcome::Lost("another attempt has taken the job".into()),
                Err(error) if error.is_unavailable() && !context.cancellation().is_cancelled() => {
                    self.circuit.trip(&error.to_string());
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                // The next attempt's take asks the same question.
                Err(error) => return Outcome::Interrupted(error.to_string()),
            }
        }
    }

    fn interrupted_by(&self, error: &StoreError) -> Outcome {
        let why = error.to_string();
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

/// Whose tick it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// The job belongs to no tick that is run once.
    NoTick,
    /// This job's.
    Claimed,
    /// Another job has it.
    Others,
}

/// Runs a handler; when it is cancelled it may end by itself for a moment, and is dropped then.
async fn run_until_cancelled(handler: &dyn Handler, context: &JobContext) -> Result<Value, JobError> {
    let running = handler.run(context);
    tokio::pin!(running);
    let why = tokio::select! {
        result = &mut running => return result,
        why = context.cancelled() => why,
    };
    match tokio::time::timeout(GRACE, running).await {
        Ok(result) => result,
        Err(_) => Err(match why {
            Cancelled::LeaseLost => JobError::LeaseLost("the lease was lost".into()),
            Cancelled::Interrupted => JobError::Interrupted("the worker stops".into()),
        }),
    }
}

impl Processor for Runner {
    fn process(self: Arc<Self>, execution: Arc<Execution>) -> BoxFuture<'static, Outcome> {
        Box::pin(async move { self.run(execution).await })
    }

    fn hold(&self) -> Option<String> {
        self.circuit.open()
    }
}
