//! FLUSHALL under load. What PostgreSQL knows comes back within a minute: the wake-ups of its outbox, and the schedulers
//! of the built-in jobs. Jobs that only the API server knew are lost by nature.

use crate::{
    stage::{Plan, Stage},
    support::fleet::Fleet,
    table::{Row, Verdict},
};
use serde_json::json;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

// In the control PostgreSQL does not know that the wake-ups are pending.
row!(23, redis_flushed, off "the outbox", flushed);

const RESTORED_WITHIN: Duration = Duration::from_secs(60);
const SCHEDULER: &str = "floh-worker:stuck-run-recovery";

fn flushed(row: &Row) -> Verdict {
    let jobs = row.choose(20, 200);
    let delay = row.choose(12_000, 45_000);
    let fault = format!("FLUSHALL with {jobs} wake-ups pending");
    let mut stage = Stage::start_on(Fleet::start_with_periodic_jobs(), row, fault, |_| Plan::usual());
    if !add_wake_ups(&mut stage, jobs, delay) {
        return stage.end();
    }
    let query = "SELECT job_id, data->>'key' FROM floh_worker.job_outbox WHERE ended_at IS NULL";
    let pending: Vec<(String, String)> = stage.fleet.sql(query).into_iter().map(pair).collect();
    stage.complain_if(pending.len() < jobs, || format!("{} wake-ups are pending instead of {jobs}", pending.len()));
    if row.off.is_some() {
        stage.fleet.sql("UPDATE floh_worker.job_outbox SET ended_at = now(), ended = 'completed'");
    }
    let before = stage.loaded();
    stage.fleet.redis::<()>("FLUSHALL", &[]);
    let start = Instant::now();
    // An answer from just before it may be read just after it.
    sleep(Duration::from_millis(300));
    stage.excused = stage.loaded();
    stage.excused.extend(before);
    stage.keys.extend(pending.iter().map(|(_, key)| key.clone()));
    wait_restored(&mut stage, &pending, start);
    // The last of them is due.
    sleep((start + Duration::from_millis(delay)).saturating_duration_since(Instant::now()));
    stage.end()
}

/// Jobs that write an effect and want another job, which is due later. False if they cannot be run.
fn add_wake_ups(stage: &mut Stage, jobs: usize, delay: u64) -> bool {
    let ids: Vec<String> = (0..jobs)
        .map(|number| {
            let key = format!("outbox-{number}");
            let opts = json!({"attempts": 1, "removeOnComplete": false, "removeOnFail": false, "jobId": key});
            stage.keys.insert(key.clone());
            stage.fleet.add(6, "test.outbox", json!({"key": key, "delayMs": delay, "n": number}), opts)
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(30);
    for id in ids {
        loop {
            let job = stage.fleet.job(6, &id);
            if job["state"] == "completed" {
                break;
            }
            if job["state"] == "failed" || Instant::now() > end {
                stage.complain(format!("{id} was not run: {} {}", job["state"], job["failedReason"]));
                return false;
            }
            sleep(Duration::from_millis(10));
        }
    }
    true
}

fn pair(row: Vec<Option<String>>) -> (String, String) {
    let mut row = row.into_iter().map(Option::unwrap_or_default);
    (row.next().unwrap_or_default(), row.next().unwrap_or_default())
}

/// Each pending wake-up is in Redis again, or has run already; and the scheduler is back.
fn wait_restored(stage: &mut Stage, pending: &[(String, String)], start: Instant) {
    let end = start + if stage.row.off.is_some() { Duration::from_secs(20) } else { RESTORED_WITHIN * 2 };
    loop {
        let effects = stage.fleet.effects();
        let mut missing = Vec::new();
        for (id, key) in pending {
            let hash = stage.fleet.key(id);
            if !effects.contains_key(key) && !stage.fleet.redis::<bool>("EXISTS", &[&hash]) {
                missing.push(id.as_str());
            }
        }
        let schedulers = stage.fleet.key("repeat");
        if stage.fleet.redis::<Option<f64>>("ZSCORE", &[&schedulers, &SCHEDULER]).is_none() {
            missing.push(SCHEDULER);
        }
        if missing.is_empty() {
            stage.note("everything that PostgreSQL knows is restored", start.elapsed(), RESTORED_WITHIN);
            return;
        }
        if Instant::now() > end {
            let what = format!("{} were not restored, such as {}", missing.len(), missing[0]);
            stage.note(&what, start.elapsed(), Duration::ZERO);
            return;
        }
        sleep(Duration::from_millis(100));
    }
}
