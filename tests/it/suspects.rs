//! Jobs that were running when their worker died: they run alone, and another worker's verdict on them stands.

use crate::support::{fleet::Fleet, wait_for};
use serde_json::{Value, json};
use std::{os::unix::process::ExitStatusExt, time::Duration};

const SOON: Duration = Duration::from_secs(20);

/// Something must have run, so that the ledger knows the queue.
fn warm_up(fleet: &mut Fleet) {
    let id = fleet.add(6, "test.echo", json!({}), json!({}));
    fleet.wait_state(6, &id, "completed", SOON);
}

fn effect(fleet: &mut Fleet, key: &str, ms: u64, delay: u64) -> String {
    fleet.add(6, "test.effect", json!({"key": key, "ms": ms}), json!({"attempts": 1, "delay": delay}))
}

fn number(job: &Value, field: &str) -> i64 {
    job[field].as_i64().unwrap_or_else(|| panic!("{field}: {job:#}"))
}

#[test]
fn a_suspect_begins_when_the_others_have_ended_and_nothing_begins_beside_it() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]);
    warm_up(&mut fleet);
    let before = ["one", "two"].map(|key| effect(&mut fleet, key, 5000, 0));
    let suspect = effect(&mut fleet, "suspect", 2500, 1000);
    fleet.suspect(&suspect);
    // While it waits it is not taken: the death of the worker would not be its own.
    let state = format!("SELECT state FROM floh_worker.job_execution WHERE job_id = '{suspect}'");
    wait_for("it waits", SOON, || (fleet.sql(&state) == [[Some("handed_back".to_string())]]).then_some(()));
    assert_eq!(fleet.job(6, &suspect)["state"], "active");
    wait_for("the status", SOON, || {
        let words = format!("not fetching: job {suspect} runs alone, because a worker died while it ran");
        worker.status().filter(|status| status.contains(&words)).map(drop)
    });
    let after = effect(&mut fleet, "after", 0, 0);
    fleet.wait_state(6, &after, "completed", SOON);
    let times = fleet.effect_times();
    for id in before {
        let job = fleet.job(6, &id);
        // Redis notes the end a moment after the gate has opened.
        assert!(number(&job, "finishedOn") - 500 < times["suspect"], "{job:#} {times:?}");
        assert!(times["suspect"] >= times["one"].max(times["two"]) + 5000, "{times:?}");
    }
    assert!(times["after"] >= times["suspect"] + 2500, "{times:?}\n{}", worker.log());
    let job = fleet.job(6, &suspect);
    assert_eq!((&job["state"], &job["attemptsMade"]), (&json!("completed"), &json!(1)), "{job:#}");
    assert_eq!(fleet.starts(&suspect).len(), 1, "it was not given back to the queue");
}

#[test]
fn suspects_and_others_that_are_fetched_together_all_get_their_turn_and_no_suspect_has_company() {
    let mut fleet = Fleet::start();
    let mut first = fleet.worker("1", &[]);
    warm_up(&mut fleet);
    first.stop();
    let keys = ["a", "suspect-1", "b", "suspect-2", "c"];
    for key in keys {
        let id = effect(&mut fleet, key, 800, 0);
        if key.starts_with("suspect") {
            fleet.suspect(&id);
        }
    }
    let worker = fleet.worker("2", &[("WORKER_CONCURRENCY", "5")]);
    wait_for("all of them", SOON, || (fleet.effects().len() == keys.len()).then_some(()));
    let times = fleet.effect_times();
    for suspect in ["suspect-1", "suspect-2"] {
        for other in keys.into_iter().filter(|other| *other != suspect) {
            let apart = (times[suspect] - times[other]).abs();
            assert!(apart >= 800, "{suspect} and {other}: {times:?}\n{}", worker.log());
        }
    }
    assert!(fleet.effects().values().all(|count| *count == 1));
}

#[test]
fn a_suspect_that_fails_lets_the_others_go_on() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "3")]);
    warm_up(&mut fleet);
    for (name, data) in [("test.fail", json!({})), ("test.panic", json!({})), ("test.hang", json!({"ms": 300}))] {
        let suspect = fleet.add(6, name, data, json!({"attempts": 1, "delay": 700}));
        fleet.suspect(&suspect);
        fleet.wait_state(6, &suspect, if name == "test.hang" { "completed" } else { "failed" }, SOON);
    }
    let slow = ["one", "two"].map(|key| effect(&mut fleet, key, 1500, 0));
    slow.iter().for_each(|id| drop(fleet.wait_state(6, id, "completed", SOON)));
    let times = fleet.effect_times();
    assert!((times["one"] - times["two"]).abs() < 1000, "they run beside each other again: {times:?}");
}

#[test]
fn a_drain_hands_a_waiting_suspect_back_at_once() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "2")]);
    warm_up(&mut fleet);
    let running = effect(&mut fleet, "running", 4000, 0);
    let suspect = effect(&mut fleet, "suspect", 0, 700);
    fleet.suspect(&suspect);
    fleet.wait_state(6, &suspect, "active", SOON);
    worker.wait_log("it runs alone");
    worker.signal(nix::sys::signal::Signal::SIGTERM);
    let job = fleet.wait_state(6, &suspect, "waiting", Duration::from_secs(2));
    assert_eq!((&fleet.job(6, &running)["state"], &job["attemptsMade"]), (&json!("active"), &json!(0)), "{job:#}");
    assert_eq!(worker.wait_end(SOON).code(), Some(0), "{}", worker.log());
    assert_eq!(fleet.job(6, &running)["state"], "completed");
    assert_eq!(fleet.effects().into_keys().collect::<Vec<_>>(), ["running"]);
}

#[test]
fn a_node_worker_s_stall_verdict_stands_where_workers_of_ours_died_of_the_job() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    warm_up(&mut fleet);
    let verdict = "job stalled more than allowable limit";
    let (suspected, innocent) = (effect(&mut fleet, "suspected", 0, 1500), effect(&mut fleet, "innocent", 0, 1500));
    fleet.suspect(&suspected);
    for id in [&suspected, &innocent] {
        let hash = fleet.key(id);
        let _: i64 = fleet.redis("HSET", &[&hash, &"defa", &verdict]);
    }
    let job = fleet.wait_state(6, &suspected, "failed", SOON);
    assert_eq!(job["failedReason"], verdict, "{job:#}");
    fleet.wait_state(6, &innocent, "completed", SOON);
    assert_eq!(fleet.effects().into_keys().collect::<Vec<_>>(), ["innocent"]);
}

#[test]
fn the_jobs_that_are_to_kill_their_worker_do() {
    let mut fleet = Fleet::start();
    for (name, signal) in [("test.abort", 6), ("test.segfault", 11)] {
        let mut worker = fleet.worker("1", &[]);
        let id = fleet.add(6, name, json!({}), json!({}));
        assert_eq!(worker.wait_end(SOON).signal(), Some(signal), "{}", worker.log());
        let lock = fleet.key(&format!("{id}:lock"));
        let _: i64 = fleet.redis("DEL", &[&lock]);
        fleet.call(6, "remove", json!({"job": id}));
    }
}
