//! A queue paused and resumed by npm's BullMQ 5 and 6 while work goes on around it: nothing is started meanwhile, and
//! nothing is missing afterwards. (A 5.x resume renames a list over whatever was put beside it.)

use crate::support::{Fleet, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn paused_by_5_and_resumed_by_5() {
    nothing_is_missing(5, 5);
}

#[test]
fn paused_by_5_and_resumed_by_6() {
    nothing_is_missing(5, 6);
}

#[test]
fn paused_by_6_and_resumed_by_5() {
    nothing_is_missing(6, 5);
}

#[test]
fn paused_by_6_and_resumed_by_6() {
    nothing_is_missing(6, 6);
}

/// The keys that `test.effect` must have written once when all is done.
#[derive(Default)]
struct Expected(BTreeMap<String, u64>);

impl Expected {
    fn add(&mut self, fleet: &mut Fleet, version: u8, key: &str, ms: u64, opts: Value) -> String {
        self.0.insert(key.to_string(), 1);
        fleet.add(version, "test.effect", json!({"key": key, "ms": ms}), opts)
    }
}

fn nothing_is_missing(pauser: u8, resumer: u8) {
    let mut fleet = Fleet::start();
    let mut expected = Expected::default();
    let settings = [("WORKER_CONCURRENCY", "6"), ("SHUTDOWN_TIMEOUT_SECONDS", "1")];
    let mut first = fleet.worker("1", &settings);
    fail_commits_once(&fleet);
    before_the_pause(&mut fleet, &mut expected, pauser);
    wait_for("the jobs of the first worker are active", SOON, || {
        (fleet.call(pauser, "counts", json!({}))["active"] == 6).then_some(())
    });

    fleet.call(pauser, "pause", json!({}));
    let paused_at = now(&mut fleet);
    while_paused(&mut fleet, &mut expected);
    // What ran goes on: a child completes (its parent waits), a commit fails (its retry waits), a deduplicated job
    // completes (its successor waits).
    wait_for("the short jobs end while the queue is paused", SOON, || {
        (fleet.call(pauser, "counts", json!({}))["active"] == 2).then_some(())
    });
    // The two long ones are handed back by a worker that stops.
    first.signal(Signal::SIGTERM);
    let status = first.wait_end(Duration::from_secs(15));
    assert_eq!(status.code(), Some(0), "{}", first.log());
    assert_eq!(fleet.call(pauser, "counts", json!({}))["active"], 0, "{}", first.log());
    let _second = fleet.worker("2", &settings);
    wait_for("the delayed jobs are due and promoted, though not started", SOON, || {
        let delayed = fleet.call(pauser, "counts", json!({}))["delayed"].as_u64().unwrap();
        (delayed == 0).then_some(())
    });
    wait_until_settled(&mut fleet);
    let late: Vec<_> = fleet.stream().into_iter().filter(|e| e.name == "active" && e.at > paused_at).collect();
    assert!(late.is_empty(), "started although the queue is paused: {late:?}");

    fleet.call(resumer, "resume", json!({}));
    wait_for("every job has run", Duration::from_secs(40), || {
        let counts = fleet.call(resumer, "counts", json!({}));
        let left = ["waiting", "active", "delayed", "prioritized", "paused", "waiting-children"];
        // 6.x knows no state `paused`.
        let done = left.iter().all(|state| counts[state].as_u64().unwrap_or(0) == 0);
        let missing: Vec<_> = expected.0.keys().filter(|key| !fleet.effects().contains_key(*key)).cloned().collect();
        // A queue that is empty with jobs missing will not get better.
        assert!(!done || missing.is_empty(), "lost by the pause: {missing:?}");
        done.then_some(())
    });
    assert_eq!(fleet.effects(), expected.0, "each once");
    assert_eq!(fleet.call(resumer, "counts", json!({}))["failed"], 0);
}

/// Lets the first commit of each `flaky` row fail, so that a job fails at its end and is retried.
fn fail_commits_once(fleet: &Fleet) {
    fleet.sql(
        "CREATE SEQUENCE floh_worker.test_failures;
         GRANT USAGE ON SEQUENCE floh_worker.test_failures TO floh;
         CREATE FUNCTION floh_worker.test_fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
           IF NEW.key = 'flaky' AND nextval('floh_worker.test_failures') = 1 THEN
             RAISE EXCEPTION 'the first commit fails' USING ERRCODE = 'serialization_failure';
           END IF;
           RETURN NEW;
         END $$;
         CREATE CONSTRAINT TRIGGER test_fail_once AFTER INSERT ON floh_worker.test_effect
           DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION floh_worker.test_fail_once();",
    );
}

/// Six jobs that are active when the queue is paused, others behind them, and some that are due later.
fn before_the_pause(fleet: &mut Fleet, expected: &mut Expected, version: u8) {
    expected.add(fleet, version, "long-1", 8000, json!({}));
    expected.add(fleet, version, "long-2", 8000, json!({"attempts": 1}));
    expected.add(fleet, version, "flaky", 2500, json!({"attempts": 3}));
    expected.add(fleet, version, "deduplicated", 2500, kept_last());
    for key in ["parent", "child", "child-2"] {
        expected.0.insert(key.to_string(), 1);
    }
    let child = |key: &str| json!({"name": "test.effect", "data": {"key": key, "ms": 2500}});
    let flow =
        json!({"name": "test.effect", "data": {"key": "parent"}, "children": [child("child"), child("child-2")]});
    fleet.call(version, "flow", json!({"flow": flow}));
    for index in 0..5 {
        expected.add(fleet, version, &format!("behind-{index}"), 0, json!({}));
        expected.add(fleet, version, &format!("due-before-{index}"), 0, json!({"delay": 4000}));
    }
    expected.add(fleet, version, "behind-by-priority", 0, json!({"priority": 3}));
}

fn while_paused(fleet: &mut Fleet, expected: &mut Expected) {
    for version in [5, 6] {
        for index in 0..3 {
            expected.add(fleet, version, &format!("added-{version}-{index}"), 0, json!({}));
            expected.add(fleet, version, &format!("due-{version}-{index}"), 0, json!({"delay": 2000}));
        }
        expected.add(fleet, version, &format!("lifo-{version}"), 0, json!({"lifo": true}));
        expected.add(fleet, version, &format!("priority-{version}"), 0, json!({"priority": 1}));
    }
    expected.0.insert("ours".into(), 1);
    fleet.add_ours(floh_worker::queue::add::NewJob::new("test.effect", json!({"key": "ours"})));
    expected.add(fleet, 6, "deduplicated-next", 0, kept_last());
}

fn kept_last() -> Value {
    json!({"deduplication": {"id": "one", "keepLastIfActive": true}})
}

/// Where a 5.x client's list exists, an idle worker's fetch (every 2 s) moves what others put beside it.
fn wait_until_settled(fleet: &mut Fleet) {
    let (wait, paused) = (fleet.key("wait"), fleet.key("paused"));
    wait_for("nothing waits beside the list of a 5.x client", SOON, || {
        let beside: u64 = fleet.redis("LLEN", &[&wait]);
        let legacy: bool = fleet.redis("EXISTS", &[&paused]);
        (!legacy || beside == 0).then_some(())
    });
}

/// Redis' clock, milliseconds.
fn now(fleet: &mut Fleet) -> u64 {
    let (seconds, micros): (u64, u64) = fleet.redis("TIME", &[]);
    seconds * 1000 + micros / 1000
}

/// Jobs whose list was destroyed while none of our workers looked: found by the slow sweep.
#[test]
fn jobs_that_a_resume_destroyed_are_put_back() {
    let mut fleet = Fleet::start();
    let mut expected = Expected::default();
    expected.add(&mut fleet, 5, "before", 0, json!({}));
    fleet.call(5, "pause", json!({}));
    expected.add(&mut fleet, 6, "destroyed-1", 0, json!({}));
    expected.add(&mut fleet, 6, "destroyed-2", 0, json!({"priority": 0}));
    fleet.call(5, "resume", json!({}));
    let (wait, paused) = (fleet.key("wait"), fleet.key("paused"));
    let left: u64 = fleet.redis::<u64>("LLEN", &[&wait]) + fleet.redis::<u64>("LLEN", &[&paused]);
    assert_eq!(left, 1, "the mishap that this test is about no longer happens");
    let _worker = fleet.worker("1", &[]);
    wait_for("the lost jobs are found and run", Duration::from_secs(90), || {
        (fleet.effects() == expected.0).then_some(())
    });
}
