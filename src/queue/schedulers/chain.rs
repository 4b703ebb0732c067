//! The next iteration of the scheduler that a fetched job belongs to.

use super::{
    legacy,
    repeat::{Next, Repeat},
};
use crate::queue::{
    Error, Job, Queue,
    connection::COMMAND_DEADLINE,
    lease::pack,
    scripts::{Script, UPDATE_JOB_SCHEDULER},
};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// BullMQ's script, and before it what BullMQ 5 does for a repeatable and 6 no longer does: keep the data in its hash,
/// where the script takes it from. Without it the second iteration would have none.
static UPDATE: LazyLock<Script> = LazyLock::new(|| UPDATE_JOB_SCHEDULER.guarded(include_str!("../lua/keepData.lua")));

/// A key with at least this many colons may be that of an old repeatable (`name:id:endDate:zone:pattern`).
const COLONS_OF_OLD_KEYS: usize = 4;

/// Adds the next iteration of the scheduler or repeatable that a fetched job belongs to, if it does. To be called before
/// the job runs; calling it again for the same job adds nothing.
///
/// # Errors
/// Redis cannot be reached, or its ACL forbids it: to be called again until that is mended. What is wrong with the schedule itself is logged, ends the
/// chain as it does with Node's workers, and is no error of the job.
pub async fn continue_chain(queue: &Queue, job: &Job) -> Result<(), Error> {
    let done = match &job.repeat_job_key {
        Some(key) if key.matches(':').count() < COLONS_OF_OLD_KEYS => continue_scheduler(queue, job, key).await,
        Some(key) => match is_scheduler(queue, key).await {
            Ok(true) => continue_scheduler(queue, job, key).await,
            Ok(false) => legacy::continue_repeatable(queue, job, key.clone()).await,
            Err(error) => Err(error),
        },
        // Before BullMQ 4 iterations did not name their key.
        None => match legacy::key_of(job) {
            Some(key) => legacy::continue_repeatable(queue, job, key).await,
            None => return Ok(()),
        },
    };
    match done {
        Err(error) if error.concerns_all() => Err(error),
        Err(error) => {
            tracing::error!(floh_job_id = %job.id, "the next iteration of this schedule was not added: {error}");
            Ok(())
        }
        Ok(Added::Next(id)) => {
            tracing::debug!(floh_job_id = %job.id, "the next iteration is {id}");
            Ok(())
        }
        Ok(Added::Nothing) => Ok(()),
        Ok(Added::Ended(why)) => {
            tracing::info!(floh_job_id = %job.id, "the last iteration of this schedule: {why}");
            Ok(())
        }
        Ok(Added::Unreadable(why)) => {
            tracing::error!(floh_job_id = %job.id, "this schedule has no next iteration: {why}");
            Ok(())
        }
    }
}

/// What became of the next iteration.
pub(super) enum Added {
    /// It was added, under this id.
    Next(String),
    /// It was there already, or the schedule was removed.
    Nothing,
    /// There is none, by the schedule's own limits.
    Ended(String),
    /// The schedule cannot be read.
    Unreadable(String),
}

/// Whether a key with colons is a scheduler's id all the same: only schedulers count their iterations in their hash.
async fn is_scheduler(queue: &Queue, key: &str) -> Result<bool, Error> {
    let mut command = redis::cmd("HEXISTS");
    command.arg(format!("{}:{key}", queue.keys.repeat)).arg("ic");
    queue.link.query(&command, "HEXISTS", COMMAND_DEADLINE).await
}

