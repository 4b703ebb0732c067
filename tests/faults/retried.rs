//! A job that is done is started again by hand, as a dashboard's button does: it runs again, although its effect is
//! committed and its result acknowledged.

use crate::{
    stage::{Plan, Stage, now_ms},
    table::{Kind, Row, Verdict},
};
use serde_json::{Value, json};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

// Without what the finish acknowledged, a retry looks like a finish that was lost: the committed result is its end.
row!(19, retried_by_hand, off "acknowledged" => NotRetried, retried);

const SOON: Duration = Duration::from_secs(20);

fn retried(row: &Row) -> Verdict {
    let times = row.choose(2, 10);
    let fault = format!("retry by hand, {times} times of each kind (completed, failed; counters reset or not)");
    let mut stage = Stage::start(row, fault, |_| Plan::usual());
    for (number, resets) in [
        json!({}),
        json!({"resetAttemptsMade": true}),
        json!({"resetAttemptsStarted": true}),
        json!({"resetAttemptsMade": true, "resetAttemptsStarted": true}),
    ]
    .iter()
    .enumerate()
    {
        completed(&mut stage, &format!("again-{number}"), resets, times);
        failed(&mut stage, &format!("failing-{number}"), resets, times);
    }
    stage.end()
}

/// A completed job: each retry writes its effect once more.
fn completed(stage: &mut Stage, key: &str, resets: &Value, times: u64) {
    let opts = json!({"attempts": 1, "removeOnComplete": false, "jobId": key, "lifo": true});
    stage.fleet.add(6, "test.effect", json!({"key": key}), opts);
    stage.keys.insert(key.to_string());
    stage.wanted.insert(key.to_string(), times + 1);
    stage.fleet.wait_state(6, key, "completed", SOON);
    again(stage, key, "completed", resets, times);
}

/// A failed one: each retry starts it once more.
fn failed(stage: &mut Stage, key: &str, resets: &Value, times: u64) {
    let opts = json!({"attempts": 1, "removeOnFail": false, "jobId": key, "lifo": true});
    stage.fleet.add(6, "test.fail", json!({"reason": "no"}), opts);
    stage.fleet.wait_state(6, key, "failed", SOON);
    again(stage, key, "failed", resets, times);
}

fn again(stage: &mut Stage, key: &str, state: &str, resets: &Value, times: u64) {
    for turn in 1..=times {
        let asked = now_ms();
        stage.fleet.call(6, "retry", json!({"job": key, "state": state, "opts": resets}));
        let end = Instant::now() + SOON;
        while starts_since(stage, key, asked) == 0 && Instant::now() < end {
            sleep(Duration::from_millis(20));
        }
        stage.fleet.wait_state(6, key, state, SOON);
        let starts = starts_since(stage, key, asked);
        stage.complain_if(starts != 1, Kind::NotRetried, || {
            format!("{key} ({resets}) started {starts} times after retry {turn}")
        });
        if stage.is_seen() {
            return;
        }
    }
}

/// How often the job was started from this time on.
fn starts_since(stage: &mut Stage, key: &str, since: u64) -> usize {
    let events = stage.fleet.stream_since(since);
    events.iter().filter(|event| event.name == "active" && event.job.as_deref() == Some(key)).count()
}
