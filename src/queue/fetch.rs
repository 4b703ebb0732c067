//! Taking a job: `moveToActive`, the blocked read on the marker, and the answers of both.

use super::{
    Job, Queue,
    answer::Answer,
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
        read_fetched("moveToActive", &answer, self.max_job_bytes)
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

/// Reads the answer of a script that may give out a job. A job with more than `largest` bytes of data is a defect.
pub(crate) fn read_fetched(script: &str, answer: &Value, largest: usize) -> Result<Fetched, Error> {
    let Value::BulkString(packed) = answer else {
        return Ok(Fetched::Nothing(Wait::Empty));
    };
    let strange = |what: String| Error::answer(script, format!("an answer that it does not give: {what}"));
    let answer = Answer::read(packed).map_err(|error| strange(error.to_string()))?;
    match answer.fields {
        Some(fields) => {
            // An id is any text; whether there is a job is told by the list before it, so "0" is an id like any other.
            let id = answer.id.and_then(|id| str::from_utf8(id).ok());
            let id = id.ok_or_else(|| strange("a job without an id".into()))?.to_string();
            let pairs = fields.chunks_exact(2).map(|pair| (pair[0], pair[1]));
            Ok(Fetched::Job(Box::new(Job::read(id, pairs, largest))))
        }
        None if answer.limit_ms > 0.0 => {
            Ok(Fetched::Nothing(Wait::RateLimited(Duration::from_millis(answer.limit_ms as u64))))
        }
        None if answer.until_ms >= 1.0 => Ok(Fetched::Nothing(Wait::Until(answer.until_ms as i64))),
        None => Ok(Fetched::Nothing(Wait::Empty)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as Redis packs it.
    fn packed(answer: impl serde::Serialize) -> Value {
        Value::BulkString(pack(&answer).unwrap())
    }

    #[test]
    fn a_fetched_job_and_every_kind_of_nothing_are_read() {
        let answer = packed((["name", "x", "ats", "1"], "7", 0, 0));
        assert!(matches!(read_fetched("s", &answer, 100), Ok(Fetched::Job(job)) if job.id == "7" && job.name == "x"));
        let nothing = |answer: Value| match read_fetched("s", &answer, 100) {
            Ok(Fetched::Nothing(wait)) => wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(nothing(packed((0, 0, 0, 0))), Wait::Empty);
        assert_eq!(nothing(packed((0, 0, 0, 1_700_000_000_000i64))), Wait::Until(1_700_000_000_000));
        // A score that is no multiple of 4096 divided by it.
        assert_eq!(nothing(packed((0, 0, 0, 1_700_000_000_000.25))), Wait::Until(1_700_000_000_000));
        assert_eq!(nothing(packed((0, 0, 250, 5))), Wait::RateLimited(Duration::from_millis(250)));
        assert_eq!(nothing(Value::Nil), Wait::Empty);
        assert_eq!(nothing(Value::Int(0)), Wait::Empty);
    }

    #[test]
    fn what_is_no_text_is_the_job_s_defect_and_no_error_of_the_answer() {
        // [["name", "x", "data", <ff>], "7", 0, 0]
        let mut bytes = vec![0x94, 0x94, 0xa4];
        bytes.extend(b"name\xa1x\xa4data\xa1\xff\xa17\x00\x00");
        let Ok(Fetched::Job(job)) = read_fetched("s", &Value::BulkString(bytes), 100) else { panic!("no job") };
        assert!(job.defect.is_some_and(|reason| reason.contains("not UTF-8")));
    }

    #[test]
    fn strange_answers_are_errors_and_not_panics() {
        let no: [&str; 0] = [];
        for strange in [packed(no), packed((["name"], 0, 0, 0)), packed("x"), Value::BulkString(vec![0xc1])] {
            assert!(read_fetched("s", &strange, 100).is_err(), "{strange:?}");
        }
    }
}
