//! The consumer: one loop that fetches while there is a free slot, waits on the marker while there is nothing, and the
//! housekeeping beside it.

use super::{
    Error, Queue,
    connection::{Backoff, Link},
    doubts::Doubts,
    fetch::{Fetched, LONGEST_BLOCK, Wait},
    lease::{Leases, uptime_ms},
    panics,
    processor::Processor,
    pulse::{Condition, Pulse},
    slot::Shared,
    stalled::STALLED_PERIOD,
};
use crate::events;
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

/// How often the loop shows that it lives while every slot has a job, and asks again while it holds.
const LOOK: Duration = Duration::from_millis(500);
/// When to look for jobs of lost answers after an error: a frozen Redis runs what it was sent when it thaws.
const LOOKS_AFTER_ERROR: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// The same at the end, where nothing is fetched any more.
const LAST_LOOKS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(500)];
/// How long the end waits for them: what they do not find, the next life of the instance gives back.
const LAST_LOOKS_TIME: Duration = Duration::from_secs(2);

/// What a consumer is made of.
pub struct Parts {
    /// The queue.
    pub queue: Arc<Queue>,
    /// The link of the blocked read.
    pub blocking: Link,
    /// Leases, shared with the renewal thread.
    pub leases: Arc<Leases>,
    /// Counters and condition.
    pub pulse: Arc<Pulse>,
    /// Who runs the jobs.
    pub processor: Arc<dyn Processor>,
    /// Jobs at a time.
    pub concurrency: usize,
    /// What BullMQ shows as `processedBy`.
    pub worker: String,
}

/// Fetches and runs jobs until told to stop.
pub struct Consumer(Arc<FetchLoop>);

struct FetchLoop {
    shared: Arc<Shared>,
    blocking: Link,
    concurrency: usize,
    slots: TaskTracker,
}

impl Consumer {
    /// A consumer that fetches nothing once `stop` is cancelled.
    pub fn new(parts: Parts, stop: CancellationToken) -> Consumer {
        let shared = Shared {
            queue: parts.queue,
            leases: parts.leases,
            pulse: parts.pulse,
            processor: parts.processor,
            worker: parts.worker,
            stop,
            doubts: Doubts::default(),
        };
        Consumer(Arc::new(FetchLoop {
            blocking: parts.blocking,
            concurrency: parts.concurrency.max(1),
            slots: TaskTracker::new(),
            shared: Arc::new(shared),
        }))
    }

    /// Fetches until stopped; returns when the last running job has ended.
    pub async fn run(&self) {
        // A task of its own, which runs where the connections do. The caller may be what the runtime's first thread blocks
        // on, and to wake a thread for every answer takes longer than the answer.
        let looping = tokio::spawn(Arc::clone(&self.0).run());
        if let Err(error) = AbortOnDropHandle::new(looping).await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }

    /// Whether calls that had no answer may have taken jobs which nobody has looked for.
    pub fn is_in_doubt(&self) -> bool {
        let shared = &self.0.shared;
        shared.doubts.are_open() || shared.leases.is_fetching()
    }
}

impl FetchLoop {
    async fn run(self: Arc<Self>) {
        let stop = self.shared.stop.clone();
        let house = tokio::spawn({
            let shared = Arc::clone(&self.shared);
            async move { shared.keep_house().await }
        });
        self.fetch_loop(&stop).await;
        self.shared.pulse.turn(Condition::Draining);
        // A read that still blocks would swallow the marker that announces a job to somebody else.
        self.blocking.close().await;
        self.slots.close();
        self.slots.wait().await;
        // What a lost answer took would wait for its lock to expire: nobody else knows our tokens.
        if self.shared.doubts.are_open() {
            let seen = self.shared.doubts.count();
            let looks = async {
                for pause in LAST_LOOKS {
                    tokio::time::sleep(pause).await;
                    self.shared.look_for_orphans().await;
                }
            };
            if tokio::time::timeout(LAST_LOOKS_TIME, looks).await.is_ok() {
                self.shared.doubts.settle(seen);
            }
        }
        house.abort();
    }

