//! Wake-ups of the outbox that are pending: a job wrote them in the transaction of its effect, and they are due later.

use crate::{stage::Stage, table::Kind};
use serde_json::json;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// What PostgreSQL knows comes back within this.
pub const RESTORED_WITHIN: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(30);

/// One that is pending.
pub struct WakeUp {
    /// Its job's id.
    pub id: String,
    /// What its effect is known by.
    pub key: String,
}

/// Runs jobs that write an effect and want others, which are due after `delay` milliseconds; returns when Redis has them
/// all. `None` if that cannot be done.
pub fn pending(stage: &mut Stage, prefix: &str, jobs: usize, delay: u64) -> Option<Vec<WakeUp>> {
    let ids: Vec<String> = (0..jobs)
        .map(|number| {
            let key = format!("{prefix}-{number}");
            let opts = json!({"attempts": 1, "removeOnComplete": false, "removeOnFail": false, "jobId": key});
            stage.keys.insert(key.clone());
            stage.fleet.add(6, "test.outbox", json!({"key": key, "delayMs": delay, "n": number}), opts)
        })
        .collect();
    let end = Instant::now() + SOON;
    for id in ids {
        loop {
            let job = stage.fleet.job(6, &id);
            if job["state"] == "completed" {
                break;
            }
            if job["state"] == "failed" || Instant::now() > end {
                stage.complain(Kind::Setup, format!("{id} was not run: {} {}", job["state"], job["failedReason"]));
                return None;
            }
            sleep(Duration::from_millis(10));
        }
    }
    let rows = format!("FROM floh_worker.job_outbox WHERE ended_at IS NULL AND job_id LIKE 'wake-{prefix}-%'");
    while !stage.fleet.sql(&format!("SELECT 1 {rows} AND sent_at IS NULL LIMIT 1")).is_empty() {
        assert!(Instant::now() < end, "the wake-ups were not sent");
        sleep(Duration::from_millis(10));
    }
    let wake_up = |row: Vec<Option<String>>| {
        let mut row = row.into_iter().map(Option::unwrap_or_default);
        WakeUp { id: row.next().unwrap_or_default(), key: row.next().unwrap_or_default() }
    };
    let found = stage.fleet.sql(&format!("SELECT job_id, data->>'key' {rows}"));
    let wake_ups: Vec<WakeUp> = found.into_iter().map(wake_up).collect();
    stage.complain_if(wake_ups.len() < jobs, Kind::Setup, || {
        format!("{} wake-ups are pending instead of {jobs}", wake_ups.len())
    });
    stage.keys.extend(wake_ups.iter().map(|wake_up| wake_up.key.clone()));
    Some(wake_ups)
}
