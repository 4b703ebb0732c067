//! The schedulers of one kind, whose ids begin alike: those that nobody wants any more are removed.

use super::{
    ensure::{Builtin, Done, Outcome, ensure_one, is_as_wanted, remove},
    stored::Stored,
};
use crate::queue::{Error, Queue};
use std::collections::{HashMap, HashSet};

/// The schedulers whose ids begin so, as they were at one moment.
#[derive(Debug)]
pub struct Family {
    prefix: String,
    stored: HashMap<String, Stored>,
}

impl Family {
    /// Reads them. What is wanted is to be found out afterwards: who is not among the wanted then has been given up, and is
    /// not new.
    ///
    /// # Errors
    /// Redis cannot be reached.
    pub async fn read(queue: &Queue, prefix: &str) -> Result<Family, Error> {
        let stored = queue.stored_schedulers().await?.into_iter().filter(|stored| stored.id.starts_with(prefix));
        Ok(Family { prefix: prefix.into(), stored: stored.map(|stored| (stored.id.clone(), stored)).collect() })
    }

    /// When the iteration that a scheduler made last is due, milliseconds.
    #[must_use]
    pub fn due_ms(&self, id: &str) -> Option<i64> {
        self.stored.get(id)?.score.parse().ok()
    }

    /// Makes the wanted ones what they should be, as [`super::ensure::ensure()`] does, and removes the others, unless an
    /// iteration of theirs is due. One that cannot be made is no reason to leave the rest undone: its error stands in its place.
    pub async fn become_like(&self, queue: &Queue, wanted: &[Builtin]) -> Result<Vec<Result<Outcome, Error>>, Error> {
        let now = queue.now_ms().await?;
        let mut outcomes = Vec::with_capacity(wanted.len());
        for builtin in wanted {
            debug_assert!(builtin.id.starts_with(&self.prefix));
            let outcome = match self.stored.get(&builtin.id) {
                // As most of them are at each look.
                Some(stored) if stored.alive && !stored.is_due(now) && is_as_wanted(stored, builtin) => {
                    Ok(Outcome { scheduler: builtin.id.clone(), done: Done::Kept })
                }
                stored => ensure_one(queue, builtin, stored.map_or(&[], std::slice::from_ref), now).await,
            };
            match outcome {
                Err(error) if error.concerns_all() => return Err(error),
                outcome => outcomes.push(outcome),
            }
        }
        let ids: HashSet<&str> = wanted.iter().map(|builtin| builtin.id.as_str()).collect();
        for id in self.stored.keys().filter(|id| !ids.contains(id.as_str())) {
            let done = if remove(queue, id).await? { Done::Removed } else { Done::Due };
            outcomes.push(Ok(Outcome { scheduler: id.clone(), done }));
        }
        Ok(outcomes)
    }
}
