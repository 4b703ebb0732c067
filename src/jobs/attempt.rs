//! One attempt at a job: its handler runs under the lease until it has ended, or must not go on.
//!
//! What ends it early: its deadline, somebody's request, the worker's stop, a lost lease. A failure is another attempt for
//! the ledger, so before a handler that was cut off counts as failed it is made certain that nothing of it is committed,
//! nor will be. Everything else comes back as the same attempt, whose take asks that question anyway.
//!
//! An outage of PostgreSQL ends nothing: the job waits for its end and runs again, in the same attempt.

use super::{
    Handler, JobContext, JobError, Runner,
    apart::{Apart, Ended, Patience},
    ending::release_of,
};
use crate::{
    events,
    queue::{
        Failure, Outcome,
        lease::{Cancelled, Lease},
    },
    store::{self, StoreError},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long it may take to make certain what became of a handler that was cut off.
const SETTLE: Duration = Duration::from_secs(5);
/// The first and the longest pause between two questions.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Why a handler has to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    TimedOut,
    Requested(String),
    Interrupted,
    LeaseLost,
}

impl Cause {
    /// A drain hands back within two seconds, and a lost lease has four until the lock passes on. Who cancels wants to see
    /// it happen. A deadline has time.
    fn patience(&self) -> Patience {
        let (own_end, react) = match self {
            Cause::TimedOut => (2000, 250),
            Cause::Requested(_) => (200, 2000),
            Cause::Interrupted | Cause::LeaseLost => (100, 250),
        };
        Patience { own_end: Duration::from_millis(own_end), react: Duration::from_millis(react) }
    }
}

/// Whose tick it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// The job belongs to no tick that is run once.
    NoTick,
    /// This job's.
    Claimed,
    /// Another job has it.
    Others,
}

/// What one run of the handler came to.
enum Turn {
    /// The attempt is over.
    Over(Outcome),
    /// PostgreSQL is away, and why.
    Away(String),
}

/// What became of an attempt that was cut off.
enum Fate {
    Committed(serde_json::Value),
    Failed,
    Lost,
}

/// One attempt.
pub(super) struct Attempt<'a> {
    runner: &'a Runner,
    handler: Arc<dyn Handler>,
    context: Arc<JobContext>,
    claim: Claim,
    limit: Duration,
    deadline: Instant,
}

