//! Jobs that no client of npm would write, or only by mistake: each ends failed with a clear reason and is retained,
//! and the worker goes on.

use crate::support::{Fleet, wait_for};
use serde_json::json;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Puts an id into `wait` with the given hash, as a script of somebody's own might.
fn push_raw(fleet: &mut Fleet, id: &str, fields: &[(&str, &str)]) {
    let (hash, wait, marker) = (fleet.key(id), fleet.key("wait"), fleet.key("marker"));
    for (field, value) in fields {
        fleet.redis::<()>("HSET", &[&hash, field, value]);
    }
    fleet.redis::<()>("LPUSH", &[&wait, &id]);
    fleet.redis::<()>("ZADD", &[&marker, &"0", &"0"]);
}

/// Waits until the job is in `failed`; returns its reason and attempts.
fn wait_failed(fleet: &mut Fleet, id: &str) -> (String, u64) {
    let (failed, hash) = (fleet.key("failed"), fleet.key(id));
    wait_for(&format!("job {id} is failed"), SOON, || fleet.redis::<Option<String>>("ZSCORE", &[&failed, &id]));
    let reason: Option<String> = fleet.redis("HGET", &[&hash, &"failedReason"]);
    let attempts: Option<u64> = fleet.redis("HGET", &[&hash, &"atm"]);
    let (active, lock) = (fleet.key("active"), fleet.key(&format!("{id}:lock")));
    assert_eq!(fleet.redis::<Vec<String>>("LRANGE", &[&active, &"0", &"-1"]), Vec::<String>::new());
    assert!(!fleet.redis::<bool>("EXISTS", &[&lock]), "the lock of {id} is left");
    (reason.unwrap_or_else(|| panic!("job {id} has no reason")), attempts.unwrap_or_default())
}

/// The worker is well: the next good job is done.
fn assert_goes_on(fleet: &mut Fleet) {
    let id = fleet.add(6, "test.echo", json!({"still": "here"}), json!({"removeOnComplete": 3}));
    fleet.wait_state(6, &id, "completed", SOON);
}

#[test]
fn hashes_that_are_no_proper_jobs_fail_with_a_reason() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    type Case = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);
    const NOW: &str = "1700000000000";
    let cases: [Case; 6] = [
        ("no-hash", &[], &["name"]),
        ("no-name", &[("data", "{}"), ("opts", "{}"), ("timestamp", NOW)], &["name"]),
        ("no-data", &[("name", "test.echo"), ("opts", "{}"), ("timestamp", NOW)], &["data"]),
        (
            "not-json",
            &[("name", "test.echo"), ("data", "{\"a\":"), ("opts", "{}"), ("timestamp", NOW)],
            &["data", "JSON"],
        ),
        (
            "no-json-at-all",
            &[("name", "test.echo"), ("data", "\u{0}"), ("opts", "{}"), ("timestamp", NOW)],
            &["data", "JSON"],
        ),
        ("empty-name", &[("name", ""), ("data", "{}"), ("opts", "{}"), ("timestamp", NOW)], &["name"]),
    ];
    for (id, fields, words) in cases {
        push_raw(&mut fleet, id, fields);
        let (reason, attempts) = wait_failed(&mut fleet, id);
        assert!(words.iter().all(|word| reason.contains(word)), "{id}: {reason}");
        assert!(reason.len() < 500, "{id}: {reason}");
        assert_eq!(attempts, 1, "{id}: another attempt would not help ({reason})");
        assert_goes_on(&mut fleet);
    }
    // They are seen by clients as failed jobs, and each is told in the log with its id.
    assert_eq!(fleet.call(6, "counts", json!({}))["failed"], 6);
    assert_eq!(fleet.call(5, "counts", json!({}))["failed"], 6);
    worker.stop();
    let log = worker.log();
    for (id, _, _) in cases {
        assert!(log.contains(id), "{id} is not in the log:\n{log}");
    }
}

#[test]
fn odd_fields_do_not_matter() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    for (id, parent) in
        [("odd", "[]"), ("cut", "{\"id\":"), ("number", "5"), ("nested", "{\"id\":{},\"queueKey\":\"x\"}")]
    {
        let fields = [
            ("name", "test.echo"),
            ("data", "{\"a\":1}"),
            ("opts", "not JSON"),
            ("timestamp", "soon"),
            ("priority", "-"),
            ("parent", parent),
            ("unknown", "\u{7}"),
        ];
        push_raw(&mut fleet, id, &fields);
        let (completed, hash) = (fleet.key("completed"), fleet.key(id));
        wait_for("the odd job is completed", SOON, || fleet.redis::<Option<String>>("ZSCORE", &[&completed, &id]));
        assert_eq!(fleet.redis::<String>("HGET", &[&hash, &"returnvalue"]), "{\"a\":1}");
        assert_eq!(fleet.starts(id).len(), 1, "{id} ran once");
    }
    assert_goes_on(&mut fleet);
}

