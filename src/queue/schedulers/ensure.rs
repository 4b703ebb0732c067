//! The schedulers of the built-in jobs, and those of the workers' own schedules.
//!
//! BullMQ's `addJobScheduler` deletes a pending iteration and goes on to the next time. A fleet that restarts while a daily
//! iteration waits would skip the day, every time. So a scheduler is written only where it is missing, where it is not
//! what it should be, or where its chain is broken; and never over an iteration that is due, which is checked in the
//! same atomic step.

use super::{
    repeat::{Next, Repeat},
    stored::Stored,
};
use crate::{
    events,
    queue::{
        Error, Queue,
        connection::COMMAND_DEADLINE,
        lease::pack,
        options,
        scripts::{ADD_JOB_SCHEDULER, REMOVE_JOB_SCHEDULER, Script},
    },
};
use chrono::DateTime;
use redis::Value as Answer;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// What the ids of our schedulers begin with. Others are not ours to change or remove.
pub const ID_PREFIX: &str = "floh-worker:";

static ADD: LazyLock<Script> = LazyLock::new(|| ADD_JOB_SCHEDULER.guarded(include_str!("../lua/addGuard.lua")));
static REMOVE: LazyLock<Script> =
    LazyLock::new(|| REMOVE_JOB_SCHEDULER.guarded(include_str!("../lua/removeGuard.lua")));

/// What the guard of [`REMOVE`] answers where an iteration is due; BullMQ's script answers 0 or 1.
const DUE: i64 = -1;
/// How often a scheduler is looked at again that another worker changed meanwhile.
const LOOKS: usize = 10;
/// How many times of the pattern are tried whose ids are taken by jobs that an earlier scheduler left behind.
const SLOTS: usize = 50;

/// A job that runs by a schedule of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Builtin {
    /// The scheduler's id, with [`ID_PREFIX`] before it.
    pub id: String,
    /// Name of the job.
    pub name: String,
    /// Cron expression.
    pub pattern: String,
    /// The zone of its wall clock.
    pub zone: String,
    /// Whether it is left to a scheduler of somebody else for the same job: one of them is enough. Otherwise others may
    /// have schedules of their own for it.
    pub yields: bool,
    /// Data of each iteration: an object.
    pub data: Value,
    /// Options of each iteration, as BullMQ stores them: an object.
    pub options: Value,
}

impl Builtin {
    /// A schedule in UTC for a job without data. Its iterations are retried and kept as all jobs of this program; that is written
    /// into them, because a Node worker may take them too.
    #[must_use]
    pub fn new(name: &str, pattern: &str) -> Builtin {
        Builtin {
            id: format!("{ID_PREFIX}{name}"),
            name: name.to_string(),
            pattern: pattern.to_string(),
            zone: "UTC".to_string(),
            yields: true,
            data: json!({}),
            options: json!({
                "attempts": options::DEFAULT_ATTEMPTS,
                "backoff": { "type": "exponential", "delay": options::DEFAULT_BACKOFF.delay_ms },
                "removeOnComplete": { "count": options::KEEP_COMPLETED, "age": options::KEEP_COMPLETED_AGE },
                "removeOnFail": { "count": options::KEEP_FAILED },
            }),
        }
    }

    /// The id of the iteration that is due at this time, milliseconds.
    #[must_use]
    pub fn iteration(&self, due_ms: i64) -> String {
        format!("repeat:{}:{due_ms}", self.id)
    }
}

/// What was done with one scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The scheduler's id.
    pub scheduler: String,
    /// What was done.
    pub done: Done,
}

/// What was done with a scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// Nothing: it is as it should be.
    Kept,
    /// It was missing; its first iteration is due at this time (milliseconds).
    Added(i64),
    /// Its pattern, zone or template was another; the next iteration is due at this time.
    Changed(i64),
    /// Its next iteration was missing, or had ended without a successor; now it is due at this time.
    Mended(i64),
    /// It should be another or none, but an iteration is due: to be looked at again when that has run.
    Due,
    /// It was not wanted any more, and is gone.
    Removed,
    /// Somebody else's scheduler or repeatable, of this id, runs the job.
    LeftTo(String),
}

impl Done {
    /// Whether something was written. That is news each time; the rest is the same at every look.
    #[must_use]
    pub fn is_change(&self) -> bool {
        match self {
            Done::Added(_) | Done::Changed(_) | Done::Mended(_) | Done::Removed => true,
            Done::Kept | Done::Due | Done::LeftTo(_) => false,
        }
    }
}

