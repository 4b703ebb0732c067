//! The run loop: a run is taken for a job and carried on, one step after the other, until it ends, waits, or the job has to
//! stop. What a step came to is committed before the next one starts, so that a crash repeats at most the step that was under
//! way.
//!
//! `state` is where the run is, `begin` its start, `step` one visit of a step, `settle` what it means for the run, and
//! `commit` the commit of that; `plan` is the definition.

mod begin;
mod commit;
mod plan;
mod settle;
mod state;
mod step;
pub mod storable;
mod visit;

pub use begin::misfit;
pub use plan::Plan;
pub use visit::{Effect, EffectError, Ending, Visit};

use crate::{
    config::Config,
    connectors::Connectors,
    events,
    mail::Mailer,
    sandbox::{self, Sandbox},
    store::{Lease, Store, StoreError},
};
use plan::Plans;
use serde_json::{Value, json};
use state::State;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What steps work with, beside PostgreSQL.
#[derive(Default)]
pub struct Tools {
    /// Other systems.
    pub connectors: Connectors,
    /// Where the JavaScript of transforms runs.
    pub sandbox: Sandbox,
    /// The mail server.
    pub mailer: Mailer,
}

impl Tools {
    /// By the settings. Nothing is opened yet.
    #[must_use]
    pub fn new(config: &Config) -> Tools {
        Tools {
            connectors: Connectors::new(&config.connectors),
            sandbox: Sandbox::new(sandbox::OURSELVES.into(), config.worker.concurrency),
            mailer: Mailer::new(&config.mail),
        }
    }
}

/// Executes runs. One per process.
pub struct Engine {
    tools: Tools,
    plans: Plans,
}

/// What a job lends to the run that it carries on.
pub struct Work<'a> {
    /// PostgreSQL.
    pub store: &'a Store,
    /// The job's lease, under which everything is committed.
    pub lease: &'a Lease,
    /// The job must stop now.
    pub cancellation: &'a CancellationToken,
    /// The worker takes no new work: the run goes back at the next boundary between two steps.
    pub draining: &'a CancellationToken,
    /// From then on another job goes on, because this one has its deadline.
    pub hand_on_at: Instant,
    /// Told which step the run is at, for people.
    pub at_step: &'a (dyn Fn(&str) + Send + Sync),
}

/// Why a run did not get to where it waits or ends.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The worker stops: another one goes on.
    #[error("{0}")]
    Interrupted(&'static str),
    /// What PostgreSQL said.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a run got to, for the job's return value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrived {
    /// It has ended, or waits, or somebody else has it: in a word.
    At(&'static str),
    /// It is at another step, or has to look at the same one again.
    On,
}

impl Engine {
    /// With what its steps work with.
    #[must_use]
    pub fn new(tools: Tools) -> Engine {
        Engine { tools, plans: Plans::default() }
    }

    /// Carries a run on. `seq` is the number of the wake-up, where the job is one. Returns what it came to, for people.
    ///
    /// # Errors
    /// The job has to stop, or PostgreSQL does not do what it should; the run is where its last commit left it.
    pub async fn go_on(&self, work: &Work<'_>, run: Uuid, seq: Option<i64>) -> Result<Value, Stop> {
        let taken = match work.store.take_run(work.lease, run, seq).await? {
            Ok(taken) => taken,
            Err(untaken) => {
                tracing::debug!("not taken: {}", untaken.word());
                return Ok(json!({ "runId": run, "skipped": untaken.word() }));
            }
        };
        // The reference to it keeps the row.
        let plan = self.plans.get(work.store, taken.definition_id).await?.ok_or_else(|| StoreError::Query {
            code: "P0002".into(),
            message: format!("the definition {} is gone", taken.definition_id),
            transient: false,
        })?;
        let mut state = State::of(taken, plan);
        let mut steps = 0_u32;
        loop {
            if work.draining.is_cancelled() || work.cancellation.is_cancelled() {
                return Err(Stop::Interrupted("the worker stops between two steps of the run"));
            }
            if Instant::now() >= work.hand_on_at {
                work.store.hand_on_run(work.lease, run).await?;
                tracing::info!("the job has run for long: another one goes on with the run");
                return Ok(json!({ "runId": run, "steps": steps, "status": "handed on" }));
            }
            if let Some(at) = &state.at {
                (work.at_step)(&at.id);
            }
            match self.one_step(work, &mut state).await? {
                Arrived::On => steps += 1,
                Arrived::At(status) => return Ok(json!({ "runId": run, "steps": steps, "status": status })),
            }
        }
    }

    /// Executes one step, or begins the run, and commits what it came to.
    async fn one_step(&self, work: &Work<'_>, state: &mut State) -> Result<Arrived, Stop> {
        if state.cancel_reason.is_none()
            && let Some(verdict) = settle::exhausted(state)
        {
            return commit::commit(work, state, verdict).await;
        }
        let verdict = match (&state.cancel_reason, &state.at) {
            (Some(reason), _) => settle::cancelled(state, reason),
            (None, None) => settle::started(state, begin::begin(work.store, state).await?),
            (None, Some(at)) if state.plan.kind(&at.id) == "start" => {
                settle::started(state, begin::begin(work.store, state).await?)
            }
            (None, Some(at)) => match step::execute(&self.tools, work, state, at).await? {
                Some(ending) => settle::settled(state, at, ending),
                None => return Err(Stop::Interrupted("the worker stops in the middle of a step")),
            },
        };
        commit::commit(work, state, verdict).await
    }

    /// What its steps work with.
    #[must_use]
    pub fn tools(&self) -> &Tools {
        &self.tools
    }
}

/// One line in the journal about where a run got to; the job's span says which run it is.
fn tell(message_id: &'static str, text: &str) {
    match message_id {
        events::RUN_FAILED => tracing::warn!(message_id, "{text}"),
        _ => tracing::info!(message_id, "{text}"),
    }
}