#[test]
fn data_that_is_no_text_is_refused_and_a_cut_emoji_is_not() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let fields =
        [("name", "test.echo"), ("data", "{\"text\":\"a\\ud83d\"}"), ("opts", "{}"), ("timestamp", "1700000000000")];
    push_raw(&mut fleet, "cut", &fields);
    let (completed, hash, binary) = (fleet.key("completed"), fleet.key("cut"), fleet.key("binary"));
    wait_for("the cut one is completed", SOON, || fleet.redis::<Option<String>>("ZSCORE", &[&completed, &"cut"]));
    assert_eq!(fleet.redis::<String>("HGET", &[&hash, &"returnvalue"]), "{\"text\":\"a\u{fffd}\"}");
    let _: i64 = fleet.redis("HSET", &[&binary, &"data", &b"{\"a\":\"\xff\xfe\"}".as_slice()]);
    push_raw(&mut fleet, "binary", &[("name", "test.echo"), ("opts", "{}"), ("timestamp", "1700000000000")]);
    let (reason, attempts) = wait_failed(&mut fleet, "binary");
    assert!(reason.contains("UTF-8"), "{reason}");
    assert_eq!(attempts, 1);
}

by_5_and_6!(an_unknown_name_fails_at_once, five_megabytes_of_data_fail_at_once, a_job_removed_while_it_runs);

fn an_unknown_name_fails_at_once(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let id = fleet.add(version, "trigger-workflw", json!({}), json!({"attempts": 5, "backoff": 100}));
    let (reason, attempts) = wait_failed(&mut fleet, &id);
    for word in ["trigger-workflw", "stuck-run-recovery", "audit-checkpoint"] {
        assert!(reason.contains(word), "{reason}");
    }
    assert_eq!(attempts, 1, "no retry brings a handler");
    assert_goes_on(&mut fleet);
}

fn five_megabytes_of_data_fail_at_once(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let id = fleet.add(version, "test.echo", json!({"text": "x".repeat(5 * 1024 * 1024)}), json!({"attempts": 3}));
    let (reason, attempts) = wait_failed(&mut fleet, &id);
    assert!(reason.contains("data") && reason.len() < 500, "{reason}");
    assert_eq!(attempts, 1);
    assert_goes_on(&mut fleet);
}

#[test]
fn the_largest_data_is_a_setting_and_holds_however_the_job_is_fetched() {
    let mut fleet = Fleet::start();
    // The data is {"text":"…"}: 11 bytes more than the text.
    let data = |bytes: usize| json!({"text": "x".repeat(bytes - 11)});
    let opts = || json!({"attempts": 3, "backoff": 100});
    let first = fleet.add(6, "test.echo", data(1025), opts());
    let fits = fleet.add(6, "test.echo", data(1024), opts());
    let second = fleet.add(6, "test.echo", data(1025), opts());
    // Before the worker's first fetch all of them wait: it takes one by a fetch, the others inside of finishes.
    let mut worker = fleet.worker("1", &[("MAX_JOB_BYTES", "1024")]);
    fleet.wait_state(6, &fits, "completed", SOON);
    fleet.wait_counts(6, json!({"waiting": 0, "active": 0, "completed": 1, "failed": 2}), SOON);
    for id in [&first, &second] {
        let (reason, attempts) = wait_failed(&mut fleet, id);
        assert_eq!(reason, "the job's data has 1025 bytes, more than the 1024 that are allowed");
        assert_eq!(attempts, 1);
    }
    worker.stop();
}

/// Removing an active job is refused by BullMQ while it is locked; a client that deletes its keys is not stopped by that.
fn a_job_removed_while_it_runs(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let id = fleet.add(version, "test.sleep", json!({"ms": 1200}), json!({}));
    fleet.wait_state(version, &id, "active", SOON);
    assert_eq!(fleet.call(version, "remove", json!({"job": id})), 0, "a locked job cannot be removed");
    let (hash, active) = (fleet.key(&id), fleet.key("active"));
    fleet.redis::<()>("DEL", &[&hash]);
    fleet.redis::<()>("LREM", &[&active, &"0", &id]);
    assert_goes_on(&mut fleet);
}
