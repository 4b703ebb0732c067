//! One visit of a step is executed, within its time.

use super::{
    Tools, Work,
    state::State,
    visit::{Ending, Visit},
};
use crate::store::{
    StoreError,
    run::{StepStatus, TakenStep},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Map;
use std::time::Duration;
use tracing::Instrument;

/// Executes the step that the run is at. `None`: the job has to stop, and nothing is to be committed.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn execute(
    tools: &Tools,
    work: &Work<'_>,
    state: &State,
    at: &TakenStep,
) -> Result<Option<Ending>, StoreError> {
    let step = match state.plan.step(&at.id) {
        Ok(step) => step,
        Err(why) => return Ok(Some(Ending::failed(why))),
    };
    let now = state.clock.now();
    if at.status == StepStatus::Pending && at.due_at.is_some_and(|due| due > now) {
        return Ok(Some(pause(at)));
    }
    let limit = step.timeout.and_then(|timeout| at.started_at.checked_add_signed(TimeDelta::from_std(timeout).ok()?));
    let waits = matches!(at.status, StepStatus::WaitingApproval | StepStatus::WaitingResponse);
    // What was answered in time counts, whenever somebody looks.
    let left = match limit {
        Some(limit) if !waits => (limit - now).to_std().unwrap_or_default(),
        _ => Duration::MAX,
    };
    let visit = Visit {
        run: state.run,
        step,
        number: at.visit,
        attempt: at.attempt,
        variables: &state.variables,
        waits,
        result: at.result.as_ref(),
        started_at: at.started_at,
        now,
        use_mocks: state.use_mocks,
        store: work.store,
        tools,
    };
    let span = tracing::error_span!("step", floh_step_id = %step.id);
    let timed_out = || Some(too_long(step.timeout.unwrap_or_default()));
    if left.is_zero() {
        return Ok(timed_out());
    }
    let ending = tokio::select! {
        ending = step.kind.execute(&visit).instrument(span) => ending?,
        () = work.cancellation.cancelled() => return Ok(None),
        () = tokio::time::sleep(left) => return Ok(timed_out()),
    };
    Ok(match ending {
        Ending::Waits { .. } if limit.is_some_and(|limit| limit <= state.clock.now()) => timed_out(),
        Ending::Waits { status, until, result, assignment, effects } => {
            Some(Ending::Waits { status, until: earlier(until, limit), result, assignment, effects })
        }
        other => Some(other),
    })
}

/// Its next try is not due yet: something else has woken the run.
fn pause(at: &TakenStep) -> Ending {
    Ending::Waits { status: StepStatus::Pending, until: at.due_at, result: None, assignment: None, effects: Vec::new() }
}

fn too_long(timeout: Duration) -> Ending {
    Ending::Failed {
        reason: format!("it took longer than its timeout of {} s", timeout.as_secs_f64()),
        outcome: "timeout",
        set: Map::new(),
        result: None,
        passing: false,
        effects: Vec::new(),
    }
}

fn earlier(one: Option<DateTime<Utc>>, other: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