async fn continue_scheduler(queue: &Queue, job: &Job, id: &str) -> Result<Added, Error> {
    let mut raw = job.options.raw.clone();
    let own = raw.get("repeat").and_then(Value::as_object).cloned();
    let (options, repeat) = match own.map(|own| (Repeat::read(&own), own)) {
        Some((repeat, own)) if repeat.pattern.is_some() || repeat.every.is_some() => (own, repeat),
        // The job's options were lost or cannot be read: the scheduler's hash still knows.
        _ => match queue.stored_scheduler(id).await? {
            None => return Ok(Added::Nothing),
            Some(stored) => {
                if let Value::Object(template) = stored.json("opts") {
                    raw.extend(template);
                }
                let options = schedule_only(&stored.options());
                let repeat = Repeat { count: job_count(&stored.fields), ..Repeat::read(&options) };
                (options, repeat)
            }
        },
    };
    let now = queue.now_ms().await?;
    if repeat.is_over(now) {
        return Ok(Added::Ended("its limit or end date is reached".to_string()));
    }
    // A host whose clock was early, or a Redis whose clock went back, must not get the same slot again.
    let previous = raw.get("prevMillis").and_then(Value::as_f64).map_or(0, |at| at as i64);
    let from = now.max(previous);
    let next = match (&repeat.pattern, repeat.every) {
        (Some(_), Some(_)) => return Ok(Added::Unreadable("it has both a pattern and an interval".to_string())),
        (None, None) => return Ok(Added::Unreadable("it has neither a pattern nor an interval".to_string())),
        // The script computes it.
        (None, Some(_)) => None,
        (Some(pattern), None) => match repeat.next_by_pattern(pattern, from) {
            Next::At(next) => Some(next),
            Next::Over => return Ok(Added::Ended("its pattern has no later time before its end date".to_string())),
            Next::Unreadable(why) => return Ok(Added::Unreadable(why)),
        },
    };
    let merged = next_options(raw, options, &repeat, id, next, now);
    let answer: Option<String> = call(queue, job, id, next, &merged).await?;
    Ok(answer.map_or(Added::Nothing, Added::Next))
}

/// How many iterations a scheduler has made.
fn job_count(fields: &std::collections::HashMap<String, String>) -> i64 {
    fields.get("ic").and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Of a scheduler's hash, the fields that say when.
fn schedule_only(fields: &Map<String, Value>) -> Map<String, Value> {
    const TEXTS: [&str; 2] = ["pattern", "tz"];
    const NUMBERS: [&str; 5] = ["every", "limit", "startDate", "endDate", "offset"];
    let text = TEXTS.iter().filter_map(|name| Some(((*name).to_string(), fields.get(*name)?.clone())));
    let number = NUMBERS.iter().filter_map(|name| {
        Some(((*name).to_string(), json!(fields.get(*name)?.as_str()?.parse::<f64>().ok()? as i64)))
    });
    text.chain(number).collect()
}

/// The options of the next iteration: those of this one, with what changes from one to the next.
fn next_options(
    mut raw: Map<String, Value>,
    mut options: Map<String, Value>,
    repeat: &Repeat,
    id: &str,
    next: Option<i64>,
    now: i64,
) -> Value {
    options.remove("immediately");
    options.insert("count".into(), json!(repeat.next_count()));
    for (name, date) in [("startDate", repeat.start), ("endDate", repeat.end)] {
        match date {
            Some(date) => options.insert(name.into(), json!(date)),
            None => options.remove(name),
        };
    }
    match repeat.offset.filter(|offset| repeat.every.is_some() && *offset != 0) {
        Some(offset) => options.insert("offset".into(), json!(offset)),
        None => options.remove("offset"),
    };
    raw.insert("repeat".into(), Value::Object(options));
    raw.insert("repeatJobKey".into(), json!(id));
    raw.insert("timestamp".into(), json!(now));
    // The script sets `delay` and `jobId`; what an interval's next time is, it alone knows.
    raw.remove("jobId");
    match next {
        Some(next) => raw.insert("prevMillis".into(), json!(next)),
        None => raw.remove("prevMillis"),
    };
    Value::Object(raw)
}

async fn call(queue: &Queue, job: &Job, id: &str, next: Option<i64>, options: &Value) -> Result<Option<String>, Error> {
    let (keys, producer) = (&queue.keys, queue.keys.job(&job.id));
    let next = next.map(|next| next.to_string()).unwrap_or_default();
    UPDATE
        .call(
            &queue.link,
            COMMAND_DEADLINE,
            &[
                &keys.repeat,
                &keys.delayed,
                &keys.wait,
                &keys.paused,
                &keys.meta,
                &keys.prioritized,
                &keys.marker,
                &keys.id,
                &keys.events,
                &keys.priority_counter,
                &producer,
                &keys.active,
            ],
            queue.settle(),
            &[
                next.as_bytes(),
                id.as_bytes(),
                // The data comes out of the scheduler's hash.
                b"{}",
                &pack(options)?,
                b"",
                keys.base.as_bytes(),
                job.id.as_bytes(),
            ],
        )
        .await
}
