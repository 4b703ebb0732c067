//! Where a job is, asked when a script refused it.

use super::{Queue, connection::COMMAND_DEADLINE, error::Error, fetch::lock_duration_ms, scripts, scripts::Script};
use redis::Value;
use std::{fmt, sync::LazyLock};

static MEND: LazyLock<Script> = LazyLock::new(|| Script::own("mendFields", 1, false, include_str!("lua/mend.lua")));

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Completed, failed, or removed because it ended.
    Finished,
    /// Waiting, delayed, prioritised, or for its children.
    Waiting,
    /// Active.
    Active,
    /// In no list.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Finished => "finished",
            Place::Waiting => "waiting",
            Place::Active => "active",
            Place::Nowhere => "in no list",
        })
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It has completed.
    Completed,
    /// It failed for good, for this reason.
    Failed(String),
    /// The queue has no such job: it was removed, or never was.
    Gone,
}

impl Queue {
    /// How a job ended, if it has.
    pub async fn end(&self, id: &str) -> Result<Option<End>, Error> {
        let keys = &self.keys;
        let hash = keys.job(id);
        let mut pipe = redis::pipe();
        pipe.atomic().exists(&hash).zscore(&keys.completed, id).zscore(&keys.failed, id).hget(&hash, "failedReason");
        let (there, completed, failed, reason): (bool, Value, Value, Option<Vec<u8>>) = self
            .link
            .with("how a job ended", COMMAND_DEADLINE, async |mut connection| pipe.query_async(&mut connection).await)
            .await?;
        Ok(if !there {
            Some(End::Gone)
        } else if completed != Value::Nil {
            Some(End::Completed)
        } else if failed != Value::Nil {
            Some(End::Failed(String::from_utf8_lossy(&reason.unwrap_or_default()).into_owned()))
        } else {
            None
        })
    }

    /// The token that locks an active job; `None` if nobody holds it.
    pub async fn lock_token(&self, id: &str) -> Result<Option<String>, Error> {
        self.link.query(redis::cmd("GET").arg(self.keys.lock(id)), "GET", COMMAND_DEADLINE).await
    }

    /// Where a job is now.
    pub async fn place(&self, id: &str) -> Result<Place, Error> {
        let keys = &self.keys;
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.exists(keys.job(id));
        for set in [&keys.completed, &keys.failed, &keys.delayed, &keys.prioritized, &keys.waiting_children] {
            pipe.zscore(set, id);
        }
        for list in [&keys.active, &keys.wait, &keys.paused] {
            pipe.cmd("LPOS").arg(list).arg(id);
        }
        let found: Vec<Value> = self
            .link
            .with("a job's state", COMMAND_DEADLINE, async |mut connection| pipe.query_async(&mut connection).await)
            .await?;
        let there = |index: usize| found.get(index).is_some_and(|value| *value != Value::Nil);
        Ok(if found.first() == Some(&Value::Int(0)) || there(1) || there(2) {
            Place::Finished
        } else if there(6) {
            Place::Active
        } else if (3..=5).chain(7..=8).any(there) {
            Place::Waiting
        } else {
            Place::Nowhere
        })
    }

    /// Locks a job again whose lock expired; whether the lock is ours now.
    pub async fn relock(&self, id: &str, token: &str) -> Result<bool, Error> {
        let mut command = redis::cmd("SET");
        command.arg(self.keys.lock(id)).arg(token).arg("NX").arg("PX").arg(lock_duration_ms());
        let set: Option<String> = self.link.query(&command, "SET", COMMAND_DEADLINE).await?;
        if set.is_some() {
            return Ok(true);
        }
        Ok(self.lock_token(id).await?.as_deref() == Some(token))
    }

    /// Removes fields of a job that BullMQ's scripts would end half-way at: counters that are no whole numbers, a parent
    /// that is none. Says which.
    pub async fn mend_fields(&self, id: &str) -> Result<Vec<String>, Error> {
        let hash = self.keys.job(id);
        let mended: Vec<String> = MEND.call(&self.link, COMMAND_DEADLINE, &[&hash], self.settle(), &[]).await?;
        if !mended.is_empty() {
            tracing::warn!(floh_job_id = %id, "fields that could not be read were removed: {}", mended.join(", "));
        }
        Ok(mended)
    }

    /// Brings a failed job back, as a retry by hand does; false if it is not in `failed`.
    pub async fn retry_failed(&self, id: &str) -> Result<bool, Error> {
        let keys = &self.keys;
        let hash = keys.job(id);
        let answer: i64 = scripts::REPROCESS_JOB
            .call(
                &self.link,
                COMMAND_DEADLINE,
                &[
                    &hash,
                    &keys.events,
                    &keys.failed,
                    &keys.wait,
                    &keys.meta,
                    &keys.active,
                    &keys.marker,
                    &keys.prioritized,
                    &keys.priority_counter,
                ],
                self.settle(),
                &[id.as_bytes(), b"LPUSH", b"failedReason", b"failed", b"0", b"0"],
            )
            .await?;
        Ok(answer == 1)
    }

    /// Forgets a failure that somebody decided before the attempt.
    pub async fn clear_deferred_failure(&self, id: &str) -> Result<(), Error> {
        let mut command = redis::cmd("HDEL");
        command.arg(self.keys.job(id)).arg("defa");
        let _: i64 = self.link.query(&command, "HDEL", COMMAND_DEADLINE).await?;
        Ok(())
    }
}
