//! The names of the queue's keys in Redis, as BullMQ spells them.

use crate::config::QueueConfig;

/// All keys of one queue.
#[derive(Debug, Clone)]
pub struct Keys {
    /// `prefix:queue:`, what every key of the queue begins with.
    pub base: String,
    /// List of jobs that wait (the right end is next).
    pub wait: String,
    /// List of 5.x clients: where `wait` goes while they pause the queue.
    pub paused: String,
    /// List of jobs that a worker holds.
    pub active: String,
    /// Set by priority.
    pub prioritized: String,
    /// Set by due time (milliseconds × 4096).
    pub delayed: String,
    /// Set by time of completion.
    pub completed: String,
    /// Set by time of failure.
    pub failed: String,
    /// Parents whose children run.
    pub waiting_children: String,
    /// Candidates of the stalled check.
    pub stalled: String,
    /// Guard of the stalled check.
    pub stalled_check: String,
    /// Counter of the rate limit.
    pub limiter: String,
    /// Hash of the queue's settings.
    pub meta: String,
    /// Priority counter.
    pub priority_counter: String,
    /// What a blocked worker waits on.
    pub marker: String,
    /// Event stream.
    pub events: String,
    /// Job schedulers by next due time, and prefix of their hashes.
    pub repeat: String,
    /// Counter that gives ids.
    pub id: String,
}

impl Keys {
    /// The keys of the queue that the configuration names.
    pub fn new(config: &QueueConfig) -> Self {
        let base = format!("{}:{}:", config.prefix, config.name);
        let key = |name: &str| format!("{base}{name}");
        Keys {
            wait: key("wait"),
            paused: key("paused"),
            active: key("active"),
            prioritized: key("prioritized"),
            delayed: key("delayed"),
            completed: key("completed"),
            failed: key("failed"),
            waiting_children: key("waiting-children"),
            stalled: key("stalled"),
            stalled_check: key("stalled-check"),
            limiter: key("limiter"),
            meta: key("meta"),
            priority_counter: key("pc"),
            marker: key("marker"),
            events: key("events"),
            repeat: key("repeat"),
            id: key("id"),
            base,
        }
    }

    /// The hash of a job.
    pub fn job(&self, id: &str) -> String {
        format!("{}{id}", self.base)
    }

    /// The lock of a job.
    pub fn lock(&self, id: &str) -> String {
        format!("{}{id}:lock", self.base)
    }

    /// The logs of a job.
    pub fn logs(&self, id: &str) -> String {
        format!("{}{id}:logs", self.base)
    }

    /// The metrics of one outcome (`completed` or `failed`).
    pub fn metrics(&self, outcome: &str) -> String {
        format!("{}metrics:{outcome}", self.base)
    }
}
