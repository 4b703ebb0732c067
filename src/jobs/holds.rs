//! Why nothing may be fetched now: one sentence for each cause, shared by whoever has one to say.

use std::sync::{Mutex, PoisonError};

/// What can keep the worker from fetching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// PostgreSQL is away, or takes no writes.
    Database,
    /// A job that is suspected of killing its worker runs alone, or waits to.
    Suspect,
    /// There is too little memory.
    Memory,
}

/// The causes that there are now.
#[derive(Debug, Default)]
pub struct Holds(Mutex<[Option<String>; 3]>);

impl Holds {
    /// From now on there is this cause, or, with `None`, not any more.
    pub fn set(&self, cause: Cause, why: Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[cause as usize] = why;
    }

    /// All of them in one sentence, if there are any.
    pub fn why(&self) -> Option<String> {
        let causes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let causes: Vec<&str> = causes.iter().flatten().map(String::as_str).collect();
        (!causes.is_empty()).then(|| causes.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_ends_by_itself_and_all_are_told() {
        let holds = Holds::default();
        assert_eq!(holds.why(), None);
        holds.set(Cause::Memory, Some("memory at 83 %".into()));
        holds.set(Cause::Database, Some("PostgreSQL is away".into()));
        assert_eq!(holds.why().as_deref(), Some("PostgreSQL is away; memory at 83 %"));
        holds.set(Cause::Database, None);
        assert_eq!(holds.why().as_deref(), Some("memory at 83 %"));
        holds.set(Cause::Memory, None);
        assert_eq!(holds.why(), None);
    }
}
