//! Leases: which jobs this process holds, until when, and the thread that renews their locks.
//!
//! Renewal has its own thread and connection, so that neither a busy runtime nor a slow command delays it. The answer is
//! read: a lock that is no longer ours cancels the job's handler at once. Where no answer comes, the handler is
//! cancelled before the lock could have passed on, by a clock that also counts while the machine sleeps.

mod renewer;

pub use renewer::Renewer;

use super::error::Error;
use nix::time::{ClockId, clock_gettime};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a lock lives unless it is renewed: BullMQ's own default.
pub const LOCK_DURATION: Duration = Duration::from_secs(30);
/// A handler is cancelled this long before its lock can expire.
const MARGIN: Duration = Duration::from_secs(4);

/// Why a handler was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The lock passed on, or may soon: nothing of the job may be written any more.
    LeaseLost,
    /// The drain's deadline passed, or a second signal came: the job is handed back.
    Interrupted,
    /// Somebody asked for it, with the reason that [`Lease::request`] gives: the job fails.
    Requested,
}

/// The right to work on one job until its lock expires.
#[derive(Debug)]
pub struct Lease {
    /// The job.
    pub job_id: String,
    /// Its name, for the status line.
    pub job_name: String,
    /// The lock's token: our invocation and the number of the fetch.
    pub token: String,
    /// When the job was fetched, by [`uptime_ms`].
    pub since_ms: i64,
    confirmed_ms: AtomicI64,
    finishing: AtomicBool,
    cancel: CancellationToken,
    withdrawn: CancellationToken,
    why: AtomicU8,
    request: OnceLock<String>,
    about: Mutex<Option<String>>,
}

impl Lease {
    /// Says what the job is at, for the status line.
    pub fn set_about(&self, about: String) {
        *self.about.lock().unwrap_or_else(PoisonError::into_inner) = Some(about);
    }

