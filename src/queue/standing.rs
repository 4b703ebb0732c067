//! Whether jobs that somebody waits for are still in the queue, asked for many at once.

use super::{Queue, add_all::all_answers, error::Error};
use redis::Value;

/// What the queue knows of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: it was never added, it ended and was removed, or it got lost.
    Missing,
    /// It has not ended.
    Pending,
    /// It was completed, and is kept.
    Completed,
    /// It failed for good, and is kept.
    Failed,
}

impl Queue {
    /// What the queue knows of each of these jobs, in their order and in one round trip.
    pub async fn standing<'a>(&self, ids: impl Iterator<Item = &'a str>) -> Result<Vec<Standing>, Error> {
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HMGET").arg(self.keys.job(id)).arg("name").arg("finishedOn");
            pipe.cmd("ZSCORE").arg(&self.keys.failed).arg(id);
        }
        let answers = all_answers(&self.link, "the state of jobs", &pipe).await?;
        answers.chunks_exact(2).map(|pair| self.read_standing(&pair[0], &pair[1])).collect()
    }

    fn read_standing(&self, hash: &Value, failed: &Value) -> Result<Standing, Error> {
        if let Value::ServerError(error) = hash {
            let error = Error::from_redis(self.link.place(), "HMGET", &error.clone().into());
            // A key that is no hash is no job that could be added or be lost.
            return if error.concerns_all() { Err(error) } else { Ok(Standing::Pending) };
        }
        let field = |index: usize| match hash {
            Value::Array(fields) => fields.get(index).is_some_and(|field| *field != Value::Nil),
            _ => false,
        };
        Ok(match (field(0), field(1)) {
            (false, _) => Standing::Missing,
            (true, false) => Standing::Pending,
            (true, true) if *failed == Value::Nil => Standing::Completed,
            (true, true) => Standing::Failed,
        })
    }
}
