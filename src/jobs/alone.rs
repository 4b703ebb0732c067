//! A job that was running when its worker died runs alone, so that no neighbour is blamed for what it may do, nor it for a
//! neighbour.
//!
//! Ordinary jobs share a gate and a suspect has it to itself. Whoever waits holds nothing, and the gate is opened in the
//! order of asking, so nobody waits for ever: a suspect waits for the jobs that run, a second suspect comes after the first,
//! and what was fetched beside them is given back when they take long. A thread that was given up counts for nobody.

use super::holds::{Cause, Holds};
use crate::{
    events,
    queue::{
        Failure, Outcome,
        lease::{Cancelled, Lease},
    },
};
use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio_util::sync::CancellationToken;

/// How long an ordinary job waits for a suspect.
const PATIENCE: Duration = Duration::from_secs(2);

/// Held while an ordinary job runs.
pub(super) type Beside = OwnedRwLockReadGuard<()>;

/// The gate.
pub(super) struct Alone {
    gate: Arc<RwLock<()>>,
    suspects: Mutex<Vec<String>>,
    holds: Arc<Holds>,
    draining: CancellationToken,
}

impl Alone {
    /// Nothing is waited for any more once `draining` is cancelled.
    pub(super) fn new(holds: Arc<Holds>, draining: CancellationToken) -> Alone {
        Alone { gate: Arc::default(), suspects: Mutex::default(), holds, draining }
    }

    /// Waits until no suspect runs, or waits to; not for long, because another worker can have the job meanwhile.
    pub(super) async fn beside(&self, lease: &Lease) -> Result<Beside, Outcome> {
        tokio::select! {
            biased;
            gate = self.wait(lease, Arc::clone(&self.gate).read_owned()) => gate,
            () = self.in_the_way() => {
                Err(Outcome::Interrupted("a job that was running when a worker died runs alone here".into()))
            }
        }
    }

    /// A suspect has the gate for longer than [`PATIENCE`], and nothing is fetched meanwhile: what is given back does not
    /// come here again at once.
    async fn in_the_way(&self) {
        loop {
            tokio::time::sleep(PATIENCE).await;
            if !self.suspects().is_empty() {
                return;
            }
        }
    }

    /// The gate for itself at once; `None` where others run, or were there before it.
    pub(super) fn alone_now(&self, lease: &Lease) -> Option<Suspect<'_>> {
        let gate = Arc::clone(&self.gate).try_write_owned().ok()?;
        Some(Suspect { _gate: gate, _named: self.name(lease) })
    }

    /// Waits until nothing else runs; until the answer is dropped nothing is fetched and nothing starts.
    pub(super) async fn alone(&self, lease: &Lease) -> Result<Suspect<'_>, Outcome> {
        let named = self.name(lease);
        let gate = self.wait(lease, Arc::clone(&self.gate).write_owned()).await?;
        Ok(Suspect { _gate: gate, _named: named })
    }

    /// Puts a job on the list of suspects.
    fn name(&self, lease: &Lease) -> Named<'_> {
        self.suspects().push(lease.job_id.clone());
        self.tell();
        Named { alone: self, job_id: lease.job_id.clone() }
    }

    async fn wait<G>(&self, lease: &Lease, gate: impl Future<Output = G>) -> Result<G, Outcome> {
        tokio::select! {
            biased;
            gate = gate => Ok(gate),
            why = lease.cancelled() => Err(match why {
                Cancelled::LeaseLost => Outcome::Lost("the lease was lost".into()),
                Cancelled::Interrupted => Outcome::Interrupted("the worker stops".into()),
                Cancelled::Requested => {
                    let reason = format!("cancelled: {}", lease.request().unwrap_or_default());
                    tracing::warn!(message_id = events::JOB_CANCELLED, "{reason}; it had not begun");
                    Outcome::Failed(Failure::for_good(reason))
                }
            }),
            () = self.draining.cancelled() => Err(Outcome::Interrupted("the worker stops, and it has not begun".into())),
        }
    }

    fn suspects(&self) -> MutexGuard<'_, Vec<String>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        let suspects = self.suspects();
        let why = suspects.first().map(|id| format!("job {id} runs alone, because a worker died while it ran"));
        self.holds.set(Cause::Suspect, why);
    }
}

/// A suspect that runs alone.
pub(super) struct Suspect<'a> {
    _gate: OwnedRwLockWriteGuard<()>,
    _named: Named<'a>,
}

