//! Adding many jobs with ids of their own in one round trip.

use super::{
    Queue,
    add::NewJob,
    connection::{COMMAND_DEADLINE, Link},
    error::Error,
};
use redis::{RedisError, Value, aio::ConnectionLike};

/// What became of one of many jobs.
#[derive(Debug)]
pub enum Added {
    /// It is in the queue; where it was before, nothing has changed.
    InQueue,
    /// Nothing was added: an ended job of this id is still kept there.
    Ended,
    /// The queue does not take it, and why. The other jobs are not concerned.
    Refused(Error),
}

impl Queue {
    /// Adds jobs with ids of their own, in their order, and says what became of each.
    ///
    /// # Errors
    /// Redis cannot be reached, or does not serve now: some may have been added.
    pub async fn add_all(&self, jobs: &[NewJob]) -> Result<Vec<Added>, Error> {
        let now = self.now_ms().await?;
        let calls: Vec<_> = jobs.iter().map(|job| self.adding(job, now)).collect();
        let mut pipe = redis::pipe();
        for (job, call) in jobs.iter().zip(&calls) {
            if let Ok(call) = call {
                // Whether an ended job of this id is there is only a question of what is said about it.
                pipe.cmd("HEXISTS").arg(self.keys.job(job.id.as_deref().unwrap_or_default())).arg("finishedOn");
                pipe.add_command(call.command());
            }
        }
        let mut answers = all_answers(&self.link, "the adding of jobs", &pipe).await?.into_iter();
        let mut added = Vec::with_capacity(jobs.len());
        for (job, call) in jobs.iter().zip(calls) {
            let call = match call {
                Ok(call) => call,
                Err(error) => {
                    added.push(Added::Refused(error));
                    continue;
                }
            };
            let (ended, answer) = (answers.next(), answers.next());
            if let Some(Err(error)) = ended.clone().map(Value::extract_error) {
                // The key is no job's.
                let error = Error::from_redis(self.link.place(), "HEXISTS", &error);
                if error.concerns_all() {
                    return Err(error);
                }
                added.push(Added::Refused(error));
                continue;
            }
            let answer = match answer.ok_or_else(|| Error::answer(call.script.name, "nothing"))?.extract_error() {
                // A restarted Redis has forgotten the script: a single call brings it again.
                Err(error) if error.code() == Some("NOSCRIPT") => self.add(job).await.map(drop),
                Err(error) => Err(Error::from_redis(self.link.place(), call.script.name, &error)),
                Ok(answer) => call.read(answer).map(drop),
            };
            added.push(match answer {
                Ok(()) if ended == Some(Value::Int(1)) => Added::Ended,
                Ok(()) => Added::InQueue,
                Err(error) if error.concerns_all() => return Err(error),
                Err(error) => Added::Refused(error),
            });
        }
        Ok(added)
    }
}

/// Sends a pipeline and reads the answer of each command; an error that only one command met is its answer.
pub(super) async fn all_answers(link: &Link, name: &str, pipe: &redis::Pipeline) -> Result<Vec<Value>, Error> {
    if pipe.is_empty() {
        return Ok(Vec::new());
    }
    link.with(name, COMMAND_DEADLINE, async |mut connection| {
        let answers = connection.req_packed_commands(pipe, 0, pipe.len()).await?;
        // That the server is no primary is said to one command and holds for the connection, and for all others.
        match answers.iter().find_map(denial) {
            Some(error) => Err(error),
            None => Ok(answers),
        }
    })
    .await
}

fn denial(answer: &Value) -> Option<RedisError> {
    let Value::ServerError(error) = answer else { return None };
    Some(RedisError::from(error.clone())).filter(Error::denies_primary)
}
