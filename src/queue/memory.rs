//! Short texts of our own that are kept beside the queue: a memory outside PostgreSQL, shared by all workers.

use super::{Queue, connection::COMMAND_DEADLINE, error::Error};

impl Queue {
    /// The key that holds such a text. BullMQ's clients and our own sweep leave it alone.
    pub fn memory_key(&self, name: &str) -> String {
        format!("{}floh-worker:{name}", self.keys.base)
    }

    /// The text, if one is kept.
    pub async fn recall(&self, name: &str) -> Result<Option<String>, Error> {
        let mut command = redis::cmd("GET");
        command.arg(self.memory_key(name));
        self.link.query(&command, "GET", COMMAND_DEADLINE).await
    }

    /// Keeps a text, for good, in place of the one before.
    pub async fn remember(&self, name: &str, text: &str) -> Result<(), Error> {
        let mut command = redis::cmd("SET");
        command.arg(self.memory_key(name)).arg(text);
        self.link.query(&command, "SET", COMMAND_DEADLINE).await
    }
}
