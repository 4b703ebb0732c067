//! Doubts: calls whose answers were lost, and which may have taken a job without our knowing.

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Raised by whoever lost an answer, settled by whoever has looked for what it took.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    raised: AtomicU64,
    settled: AtomicU64,
    news: Notify,
}

impl Doubts {
    /// Something may have been taken: to be looked for.
    pub(super) fn raise(&self) {
        self.raised.fetch_add(1, Ordering::AcqRel);
        self.news.notify_one();
    }

    /// Waits until a doubt is open; how many have been raised so far.
    pub(super) async fn raised(&self) -> u64 {
        while !self.are_open() {
            self.news.notified().await;
        }
        self.count()
    }

    /// Waits until more than `seen` have been raised.
    pub(super) async fn raised_after(&self, seen: u64) {
        while self.count() <= seen {
            self.news.notified().await;
        }
    }

    /// How many have been raised so far.
    pub(super) fn count(&self) -> u64 {
        self.raised.load(Ordering::Acquire)
    }

    /// The first `seen` doubts are settled.
    pub(super) fn settle(&self, seen: u64) {
        self.settled.fetch_max(seen, Ordering::AcqRel);
    }

    /// Whether any is not.
    pub(super) fn are_open(&self) -> bool {
        self.raised.load(Ordering::Acquire) > self.settled.load(Ordering::Acquire)
    }
}