impl<'a> Attempt<'a> {
    /// Its time begins now.
    pub(super) fn new(runner: &'a Runner, handler: Arc<dyn Handler>, context: JobContext, claim: Claim) -> Attempt<'a> {
        let limit = runner.timeouts.of(&context.execution.job.name);
        #[cfg(feature = "test-jobs")]
        let limit = if crate::switches::off("timeouts") { Duration::from_secs(86_400) } else { limit };
        Attempt { runner, handler, context: Arc::new(context), claim, limit, deadline: Instant::now() + limit }
    }

    /// Runs the handler, again after each outage of PostgreSQL.
    pub(super) async fn run(self) -> Outcome {
        let _listed = self.runner.running.enter(self.context.lease.epoch, &self.context.execution.lease);
        loop {
            let why = match self.turn().await {
                Turn::Over(outcome) => return outcome,
                Turn::Away(why) => why,
            };
            self.runner.circuit.trip(&why);
            tokio::select! {
                () = self.runner.circuit.closed() => {}
                cause = self.must_stop() => return match cause {
                    Cause::TimedOut => Outcome::Interrupted(why),
                    cause => self.ended_by(&cause, false),
                },
            }
            tracing::info!("the job goes on, in the same attempt");
        }
    }

    async fn turn(&self) -> Turn {
        if self.claim == Claim::Others {
            let why = "another job has run this tick";
            tracing::info!(message_id = events::TICK_SKIPPED, "not run: {why}");
            return self.ended(Ended::Returned(Ok(json!({ "skipped": why })))).await;
        }
        let mut apart = Apart::start(Arc::clone(&self.handler), &self.context, &self.runner.threads);
        let cause = tokio::select! {
            ended = apart.ended() => return self.ended(ended).await,
            cause = self.must_stop() => cause,
        };
        if cause == Cause::TimedOut {
            tracing::warn!("it has run for {} s, longer than it may, and is told to stop", self.limit.as_secs());
        }
        self.context.cancellation.cancel();
        let ended = apart.stop(cause.patience()).await;
        Turn::Over(self.stopped(&cause, ended).await)
    }

    /// Waits until the handler has to stop.
    async fn must_stop(&self) -> Cause {
        tokio::select! {
            why = self.lease().cancelled() => match why {
                Cancelled::LeaseLost => Cause::LeaseLost,
                Cancelled::Interrupted => Cause::Interrupted,
                Cancelled::Requested => Cause::Requested(self.lease().request().unwrap_or_default().to_string()),
            },
            () = tokio::time::sleep_until(self.deadline) => Cause::TimedOut,
        }
    }

    fn lease(&self) -> &Lease {
        &self.context.execution.lease
    }

    /// The handler has ended, and nobody had told it to.
    async fn ended(&self, ended: Ended) -> Turn {
        if let Some(outcome) = self.committed_before(&ended) {
            return Turn::Over(outcome);
        }
        let ended = match ended {
            Ended::Returned(Ok(value)) => Ended::Returned(self.settle(value).await),
            other => other,
        };
        Turn::Over(match ended {
            Ended::Returned(Ok(value)) => self.completed(value),
            Ended::Returned(Err(error)) => match error {
                JobError::Retry(reason) => Outcome::Failed(Failure::again(reason)),
                JobError::Fail(reason) => Outcome::Failed(Failure::for_good(reason)),
                JobError::LeaseLost(why) => Outcome::Lost(why),
                JobError::Interrupted(why) => Outcome::Interrupted(why),
                #[cfg(feature = "test-jobs")]
                JobError::Unavailable(why) if crate::switches::off("interruptions") => {
                    Outcome::Failed(Failure::again(why))
                }
                JobError::Unavailable(why) => return Turn::Away(why),
                JobError::CommitUnknown(why) => return self.ask_what_became(why).await,
            },
            Ended::Panicked(panic) => Outcome::Failed(Failure::from(panic)),
            Ended::Dropped | Ended::GivenUp => Outcome::Interrupted("the worker ends".into()),
        })
    }

    /// The handler was told to stop, and has ended in some way.
    async fn stopped(&self, cause: &Cause, ended: Ended) -> Outcome {
        if let Some(outcome) = self.committed_before(&ended) {
            return outcome;
        }
        let requested = matches!(cause, Cause::Requested(_));
        match ended {
            // Too late to stop it.
            Ended::Returned(Ok(value)) => match self.settle(value).await {
                Ok(value) => self.completed(value),
                Err(_) => self.cut_off(cause, false).await,
            },
            Ended::Returned(Err(JobError::LeaseLost(why))) => Outcome::Lost(why),
            // Not the job's fault that it took so long.
            Ended::Returned(Err(JobError::Unavailable(why))) if *cause == Cause::TimedOut => {
                self.runner.circuit.trip(&why);
                Outcome::Interrupted(why)
            }
            Ended::Returned(Err(JobError::Fail(reason))) if !requested => Outcome::Failed(Failure::for_good(reason)),
            Ended::Panicked(panic) if !requested => Outcome::Failed(Failure::from(panic)),
            Ended::Returned(Err(JobError::CommitUnknown(_))) | Ended::Dropped => self.cut_off(cause, false).await,
            Ended::GivenUp => {
                tracing::error!("its handler does not react: its thread is given up");
                self.cut_off(cause, true).await
            }
            Ended::Returned(Err(_)) | Ended::Panicked(_) => self.ended_by(cause, false),
        }
    }

    /// Commits the value where a wake-up or a tick is to end with it.
    async fn settle(&self, value: serde_json::Value) -> Result<serde_json::Value, JobError> {
        self.context.settle(value, self.claim == Claim::Claimed).await
    }

    /// Once the result is committed the job has completed, whatever its handler did afterwards: another attempt would do
    /// it a second time.
    fn committed_before(&self, ended: &Ended) -> Option<Outcome> {
        let value = self.context.committed.get()?;
        let afterwards = match ended {
            Ended::Returned(Ok(_)) => None,
            Ended::Returned(Err(error)) => Some(error.to_string()),
            Ended::Panicked(panic) => Some(format!("panic: {}", panic.message)),
            Ended::Dropped => Some("it was cut off".to_string()),
            Ended::GivenUp => Some("it did not react, and its thread is given up".to_string()),
        };
        if let Some(what) = afterwards {
            tracing::warn!("its result was committed before this, and stays: {what}");
        }
        self.runner.circuit.well();
        Some(self.committed(value.clone()))
    }

    /// A handler's value, perhaps committed by [`Attempt::settle`].
    fn completed(&self, value: serde_json::Value) -> Outcome {
        self.runner.circuit.well();
        let committed = self.context.committed.get().is_some();
        Outcome::Completed { value, epoch: committed.then_some(self.context.lease.epoch.0) }
    }

    /// The outcome where nothing of the attempt is committed.
    fn ended_by(&self, cause: &Cause, given_up: bool) -> Outcome {
        let failure = self.failure(cause, given_up);
        match cause {
            Cause::TimedOut => {
                tracing::warn!(message_id = events::JOB_TIMED_OUT, "{}", failure.reason);
                Outcome::Failed(failure)
            }
            Cause::Requested(_) => {
                tracing::warn!(message_id = events::JOB_CANCELLED, "{}", failure.reason);
                Outcome::Failed(failure)
            }
            Cause::Interrupted => Outcome::Interrupted(failure.reason),
            Cause::LeaseLost => Outcome::Lost(failure.reason),
        }
    }

    /// Why the attempt came to nothing, and whether another one may help.
    fn failure(&self, cause: &Cause, given_up: bool) -> Failure {
        let unmoved = if given_up { " and did not react: its thread was given up" } else { "" };
        match cause {
            Cause::TimedOut => Failure::again(format!("timed out after {} s{unmoved}", self.limit.as_secs())),
            Cause::Requested(why) => {
                Failure::for_good(format!("cancelled: {why}{}", if given_up { "; it did not react" } else { "" }))
            }
            Cause::Interrupted => Failure::again(format!("the worker stops{}", unmoved.replace(" and", ", it"))),
            Cause::LeaseLost => Failure::again("the lease was lost"),
        }
    }

    /// The handler was cut off in the middle of something, perhaps of a commit.
    async fn cut_off(&self, cause: &Cause, given_up: bool) -> Outcome {
        if matches!(cause, Cause::Interrupted | Cause::LeaseLost) {
            return self.ended_by(cause, given_up);
        }
        match tokio::time::timeout(SETTLE, self.make_certain(&self.failure(cause, given_up))).await {
            Ok(Fate::Failed) => self.ended_by(cause, given_up),
            Ok(Fate::Committed(value)) => self.committed(value),
            Ok(Fate::Lost) => Outcome::Lost(OUTRANKED.into()),
            Err(_) => Outcome::Lost("it was cut off, and PostgreSQL does not say what became of it".into()),
        }
    }

    fn committed(&self, value: serde_json::Value) -> Outcome {
        Outcome::Completed { value, epoch: Some(self.context.lease.epoch.0) }
    }

    async fn make_certain(&self, failure: &Failure) -> Fate {
        let mut pause = PAUSES.0;
        loop {
            match self.fate(failure).await {
                Ok(fate) => return fate,
                Err(error) if error.is_unavailable() => self.runner.circuit.trip(&error.to_string()),
                Err(error) => tracing::warn!("the ledger does not say what became of the attempt: {error}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// What became of the attempt. Where it is neither committed nor lost it is ended in the ledger, so that nothing can be
    /// committed any more; its wake-up has failed only where no other attempt follows.
    async fn fate(&self, failure: &Failure) -> Result<Fate, StoreError> {
        let (store, lease) = (&self.runner.store, &self.context.lease);
        let how = release_of(&self.context.execution.job, failure);
        let mut released = false;
        loop {
            match store.outcome(lease).await? {
                store::Outcome::Committed(value) => return Ok(Fate::Committed(value)),
                store::Outcome::Lost => return Ok(Fate::Lost),
                // Released now, or before by a call whose answer was lost.
                store::Outcome::NotCommitted if released => return Ok(Fate::Failed),
                store::Outcome::NotCommitted => {
                    if store.release_because(lease, how, Some(&failure.reason)).await? {
                        return Ok(Fate::Failed);
                    }
                    released = true;
                }
            }
        }
    }

    /// A commit whose answer was lost: the ledger knows whether the job is done.
    async fn ask_what_became(&self, why: String) -> Turn {
        let ask = async {
            let mut pause = PAUSES.0;
            loop {
                match self.runner.store.outcome(&self.context.lease).await {
                    Ok(store::Outcome::Committed(value)) => return Turn::Over(self.committed(value)),
                    Ok(store::Outcome::NotCommitted) => return Turn::Away(why.clone()),
                    Ok(store::Outcome::Lost) => return Turn::Over(Outcome::Lost(OUTRANKED.into())),
                    Err(error) if error.is_unavailable() => self.runner.circuit.trip(&error.to_string()),
                    // The next attempt's take asks the same question.
                    Err(error) => return Turn::Over(Outcome::Interrupted(error.to_string())),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        };
        tokio::select! {
            turn = ask => turn,
            cause = self.must_stop() => Turn::Over(match cause {
                Cause::TimedOut => Outcome::Interrupted(why.clone()),
                cause => self.cut_off(&cause, false).await,
            }),
        }
    }
}

const OUTRANKED: &str = "another attempt has taken the job";