    async fn fetch_loop(&self, stop: &CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.concurrency));
        let (mut backoff, mut reads) = (Backoff::default(), Backoff::default());
        while !stop.is_cancelled() {
            let Some(permit) = self.free_slot(&slots, stop).await else { continue };
            if let Some(why) = self.shared.processor.hold() {
                self.shared.pulse.turn(Condition::Holding(why));
                drop(permit);
                stop.run_until_cancelled(tokio::time::sleep(LOOK)).await;
                continue;
            }
            match self.fetch(permit, stop).await {
                Ok(None) => tell_return(&mut backoff),
                Ok(Some(wait)) => {
                    tell_return(&mut backoff);
                    stop.run_until_cancelled(self.wait(wait, &mut reads)).await;
                }
                Err(error) => {
                    if !backoff.is_raised() {
                        tracing::error!(message_id = events::DEPENDENCY_DOWN, "no fetch: {error}");
                    }
                    #[cfg(feature = "test-jobs")]
                    stop.run_until_cancelled(hang_if_switched_off()).await;
                    self.shared.pulse.turn(Condition::Disconnected(error.to_string()));
                    self.shared.doubts.raise();
                    stop.run_until_cancelled(tokio::time::sleep(backoff.next_delay())).await;
                }
            }
        }
    }

    async fn free_slot(&self, slots: &Arc<Semaphore>, stop: &CancellationToken) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            permit = Arc::clone(slots).acquire_owned() => permit.ok(),
            () = stop.cancelled() => None,
            () = tokio::time::sleep(LOOK) => {
                self.shared.pulse.turn(Condition::Full);
                None
            }
        }
    }

    /// One fetch. The answer is awaited even when a stop comes meanwhile: it may bring a job.
    async fn fetch(&self, permit: OwnedSemaphorePermit, stop: &CancellationToken) -> Result<Option<Wait>, Error> {
        let shared = &self.shared;
        let token = shared.leases.begin_fetch();
        let asked = uptime_ms();
        match shared.queue.fetch(&token, &shared.worker).await {
            Ok(Fetched::Job(job)) => {
                shared.pulse.turn(Condition::Fetching);
                shared.pulse.round_trip();
                let shared = Arc::clone(shared);
                // On record as a lease before the task is scheduled: a drain must see it.
                let lease = shared.leases.fetched(&token, &job.id, &job.name, asked);
                if stop.is_cancelled() {
                    shared.decline(&job, &lease).await;
                    return Ok(None);
                }
                self.slots.spawn(async move {
                    // Handlers' panics are caught where they run; this is about our own code, which must not keep a job
                    // active and its lock renewed for ever.
                    if let Err(panic) = panics::catch(shared.run(job, lease)).await {
                        tracing::error!(message_id = events::JOB_LOST, "the slot's task ended: {}", panic.message);
                        shared.leases.abandon(&token);
                        shared.doubts.raise();
                    }
                    drop(permit);
                });
                Ok(None)
            }
            Ok(Fetched::Nothing(wait)) => {
                shared.leases.retire(&token);
                shared.pulse.turn(match wait {
                    Wait::RateLimited(_) => Condition::RateLimited,
                    Wait::Until(_) => Condition::Fetching,
                    // A guess at why is only for people: where it cannot be asked, the next fetch tells.
                    Wait::Empty => shared.queue.why_empty().await.unwrap_or(Condition::Fetching),
                });
                shared.pulse.round_trip();
                Ok(Some(wait))
            }
            Err(error) => {
                shared.leases.retire(&token);
                Err(error)
            }
        }
    }

    /// Waits until there may be something to fetch, at most 2 s.
    async fn wait(&self, wait: Wait, reads: &mut Backoff) {
        let limit = match wait {
            // While the limit is used up the marker stays set: reading it would only spin.
            Wait::RateLimited(left) => {
                tokio::time::sleep(left.clamp(Duration::from_millis(1), LONGEST_BLOCK)).await;
                return;
            }
            Wait::Empty => LONGEST_BLOCK,
            Wait::Until(due_ms) => match self.shared.queue.now_ms().await {
                Ok(now_ms) => Duration::from_millis(u64::try_from(due_ms - now_ms).unwrap_or(0)).min(LONGEST_BLOCK),
                Err(_) => return,
            },
        };
        match self.shared.queue.await_marker(&self.blocking, limit).await {
            Ok(()) => reads.reset(),
            Err(error) => {
                tracing::debug!("the read on the marker ended: {error}");
                #[cfg(feature = "test-jobs")]
                hang_if_switched_off().await;
                // The fetch that follows tells what is wrong; here it must only not spin.
                tokio::time::sleep(reads.next_delay()).await;
            }
        }
    }
}

