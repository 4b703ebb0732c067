//! Taking a job: `moveToActive`, the blocked read on the marker, and the answers of both.

use super::{
    Job, Queue,
    connection::{COMMAND_DEADLINE, CONNECT_DEADLINE, Link},
    error::Error,
    lease::{LOCK_DURATION, pack},
    pulse::Condition,
    scripts,
};
use redis::Value;
use std::time::Duration;

/// The longest that the read on the marker blocks, and so the longest between two fetches.
pub const LONGEST_BLOCK: Duration = Duration::from_secs(2);

/// What a fetch brought.
#[derive(Debug)]
pub enum Fetched {
    /// A job, locked with the fetch's token.
    Job(Box<Job>),
    /// Nothing, and why.
    Nothing(Wait),
}

/// Why there was no job, as far as the script says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wait {
    /// Nothing waits, or the queue is paused or at its global concurrency.
    Empty,
    /// The next delayed job is due at this time, milliseconds by Redis' clock.
    Until(i64),
    /// The rate limit is used up for this long.
    RateLimited(Duration),
}

#[derive(serde::Serialize)]
struct FetchOptions<'a> {
    token: &'a str,
    #[serde(rename = "lockDuration")]
    lock_duration: &'a str,
    name: &'a str,
}

impl Queue {
    /// Takes the next job, if there is one, and locks it with `token`. `worker` is what BullMQ shows as `processedBy`.
    ///
    /// # Errors
    /// After [`Error::Unavailable`] a job may have been taken all the same: see [`Queue::hand_back_orphans`].
    pub async fn fetch(&self, token: &str, worker: &str) -> Result<Fetched, Error> {
        let keys = &self.keys;
        let options = pack(&FetchOptions { token, lock_duration: &lock_duration(), name: worker })?;
        let answer: Value = scripts::MOVE_TO_ACTIVE
            .call(
                &self.link,
                CONNECT_DEADLINE,
                &[
                    &keys.wait,
                    &keys.active,
                    &keys.prioritized,
                    &keys.events,
                    &keys.stalled,
                    &keys.limiter,
                    &keys.delayed,
                    &keys.paused,
                    &keys.meta,
                    &keys.priority_counter,
                    &keys.marker,
                ],
                self.settle(),
                &[keys.base.as_bytes(), b"", &options],
            )
            .await?;
        read_fetched("moveToActive", answer, self.max_job_bytes)
    }

    /// Why a fetch that found nothing did: the scripts do not tell a paused queue from an empty one.
    pub async fn why_empty(&self) -> Result<Condition, Error> {
        let keys = &self.keys;
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(&keys.meta).arg("paused").arg("concurrency").cmd("LLEN").arg(&keys.active);
        let ((paused, limit), active): ((Option<String>, Option<u64>), u64) = self
            .link
            .with("the queue's settings", COMMAND_DEADLINE, async |mut connection| {
                pipe.query_async(&mut connection).await
            })
            .await?;
        Ok(if paused.is_some() {
            Condition::Paused
        } else if limit.is_some_and(|limit| active >= limit) {
            Condition::Maxed
        } else {
            Condition::Fetching
        })
    }

    /// Waits on the marker, at most for `limit`. What it pops is only a hint: the caller fetches in any case.
    pub async fn await_marker(&self, blocking: &Link, limit: Duration) -> Result<(), Error> {
        // Redis reads 0 as "for ever", and rounds what is below a millisecond to it.
        let limit = limit.clamp(Duration::from_millis(5), LONGEST_BLOCK);
        let mut command = redis::cmd("BZPOPMIN");
        command.arg(&self.keys.marker).arg(format!("{:.3}", limit.as_secs_f64()));
        let _: Value = blocking.wait(&command, "BZPOPMIN", limit + CONNECT_DEADLINE).await?;
        Ok(())
    }
}

/// How long a lock lives, milliseconds as text: Redis takes long to write a number of Lua as an argument.
pub(crate) fn lock_duration() -> String {
    LOCK_DURATION.as_millis().to_string()
}

