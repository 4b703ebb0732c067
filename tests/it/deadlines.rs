//! Jobs that run longer than they may, and handlers that do not react: neither holds a slot for ever.

use crate::support::{fleet::Fleet, proxy::Fault, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(15);
const ONCE: fn() -> Value = || json!({"attempts": 1});

/// How long a failed or completed job took from its last fetch to its end, by Redis' clock.
fn took(job: &Value) -> Duration {
    Duration::from_millis(job["finishedOn"].as_u64().unwrap() - job["processedOn"].as_u64().unwrap())
}

#[test]
fn a_job_that_runs_too_long_is_cut_off_and_tried_again_and_other_names_have_their_own_time() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[("JOB_TIMEOUT_SECONDS", "1"), ("JOB_TIMEOUTS", "test.effect=60,no-such-job=5")]);
    let opts = json!({"attempts": 2, "backoff": {"type": "fixed", "delay": 100}});
    let slow = fleet.add(6, "test.sleep", json!({"ms": 60_000}), opts);
    let allowed = fleet.add(6, "test.effect", json!({"key": "slow", "ms": 4000}), ONCE());
    let job = fleet.wait_state(6, &slow, "failed", SOON);
    assert_eq!((&job["failedReason"], &job["attemptsMade"]), (&json!("timed out after 1 s"), &json!(2)), "{job:#}");
    assert_eq!(fleet.starts(&slow).len(), 2);
    // It ignores its token, so it has the whole grace, and is dropped then.
    assert!((3000..5000).contains(&took(&job).as_millis()), "{job:#}\n{}", worker.log());
    fleet.wait_state(6, &allowed, "completed", SOON);
    assert_eq!(fleet.effects().get("slow"), Some(&1));
    let log = worker.log();
    let warnings = log.lines().filter(|line| line.contains("knows no job named no-such-job;")).count();
    assert_eq!(warnings, 1, "{log}");
}

#[test]
fn a_handler_that_heeds_its_token_ends_before_the_grace_is_over() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[("JOB_TIMEOUTS", "test.progress=1")]);
    let id = fleet.add(6, "test.progress", json!({"steps": 100_000_000}), json!({"attempts": 1, "keepLogs": 5}));
    let job = fleet.wait_state(6, &id, "failed", SOON);
    assert_eq!(job["failedReason"], "timed out after 1 s", "{job:#}");
    assert!(took(&job) < Duration::from_millis(2500), "{job:#}");
}

#[test]
fn a_handler_that_is_cut_off_in_a_commit_that_went_through_has_completed() {
    let mut fleet = Fleet::start();
    let proxy = fleet.postgres_proxy();
    let settings = [("DB_PORT", &*proxy.port().to_string()), ("JOB_TIMEOUTS", "test.effect=1")];
    let worker = fleet.worker("1", &settings);
    proxy.arm("COMMIT\0", Fault::Deafen);
    let id = fleet.add(6, "test.effect", json!({"key": "once"}), json!({"attempts": 3}));
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(proxy.sprung(), 1);
    assert_eq!((&job["returnvalue"], &job["attemptsMade"]), (&json!({"key": "once"}), &json!(1)), "{job:#}");
    assert_eq!(fleet.effects().get("once"), Some(&1), "{}", worker.log());
    worker.wait_log("longer than it may");
}

#[test]
fn a_handler_that_is_cut_off_in_a_commit_that_hangs_has_failed_and_commits_nothing() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[("JOB_TIMEOUTS", "test.effect=1")]);
    fleet.sql(
        "SET search_path = floh_worker;
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(8); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON test_effect DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION dawdle()",
    );
    let id = fleet.add(6, "test.effect", json!({"key": "never"}), ONCE());
    let job = fleet.wait_state(6, &id, "failed", SOON);
    assert_eq!(job["failedReason"], "timed out after 1 s", "{job:#}\n{}", worker.log());
    let working = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'floh-worker epoch %'";
    assert!(fleet.sql(working).is_empty(), "its session was ended before the job was called failed");
    assert!(fleet.effects().is_empty());
}

#[test]
fn a_handler_that_never_yields_loses_its_thread_and_the_slot_is_free() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[("JOB_TIMEOUTS", "test.hang=1")]);
    let hang = fleet.add(6, "test.hang", json!({"ms": 120_000}), ONCE());
    let next = fleet.add(6, "test.echo", json!({}), json!({}));
    let job = fleet.wait_state(6, &hang, "failed", SOON);
    let reason = "timed out after 1 s and did not react: its thread was given up";
    assert_eq!(job["failedReason"], reason, "{job:#}");
    // Deadline, grace, and a second; and one more for a busy machine.
    assert!(took(&job) < Duration::from_secs(5), "{job:#}\n{}", worker.log());
    let next = fleet.wait_state(6, &next, "completed", SOON);
    let later = next["processedOn"].as_u64().unwrap() - job["processedOn"].as_u64().unwrap();
    assert!(later < 5000, "{later} ms\n{}", worker.log());
    // And the end of the process does not wait for the thread.
    let asked = Instant::now();
    worker.stop();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[test]
