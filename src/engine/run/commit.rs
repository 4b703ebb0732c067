//! The commit of what a step came to, and where the run is then.

use super::{
    Arrived, Stop, Work,
    settle::{self, Verdict},
    state::{State, begun},
    tell,
    visit::EffectError,
};
use crate::{
    events,
    store::{
        Policy, StoreError,
        run::{Change, Commit, CommitOutcome, RunStatus, StepStatus, TakenStep, commit_in},
    },
};
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::time::Instant;

/// For how long a result is held while PostgreSQL is away, before the job gives up and does the step again: a call to another
/// system is not repeated because of a restart of the database.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first and the longest pause between two tries to commit.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How one try to commit ended.
enum Try {
    Made(Commit),
    /// It was committed, and the answer was lost.
    MadeBefore,
    /// What the step wanted to write is refused.
    Refused(String),
    /// Another try may go better.
    Later(StoreError),
}

/// Commits a verdict, and moves the state to where the run is then. A try whose answer was lost is looked into and asked
/// again, without being made twice.
pub async fn commit(work: &Work<'_>, state: &mut State, mut verdict: Verdict) -> Result<Arrived, Stop> {
    let limit = Instant::now() + PATIENCE;
    let mut pause = PAUSES.0;
    loop {
        match try_once(work, state, &verdict).await? {
            Try::Made(commit) => return Ok(arrived(state, verdict.change, &commit)),
            Try::MadeBefore => return reload(work, state).await,
            Try::Refused(why) => verdict = settle::refused(state, verdict, why)?,
            Try::Later(error) if Instant::now() >= limit => return Err(error.into()),
            Try::Later(error) => {
                tracing::debug!("the step is not committed yet: {error}");
                tokio::select! {
                    () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))) => {}
                    () = work.cancellation.cancelled() => {
                        return Err(Stop::Interrupted("the worker stops while PostgreSQL is away"));
                    }
                }
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

async fn try_once(work: &Work<'_>, state: &State, verdict: &Verdict) -> Result<Try, Stop> {
    let change = serde_json::to_value(&verdict.change).unwrap_or_default();
    let answer = if verdict.effects.is_empty() {
        work.store.commit_step(work.lease, state.run, &change).await.map_err(EffectError::Store)
    } else {
        with_effects(work, state, verdict, &change).await
    };
    let error = match answer {
        Ok(commit) => return Ok(Try::Made(commit)),
        Err(EffectError::Refused(why)) => return Ok(Try::Refused(why)),
        Err(EffectError::Store(error)) => error,
    };
    if let StoreError::CommitUnknown { transaction, .. } = &error {
        return Ok(match work.store.transaction_committed(work.lease, transaction).await {
            Ok(true) => Try::MadeBefore,
            Ok(false) => Try::Later(error),
            // Nothing else answers the question, so whoever takes the job next begins from what is committed.
            Err(_) => return Err(error.into()),
        });
    }
    match error.policy() {
        Policy::Wait | Policy::Retry => Ok(Try::Later(error)),
        Policy::Fail if is_about_data(&error) => Ok(Try::Refused(error.to_string())),
        _ => Err(error.into()),
    }
}

/// The effects and the change in one transaction, the change last: it ends with the fence.
async fn with_effects(
    work: &Work<'_>,
    state: &State,
    verdict: &Verdict,
    change: &Value,
) -> Result<Commit, EffectError> {
    let transaction = work.store.begin(work.lease).await?;
    for effect in &verdict.effects {
        if let Err(error) = effect.apply(&transaction).await {
            transaction.rollback().await;
            return Err(error);
        }
    }
    match commit_in(&transaction, state.run, change).await {
        Ok(commit) if matches!(commit.outcome, CommitOutcome::Committed | CommitOutcome::Woken) => {
            transaction.commit().await?;
            Ok(commit)
        }
        // Nothing was changed, so nothing else may be.
        answer => {
            transaction.rollback().await;
            Ok(answer?)
        }
    }
}

/// The database refuses values, not the statement: data exceptions, violated constraints, limits.
fn is_about_data(error: &StoreError) -> bool {
    matches!(error, StoreError::Query { code, .. } if ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

/// The answer to a commit was lost: the database knows where the run is.
async fn reload(work: &Work<'_>, state: &mut State) -> Result<Arrived, Stop> {
    match work.store.take_run(work.lease, state.run, None).await? {
        Ok(taken) => {
            *state = State::of(taken, std::sync::Arc::clone(&state.plan));
            Ok(Arrived::On)
        }
        Err(untaken) => Ok(Arrived::At(untaken.word())),
    }
}

fn arrived(state: &mut State, change: Change, commit: &Commit) -> Arrived {
    match commit.outcome {
        CommitOutcome::Ended => return Arrived::At("ended"),
        CommitOutcome::Moved => return Arrived::At("moved"),
        CommitOutcome::Overtaken => {
            state.told(commit);
            return Arrived::On;
        }
        CommitOutcome::Committed | CommitOutcome::Woken => {}
    }
    tell_step(&change);
    if let Some(next) = &change.next {
        let at = begun(&next.id, commit);
        state.moved(change.set, at, commit);
        return Arrived::On;
    }
    if commit.outcome == CommitOutcome::Woken {
        let step = change.step;
        let before = state.at.take();
        let (result, started_at) = before.map_or((None, commit.at), |at| (at.result, at.started_at));
        let at = TakenStep {
            id: step.id,
            visit: step.visit,
            attempt: step.attempt,
            status: step.status,
            result: step.result.or(result),
            started_at,
            due_at: step.due,
        };
        state.moved(Map::new(), at, commit);
        return Arrived::On;
    }
    let reason = change.run.reason.as_deref().unwrap_or_default();
    match change.run.status {
        RunStatus::Completed => {
            tell(events::RUN_COMPLETED, "run completed");
            Arrived::At("completed")
        }
        RunStatus::Failed => {
            tell(events::RUN_FAILED, &format!("run failed: {reason}"));
            Arrived::At("failed")
        }
        RunStatus::Cancelled => {
            tell(events::RUN_CANCELLED, &format!("run cancelled: {reason}"));
            Arrived::At("cancelled")
        }
        RunStatus::Running | RunStatus::Waiting => Arrived::At("waiting"),
    }
}

fn tell_step(change: &Change) {
    let step = &change.step;
    let (id, kind) = (&step.id, &step.kind);
    match (step.status, &step.reason) {
        (StepStatus::Failed, Some(why)) => {
            tracing::warn!(message_id = events::STEP_FAILED, floh_step_id = %id, "{kind} failed: {why}");
        }
        (StepStatus::Pending, Some(why)) => {
            tracing::warn!(message_id = events::STEP_RETRIED, floh_step_id = %id, "{kind} is tried again: {why}");
        }
        (StepStatus::WaitingApproval | StepStatus::WaitingResponse, _) => {
            tracing::info!(message_id = events::RUN_WAITING, floh_step_id = %id, "{kind} waits");
        }
        (StepStatus::Completed, _) => {
            let outcome = step.outcome.as_deref().unwrap_or("the end");
            tracing::info!(message_id = events::STEP_COMPLETED, floh_step_id = %id, "{kind}: {outcome}");
        }
        _ => {}
    }
}
