//! Adding jobs, as any BullMQ client does.

use super::{Queue, connection::COMMAND_DEADLINE, error::Error, lease::pack, options, scripts};
use redis::{Cmd, FromRedisValue};
use serde_json::{Value, json};
use std::time::Duration;

/// The greatest priority that BullMQ's scores can hold.
const LARGEST_PRIORITY: u32 = 2_097_152;

/// Keys of the queue's own: a job of such an id would be written over them.
const TAKEN_IDS: [&str; 17] = [
    "active",
    "completed",
    "delayed",
    "events",
    "failed",
    "id",
    "limiter",
    "marker",
    "meta",
    "paused",
    "pc",
    "prioritized",
    "repeat",
    "stalled",
    "stalled-check",
    "wait",
    "waiting-children",
];

/// A job to add.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Name, which chooses the handler.
    pub name: String,
    /// Data: JSON text.
    pub data: String,
    /// An id of its own: adding it a second time while it exists adds nothing. BullMQ refuses integers and `:`.
    pub id: Option<String>,
    /// Not before this long from now.
    pub delay: Duration,
    /// 0 is none; 1 is the most urgent of those that have one.
    pub priority: u32,
    /// Goes to the front.
    pub lifo: bool,
    /// Attempts in all.
    pub attempts: u32,
    /// Whether the job leaves nothing behind when it completes, so that its id is free again.
    pub remove_on_complete: bool,
}

impl NewJob {
    /// A job with the defaults of the project: up to three retries after 5, 10 and 20 s.
    pub fn new(name: impl Into<String>, data: Value) -> NewJob {
        NewJob {
            name: name.into(),
            data: data.to_string(),
            id: None,
            delay: Duration::ZERO,
            priority: 0,
            lifo: false,
            attempts: options::DEFAULT_ATTEMPTS,
            remove_on_complete: false,
        }
    }

    /// Says what BullMQ would refuse, or choke on.
    fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Settings(why));
        match &self.id {
            Some(id) if id.is_empty() || id.contains(':') || id.parse::<i64>().is_ok() => {
                refuse(format!("{id:?} cannot be a job's id: not empty, no integer, no colon"))
            }
            Some(id) if TAKEN_IDS.contains(&id.as_str()) => {
                refuse(format!("{id:?} cannot be a job's id: the queue has a key of that name"))
            }
            _ if self.priority > LARGEST_PRIORITY => {
                refuse(format!("{} cannot be a priority: at most {LARGEST_PRIORITY}", self.priority))
            }
            _ => Ok(()),
        }
    }

    fn options(&self) -> Value {
        let mut options = json!({
            "attempts": self.attempts,
            "backoff": { "type": "exponential", "delay": options::DEFAULT_BACKOFF.delay_ms },
        });
        let mut set = |name: &str, value: Value| options[name] = value;
        if !self.delay.is_zero() {
            set("delay", json!(u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX)));
        }
        if self.priority > 0 {
            set("priority", json!(self.priority));
        }
        if self.lifo {
            set("lifo", json!(true));
        }
        if self.remove_on_complete {
            set("removeOnComplete", json!(true));
        }
        if let Some(id) = &self.id {
            set("jobId", json!(id));
        }
        options
    }
}

/// One call of the script that adds a job.
pub(super) struct Call<'a> {
    pub(super) script: &'static scripts::Script,
    keys: Vec<&'a str>,
    settle: [&'a str; 3],
    arguments: [Vec<u8>; 3],
}

impl Call<'_> {
    fn arguments(&self) -> [&[u8]; 3] {
        self.arguments.each_ref().map(Vec::as_slice)
    }

    /// As a command of a pipeline, by the script's hash.
    pub(super) fn command(&self) -> Cmd {
        self.script.by_hash(&self.keys, self.settle, &self.arguments())
    }

    /// The id of the added job.
    pub(super) fn read(&self, answer: redis::Value) -> Result<String, Error> {
        match answer {
            redis::Value::Int(id) if id <= 0 => Err(Error::answer(self.script.name, id.to_string())),
            other => {
                String::from_redis_value(other).map_err(|error| Error::answer(self.script.name, error.to_string()))
            }
        }
    }
}

impl Queue {
    /// Adds a job; its id.
    pub async fn add(&self, job: &NewJob) -> Result<String, Error> {
        let call = self.adding(job, self.now_ms().await?)?;
        let answer = call.script.call(&self.link, COMMAND_DEADLINE, &call.keys, call.settle, &call.arguments()).await?;
        call.read(answer)
    }

    /// The call that adds a job at this time.
    pub(super) fn adding(&self, job: &NewJob, now_ms: i64) -> Result<Call<'_>, Error> {
        job.check()?;
        let keys = &self.keys;
        let none: Option<String> = None;
        // Prefix, id, name, time, and five places for parents, schedulers and deduplication that are not used here.
        let head =
            pack(&(&keys.base, job.id.as_deref().unwrap_or(""), &job.name, now_ms, &none, &none, &none, &none, &none))?;
        let (script, keys): (&'static scripts::Script, Vec<&str>) = if !job.delay.is_zero() {
            (
                &scripts::ADD_DELAYED_JOB,
                vec![&keys.marker, &keys.meta, &keys.id, &keys.delayed, &keys.completed, &keys.events],
            )
        } else if job.priority > 0 {
            (
                &scripts::ADD_PRIORITIZED_JOB,
                vec![
                    &keys.marker,
                    &keys.meta,
                    &keys.id,
                    &keys.prioritized,
                    &keys.delayed,
                    &keys.completed,
                    &keys.active,
                    &keys.events,
                    &keys.priority_counter,
                ],
            )
        } else {
            (
                &scripts::ADD_STANDARD_JOB,
                vec![
                    &keys.wait,
                    &keys.paused,
                    &keys.meta,
                    &keys.id,
                    &keys.completed,
                    &keys.delayed,
                    &keys.active,
                    &keys.events,
                    &keys.marker,
                ],
            )
        };
        let arguments = [head, job.data.clone().into_bytes(), pack(&job.options())?];
        Ok(Call { script, keys, settle: self.settle(), arguments })
    }
}
