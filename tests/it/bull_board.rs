//! Bull Board, the dashboard that operators of a BullMQ queue know, looked at in a browser: it shows what our worker
//! does, and what is pressed there reaches our worker.

use crate::support::{Fleet, child, node};
use serde_json::{Value, json};
use std::{process::Command, time::Duration};

const SOON: Duration = Duration::from_secs(30);
/// For starting a browser and reading a dozen pages, on a busy machine.
const LOOK: Duration = Duration::from_secs(120);

/// What a person reads there; `wanted` says which jobs are looked at, and which is retried.
fn look(fleet: &Fleet, wanted: &Value) -> Value {
    // The browser's profile and caches go with the folder, however the browser ends.
    let folder = tempfile::Builder::new().prefix("floh-it-board-").tempdir().unwrap();
    let prepare = |command: &mut Command| {
        command.arg("board.mjs").arg(wanted.to_string()).current_dir(node::board());
        command.env("REDIS_URL", fleet.redis.url());
        for variable in ["HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env(variable, folder.path());
        }
    };
    let done = child::run(&node::program(), prepare, b"", LOOK);
    assert!(done.status.success(), "board.mjs {wanted}: {}\n{}", done.status, done.stderr);
    let seen: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", done.stdout));
    assert_eq!(seen["errors"], json!([]), "the board's own page failed: {seen:#}");
    seen
}

/// The same number of jobs in every state but these.
fn counts(active: u64, waiting: u64, completed: u64, failed: u64) -> Value {
    json!({"active": active, "waiting": waiting, "waiting children": 0, "prioritized": 0, "completed": completed,
        "failed": failed, "delayed": 1})
}

#[test]
#[ignore = "needs Chromium; ./tests/run full runs it"]
fn what_the_worker_does_is_seen_there_and_a_failed_job_is_retried_by_hand() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "1")]);
    let told = fleet.add(6, "test.progress", json!({"steps": 4}), json!({}));
    let crashed = fleet.add(6, "test.panic", json!({"message": "index 7"}), json!({"attempts": 1}));
    // A failure whose cause is mended before somebody presses Retry.
    fleet.sql("ALTER TABLE floh_worker.test_effect ADD CONSTRAINT not_yet CHECK (key <> 'by-hand')");
    let mended = fleet.add(6, "test.effect", json!({"key": "by-hand"}), json!({"attempts": 1}));
    fleet.wait_state(6, &told, "completed", SOON);
    fleet.wait_state(6, &crashed, "failed", SOON);
    let refused = fleet.wait_state(6, &mended, "failed", SOON);
    assert!(refused["failedReason"].as_str().unwrap().contains("not_yet"), "{refused:#}");
    fleet.sql("ALTER TABLE floh_worker.test_effect DROP CONSTRAINT not_yet");
    // What keeps the worker's only slot, so that the others stay where they are seen, for longer than that takes.
    let long = fleet.add(6, "test.sleep", json!({"ms": 240_000}), json!({"attempts": 1}));
    fleet.wait_state(6, &long, "active", SOON);
    for _ in 0..2 {
        fleet.add(6, "test.echo", json!({}), json!({}));
    }
    fleet.add(6, "test.echo", json!({}), json!({"delay": 3_600_000}));

    let seen = look(&fleet, &json!({"failed": crashed, "completed": told, "retry": mended}));
    assert_eq!(seen["counts"], counts(1, 2, 1, 2), "{seen:#}");
    let workers = seen["workers"].as_array().unwrap();
    assert!(workers.len() == 1 && workers[0].as_str().unwrap().contains("floh-worker"), "{workers:?}");
    let error = seen["failed"]["error"].as_str().unwrap();
    assert!(error.contains("index 7") && error.contains("test_jobs.rs:"), "the reason and where it was: {error}");
    assert!(error.lines().count() > 5, "the stack: {error}");
    let completed = json!({"data": "jobData:{steps:4}", "returned": "returnValue:{steps:4}", "progress": "100%",
        "logs": ["step 1 of 4", "step 2 of 4", "step 3 of 4", "step 4 of 4"]});
    assert_eq!(seen["completed"], completed, "{seen:#}");
    let retried = &seen["retried"];
    assert!(retried["asked"].as_str().unwrap().contains("retry this job"), "{retried:#}");
    assert_eq!((&retried["before"], &retried["after"]), (&counts(1, 2, 1, 2), &counts(1, 3, 1, 1)), "{retried:#}");
    assert_eq!(fleet.starts(&mended).len(), 1, "it waits for the slot");

    fleet.sql(&format!(
        "SELECT floh_worker.cancel_job(queue, job_id, 'seen enough')
            FROM floh_worker.job_execution WHERE job_id = '{long}'"
    ));
    fleet.wait_counts(6, json!({"waiting": 0, "active": 0, "completed": 4, "failed": 2, "delayed": 1}), SOON);
    assert_eq!((fleet.starts(&mended).len(), fleet.effects()["by-hand"]), (2, 1), "our worker ran it again");
    let seen = look(&fleet, &json!({"failed": long, "completed": mended}));
    assert_eq!(seen["counts"], counts(0, 0, 4, 2), "{seen:#}");
    assert!(seen["failed"]["error"].as_str().unwrap().contains("cancelled: seen enough"), "{seen:#}");
    assert_eq!(seen["completed"]["returned"], "returnValue:{key:\"by-hand\"}", "{seen:#}");
}