/// Never ends where a test wants a fetch loop that hangs after an error.
#[cfg(feature = "test-jobs")]
async fn hang_if_switched_off() {
    if crate::switches::off("fetch-again") {
        tracing::warn!("the fetch loop hangs");
        std::future::pending::<()>().await;
    }
}

/// Redis answered; says so if it did not before.
fn tell_return(backoff: &mut Backoff) {
    if backoff.is_raised() {
        tracing::info!(message_id = events::DEPENDENCY_UP, "Redis answers again");
    }
    backoff.reset();
}

impl Shared {
    /// Stalled checks, the look for jobs of lost answers, the slow sweep, and an eye on the sentinels.
    async fn keep_house(&self) {
        tokio::join!(
            panics::again("the stalled check", || self.check_stalled_for_ever()),
            panics::again("the look for jobs of lost answers", || self.look_for_orphans_for_ever()),
            panics::again("the search for lost jobs", || self.sweep_for_ever()),
            panics::again("the eye on the sentinels", || self.queue.link.follow_primary())
        );
    }

    async fn check_stalled_for_ever(&self) {
        loop {
            match self.queue.check_stalled().await {
                Ok(stalled) => {
                    for id in stalled {
                        tracing::warn!(message_id = events::JOB_STALLED, floh_job_id = %id, "stalled: nobody held its lock, it waits again");
                    }
                }
                Err(error) if error.is_unavailable() => tracing::debug!("no stalled check: {error}"),
                // It has taken a job out of `active` and could not put it into `wait`: the search for lost jobs does.
                Err(error) => tracing::warn!("the stalled check ended half-way: {error}"),
            }
            let jitter = Duration::from_millis(rand::random_range(0..3000));
            tokio::time::sleep(STALLED_PERIOD + jitter).await;
        }
    }

    async fn look_for_orphans_for_ever(&self) {
        loop {
            let seen = self.doubts.raised().await;
            if self.look_for_what_is_lost(seen).await {
                self.doubts.settle(seen);
            }
        }
    }

    /// All looks for the first `seen` doubts. False if one more is raised meanwhile: what that took is looked for at once,
    /// and the looks begin anew for all of them.
    async fn look_for_what_is_lost(&self, seen: u64) -> bool {
        for pause in LOOKS_AFTER_ERROR {
            if tokio::time::timeout(pause, self.doubts.raised_after(seen)).await.is_ok() {
                return false;
            }
            self.look_for_orphans().await;
        }
        true
    }

    /// One look, over as many connections as it takes.
    async fn look_for_orphans(&self) {
        let mut backoff = Backoff::default();
        while let Err(error) = self.queue.hand_back_orphans(&self.leases, &self.worker).await {
            if !backoff.is_raised() {
                tracing::warn!("no look for jobs of lost answers yet: {error}");
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn sweep_for_ever(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(rand::random_range(10_000..20_000))).await;
            if let Err(error) = self.queue.restore_lost_jobs().await {
                tracing::debug!("no search for lost jobs: {error}");
            }
        }
    }
}
