//! Adding jobs, as any BullMQ client does.

use super::{Queue, connection::COMMAND_DEADLINE, error::Error, lease::pack, options, scripts};
use serde_json::{Value, json};
use std::time::Duration;

/// A job to add.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Name, which chooses the handler.
    pub name: String,
    /// Data.
    pub data: Value,
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
            data,
            id: None,
            delay: Duration::ZERO,
            priority: 0,
            lifo: false,
            attempts: options::DEFAULT_ATTEMPTS,
            remove_on_complete: false,
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

impl Queue {
    /// Adds a job; its id.
    pub async fn add(&self, job: &NewJob) -> Result<String, Error> {
        if let Some(id) = &job.id
            && (id.is_empty() || id.contains(':') || id.parse::<i64>().is_ok())
        {
            return Err(Error::Settings(format!("{id:?} cannot be a job's id: not empty, no integer, no colon")));
        }
        let keys = &self.keys;
        let none: Option<String> = None;
        // Prefix, id, name, time, and five places for parents, schedulers and deduplication that are not used here.
        let head = pack(&(
            &keys.base,
            job.id.as_deref().unwrap_or(""),
            &job.name,
            self.now_ms().await?,
            &none,
            &none,
            &none,
            &none,
            &none,
        ))?;
        let (data, options) = (job.data.to_string(), pack(&job.options())?);
        let arguments: [&[u8]; 3] = [&head, data.as_bytes(), &options];
        let (script, keys): (&scripts::Script, Vec<&str>) = if !job.delay.is_zero() {
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
        let answer: redis::Value = script.call(&self.link, COMMAND_DEADLINE, &keys, self.settle(), &arguments).await?;
        match answer {
            redis::Value::BulkString(id) => Ok(String::from_utf8_lossy(&id).into_owned()),
            redis::Value::SimpleString(id) => Ok(id),
            redis::Value::Int(id) if id > 0 => Ok(id.to_string()),
            other => Err(Error::answer(script.name, format!("{other:?}"))),
        }
    }
}
