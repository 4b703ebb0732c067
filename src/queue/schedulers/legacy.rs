//! Repeatables of BullMQ 5 and older whose keys are of the form `name:id:endDate:zone:pattern`.
//!
//! BullMQ 6 has no script for them and ends their chains. Newer repeatables of 5.x, whose keys are hashes, are continued
//! by the scheduler's script, as 5.x itself does.

use super::{
    chain::Added,
    repeat::{Next, Repeat},
};
use crate::queue::{Error, Job, Queue, connection::COMMAND_DEADLINE, scripts::Script};
use serde_json::{Value, json};
use std::sync::LazyLock;

static CONTINUE: LazyLock<Script> =
    LazyLock::new(|| Script::own("continueRepeatable", 7, false, include_str!("../lua/continueRepeatable.lua")));

/// The key under which an iteration that names none was added.
pub(super) fn key_of(job: &Job) -> Option<String> {
    if !job.id.starts_with("repeat:") {
        return None;
    }
    let repeat = Repeat::read(job.options.raw.get("repeat")?.as_object()?);
    let suffix = match (&repeat.pattern, repeat.every) {
        (Some(pattern), _) => pattern.clone(),
        (None, Some(every)) => every.to_string(),
        (None, None) => return None,
    };
    let (id, zone) = (repeat.job_id.unwrap_or_default(), repeat.tz.unwrap_or_default());
    let end = repeat.end.map(|end| end.to_string()).unwrap_or_default();
    Some(format!("{}:{id}:{end}:{zone}:{suffix}", job.name))
}

/// Adds the next iteration of the repeatable with this key.
pub(super) async fn continue_repeatable(queue: &Queue, job: &Job, key: String) -> Result<Added, Error> {
    // The id is `repeat:<checksum>:<due>`; the checksum stays the same along the chain.
    let Some((beginning, own)) = job.id.rsplit_once(':').filter(|(_, due)| due.parse::<i64>().is_ok()) else {
        return Ok(Added::Unreadable(format!("the id {} is not that of an iteration", job.id)));
    };
    let mut raw = job.options.raw.clone();
    let Some(mut options) = raw.get("repeat").and_then(Value::as_object).cloned() else {
        return Ok(Added::Unreadable("the iteration has lost its options".to_string()));
    };
    let repeat = Repeat::read(&options);
    let now = queue.now_ms().await?;
    if repeat.is_over(now) {
        return Ok(Added::Ended("its limit or end date is reached".to_string()));
    }
    let previous = raw.get("prevMillis").and_then(Value::as_f64).map_or(0, |at| at as i64);
    let from = now.max(previous);
    let next = match (&repeat.pattern, repeat.every) {
        (Some(_), Some(_)) => return Ok(Added::Unreadable("it has both a pattern and an interval".to_string())),
        (None, None) => return Ok(Added::Unreadable("it has neither a pattern nor an interval".to_string())),
        (None, Some(every)) => (from / every).saturating_add(1).saturating_mul(every),
        (Some(pattern), None) => match repeat.next_by_pattern(pattern, from) {
            Next::At(next) => next,
            Next::Over => return Ok(Added::Ended("its pattern has no later time before its end date".to_string())),
            Next::Unreadable(why) => return Ok(Added::Unreadable(why)),
        },
    };
    let offset = repeat.offset.unwrap_or(0);
    let id = format!("{beginning}:{next}");
    options.remove("immediately");
    options.insert("count".into(), json!(repeat.next_count()));
    raw.insert("repeat".into(), Value::Object(options));
    raw.insert("jobId".into(), json!(id));
    raw.insert("delay".into(), json!(next.saturating_add(offset).saturating_sub(now).max(0)));
    raw.insert("timestamp".into(), json!(now));
    raw.insert("prevMillis".into(), json!(next));
    let keys = &queue.keys;
    let answer: Option<String> = CONTINUE
        .call(
            &queue.link,
            COMMAND_DEADLINE,
            &[&keys.repeat, &keys.delayed, &keys.marker, &keys.events, &keys.meta, &keys.id, &keys.job(&job.id)],
            queue.settle(),
            &[
                key.as_bytes(),
                keys.base.as_bytes(),
                format!("{beginning}:").as_bytes(),
                own.as_bytes(),
                next.to_string().as_bytes(),
                offset.to_string().as_bytes(),
                Value::Object(raw).to_string().as_bytes(),
                job.name.as_bytes(),
            ],
        )
        .await?;
    Ok(answer.map_or(Added::Nothing, Added::Next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::options::Options;

    #[test]
    fn the_key_of_an_old_iteration_is_found_in_its_options() {
        let job = |id: &str, options: &str| Job {
            id: id.into(),
            name: "report".into(),
            options: Options::parse(Some(options)),
            ..Job::default()
        };
        let key = |options: &str| key_of(&job("repeat:abc:5", options));
        assert_eq!(key(r#"{"repeat":{"cron":"0 5 * * *","tz":"UTC"}}"#).unwrap(), "report:::UTC:0 5 * * *");
        assert_eq!(key(r#"{"repeat":{"every":500,"jobId":"x","endDate":9}}"#).unwrap(), "report:x:9::500");
        assert_eq!(key("{}"), None);
        assert_eq!(key_of(&job("7", r#"{"repeat":{"every":500}}"#)), None);
    }
}
