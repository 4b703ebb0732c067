//! While PostgreSQL is down, or takes no writes, nothing is fetched: the first failure opens the circuit, an answered
//! probe closes it.
//!
//! A probe can succeed where the next job fails again (a full disk has room for a small write). So each opening lasts
//! longer than the one before, until a job has gone well.

use super::{
    Runner,
    holds::{Cause, Holds},
};
use crate::{events, store::Store};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// The first opening lasts at least this long.
const SHORTEST: Duration = Duration::from_millis(50);
/// No opening lasts longer than this once the probe is answered.
const LONGEST: Duration = Duration::from_secs(10);
/// The longest pause between two probes.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

impl Runner {
    /// Something beside the jobs found that PostgreSQL is not available: none is fetched until it is.
    pub fn database_is_away(&self, why: &str) {
        self.circuit.trip(why);
    }
}

/// The circuit in front of PostgreSQL.
pub(super) struct Circuit {
    store: Store,
    holds: Arc<Holds>,
    open: watch::Sender<bool>,
    openings: AtomicU32,
}

impl Circuit {
    pub(super) fn new(store: Store, holds: Arc<Holds>) -> Arc<Circuit> {
        Arc::new(Circuit { store, holds, open: watch::Sender::new(false), openings: AtomicU32::new(0) })
    }

    /// Waits until it is closed.
    pub(super) async fn closed(&self) {
        // The sender lives as long as we do.
        let _ = self.open.subscribe().wait_for(|open| !open).await;
    }

    /// A job went well.
    pub(super) fn well(&self) {
        self.openings.store(0, Ordering::Relaxed);
    }

    /// Something failed because the database is not available: hold until it takes writes again.
    pub(super) fn trip(self: &Arc<Self>, why: &str) {
        if self.open.send_replace(true) {
            return;
        }
        tracing::error!(
            message_id = events::DEPENDENCY_DOWN,
            "no job is fetched until PostgreSQL is well again: {why}"
        );
        self.holds.set(Cause::Database, Some(why.to_string()));
        let openings = self.openings.fetch_add(1, Ordering::Relaxed).min(10);
        let at_least = SHORTEST.saturating_mul(1 << openings).min(LONGEST);
        tokio::spawn(Arc::clone(self).probe(at_least));
    }

    async fn probe(self: Arc<Self>, at_least: Duration) {
        tokio::time::sleep(at_least.mul_f64(rand::random_range(0.5..=1.0))).await;
        let mut pause = SHORTEST;
        loop {
            match self.takes_writes().await {
                Ok(()) => break,
                Err(why) => self.holds.set(Cause::Database, Some(why)),
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            pause = (pause * 2).min(PROBE_PAUSE);
        }
        tracing::info!(message_id = events::DEPENDENCY_UP, "PostgreSQL is well again: jobs are fetched");
        self.holds.set(Cause::Database, None);
        self.open.send_replace(false);
    }

    /// A sequence is the smallest thing to write: a standby, or a server set to read only, refuses it.
    async fn takes_writes(&self) -> Result<(), String> {
        let client = self.store.client().await.map_err(|error| error.to_string())?;
        client.query_one("SELECT nextval('job_epoch')", &[]).await.map(|_| ()).map_err(|error| error.to_string())
    }
}
