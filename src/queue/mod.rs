//! BullMQ: connection, scripts, consumer, leases, schedulers. Knows no job and no table.
//!
//! A job's way: [`fetch`] takes it, [`consumer`] gives it a slot, `slot` has it processed under a [`lease`], [`finish`]
//! acknowledges, retries, fails or hands it back and takes the next.

pub mod add;
mod add_all;
pub mod connection;
pub mod consumer;
mod doubts;
pub mod error;
pub mod fetch;
pub mod finish;
pub mod job;
mod json;
pub mod keys;
pub mod lease;
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
mod sweep;

pub use add_all::Added;
pub use error::Error;
pub use job::Job;
pub use processor::{BoxFuture, Execution, Failure, Outcome, Processor};
pub use standing::Standing;

use crate::config::{QueueConfig, RedisConfig};
use connection::{COMMAND_DEADLINE, Fate, Link};
use keys::Keys;

/// Data larger than this fails a job before it is parsed.
pub const MAX_JOB_BYTES: usize = 1024 * 1024;

/// One queue: its keys and the connection for commands. Cheap to share behind an `Arc`.
pub struct Queue {
    /// The queue's keys.
    pub keys: Keys,
    /// Name of the queue, without the prefix.
    pub name: String,
    /// The connection for commands.
    pub link: Link,
}

impl Queue {
    /// The queue that the configuration names; nothing is opened yet.
    pub fn new(queue: &QueueConfig, redis: &RedisConfig, fate: Fate) -> Result<Queue, Error> {
        Ok(Queue { keys: Keys::new(queue), name: queue.name.clone(), link: Link::new(redis, fate, None)? })
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