impl Outcome {
    /// Logs it. A caller that looks again and again does so only where it is another than before.
    pub fn tell(&self) {
        let Outcome { scheduler, done } = self;
        let at = |ms: &i64| DateTime::from_timestamp_millis(*ms).map(|at| at.to_rfc3339()).unwrap_or_default();
        match done {
            Done::Kept => tracing::debug!("scheduler {scheduler} stands"),
            Done::Added(next) => {
                tracing::info!(
                    message_id = events::SCHEDULER_ADDED,
                    "scheduler {scheduler} added, due at {}",
                    at(next)
                );
            }
            Done::Changed(next) => {
                tracing::info!(
                    message_id = events::SCHEDULER_ADDED,
                    "scheduler {scheduler} changed, due at {}",
                    at(next)
                );
            }
            Done::Mended(next) => tracing::warn!(
                message_id = events::SCHEDULER_ADDED,
                "scheduler {scheduler} had no next iteration: mended, due at {}",
                at(next)
            ),
            Done::Due => tracing::info!(
                message_id = events::SCHEDULER_SKIPPED,
                "scheduler {scheduler} will be changed or removed when its due iteration has run"
            ),
            Done::Removed => {
                tracing::info!(message_id = events::SCHEDULER_ADDED, "scheduler {scheduler} removed");
            }
            Done::LeftTo(other) => tracing::info!(
                message_id = events::SCHEDULER_SKIPPED,
                "scheduler {scheduler} is not needed: {other} runs the same job"
            ),
        }
    }
}

/// Makes the schedulers of the wanted jobs what they should be. Any number of workers may do this at once, and at any
/// time. One of ours that this worker does not want stays: another worker, with other settings or of another release,
/// may want it, and the schedulers are the whole fleet's.
///
/// # Errors
/// Redis cannot be reached or answers with an error, or a pattern cannot be read.
pub async fn ensure(queue: &Queue, wanted: &[Builtin]) -> Result<Vec<Outcome>, Error> {
    let stored = queue.stored_schedulers().await?;
    let now = queue.now_ms().await?;
    let mut outcomes = Vec::new();
    for builtin in wanted {
        outcomes.push(ensure_one(queue, builtin, &stored, now).await?);
    }
    Ok(outcomes)
}

/// The same for one of them.
pub(super) async fn ensure_one(
    queue: &Queue,
    builtin: &Builtin,
    stored: &[Stored],
    now: i64,
) -> Result<Outcome, Error> {
    restore_due(queue, builtin, stored, now).await?;
    let others = |other: &&Stored| builtin.yields && is_foreign(other, &builtin.name) && other.goes_on(now);
    match stored.iter().find(others) {
        Some(other) => leave_to(queue, builtin, other).await,
        None => make(queue, builtin).await,
    }
}

/// An iteration that is due and exists, but is in no list, would hold up its schedule until the slow sweep finds it.
async fn restore_due(queue: &Queue, builtin: &Builtin, stored: &[Stored], now_ms: i64) -> Result<(), Error> {
    let ours = stored.iter().find(|stored| stored.id == builtin.id && stored.alive);
    if let Some(due_ms) = ours.and_then(|ours| ours.score.parse::<i64>().ok()).filter(|due_ms| *due_ms <= now_ms) {
        queue.restore(&builtin.iteration(due_ms)).await?;
    }
    Ok(())
}

/// Whether somebody else's scheduler makes this job.
pub(super) fn is_foreign(stored: &Stored, job: &str) -> bool {
    !stored.id.starts_with(ID_PREFIX) && stored.name() == job
}

/// Somebody else schedules the job: ours, if it was there before, goes, but not with an iteration that is due.
async fn leave_to(queue: &Queue, builtin: &Builtin, other: &Stored) -> Result<Outcome, Error> {
    remove(queue, &builtin.id).await?;
    Ok(Outcome { scheduler: builtin.id.clone(), done: Done::LeftTo(other.id.clone()) })
}

/// Removes a scheduler and its pending iteration, if it is there; false if an iteration of it is due, so that it stays.
pub(super) async fn remove(queue: &Queue, id: &str) -> Result<bool, Error> {
    let keys = &queue.keys;
    let answer: i64 = REMOVE
        .call(
            &queue.link,
            COMMAND_DEADLINE,
            &[&keys.repeat, &keys.delayed, &keys.events],
            queue.settle(),
            &[id.as_bytes(), keys.base.as_bytes()],
        )
        .await?;
    Ok(answer != DUE)
}

