//! Which handler a job's name chooses.

use super::Handler;
use std::{collections::BTreeMap, sync::Arc};

/// All handlers by name.
#[derive(Default, Clone)]
pub struct Registry {
    handlers: BTreeMap<&'static str, Arc<dyn Handler>>,
}

impl Registry {
    /// Adds a handler; one of the same name is replaced.
    pub fn add(&mut self, handler: impl Handler) {
        self.handlers.insert(handler.name(), Arc::new(handler));
    }

    /// The handler of this name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Handler>> {
        self.handlers.get(name).cloned()
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<&'static str> {
        self.handlers.keys().copied().collect()
    }

    /// Why a job with an unknown name fails.
    pub fn unknown(&self, name: &str) -> String {
        format!("no handler for a job named {name:?}; this worker knows: {}", self.names().join(", "))
    }
}