fn a_worker_that_has_lost_three_threads_lets_the_others_finish_and_is_started_anew() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[("JOB_TIMEOUTS", "test.hang=1"), ("WORKER_CONCURRENCY", "4")]);
    let other = fleet.add(6, "test.effect", json!({"key": "other", "ms": 9000}), ONCE());
    fleet.wait_in_transaction(SOON);
    let hangs: Vec<_> = (0..3).map(|_| fleet.add(6, "test.hang", json!({"ms": 120_000}), ONCE())).collect();
    wait_for("the drain", SOON, || worker.said("STOPPING=1").then_some(()));
    let late = fleet.add(6, "test.echo", json!({}), json!({}));
    assert_eq!(worker.wait_end(SOON).code(), Some(75), "{}", worker.log());
    assert!(worker.log().contains("3 threads do not come back"), "{}", worker.log());
    assert_eq!(fleet.job(6, &other)["state"], "completed", "{}", worker.log());
    for hang in hangs {
        let job = fleet.job(6, &hang);
        assert!(job["failedReason"].as_str().unwrap().ends_with("its thread was given up"), "{job:#}");
    }
    assert_eq!(fleet.job(6, &late)["state"], "waiting");
}

#[test]
fn a_handler_that_wakes_after_it_was_given_up_commits_nothing_and_its_thread_is_not_lost() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[("JOB_TIMEOUTS", "test.effect=1,test.hang=1")]);
    for round in 1..=3 {
        let data = json!({"key": "never", "blockMs": 4500});
        let id = fleet.add(6, "test.effect", data, ONCE());
        let job = fleet.wait_state(6, &id, "failed", SOON);
        assert!(job["failedReason"].as_str().unwrap().contains("did not react"), "{job:#}");
        wait_for("its thread to come back", SOON, || {
            (worker.log().matches("has come back").count() == round).then_some(())
        });
    }
    assert!(fleet.effects().is_empty(), "{:?}", fleet.effects());
    // Three came back, so they were not too many.
    let id = fleet.add(6, "test.effect", json!({"key": "well"}), ONCE());
    fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(fleet.effects().into_iter().collect::<Vec<_>>(), [("well".to_string(), 1)]);
    worker.stop();
}

#[test]
fn a_drain_hands_back_what_does_not_react_and_another_worker_starts_it() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[("SHUTDOWN_TIMEOUT_SECONDS", "1")]);
    let id = fleet.add(6, "test.effect", json!({"key": "once", "blockMs": 8000}), ONCE());
    fleet.wait_in_transaction(SOON);
    let asked = Instant::now();
    worker.stop();
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}\n{}", asked.elapsed(), worker.log());
    assert!(worker.log().contains("it did not react: its thread was given up"), "{}", worker.log());
    let job = fleet.job(6, &id);
    assert_eq!((&job["state"], &job["attemptsMade"]), (&json!("waiting"), &json!(0)), "{job:#}\n{}", worker.log());
    let rows = fleet.sql("SELECT state FROM floh_worker.job_execution");
    assert_eq!(rows, [[Some("handed_back".to_string())]]);
    let _successor = fleet.worker("2", &[]);
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(job["attemptsMade"], 1, "{job:#}");
    assert_eq!(fleet.effects().get("once"), Some(&1));
}

#[test]
fn a_lost_lease_frees_the_slot_although_the_handler_does_not_react() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    // Longer than the renewal takes to notice, and outside a transaction: PostgreSQL would end that after 10 s.
    let id = fleet.add(6, "test.effect", json!({"key": "never", "blockFirstMs": 16_000}), json!({}));
    let taken = "SELECT 1 FROM floh_worker.job_execution WHERE state = 'taken'";
    wait_for("it is taken", SOON, || (!fleet.sql(taken).is_empty()).then_some(()));
    let lock = fleet.key(&format!("{id}:lock"));
    let _: String = fleet.redis("SET", &[&lock, &"somebody else", &"PX", &60_000]);
    wait_for("the slot to be free", SOON, || worker.log().contains("lease lost").then_some(()));
    let other = fleet.add(6, "test.echo", json!({}), json!({}));
    fleet.wait_state(6, &other, "completed", SOON);
    wait_for("its thread to come back", SOON, || worker.log().contains("has come back").then_some(()));
    assert!(fleet.effects().is_empty(), "{:?}", fleet.effects());
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.wait_end(SOON).code(), Some(0), "{}", worker.log());
}
