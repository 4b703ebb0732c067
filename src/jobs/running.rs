//! Which attempts run in this process, by their epochs: what a request to cancel one of them finds it by.

use crate::{
    queue::lease::Lease,
    store::{CancelRequest, Epoch},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The attempts that run now.
#[derive(Debug, Default)]
pub struct Running(Mutex<HashMap<i64, Arc<Lease>>>);

impl Running {
    /// On the list until the answer is dropped.
    pub(super) fn enter(&self, epoch: Epoch, lease: &Arc<Lease>) -> Entry<'_> {
        self.list().insert(epoch.0, Arc::clone(lease));
        Entry { running: self, epoch }
    }

    /// Tells the attempt that is meant to stop; false if it does not run, or stops already.
    pub fn cancel(&self, request: &CancelRequest) -> bool {
        let lease = self.list().get(&request.epoch).cloned();
        lease.is_some_and(|lease| lease.job_id == request.job_id && lease.cancel_on_request(&request.reason))
    }

    fn list(&self) -> MutexGuard<'_, HashMap<i64, Arc<Lease>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt on the list.
pub(super) struct Entry<'a> {
    running: &'a Running,
    epoch: Epoch,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.running.list().remove(&self.epoch.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::lease::Leases;
    use uuid::Uuid;

    #[test]
    fn only_the_attempt_that_is_meant_is_cancelled() {
        let leases = Leases::new(Uuid::new_v4());
        let lease = leases.fetched(&leases.begin_fetch(), "7", "x", 0);
        let running = Running::default();
        let request = |job_id: &str, epoch| CancelRequest { job_id: job_id.into(), epoch, reason: "why".into() };
        let entry = running.enter(Epoch(41), &lease);
        assert!(!running.cancel(&request("7", 40)) && !running.cancel(&request("8", 41)));
        assert_eq!(lease.cancellation(), None);
        assert!(running.cancel(&request("7", 41)));
        assert!(!running.cancel(&request("7", 41)), "once is enough");
        drop(entry);
        assert!(running.list().is_empty());
    }
}