async fn make(queue: &Queue, builtin: &Builtin) -> Result<Outcome, Error> {
    let scheduler = builtin.id.clone();
    for _ in 0..LOOKS {
        let stored = queue.stored_scheduler(&scheduler).await?;
        let done: fn(i64) -> Done = match &stored {
            None => Done::Added,
            Some(stored) if !stored.alive && same_schedule(stored, builtin) => Done::Mended,
            Some(stored) if !is_as_wanted(stored, builtin) => Done::Changed,
            Some(_) => return Ok(Outcome { scheduler, done: Done::Kept }),
        };
        let seen = stored.map(|stored| stored.score).unwrap_or_default();
        match write(queue, builtin, &scheduler, &seen).await? {
            Written::Next(next) => return Ok(Outcome { scheduler, done: done(next) }),
            Written::Due => return Ok(Outcome { scheduler, done: Done::Due }),
            Written::Changed => {}
        }
    }
    Err(Error::answer("addJobScheduler", format!("{scheduler} changed {LOOKS} times while it was looked at")))
}

/// Whether a scheduler is due at the times at which it should be.
pub(super) fn same_schedule(stored: &Stored, builtin: &Builtin) -> bool {
    let field = |name: &str| stored.fields.get(name).map(String::as_str);
    field("pattern") == Some(&builtin.pattern)
        && field("tz") == Some(&builtin.zone)
        && ["every", "limit", "startDate", "endDate"].iter().all(|name| field(name).is_none())
}

/// Whether a scheduler says what it should.
pub(super) fn is_as_wanted(stored: &Stored, builtin: &Builtin) -> bool {
    stored.fields.get("name") == Some(&builtin.name)
        && same_schedule(stored, builtin)
        && same(&stored.json("data"), &builtin.data)
        && same(&stored.json("opts"), &builtin.options)
}

/// Equality as Lua leaves it: numbers have no type, and an empty list is an empty object.
fn same(a: &Value, b: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b || (empty(a) && empty(b)),
    }
}

enum Written {
    Next(i64),
    /// An iteration is due.
    Due,
    /// It is not what was seen.
    Changed,
}

async fn write(queue: &Queue, builtin: &Builtin, id: &str, seen: &str) -> Result<Written, Error> {
    let repeat = Repeat::in_zone(&builtin.zone);
    let now = queue.now_ms().await?;
    let mut from = now;
    for _ in 0..SLOTS {
        let next = match repeat.next_by_pattern(&builtin.pattern, from) {
            Next::At(next) => next,
            Next::Over => return Err(Error::Settings(format!("`{}` ({id}) never comes", builtin.pattern))),
            Next::Unreadable(why) => return Err(Error::Settings(format!("{id}: {why}"))),
        };
        match add(queue, builtin, id, seen, next, now).await? {
            Answer::Array(_) => return Ok(Written::Next(next)),
            // The id of this iteration belongs to a job that is still there: perhaps of the same scheduler, which was
            // removed and comes back.
            Answer::Int(-10 | -11) => from = next,
            Answer::BulkString(word) if word == b"due" => return Ok(Written::Due),
            Answer::BulkString(word) if word == b"changed" => return Ok(Written::Changed),
            other => return Err(Error::answer("addJobScheduler", format!("{other:?}"))),
        }
    }
    Err(Error::answer("addJobScheduler", format!("{SLOTS} iterations of {id} are taken by other jobs")))
}

async fn add(queue: &Queue, builtin: &Builtin, id: &str, seen: &str, next: i64, now: i64) -> Result<Answer, Error> {
    let keys = &queue.keys;
    let scheduler = json!({ "name": builtin.name, "pattern": builtin.pattern, "tz": builtin.zone });
    let mut first = builtin.options.as_object().cloned().unwrap_or_else(Map::new);
    first.insert("repeat".into(), json!({ "pattern": builtin.pattern, "tz": builtin.zone, "count": 1 }));
    first.insert("prevMillis".into(), json!(next));
    first.insert("repeatJobKey".into(), json!(id));
    first.insert("timestamp".into(), json!(now));
    let (scheduler, options, first) = (pack(&scheduler)?, pack(&builtin.options)?, pack(&Value::Object(first))?);
    let (next, data) = (next.to_string(), builtin.data.to_string());
    let arguments: [&[u8]; 10] = [
        next.as_bytes(),
        &scheduler,
        id.as_bytes(),
        data.as_bytes(),
        &options,
        &first,
        b"",
        keys.base.as_bytes(),
        b"",
        seen.as_bytes(),
    ];
    ADD.call(
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
            &keys.active,
        ],
        queue.settle(),
        &arguments,
    )
    .await
}
