//! The same job once more, for a later time. It is a wake-up of its own, so that nothing of it is lost; no attempt is charged
//! and no slot is held until then.

use super::{JobContext, JobError};
use crate::store::outbox::WakeUp;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::time::Duration;

/// The first pause of a mail that cannot go; each one after it is twice as long, up to the longest.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(600);

/// How often it came again before.
pub fn count(data: &Value) -> u32 {
    data.get("again").and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok()).unwrap_or_default()
}

/// The job for this time, under its name.
pub fn at(job: &JobContext, name: &str, time: DateTime<Utc>) -> WakeUp {
    let again = count(&job.data).saturating_add(1);
    let before = job.job_id();
    let before = before.rsplit_once("-again-").map_or(before, |(before, _)| before);
    let mut data = job.data.clone();
    data["again"] = json!(again);
    let mut wake_up = WakeUp::new(format!("{before}-again-{again}"), name, data);
    wake_up.due_at = Some(time);
    wake_up
}

/// Ends a job whose mail cannot go now, and has it come again after a pause: a mail server that is away costs no mail.
///
/// # Errors
/// Those of the database.
pub async fn after_a_pause(job: &JobContext, name: &str, why: &str) -> Result<Value, JobError> {
    let pause = pause(count(&job.data));
    let transaction = job.begin().await?;
    let time = transaction.now().await? + pause;
    job.enqueue(&transaction, at(job, name, time)).await?;
    let value = job.complete(transaction, json!({"again": time, "because": why})).await?;
    tracing::warn!("{why}; it is tried again in {} s", pause.as_secs());
    Ok(value)
}

/// The pause after so many.
fn pause(before: u32) -> Duration {
    PAUSE.saturating_mul(1 << before.min(16)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let seconds: Vec<u64> = (0..9).map(|before| pause(before).as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(pause(u32::MAX), LONGEST);
    }

    #[test]
    fn what_is_no_count_counts_as_none() {
        for data in [json!({}), json!({"again": -1}), json!({"again": "3"}), json!(null), json!({"again": 1_u64 << 40})]
        {
            assert_eq!(count(&data), 0, "{data}");
        }
        assert_eq!(count(&json!({"again": 3})), 3);
    }
}
