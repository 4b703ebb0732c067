//! What a visit's ending means for the run, and its commit.

use super::{
    Arrived, Stop, Work, plan,
    state::{State, begun},
    storable, tell,
    visit::{Effect, EffectError, Ending},
};
use crate::{
    engine::{
        definition::{OnError, Retry, Step},
        validate::BUILT_IN,
    },
    events,
    store::{
        Policy, StoreError,
        run::{
            Change, Commit, CommitOutcome, NextStep, RunChange, RunStatus, StepChange, StepStatus, TakenStep, commit_in,
        },
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::time::Instant;

/// For how long a result is held while PostgreSQL is away, before the job gives up and does the step again: a call to another
/// system is not repeated because of a restart of the database.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first and the longest pause between two tries to commit.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The longest pause between two tries of a step.
const LONGEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to be committed.
pub struct Verdict {
    change: Change,
    effects: Vec<Box<dyn Effect>>,
}

/// The run ends because somebody wants it so.
pub fn cancelled(state: &State, reason: &str) -> Verdict {
    let reason = if reason.is_empty() { "cancelled" } else { reason };
    let mut change = change(state, state.at.as_ref(), StepStatus::Cancelled, RunStatus::Cancelled);
    change.run.reason = Some(storable::sentence(reason));
    change.step.reason.clone_from(&change.run.reason);
    Verdict { change, effects: Vec::new() }
}

/// The most visits of steps in a run. A loop that waits for a day at a time gets there in decades; one that a mistake lets go
/// round without waiting, within minutes.
const MOST_VISITS: i32 = 10_000;

/// The run fails because it has gone round for too long; nothing while it has not.
pub fn exhausted(state: &State) -> Option<Verdict> {
    let at = state.at.as_ref().filter(|_| state.steps > MOST_VISITS)?;
    let mut change = change(state, Some(at), StepStatus::Failed, RunStatus::Failed);
    let reason =
        format!("it has made {MOST_VISITS} steps, the most that a run may: does a loop of its definition never wait?");
    change.step.reason = Some(reason.clone());
    change.run.reason = Some(reason);
    Some(Verdict { change, effects: Vec::new() })
}

/// The run begins, or fails because of what it was given.
pub fn started(state: &State, begun: Result<Map<String, Value>, String>) -> Verdict {
    // One that failed at its start begins anew with another visit of it.
    let at = state.at.as_ref();
    let refused = |why: String| {
        let mut change = change(state, at, StepStatus::Failed, RunStatus::Failed);
        change.run.reason = Some(storable::sentence(&format!("the run cannot begin: {why}")));
        change.step.reason.clone_from(&change.run.reason);
        Verdict { change, effects: Vec::new() }
    };
    let start = match state.plan.start() {
        Ok(start) => start,
        Err(why) => return refused(why),
    };
    let set = match begun {
        Ok(set) => set,
        Err(why) => return refused(why),
    };
    if let Some(why) = storable::refusal_of(&set, &state.variables) {
        return refused(why);
    }
    let Some(next) = plan::edge(start, "success") else {
        return refused(format!("no edge leads on from `{}`", start.id));
    };
    let mut change = change(state, at, StepStatus::Completed, RunStatus::Running);
    change.step.outcome = Some("success".into());
    change.set = set;
    change.next = Some(NextStep { id: next.to.clone(), kind: state.plan.kind(&next.to).into() });
    Verdict { change, effects: Vec::new() }
}

/// What a visit came to, as the run sees it.
pub fn settled(state: &State, at: &TakenStep, ending: Ending) -> Verdict {
    match ending {
        Ending::Done { outcome, set, result, effects } => done(state, at, &outcome, set, result, effects),
        Ending::Failed { reason, outcome, set, result, passing, effects } => {
            failed(state, at, Failed { reason, outcome, set, result, passing }, effects)
        }
        Ending::Waits { status, until, result, assignment, effects } => {
            if let Some(why) = result.as_ref().and_then(storable::refusal) {
                return failed(state, at, Failed::because(format!("its result cannot be stored: {why}")), Vec::new());
            }
            let mut change = change(state, Some(at), status, RunStatus::Waiting);
            change.step.result = result;
            change.step.assignment = assignment;
            change.step.due = until;
            Verdict { change, effects }
        }
        Ending::Ends { status, reason } => {
            let mut change = change(state, Some(at), StepStatus::Completed, status);
            change.run.reason = reason.map(|reason| storable::sentence(&reason));
            Verdict { change, effects: Vec::new() }
        }
    }
}

fn done(
    state: &State,
    at: &TakenStep,
    outcome: &str,
    set: Map<String, Value>,
    result: Option<Value>,
    effects: Vec<Box<dyn Effect>>,
) -> Verdict {
    let refused = |why| failed(state, at, Failed::because(why), Vec::new());
    if let Some(why) = refusal_to_set(state, &set) {
        return refused(why);
    }
    if let Some(why) = result.as_ref().and_then(storable::refusal) {
        return refused(format!("its result cannot be stored: {why}"));
    }
    let next = state.plan.step(&at.id).ok().and_then(|step| plan::edge(step, outcome));
    let Some(next) = next else {
        return refused(format!("its outcome `{outcome}` has no edge"));
    };
    let mut change = change(state, Some(at), StepStatus::Completed, RunStatus::Running);
    change.step.outcome = Some(outcome.to_string());
    change.step.result = result;
    change.set = set;
    change.next = Some(NextStep { id: next.to.clone(), kind: state.plan.kind(&next.to).into() });
    Verdict { change, effects }
}

/// Why a step cannot set these variables.
fn refusal_to_set(state: &State, set: &Map<String, Value>) -> Option<String> {
    if let Some(name) = BUILT_IN.iter().find(|name| set.contains_key(**name)) {
        return Some(format!("it sets `{name}`, which every run has and no step can change"));
    }
    storable::refusal_of(set, &state.variables)
}

/// A failure of a visit.
struct Failed {
    reason: String,
    outcome: &'static str,
    set: Map<String, Value>,
    result: Option<Value>,
    passing: bool,
}

impl Failed {
    fn because(reason: String) -> Failed {
        Failed { reason, outcome: "error", set: Map::new(), result: None, passing: false }
    }
}

fn failed(state: &State, at: &TakenStep, failure: Failed, effects: Vec<Box<dyn Effect>>) -> Verdict {
    let step = state.plan.step(&at.id).ok();
    let reason = storable::sentence(&failure.reason);
    if let Some(due) = step.and_then(|step| next_try(state, step, at, &failure)) {
        let mut change = change(state, Some(at), StepStatus::Pending, RunStatus::Waiting);
        change.step.attempt = at.attempt + 1;
        change.step.due = Some(due);
        change.step.reason = Some(reason);
        // The next try may know by it what need not be done again.
        change.step.result = failure.result.filter(|result| storable::refusal(result).is_none());
        return Verdict { change, effects: Vec::new() };
    }
    let own = step.and_then(|step| plan::edge(step, failure.outcome).or_else(|| plan::edge(step, "error")));
    let set = if own.is_some() { failure.set } else { Map::new() };
    if let Some(why) = refusal_to_set(state, &set) {
        return failed(state, at, Failed::because(why), Vec::new());
    }
    let next = own.or_else(|| {
        let step = step.filter(|step| state.plan.on_error(step) == OnError::Continue)?;
        step.kind.carries_on(&step.config).and_then(|outcome| plan::edge(step, &outcome))
    });
    let status = if next.is_some() { RunStatus::Running } else { RunStatus::Failed };
    let mut change = change(state, Some(at), StepStatus::Failed, status);
    change.step.outcome = Some(failure.outcome.to_string());
    change.step.result = failure.result.filter(|result| storable::refusal(result).is_none());
    change.set = set;
    change.next = next.map(|next| NextStep { id: next.to.clone(), kind: state.plan.kind(&next.to).into() });
    if change.next.is_none() {
        change.run.reason = Some(storable::sentence(&format!("step `{}`: {reason}", at.id)));
    }
    change.step.reason = Some(reason);
    Verdict { change, effects }
}

/// When the next try is due, if there is one. What the step says of retries holds for every error; what its type says, for
/// those that may pass. None comes after the step's `timeout`.
fn next_try(state: &State, step: &Step, at: &TakenStep, failure: &Failed) -> Option<DateTime<Utc>> {
    if failure.outcome != "error" {
        return None;
    }
    let Retry { attempts, delay, doubles } = step.retry.or_else(|| step.kind.retry().filter(|_| failure.passing))?;
    let tried = u32::try_from(at.attempt).unwrap_or(u32::MAX);
    if tried >= attempts {
        return None;
    }
    let due = state.clock.now().checked_add_signed(pause(delay, doubles, tried))?;
    let limit = step.timeout.and_then(|timeout| at.started_at.checked_add_signed(TimeDelta::from_std(timeout).ok()?));
    Some(due).filter(|due| limit.is_none_or(|limit| *due < limit))
}

/// The pause after so many tries.
fn pause(delay: Duration, doubles: bool, tried: u32) -> TimeDelta {
    let factor = if doubles { 2_u32.saturating_pow(tried.saturating_sub(1)) } else { 1 };
    TimeDelta::from_std(delay.saturating_mul(factor).min(LONGEST_DELAY)).unwrap_or(TimeDelta::MAX)
}

fn change(state: &State, at: Option<&TakenStep>, step: StepStatus, run: RunStatus) -> Change {
    let (id, visit, attempt) = match at {
        Some(at) => (at.id.clone(), at.visit, at.attempt),
        // It has not begun: its first step is named even where there is none that could be executed.
        None => (state.plan.start().map_or_else(|_| "start".to_string(), |start| start.id.clone()), 1, 1),
    };
    Change {
        step: StepChange {
            kind: if at.is_none() { "start".into() } else { state.plan.kind(&id).into() },
            id,
            visit,
            attempt,
            status: step,
            outcome: None,
            result: None,
            reason: None,
            assignment: None,
            due: None,
        },
        set: Map::new(),
        run: RunChange { status: run, reason: None },
        next: None,
        seen: state.seen,
    }
}

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
            Try::Refused(why) => verdict = refused(state, verdict, why)?,
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

/// The verdict on a step whose effects or values the database refuses: it fails, without them.
fn refused(state: &State, verdict: Verdict, why: String) -> Result<Verdict, Stop> {
    let failed_already = verdict.change.step.status == StepStatus::Failed && verdict.effects.is_empty();
    match &state.at {
        Some(at) if !failed_already => Ok(failed(state, at, Failed::because(why), Vec::new())),
        _ => Err(StoreError::Query { code: "22000".into(), message: why, transient: false }.into()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_the_same_or_double_and_end_at_a_day() {
        let seconds = |doubles, tried| pause(Duration::from_secs(5), doubles, tried).num_seconds();
        assert_eq!([1, 2, 3].map(|tried| seconds(false, tried)), [5, 5, 5]);
        assert_eq!([1, 2, 3].map(|tried| seconds(true, tried)), [5, 10, 20]);
        assert_eq!(seconds(true, 40), 24 * 60 * 60);
    }
}
