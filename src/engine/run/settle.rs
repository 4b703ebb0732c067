//! What a visit's ending means for the run.

use super::{
    Stop, plan,
    state::State,
    storable,
    visit::{Effect, Ending},
};
use crate::{
    engine::{
        definition::{LONGEST_DELAY, OnError, Retry, Step},
        validate::BUILT_IN,
    },
    store::{
        StoreError,
        run::{Change, NextStep, RunChange, RunStatus, StepChange, StepStatus, TakenStep},
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};
use std::time::Duration;

/// What is to be committed.
pub struct Verdict {
    /// What becomes of the step and the run.
    pub change: Change,
    /// What is written with it.
    pub effects: Vec<Box<dyn Effect>>,
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
/// those that may pass. None comes after the step's `timeout`, and none where approvers were asked: what some of them have
/// decided can be neither taken back nor asked again.
fn next_try(state: &State, step: &Step, at: &TakenStep, failure: &Failed) -> Option<DateTime<Utc>> {
    if failure.outcome != "error" || at.status == StepStatus::WaitingApproval {
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

/// The verdict on a step whose effects or values the database refuses: it fails, without them.
pub fn refused(state: &State, verdict: Verdict, why: String) -> Result<Verdict, Stop> {
    let failed_already = verdict.change.step.status == StepStatus::Failed && verdict.effects.is_empty();
    match &state.at {
        Some(at) if !failed_already => Ok(failed(state, at, Failed::because(why), Vec::new())),
        _ => Err(StoreError::Query { code: "22000".into(), message: why, transient: false }.into()),
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
