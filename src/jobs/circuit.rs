//! While PostgreSQL is down nothing is fetched: the first failure opens the circuit, an answered probe closes it.

use crate::{events, store::Store};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The circuit in front of PostgreSQL.
pub(super) struct Circuit {
    store: Store,
    open: Mutex<Option<String>>,
}

impl Circuit {
    pub(super) fn new(store: Store) -> Arc<Circuit> {
        Arc::new(Circuit { store, open: Mutex::new(None) })
    }

    /// Why nothing may be fetched, if so.
    pub(super) fn open(&self) -> Option<String> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something failed because the database is not available: hold until it answers again.
    pub(super) fn trip(self: &Arc<Self>, why: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.is_some() {
            return;
        }
        tracing::error!(
            message_id = events::DEPENDENCY_DOWN,
            "no job is fetched until PostgreSQL answers again: {why}"
        );
        *open = Some(why.to_string());
        tokio::spawn(Arc::clone(self).probe());
    }

    async fn probe(self: Arc<Self>) {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.answers().await {
                Ok(()) => break,
                Err(why) => *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(why),
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::info!(message_id = events::DEPENDENCY_UP, "PostgreSQL answers again: jobs are fetched");
    }

    async fn answers(&self) -> Result<(), String> {
        let client = self.store.client().await.map_err(|error| error.to_string())?;
        client.simple_query("SELECT 1").await.map(|_| ()).map_err(|error| error.to_string())
    }
}
