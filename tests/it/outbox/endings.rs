//! How a wake-up's row ends: with its job, in each of the ways in which that can end.

use super::{MINUTE, SOON};
use crate::support::{Fleet, wait_for};
use floh_worker::queue::add::NewJob;
use serde_json::json;

#[test]
fn a_handler_that_commits_no_result_of_its_own_ends_its_row_all_the_same() {
    let fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    fleet.write_rows("job_id, name, data", "'plain', 'test.echo', '{\"answer\": 42}'");
    fleet.wait_row("plain", "completed", SOON);
    let ledger = fleet.sql("SELECT state, value FROM floh_worker.job_execution WHERE job_id = 'plain'");
    assert_eq!(ledger, [[Some("committed".to_string()), Some("{\"answer\":42}".to_string())]]);
}

#[test]
fn a_failed_wake_up_that_is_retried_by_hand_runs_again() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    fleet.sql("ALTER TABLE floh_worker.test_effect ADD CONSTRAINT full_up CHECK (key <> 'x') NOT VALID");
    fleet.write_rows("job_id, name, data, attempts", "'x', 'test.effect', '{\"key\": \"x\"}', 1");
    fleet.wait_state(6, "x", "failed", SOON);
    assert_eq!(fleet.row("x"), "failed");
    fleet.sql("ALTER TABLE floh_worker.test_effect DROP CONSTRAINT full_up");
    fleet.call(6, "retry", json!({"job": "x"}));
    fleet.wait_row("x", "completed", SOON);
    assert_eq!(fleet.effects(), [("x".to_string(), 1)].into());
    wait_for("the finish", SOON, || fleet.job(6, "x").is_null().then_some(()));
}

#[test]
fn a_wake_up_is_retried_as_its_row_says_and_ends_with_the_last_attempt() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    fleet.write_rows("job_id, name, attempts", "'twice', 'test.fail', 2");
    fleet.wait_state(6, "twice", "delayed", SOON);
    assert_eq!(fleet.row("twice"), "sent");
    let job = fleet.wait_state(6, "twice", "failed", SOON);
    assert_eq!((&job["attemptsMade"], fleet.row("twice").as_str()), (&json!(2), "failed"), "{job:#}");
    let states = fleet.sql("SELECT state FROM floh_worker.job_execution ORDER BY attempts_made");
    assert_eq!(states, [[Some("retried".to_string())], [Some("failed".to_string())]]);
}

#[test]
fn one_that_cannot_be_run_at_all_is_found_by_the_comparison() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    fleet.write_rows("job_id, name", "'strange', 'nobody.knows'");
    fleet.wait_state(6, "strange", "failed", SOON);
    fleet.wait_row("strange", "failed", MINUTE);
}

#[test]
fn one_that_is_in_quarantine_has_failed() {
    let mut fleet = Fleet::start();
    fleet.call(6, "pause", json!({}));
    let mut worker = fleet.worker("1", &[]);
    fleet.write_row("deadly");
    fleet.wait_row("deadly", "sent", SOON);
    let stamp: String = fleet.redis("HGET", &[&fleet.key("deadly"), &"timestamp"]);
    fleet.sql(&format!(
        "INSERT INTO floh_worker.job_suspicion (queue, job_id, job_timestamp, invocation, name, instance, host, evidence)
        SELECT 'bull:workflow-scheduler', 'deadly', {stamp}, gen_random_uuid(), 'test.effect', '1', 'here', 'signal (SEGV)'
        FROM generate_series(1, 3)"
    ));
    fleet.call(6, "resume", json!({}));
    let job = fleet.wait_state(6, "deadly", "failed", SOON);
    assert!(job["failedReason"].as_str().unwrap().contains("quarantined"), "{job:#}");
    assert_eq!(fleet.row("deadly"), "failed");
    assert!(fleet.effects().is_empty());
    worker.stop();
}

#[test]
fn one_that_got_into_the_queue_twice_is_completed_without_an_effect() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    fleet.write_row("once");
    fleet.wait_row("once", "completed", SOON);
    wait_for("the finish", SOON, || fleet.job(6, "once").is_null().then_some(()));
    let again = NewJob { id: Some("once".into()), ..NewJob::new("test.effect", json!({"key": "once"})) };
    fleet.add_ours(again);
    let job = fleet.wait_state(6, "once", "completed", SOON);
    assert_eq!(job["returnvalue"], json!({"skipped": "done before"}), "{job:#}");
    worker.wait_log("a wake-up that was done before");
    assert_eq!(fleet.effects(), [("once".to_string(), 1)].into());
}