/// On the list of suspects until it is dropped.
struct Named<'a> {
    alone: &'a Alone,
    job_id: String,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        let mut suspects = self.alone.suspects();
        if let Some(place) = suspects.iter().position(|id| *id == self.job_id) {
            suspects.remove(place);
        }
        drop(suspects);
        self.alone.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::lease::Leases;
    use uuid::Uuid;

    struct Fixture {
        alone: Alone,
        leases: Leases,
        holds: Arc<Holds>,
        draining: CancellationToken,
    }

    impl Fixture {
        fn new() -> Fixture {
            let (holds, draining) = (Arc::<Holds>::default(), CancellationToken::new());
            let alone = Alone::new(Arc::clone(&holds), draining.clone());
            Fixture { alone, leases: Leases::new(Uuid::new_v4()), holds, draining }
        }

        fn lease(&self, id: &str) -> Arc<Lease> {
            self.leases.fetched(&self.leases.begin_fetch(), id, "x", 0)
        }
    }

    /// Whether a future still waits.
    async fn waits<T>(future: impl Future<Output = T>) -> bool {
        tokio::time::timeout(Duration::from_millis(20), future).await.is_err()
    }

    #[tokio::test]
    async fn a_suspect_waits_for_those_that_run_and_those_that_come_wait_for_it() {
        let fixture = Fixture::new();
        let [one, two, suspect, late] = ["1", "2", "s", "3"].map(|id| fixture.lease(id));
        let (first, second) = (fixture.alone.beside(&one).await, fixture.alone.beside(&two).await);
        let mut running = Box::pin(fixture.alone.alone(&suspect));
        assert!(waits(&mut running).await);
        assert!(fixture.holds.why().unwrap().contains("job s runs alone"));
        let mut beside = Box::pin(fixture.alone.beside(&late));
        assert!(waits(&mut beside).await, "it must not overtake the suspect");
        drop(first);
        assert!(waits(&mut running).await);
        drop(second);
        let alone = running.await.unwrap();
        assert!(waits(&mut beside).await);
        drop(alone);
        assert!(beside.await.is_ok());
        assert_eq!(fixture.holds.why(), None);
    }

    #[tokio::test]
    async fn a_suspect_has_an_idle_gate_at_once_and_no_other() {
        let fixture = Fixture::new();
        let [one, suspect, second] = ["1", "s", "t"].map(|id| fixture.lease(id));
        let running = fixture.alone.beside(&one).await;
        assert!(fixture.alone.alone_now(&suspect).is_none(), "another job runs");
        assert_eq!(fixture.holds.why(), None, "what did not get it is not on the list");
        let mut waiting = Box::pin(fixture.alone.alone(&second));
        assert!(waits(&mut waiting).await);
        drop(running);
        assert!(fixture.alone.alone_now(&suspect).is_none(), "it must not overtake the one that waits");
        drop(waiting.await.unwrap());
        let alone = fixture.alone.alone_now(&suspect).unwrap();
        assert!(fixture.holds.why().unwrap().contains("job s runs alone"));
        assert!(waits(fixture.alone.beside(&one)).await);
        drop(alone);
        assert!(fixture.alone.beside(&one).await.is_ok());
        assert_eq!(fixture.holds.why(), None);
    }

    #[tokio::test]
    async fn what_waits_for_a_suspect_is_given_back_when_it_takes_long() {
        let fixture = Fixture::new();
        let [suspect, late] = ["s", "1"].map(|id| fixture.lease(id));
        let _alone = fixture.alone.alone(&suspect).await.unwrap();
        let outcome = fixture.alone.beside(&late).await;
        assert!(matches!(&outcome, Err(Outcome::Interrupted(why)) if why.contains("runs alone")));
    }

    #[tokio::test]
    async fn two_suspects_run_one_after_the_other() {
        let fixture = Fixture::new();
        let [one, two] = ["1", "2"].map(|id| fixture.lease(id));
        let first = fixture.alone.alone(&one).await.unwrap();
        let mut second = Box::pin(fixture.alone.alone(&two));
        assert!(waits(&mut second).await);
        drop(first);
        assert!(fixture.holds.why().unwrap().contains("job 2"));
        drop(second.await.unwrap());
        assert_eq!(fixture.holds.why(), None);
    }

    #[tokio::test]
    async fn a_lost_lease_a_drain_and_a_dropped_wait_leave_nothing_behind() {
        let fixture = Fixture::new();
        let [one, two, three] = ["1", "2", "3"].map(|id| fixture.lease(id));
        let running = fixture.alone.beside(&one).await.unwrap();
        two.cancel(Cancelled::LeaseLost);
        assert!(matches!(fixture.alone.alone(&two).await, Err(Outcome::Lost(_))));
        assert!(waits(fixture.alone.alone(&three)).await, "and this wait is dropped");
        assert_eq!(fixture.holds.why(), None);
        assert!(fixture.alone.beside(&three).await.is_ok());
        let cancelled = fixture.lease("4");
        assert!(cancelled.cancel_on_request("why"));
        let Err(Outcome::Failed(failure)) = fixture.alone.alone(&cancelled).await else { panic!("it ran") };
        assert_eq!((failure.reason.as_str(), failure.retry), ("cancelled: why", false));
        fixture.draining.cancel();
        assert!(matches!(fixture.alone.alone(&three).await, Err(Outcome::Interrupted(_))));
        assert!(fixture.alone.beside(&three).await.is_ok(), "what need not wait does not notice the drain");
        drop(running);
    }
}
