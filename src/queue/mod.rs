//! BullMQ: connection, scripts, consumer, leases, schedulers. Knows no job and no table.
//!
//! A job's way: [`fetch`] takes it, [`consumer`] gives it a slot, `slot` has it processed under a [`lease`], [`finish`]
//! acknowledges, retries, fails or hands it back and takes the next.

pub mod add;
mod add_all;
mod answer;
pub mod connection;
pub mod consumer;
mod doubts;
pub mod error;
pub mod fetch;
pub mod finish;
#[cfg(test)]
pub(crate) mod hostile;
pub mod job;
mod json;
pub mod keys;
pub mod lease;
mod memory;
pub mod options;
pub mod panics;
pub mod processor;
pub mod pulse;
pub mod schedulers;
pub mod scripts;
mod slot;
mod stalled;
mod standing;
pub mod state;
pub mod sweep;

pub use add_all::Added;
pub use error::Error;
pub use job::Job;
pub use processor::{BoxFuture, Execution, Failure, Outcome, Processor};
pub use standing::Standing;

use crate::config::{QueueConfig, RedisConfig};
use base64::Engine;
use connection::{COMMAND_DEADLINE, Fate, Link};
use keys::Keys;

/// One queue: its keys and the connection for commands. Cheap to share behind an `Arc`.
pub struct Queue {
    /// The queue's keys.
    pub keys: Keys,
    /// `prefix:name`: what tells it from a queue of equal name under another prefix.
    pub qualified_name: String,
    /// The connection for commands.
    pub link: Link,
    /// Data or options larger than this fail a job before they are parsed.
    pub max_job_bytes: usize,
}

impl Queue {
    /// The queue that the configuration names; nothing is opened yet.
    pub fn new(queue: &QueueConfig, redis: &RedisConfig, fate: Fate) -> Result<Queue, Error> {
        Ok(Queue::over(queue, Link::new(redis, fate, None)?))
    }

    /// The same for a worker: BullMQ's clients list it by the name of the connection for commands. That one is open from
    /// the start and again after each fault; the one for blocked reads is so only when there was nothing to do.
    pub fn of_worker(queue: &QueueConfig, redis: &RedisConfig, fate: Fate, worker: &str) -> Result<Queue, Error> {
        let encoded = base64::engine::general_purpose::STANDARD.encode(&queue.name);
        let name = format!("{}:{encoded}:w:{worker}", queue.prefix);
        Ok(Queue::over(queue, Link::new(redis, fate, Some(name))?))
    }

    fn over(queue: &QueueConfig, link: Link) -> Queue {
        Queue {
            keys: Keys::new(queue),
            qualified_name: format!("{}:{}", queue.prefix, queue.name),
            link,
            max_job_bytes: queue.max_job_bytes,
        }
    }

    /// The keys that a script needs which may push to `wait`.
    pub fn settle(&self) -> [&str; 3] {
        [&self.keys.wait, &self.keys.paused, &self.keys.meta]
    }

    /// Redis' clock, milliseconds. Every time that is stored in the queue comes from it.
    pub async fn now_ms(&self) -> Result<i64, Error> {
        let (seconds, micros): (i64, i64) = self.link.query(&redis::cmd("TIME"), "TIME", COMMAND_DEADLINE).await?;
        Ok(seconds * 1000 + micros / 1000)
    }
}
