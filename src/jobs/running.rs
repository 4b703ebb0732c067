//! Which attempts run in this process, by their epochs: what a request to cancel one of them finds it by.

use crate::{
    queue::lease::Lease,
    store::{CancelRequest, Epoch, Meant},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The attempts that run now.
#[derive(Debug, Default)]
pub struct Running(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    running: HashMap<i64, Arc<Lease>>,
    /// Requests of the latest look for attempts that do not run: some may be about to begin.
    early: HashMap<i64, CancelRequest>,
}

impl Running {
    /// On the list until the answer is dropped. What somebody wants cancelled already is told so.
    pub(super) fn enter(&self, epoch: Epoch, lease: &Arc<Lease>) -> Entry<'_> {
        let mut lists = self.lists();
        if let Some(request) = lists.early.remove(&epoch.0) {
            Running::cancel(lease, &request);
        }
        lists.running.insert(epoch.0, Arc::clone(lease));
        Entry { running: self, epoch }
    }

    /// All requests that there are: tells the attempts that are meant to stop, each once, and remembers the requests for
    /// attempts that have been taken and have not begun.
    pub fn look_at(&self, requests: Vec<CancelRequest>) {
        let mut lists = self.lists();
        lists.early.clear();
        for request in requests {
            let Meant::Attempt(Epoch(epoch)) = request.meant else { continue };
            match lists.running.get(&epoch) {
                Some(lease) => Running::cancel(lease, &request),
                None => drop(lists.early.insert(epoch, request)),
            }
        }
    }

    /// Tells whoever works under a lease to stop, if it is the job that is meant.
    pub fn cancel(lease: &Lease, request: &CancelRequest) {
        if lease.job_id == request.job_id && lease.cancel_on_request(&request.reason) {
            tracing::info!(floh_job_id = %request.job_id, "somebody wants it cancelled: {}", request.reason);
        }
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
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
        self.running.lists().running.remove(&self.epoch.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::lease::{Cancelled, Leases};
    use uuid::Uuid;

    struct Fixture {
        running: Running,
        lease: Arc<Lease>,
    }

    impl Fixture {
        fn new() -> Fixture {
            let leases = Leases::new(Uuid::new_v4());
            let lease = leases.fetched(&leases.begin_fetch(), "7", "x", 0);
            Fixture { running: Running::default(), lease }
        }

        fn look_at(&self, job_id: &str, epoch: i64) {
            let meant = Meant::Attempt(Epoch(epoch));
            self.running.look_at(vec![CancelRequest { job_id: job_id.into(), meant, reason: "why".into() }]);
        }
    }

    #[test]
    fn only_the_attempt_that_is_meant_is_cancelled() {
        let fixture = Fixture::new();
        let entry = fixture.running.enter(Epoch(41), &fixture.lease);
        fixture.look_at("7", 40);
        fixture.look_at("8", 41);
        assert_eq!(fixture.lease.cancellation(), None);
        fixture.look_at("7", 41);
        assert_eq!((fixture.lease.cancellation(), fixture.lease.request()), (Some(Cancelled::Requested), Some("why")));
        drop(entry);
        assert!(fixture.running.lists().running.is_empty());
    }

    #[test]
    fn a_request_that_comes_between_take_and_start_is_not_missed_and_an_old_one_is_forgotten() {
        let fixture = Fixture::new();
        fixture.look_at("7", 41);
        let entry = fixture.running.enter(Epoch(41), &fixture.lease);
        assert_eq!(fixture.lease.cancellation(), Some(Cancelled::Requested));
        drop(entry);
        let other = Fixture::new();
        other.look_at("7", 41);
        other.running.look_at(vec![]);
        let _entry = other.running.enter(Epoch(41), &other.lease);
        assert_eq!(other.lease.cancellation(), None);
    }
}
