//! What the consumer is doing, for the watchdog, the status line and tests.

use crate::events;
use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::Notify;

/// Where the fetch loop stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Condition {
    /// Nothing was tried yet.
    #[default]
    Starting,
    /// Fetching, or waiting for a job.
    Fetching,
    /// Every slot has a job.
    Full,
    /// The queue's rate limit is used up.
    RateLimited,
    /// A client paused the queue.
    Paused,
    /// As many jobs are active as the queue's global concurrency allows.
    Maxed,
    /// Not fetching on purpose, and why.
    Holding(String),
    /// Redis does not answer, and how.
    Disconnected(String),
    /// No fetch any more: the worker drains.
    Draining,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Starting => f.write_str("starting"),
            Condition::Fetching => f.write_str("idle"),
            Condition::Full => f.write_str("busy"),
            Condition::RateLimited => f.write_str("waiting for the queue's rate limit"),
            Condition::Paused => f.write_str("idle: the queue is paused"),
            Condition::Maxed => f.write_str("idle: the queue's global concurrency is reached"),
            Condition::Holding(why) | Condition::Disconnected(why) => write!(f, "not fetching: {why}"),
            Condition::Draining => f.write_str("draining"),
        }
    }
}

/// Counters that only rise, and the loop's condition.
#[derive(Debug, Default)]
pub struct Pulse {
    turns: AtomicU64,
    round_trips: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
    handed_back: AtomicU64,
    lost: AtomicU64,
    condition: Mutex<Condition>,
    first: Notify,
}

/// How an attempt ended, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tally {
    /// Completed.
    Completed,
    /// Failed for good.
    Failed,
    /// To be tried again.
    Retried,
    /// Given back.
    HandedBack,
    /// The lease was lost.
    Lost,
}

impl Pulse {
    /// The fetch loop turned, with this outcome.
    pub fn turn(&self, condition: Condition) {
        self.turns.fetch_add(1, Ordering::Relaxed);
        let mut current = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != condition {
            tracing::debug!("consumer: {current} -> {condition}");
            if condition == Condition::Paused {
                tracing::info!(message_id = events::QUEUE_PAUSED, "the queue is paused: no job is given out");
            } else if *current == Condition::Paused {
                tracing::info!(message_id = events::QUEUE_RESUMED, "the queue is no longer paused");
            }
            *current = condition;
        }
    }

    /// A fetch came back, empty or not.
    pub fn round_trip(&self) {
        if self.round_trips.fetch_add(1, Ordering::Release) == 0 {
            self.first.notify_waiters();
        }
    }

    /// Waits until the first fetch came back.
    pub async fn first_round_trip(&self) {
        loop {
            let notified = self.first.notified();
            if self.round_trips.load(Ordering::Acquire) > 0 {
                return;
            }
            notified.await;
        }
    }

    /// Counts an ended attempt.
    pub fn count(&self, tally: Tally) {
        self.counter(tally).fetch_add(1, Ordering::Relaxed);
    }

    /// How many attempts ended so.
    pub fn total(&self, tally: Tally) -> u64 {
        self.counter(tally).load(Ordering::Relaxed)
    }

    /// How often the fetch loop turned.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Where the fetch loop stands.
    pub fn condition(&self) -> Condition {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn counter(&self, tally: Tally) -> &AtomicU64 {
        match tally {
            Tally::Completed => &self.completed,
            Tally::Failed => &self.failed,
            Tally::Retried => &self.retried,
            Tally::HandedBack => &self.handed_back,
            Tally::Lost => &self.lost,
        }
    }
}