pub(crate) fn lock_duration_ms() -> u64 {
    u64::try_from(LOCK_DURATION.as_millis()).unwrap_or(u64::MAX)
}

/// Reads `{job or 0, id or 0, rate limit ms, next delayed ms}`. A job with more than `largest` bytes of data is a defect.
pub(crate) fn read_fetched(script: &str, answer: Value, largest: usize) -> Result<Fetched, Error> {
    let strange = |what: &str| Error::answer(script, format!("an answer that it does not give: {what}"));
    let Value::Array(parts) = answer else {
        return Ok(Fetched::Nothing(Wait::Empty));
    };
    let mut parts = parts.into_iter();
    let (job, id, limit, until) = (parts.next(), parts.next(), parts.next(), parts.next());
    match job {
        Some(Value::Array(flat)) => {
            let id = text(id).ok_or_else(|| strange("a job without an id"))?;
            Ok(Fetched::Job(Box::new(Job::read(id, &pairs(flat), largest))))
        }
        Some(Value::Map(entries)) => {
            let id = text(id).ok_or_else(|| strange("a job without an id"))?;
            let flat = entries.into_iter().flat_map(|(name, value)| [name, value]).collect();
            Ok(Fetched::Job(Box::new(Job::read(id, &pairs(flat), largest))))
        }
        Some(_) => {
            let limit = integer(limit);
            let until = integer(until);
            Ok(Fetched::Nothing(if limit > 0 {
                Wait::RateLimited(Duration::from_millis(u64::try_from(limit).unwrap_or(0)))
            } else if until > 0 {
                Wait::Until(until)
            } else {
                Wait::Empty
            }))
        }
        None => Err(strange("an empty list")),
    }
}

fn pairs(flat: Vec<Value>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs = Vec::with_capacity(flat.len() / 2);
    let mut values = flat.into_iter();
    while let (Some(name), Some(value)) = (values.next(), values.next()) {
        if let (Some(name), Some(value)) = (bytes(name), bytes(value)) {
            pairs.push((name, value));
        }
    }
    pairs
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

/// An id; whether there is a job is told by the list before it, so "0" is an id like any other.
fn text(value: Option<Value>) -> Option<String> {
    value.and_then(bytes).and_then(|bytes| String::from_utf8(bytes).ok())
}

fn integer(value: Option<Value>) -> i64 {
    match value {
        Some(Value::Int(number)) => number,
        Some(Value::Double(number)) => number as i64,
        Some(Value::BulkString(bytes)) => String::from_utf8_lossy(&bytes).parse::<f64>().map_or(0, |n| n as i64),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn a_fetched_job_and_every_kind_of_nothing_are_read() {
        let job = Value::Array(vec![bulk("name"), bulk("x"), bulk("ats"), bulk("1")]);
        let answer = Value::Array(vec![job, bulk("7"), Value::Int(0), Value::Int(0)]);
        assert!(matches!(read_fetched("s", answer, 100), Ok(Fetched::Job(job)) if job.id == "7" && job.name == "x"));
        let nothing = |limit, until| {
            let answer = Value::Array(vec![Value::Int(0), Value::Int(0), Value::Int(limit), Value::Int(until)]);
            match read_fetched("s", answer, 100) {
                Ok(Fetched::Nothing(wait)) => wait,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(nothing(0, 0), Wait::Empty);
        assert_eq!(nothing(0, 1_700_000_000_000), Wait::Until(1_700_000_000_000));
        assert_eq!(nothing(250, 5), Wait::RateLimited(Duration::from_millis(250)));
    }

    #[test]
    fn strange_answers_are_errors_and_not_panics() {
        assert!(read_fetched("s", Value::Array(vec![]), 100).is_err());
        let no_id = Value::Array(vec![Value::Array(vec![bulk("name")]), Value::Nil]);
        assert!(read_fetched("s", no_id, 100).is_err());
        assert!(matches!(read_fetched("s", Value::Nil, 100), Ok(Fetched::Nothing(Wait::Empty))));
    }
}
