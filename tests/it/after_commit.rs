//! What a handler does when its result is committed already: nothing of it can make the job run again.

use crate::support::fleet::Fleet;
use serde_json::json;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_job_whose_result_is_committed_has_completed_whatever_its_handler_does_afterwards() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    for what in ["error", "panic", "value"] {
        let data = json!({"key": what, "failAfterComplete": what});
        let id = fleet.add(6, "test.effect", data, json!({"attempts": 3}));
        let job = fleet.wait_state(6, &id, "completed", SOON);
        assert_eq!((&job["returnvalue"], &job["attemptsMade"]), (&json!({"key": what}), &json!(1)), "{job:#}");
        assert_eq!(fleet.starts(&id).len(), 1, "{}", worker.log());
        assert_eq!(fleet.effects().get(what), Some(&1), "{}", worker.log());
    }
    worker.wait_log("its result was committed before this, and stays: told to fail");
    worker.wait_log("its result was committed before this, and stays: panic: told to panic");
}

#[test]
fn a_handler_that_is_cut_off_after_its_commit_has_completed() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[("JOB_TIMEOUTS", "test.effect=1")]);
    let data = json!({"key": "once", "failAfterComplete": "hang", "hangMs": 60_000});
    let id = fleet.add(6, "test.effect", data, json!({"attempts": 3}));
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!((&job["returnvalue"], &job["attemptsMade"]), (&json!({"key": "once"}), &json!(1)), "{job:#}");
    assert_eq!(fleet.effects().get("once"), Some(&1), "{}", worker.log());
    worker.wait_log("it did not react, and its thread is given up");
}
