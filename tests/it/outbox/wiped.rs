//! Redis is emptied: what is pending comes back within a minute, and nothing runs twice.

use super::{MINUTE, SOON};
use crate::support::{Fleet, wait_for};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Instant;

fn wipe(fleet: &mut Fleet) -> Instant {
    fleet.redis::<String>("FLUSHALL", &[]);
    Instant::now()
}

#[test]
fn pending_wake_ups_are_back_within_a_minute_and_ended_ones_stay_ended() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let _second = fleet.worker("2", &[]);
    fleet.write_row("done");
    fleet.write_rows("job_id, name, attempts", "'failed', 'test.fail', 1");
    fleet.write_rows(
        "job_id, name, data, due_at",
        "'later-' || i, 'test.effect', json_build_object('key', 'later-' || i), now() + interval '1 hour'
            FROM generate_series(1, 300) i",
    );
    fleet.wait_row("done", "completed", SOON);
    fleet.wait_row("failed", "failed", SOON);
    wait_for("all to be sent", SOON, || (fleet.rows().get("sent") == Some(&300)).then_some(()));
    // Old enough to be looked for.
    fleet.sql("UPDATE floh_worker.job_outbox SET sent_at = sent_at - interval '10 seconds'");
    let wiped = wipe(&mut fleet);
    let delayed = fleet.key("delayed");
    wait_for("all to be delayed again", MINUTE, || (fleet.redis::<i64>("ZCARD", &[&delayed]) >= 300).then_some(()));
    assert!(wiped.elapsed() < MINUTE);
    // And they run: one of them is due now.
    fleet.call(6, "promote", json!({"job": "later-7"}));
    fleet.wait_row("later-7", "completed", SOON);
    let expected = [("done".to_string(), 1), ("later-7".to_string(), 1)].into();
    assert_eq!(fleet.effects(), expected);
    assert_eq!((fleet.row("done"), fleet.row("failed")), ("completed".to_string(), "failed".to_string()));
    let restored = |log: String| log.contains("300 wake-ups that the queue had lost are sent again");
    wait_for("the event", SOON, || (restored(worker.log()) || restored(_second.log())).then_some(()));
}

/// The worker still runs it when Redis is emptied, and commits before it learns that its lock is gone.
#[test]
fn one_that_was_running_and_committed_is_not_run_again() {
    let mut fleet = Fleet::start();
    let _workers = [fleet.worker("1", &[]), fleet.worker("2", &[])];
    fleet.write_rows("job_id, name, data", "'slow', 'test.effect', '{\"key\": \"slow\", \"ms\": 3000}'");
    fleet.wait_in_transaction(SOON);
    wipe(&mut fleet);
    fleet.wait_row("slow", "completed", SOON);
    fleet.write_row("mark");
    fleet.wait_row("mark", "completed", SOON);
    // Had it been sent again, it would have been before this one, which the comparison restores.
    fleet.write_rows("job_id, name, due_at, sent_at", "'lost', 'test.echo', now(), now() - interval '1 minute'");
    fleet.wait_row("lost", "completed", MINUTE);
    assert_eq!(fleet.effects(), [("mark".to_string(), 1), ("slow".to_string(), 1)].into());
    assert!(fleet.starts("slow").is_empty(), "the event stream began anew with the wipe");
}

/// The worker is cut off: another one runs the job, and when the first one wakes up it commits nothing.
#[test]
fn one_that_was_running_in_a_frozen_worker_runs_elsewhere_and_has_one_effect() {
    let mut fleet = Fleet::start();
    let first = fleet.worker("1", &[]);
    fleet.write_rows("job_id, name, data", "'slow', 'test.effect', '{\"key\": \"slow\", \"ms\": 5000}'");
    fleet.wait_in_transaction(SOON);
    first.signal(Signal::SIGSTOP);
    fleet.sql("UPDATE floh_worker.job_outbox SET sent_at = sent_at - interval '10 seconds'");
    let wiped = wipe(&mut fleet);
    let _second = fleet.worker("2", &[]);
    wait_for("the second run", MINUTE, || (!fleet.starts("slow").is_empty()).then_some(()));
    assert!(wiped.elapsed() < MINUTE);
    first.signal(Signal::SIGCONT);
    fleet.wait_row("slow", "completed", SOON);
    first.wait_log("slow");
    fleet.write_row("mark");
    fleet.wait_row("mark", "completed", SOON);
    assert_eq!(fleet.effects(), [("mark".to_string(), 1), ("slow".to_string(), 1)].into());
}

/// With the counter of ids everything begins anew, and what was committed under an id says nothing of its next job.
#[test]
fn an_id_that_redis_gives_out_again_is_a_new_job() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    for key in ["before", "after"] {
        let id = fleet.add(6, "test.effect", json!({"key": key}), json!({"attempts": 1}));
        let job = fleet.wait_state(6, &id, "completed", SOON);
        assert_eq!((id.as_str(), &job["returnvalue"]["key"]), ("1", &json!(key)), "{job:#}");
        wipe(&mut fleet);
    }
    assert_eq!(fleet.effects(), [("after".to_string(), 1), ("before".to_string(), 1)].into());
}

#[test]
fn a_job_in_no_list_is_back_within_a_minute() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.effect", json!({"key": "mislaid"}), json!({"delay": 600_000}));
    fleet.redis::<i64>("HSET", &[&fleet.key(&id), &"delay", &"0"]);
    let mislaid = Instant::now();
    assert_eq!(fleet.redis::<i64>("ZREM", &[&fleet.key("delayed"), &id]), 1);
    wait_for("it to run", MINUTE, || fleet.effects().contains_key("mislaid").then_some(()));
    assert!(mislaid.elapsed() < MINUTE);
}
