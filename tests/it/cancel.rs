//! A running job is cancelled from elsewhere, by a statement in the database.

use crate::support::{fleet::Fleet, wait_for};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SOON: Duration = Duration::from_secs(15);

/// Milliseconds, by the clock that Redis has too.
fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// How long after `asked` the job ended.
fn later(job: &Value, asked: u64) -> Duration {
    Duration::from_millis(job["finishedOn"].as_u64().unwrap().saturating_sub(asked))
}

/// What an operator's tool does; returns the instances that were asked.
fn cancel(fleet: &Fleet, id: &str, reason: &str) -> Vec<String> {
    let sql = format!(
        "SELECT floh_worker.cancel_job(queue, job_id, '{reason}')
            FROM (SELECT DISTINCT queue, job_id FROM floh_worker.job_execution WHERE job_id = '{id}') j"
    );
    fleet.sql(&sql).into_iter().flatten().flatten().collect()
}

fn wait_taken(fleet: &Fleet, id: &str) {
    let sql = format!("SELECT 1 FROM floh_worker.job_execution WHERE job_id = '{id}' AND state = 'taken'");
    wait_for("the job to be taken", SOON, || (!fleet.sql(&sql).is_empty()).then_some(()));
}

#[test]
fn a_running_job_fails_within_a_second_of_the_request_and_is_not_tried_again() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "2")]);
    let neighbour = fleet.add(6, "test.sleep", json!({"ms": 5000}), json!({"attempts": 1}));
    let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({"attempts": 4}));
    wait_taken(&fleet, &id);
    assert_eq!(cancel(&fleet, &id, "not wanted any more"), ["1"]);
    let asked = now();
    let job = fleet.wait_state(6, &id, "failed", SOON);
    assert!(later(&job, asked) < Duration::from_secs(1), "{:?}\n{}", later(&job, asked), worker.log());
    let reason = json!("cancelled: not wanted any more");
    assert_eq!((&job["failedReason"], &job["attemptsMade"]), (&reason, &json!(1)), "{job:#}");
    assert_eq!(cancel(&fleet, &id, "again"), [""; 0], "nobody runs it");
    fleet.wait_state(6, &neighbour, "completed", SOON);
}

#[test]
fn a_handler_that_does_not_react_loses_its_thread_and_commits_nothing() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.effect", json!({"key": "never", "blockMs": 6000}), json!({"attempts": 4}));
    fleet.wait_in_transaction(SOON);
    cancel(&fleet, &id, "it hangs");
    let asked = now();
    let job = fleet.wait_state(6, &id, "failed", SOON);
    assert!(later(&job, asked) < Duration::from_secs(4), "{:?}\n{}", later(&job, asked), worker.log());
    assert_eq!(job["failedReason"], "cancelled: it hangs; it did not react", "{job:#}");
    let next = fleet.add(6, "test.echo", json!({}), json!({}));
    fleet.wait_state(6, &next, "completed", SOON);
    worker.wait_log("has come back");
    assert!(fleet.effects().is_empty(), "{:?}", fleet.effects());
}

#[test]
fn a_request_that_no_notice_announces_is_found_within_seconds() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({}));
    wait_taken(&fleet, &id);
    fleet.sql("UPDATE floh_worker.job_execution SET cancel_requested_at = now(), cancel_reason = 'silently'");
    let asked = now();
    let job = fleet.wait_state(6, &id, "failed", SOON);
    assert!(later(&job, asked) < Duration::from_secs(7), "{:?}\n{}", later(&job, asked), worker.log());
    assert_eq!(job["failedReason"], "cancelled: silently", "{job:#}");
}

#[test]
fn notices_are_heard_again_after_the_session_that_listens_was_ended() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let listening = "FROM pg_stat_activity WHERE query LIKE 'LISTEN %'";
    let pid = || fleet.sql(&format!("SELECT pid {listening}")).first().and_then(|row| row[0].clone());
    let first = wait_for("a session that listens", SOON, pid);
    fleet.sql(&format!("SELECT pg_terminate_backend(pid) {listening}"));
    wait_for("another one", SOON, || pid().filter(|pid| *pid != first));
    let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({}));
    wait_taken(&fleet, &id);
    cancel(&fleet, &id, "heard");
    let asked = now();
    let job = fleet.wait_state(6, &id, "failed", SOON);
    assert!(later(&job, asked) < Duration::from_secs(1), "{:?}\n{}", later(&job, asked), worker.log());
}
