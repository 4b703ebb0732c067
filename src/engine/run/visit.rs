//! One visit of a step: what its type is told, and what it may answer.

use super::Tools;
use crate::{
    engine::{
        definition::Step,
        template::{self, Budget},
    },
    store::{
        FencedTransaction, Store, StoreError,
        run::{RunStatus, StepStatus},
    },
};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use uuid::Uuid;

/// What a type of step knows of the visit that it executes.
pub struct Visit<'a> {
    /// The run.
    pub run: Uuid,
    /// The step, as the definition has it.
    pub step: &'a Step,
    /// Which visit of the step this is, from 1.
    pub number: i32,
    /// Which try of it, from 1.
    pub attempt: i32,
    /// The run's variables, with `run` and `submitter` among them.
    pub variables: &'a Map<String, Value>,
    /// Whether the step waits already: it has been executed, and its effects are committed.
    pub waits: bool,
    /// What it noted as its result when it began to wait, or when its last try failed.
    pub result: Option<&'a Value>,
    /// When the visit began; or when the run was taken again, where whoever had the running step was gone.
    pub started_at: DateTime<Utc>,
    /// The database's time. Steps compare times with it, never with the host's.
    pub now: DateTime<Utc>,
    /// Whether the run's connectors are not called.
    pub use_mocks: bool,
    /// PostgreSQL, for reading: what a step writes are its effects.
    pub store: &'a Store,
    /// What else steps work with.
    pub tools: &'a Tools,
}

impl Visit<'_> {
    /// The identity of an external call: the same however often the visit is tried.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}/{}", self.run, self.step.id, self.number)
    }

    /// The configuration with its templates filled in; members that are no templates are as they are.
    ///
    /// # Errors
    /// A sentence that names the path that leads nowhere, or the member with which the values become too large together.
    pub fn config(&self) -> Result<Map<String, Value>, String> {
        let plain = self.step.kind.plain();
        let mut budget = Budget::default();
        let filled = self.step.config.iter().map(|(name, value)| {
            let value = if plain.contains(&name.as_str()) {
                value.clone()
            } else {
                template::fill_within(value, self.variables, &mut budget).map_err(|why| format!("`{name}`: {why}"))?
            };
            Ok((name.clone(), value))
        });
        filled.collect()
    }
}

/// What a visit came to.
pub enum Ending {
    /// It is done; an edge leads on.
    Done {
        /// Which edge.
        outcome: String,
        /// The variables that it sets.
        set: Map<String, Value>,
        /// What people may want to see of it.
        result: Option<Value>,
        /// What is committed with it.
        effects: Vec<Box<dyn Effect>>,
    },
    /// It failed: it is tried again, or goes the way of an error.
    Failed {
        /// Why, in a sentence.
        reason: String,
        /// The edge that it would take, `error` or a failure of its own (`expired`, `rejected`).
        outcome: &'static str,
        /// The variables that it sets where an edge for the failure leads on.
        set: Map<String, Value>,
        /// What people, and steps behind an edge for errors, may want to see of it.
        result: Option<Value>,
        /// Whether another try may go better: a machine, a network or another system is not well.
        passing: bool,
        /// What is committed when it has failed for good.
        effects: Vec<Box<dyn Effect>>,
    },
    /// It waits for a person, or for a time.
    Waits {
        /// [`StepStatus::WaitingApproval`] or [`StepStatus::WaitingResponse`].
        status: StepStatus,
        /// When the run is woken if nothing else does it.
        until: Option<DateTime<Utc>>,
        /// What it will want to know then.
        result: Option<Value>,
        /// Who has to do something, in a word (`assignment_state`).
        assignment: Option<String>,
        /// What is committed with it.
        effects: Vec<Box<dyn Effect>>,
    },
    /// The run ends here.
    Ends {
        /// How.
        status: RunStatus,
        /// Why, unless it has completed.
        reason: Option<String>,
    },
}

impl Ending {
    /// Done, by this edge, and nothing else.
    #[must_use]
    pub fn done(outcome: &str) -> Ending {
        Ending::Done { outcome: outcome.to_string(), set: Map::new(), result: None, effects: Vec::new() }
    }

    /// Failed; another try would end the same way.
    #[must_use]
    pub fn failed(reason: impl Into<String>) -> Ending {
        Ending::Failed {
            reason: reason.into(),
            outcome: "error",
            set: Map::new(),
            result: None,
            passing: false,
            effects: Vec::new(),
        }
    }
}

/// Something in PostgreSQL that is committed together with a visit's ending, or not at all. It may be applied again in
/// another transaction, where the one before came to nothing.
pub trait Effect: Send + Sync {
    /// Writes it.
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>>;
}

/// Why an effect could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// The database said so.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it meets does not allow it: the step fails with this sentence.
    #[error("{0}")]
    Refused(String),
}