    /// What the job is at, if it has said so.
    pub fn about(&self) -> Option<String> {
        self.about.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the handler has to stop.
    pub async fn cancelled(&self) -> Cancelled {
        self.cancel.cancelled().await;
        self.cancellation().unwrap_or(Cancelled::Interrupted)
    }

    /// Waits until the job must leave this process, whatever its processing is about; [`Cancelled::Requested`] alone is
    /// the processing's own matter.
    pub async fn withdrawn(&self) -> Cancelled {
        self.withdrawn.cancelled().await;
        self.cancellation().filter(|why| *why == Cancelled::LeaseLost).unwrap_or(Cancelled::Interrupted)
    }

    /// The token that handlers watch.
    pub fn token_of_cancellation(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Whether, and why, the handler was told to stop.
    pub fn cancellation(&self) -> Option<Cancelled> {
        match self.why.load(Ordering::Acquire) {
            1 => Some(Cancelled::LeaseLost),
            2 => Some(Cancelled::Interrupted),
            3 => Some(Cancelled::Requested),
            _ => None,
        }
    }

    /// Why somebody wanted the job cancelled, if somebody did.
    pub fn request(&self) -> Option<&str> {
        self.request.get().map(String::as_str)
    }

    /// Somebody wants the job cancelled; false if it is being stopped anyway.
    pub fn cancel_on_request(&self, reason: &str) -> bool {
        if self.cancellation().is_some() || self.request.set(reason.to_string()).is_err() {
            return false;
        }
        self.cancel(Cancelled::Requested);
        true
    }

    /// Tells the handler to stop. A lost lease outranks everything: the job must be neither handed back nor failed.
    pub fn cancel(&self, why: Cancelled) {
        let first = |code| self.why.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
        let _ = match why {
            Cancelled::LeaseLost => Ok(self.why.swap(1, Ordering::AcqRel)),
            Cancelled::Interrupted => first(2),
            Cancelled::Requested => first(3),
        };
        self.cancel.cancel();
        if why != Cancelled::Requested {
            self.withdrawn.cancel();
        }
    }

    /// From now on the finish's own answer decides, and a renewal that finds no lock is no surprise.
    pub fn finishing(&self) {
        self.finishing.store(true, Ordering::Release);
    }
}

#[derive(Default)]
struct Book {
    fetching: HashSet<String>,
    held: HashMap<String, Arc<Lease>>,
}

/// All leases of this process.
pub struct Leases {
    invocation: Uuid,
    sequence: AtomicU64,
    turns: AtomicU64,
    interrupted: AtomicBool,
    book: Mutex<Book>,
}

impl Leases {
    /// No leases yet. The invocation is random, part of every token, and never used by another process.
    pub fn new(invocation: Uuid) -> Self {
        Leases {
            invocation,
            sequence: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            interrupted: AtomicBool::new(false),
            book: Mutex::default(),
        }
    }

    /// This process life's id.
    pub fn invocation(&self) -> Uuid {
        self.invocation
    }

    /// How often the renewal thread turned, with any outcome.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// What every token of this invocation begins with.
    pub fn token_prefix(&self) -> String {
        format!("{}:", self.invocation)
    }

    /// A new token for one fetch, on record until [`Leases::fetched`] or [`Leases::retire`].
    pub fn begin_fetch(&self) -> String {
        let token = format!("{}:{}", self.invocation, self.sequence.fetch_add(1, Ordering::Relaxed));
        self.book().fetching.insert(token.clone());
        token
    }

    /// Forgets a token: its fetch brought nothing, or its answer was lost. It is never used again.
    pub fn retire(&self, token: &str) {
        self.book().fetching.remove(token);
    }

    /// The fetch with this token brought this job; `asked_ms` is when it was sent, the earliest that its lock began.
    pub fn fetched(&self, token: &str, job_id: &str, job_name: &str, asked_ms: i64) -> Arc<Lease> {
        let lease = Arc::new(Lease {
            job_id: job_id.to_string(),
            job_name: job_name.to_string(),
            token: token.to_string(),
            since_ms: asked_ms,
            confirmed_ms: AtomicI64::new(asked_ms),
            finishing: AtomicBool::new(false),
            cancel: CancellationToken::new(),
            withdrawn: CancellationToken::new(),
            why: AtomicU8::new(0),
            request: OnceLock::new(),
            about: Mutex::default(),
        });
        let mut book = self.book();
        book.fetching.remove(token);
        // The same job a second time: a Redis that was restored from an older copy gives out what already runs here.
        if let Some(older) = book.held.insert(job_id.to_string(), Arc::clone(&lease)) {
            older.cancel(Cancelled::LeaseLost);
        }
        // Under the book's lock: a lease is either among those that `cancel_all` finds, or it finds the flag.
        if self.interrupted.load(Ordering::Acquire) {
            lease.cancel(Cancelled::Interrupted);
        }
        lease
    }

    /// Whoever worked under this token is no more: what it held is neither renewed nor known from now on.
    pub fn abandon(&self, token: &str) {
        let mut book = self.book();
        book.fetching.remove(token);
        book.held.retain(|_, lease| lease.token != token);
    }

    /// The job is finished, handed back or lost.
    pub fn ended(&self, lease: &Lease) {
        let mut book = self.book();
        // The same job may already be held anew, under the same token: a retry that its own finish fetched.
        if book.held.get(&lease.job_id).is_some_and(|held| std::ptr::eq(&**held, lease)) {
            book.held.remove(&lease.job_id);
        }
    }

    /// Whether a job that is locked with this token is in our hands, or may be on its way.
    pub fn knows(&self, token: &str) -> bool {
        let book = self.book();
        book.fetching.contains(token) || book.held.values().any(|lease| lease.token == token)
    }

    /// Whether the answer to a fetch is awaited.
    pub fn is_fetching(&self) -> bool {
        !self.book().fetching.is_empty()
    }

    /// The lease of a job that is held under this token.
    pub fn held_under(&self, token: &str, job_id: &str) -> Option<Arc<Lease>> {
        self.book().held.get(job_id).filter(|lease| lease.token == token).cloned()
    }

    /// The leases held now.
    pub fn held(&self) -> Vec<Arc<Lease>> {
        self.book().held.values().cloned().collect()
    }

    /// Tells every handler to stop, and every one that begins from now on.
    pub fn interrupt_all(&self) {
        self.interrupted.store(true, Ordering::Release);
        for lease in self.held() {
            lease.cancel(Cancelled::Interrupted);
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancels what could expire before the next look, and says which leases want renewal.
    fn due(&self, now_ms: i64) -> Vec<Arc<Lease>> {
        let last_moment = i64::try_from((LOCK_DURATION - MARGIN).as_millis()).unwrap_or(i64::MAX);
        #[cfg(feature = "test-jobs")]
        let last_moment = if crate::switches::off("margin") { i64::MAX } else { last_moment };
        let held = self.held();
        for lease in &held {
            let unconfirmed = now_ms - lease.confirmed_ms.load(Ordering::Acquire);
            if unconfirmed >= last_moment
                && !lease.finishing.load(Ordering::Acquire)
                && lease.cancellation() != Some(Cancelled::LeaseLost)
            {
                tracing::error!(
                    floh_job_id = %lease.job_id,
                    "the lock could not be renewed for {} s and may soon pass on: the job is cancelled",
                    unconfirmed / 1000
                );
                lease.cancel(Cancelled::LeaseLost);
            }
        }
        held.into_iter().filter(|lease| lease.cancellation() != Some(Cancelled::LeaseLost)).collect()
    }
}

/// Milliseconds of a clock that never jumps and goes on while the machine sleeps.
pub fn uptime_ms() -> i64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000)
}

/// MessagePack, as the scripts unpack it.
pub(crate) fn pack<T: serde::Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    let mut packed = Vec::with_capacity(192);
    value
        .serialize(&mut rmp_serde::Serializer::new(&mut packed).with_struct_map())
        .map_err(|error| Error::answer("msgpack", error.to_string()))?;
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fetch_has_its_own_token_and_a_retired_one_is_unknown() {
        let leases = Leases::new(Uuid::new_v4());
        let (one, two) = (leases.begin_fetch(), leases.begin_fetch());
        assert_ne!(one, two);
        assert!(one.starts_with(&leases.token_prefix()));
        leases.retire(&one);
        assert!(!leases.knows(&one) && leases.knows(&two));
        let lease = leases.fetched(&two, "7", "x", uptime_ms());
        assert!(leases.knows(&two));
        leases.ended(&lease);
        assert!(!leases.knows(&two));
    }

    #[test]
    fn a_lease_is_cancelled_before_its_lock_can_expire() {
        let leases = Leases::new(Uuid::new_v4());
        let token = leases.begin_fetch();
        let lease = leases.fetched(&token, "7", "x", 1_000_000);
        assert_eq!(leases.due(1_000_000 + 25_900).len(), 1);
        assert_eq!(lease.cancellation(), None);
        assert!(leases.due(1_000_000 + 26_000).is_empty());
        assert_eq!(lease.cancellation(), Some(Cancelled::LeaseLost));
    }

    #[test]
    fn a_job_that_is_held_twice_is_cancelled_where_it_ran_first() {
        let leases = Leases::new(Uuid::new_v4());
        let first = leases.fetched(&leases.begin_fetch(), "7", "x", 0);
        let second = leases.fetched(&leases.begin_fetch(), "7", "x", 0);
        assert_eq!(first.cancellation(), Some(Cancelled::LeaseLost));
        leases.ended(&first);
        assert!(leases.knows(&second.token) && second.cancellation().is_none());
    }

    #[test]
    fn a_lost_lease_outranks_an_interruption() {
        let leases = Leases::new(Uuid::new_v4());
        let lease = leases.fetched(&leases.begin_fetch(), "7", "x", 0);
        lease.cancel(Cancelled::Interrupted);
        lease.cancel(Cancelled::LeaseLost);
        lease.cancel(Cancelled::Interrupted);
        assert_eq!(lease.cancellation(), Some(Cancelled::LeaseLost));
    }

    #[tokio::test]
    async fn a_request_is_remembered_with_its_reason_and_an_interruption_still_comes_through() {
        let leases = Leases::new(Uuid::new_v4());
        let lease = leases.fetched(&leases.begin_fetch(), "7", "x", 0);
        assert!(lease.cancel_on_request("not wanted") && !lease.cancel_on_request("twice"));
        assert_eq!((lease.cancelled().await, lease.request()), (Cancelled::Requested, Some("not wanted")));
        let withdrawn = tokio::time::timeout(Duration::from_millis(20), lease.withdrawn()).await;
        assert!(withdrawn.is_err(), "a request alone leaves it to the processing: {withdrawn:?}");
        lease.cancel(Cancelled::Interrupted);
        assert_eq!(
            (lease.withdrawn().await, lease.cancellation()),
            (Cancelled::Interrupted, Some(Cancelled::Requested))
        );
        lease.cancel(Cancelled::LeaseLost);
        assert_eq!(lease.withdrawn().await, Cancelled::LeaseLost);

        let handed_back = leases.fetched(&leases.begin_fetch(), "8", "x", 0);
        handed_back.cancel(Cancelled::Interrupted);
        assert!(!handed_back.cancel_on_request("too late") && handed_back.request().is_none());
    }
}
