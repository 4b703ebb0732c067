//! Where a run is: the step that it is at, its variables, and what time it is.

use super::plan::Plan;
use crate::store::run::{Commit, StepStatus, TakenRun, TakenStep};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::Instant};
use uuid::Uuid;

/// The database's time, read off our own steady clock from the last time that the database told.
pub struct Clock {
    told: DateTime<Utc>,
    at: Instant,
}

impl Clock {
    /// The database has told its time just now.
    #[must_use]
    pub fn told(now: DateTime<Utc>) -> Clock {
        Clock { told: now, at: Instant::now() }
    }

    /// Its time now.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.told + self.at.elapsed()
    }
}

/// The run in our hands.
pub struct State {
    /// Its id.
    pub run: Uuid,
    /// Its definition.
    pub plan: Arc<Plan>,
    /// Its variables, as they are committed, with those that every run has.
    pub variables: Map<String, Value>,
    /// Whether connectors are not called.
    pub use_mocks: bool,
    /// Who started it.
    pub submitter_id: Option<String>,
    /// Somebody wants it cancelled, and why.
    pub cancel_reason: Option<String>,
    /// The step that it is at; none before it has begun.
    pub at: Option<TakenStep>,
    /// The database's time.
    pub clock: Clock,
    /// Visits of steps so far.
    pub steps: i32,
    /// The number of the last wake-up before the step was looked at.
    pub seen: i64,
}

impl State {
    /// Of a run that was taken just now.
    #[must_use]
    pub fn of(taken: TakenRun, plan: Arc<Plan>) -> State {
        let mut variables = taken.variables;
        let (name, version) = (&plan.name, plan.version);
        variables.insert(
            "run".into(),
            json!({"id": taken.id, "definition": name, "version": version, "createdAt": taken.created_at}),
        );
        State {
            run: taken.id,
            plan,
            variables,
            use_mocks: taken.use_mocks,
            submitter_id: taken.submitter_id,
            cancel_reason: taken.cancel_reason,
            at: taken.step,
            clock: Clock::told(taken.taken_at),
            steps: taken.steps,
            seen: taken.wake_seq,
        }
    }

    /// After a commit that leads to another step, or to the same one, which something has woken.
    pub fn moved(&mut self, set: Map<String, Value>, at: TakenStep, commit: &Commit) {
        self.variables.extend(set);
        self.at = Some(at);
        self.steps = self.steps.saturating_add(1);
        self.told(commit);
    }

    /// What a commit says beside its outcome.
    pub fn told(&mut self, commit: &Commit) {
        self.clock = Clock::told(commit.at);
        self.seen = commit.wake_seq;
        self.cancel_reason.clone_from(&commit.cancel_reason);
    }
}

/// A step that begins now.
#[must_use]
pub fn begun(id: &str, commit: &Commit) -> TakenStep {
    TakenStep {
        id: id.to_string(),
        visit: commit.next_visit.unwrap_or(1),
        attempt: 1,
        status: StepStatus::Running,
        result: None,
        started_at: commit.at,
        due_at: None,
    }
}
