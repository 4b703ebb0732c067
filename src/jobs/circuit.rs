//! While PostgreSQL is down, or takes no writes, nothing is fetched: the first failure opens the circuit, an answered
//! probe closes it.
//!
//! A probe can succeed where the next job fails again (a full disk has room for a small write). So each opening lasts
//! longer than the one before, until a job has gone well.

use crate::{events, store::Store};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The first opening lasts at least this long.
const SHORTEST: Duration = Duration::from_millis(50);
/// No opening lasts longer than this once the probe is answered.
const LONGEST: Duration = Duration::from_secs(10);
/// The longest pause between two probes.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// The circuit in front of PostgreSQL.
pub(super) struct Circuit {
    store: Store,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<String>,
    openings: u32,
}

impl Circuit {
    pub(super) fn new(store: Store) -> Arc<Circuit> {
        Arc::new(Circuit { store, state: Mutex::default() })
    }

    /// Why nothing may be fetched, if so.
    pub(super) fn open(&self) -> Option<String> {
        self.state().open.clone()
    }

    /// A job went well.
    pub(super) fn well(&self) {
        self.state().openings = 0;
    }

    /// Something failed because the database is not available: hold until it takes writes again.
    pub(super) fn trip(self: &Arc<Self>, why: &str) {
        let mut state = self.state();
        if state.open.is_some() {
            return;
        }
        tracing::error!(
            message_id = events::DEPENDENCY_DOWN,
            "no job is fetched until PostgreSQL is well again: {why}"
        );
        state.open = Some(why.to_string());
        let at_least = SHORTEST.saturating_mul(1 << state.openings.min(10)).min(LONGEST);
        state.openings = state.openings.saturating_add(1);
        tokio::spawn(Arc::clone(self).probe(at_least));
    }

    async fn probe(self: Arc<Self>, at_least: Duration) {
        tokio::time::sleep(at_least.mul_f64(rand::random_range(0.5..=1.0))).await;
        let mut pause = SHORTEST;
        loop {
            match self.takes_writes().await {
                Ok(()) => break,
                Err(why) => self.state().open = Some(why),
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            pause = (pause * 2).min(PROBE_PAUSE);
        }
        self.state().open = None;
        tracing::info!(message_id = events::DEPENDENCY_UP, "PostgreSQL is well again: jobs are fetched");
    }

    /// A sequence is the smallest thing to write: a standby, or a server set to read only, refuses it.
    async fn takes_writes(&self) -> Result<(), String> {
        let client = self.store.client().await.map_err(|error| error.to_string())?;
        client.query_one("SELECT nextval('job_epoch')", &[]).await.map(|_| ()).map_err(|error| error.to_string())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
