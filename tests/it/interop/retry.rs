//! Failures, retries and what is kept of finished jobs, as the options of npm's clients say and where they say nothing.

use crate::support::{Fleet, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

by_5_and_6!(
    a_job_without_options_is_retried_after_5_10_and_20_s,
    backoff_of_every_kind_is_kept,
    one_attempt_and_unrecoverable_failures_are_final,
    a_failure_shows_reason_stack_and_attempts,
    finished_jobs_are_kept_as_their_options_say,
    finished_jobs_run_again_when_retried_by_hand,
    an_option_that_does_not_parse_costs_only_itself,
);

/// Bounds of each retry's delay, milliseconds. The script counts it from its own reading of the clock, which no event
/// tells: it lies between the attempt's start and the event that says until when.
fn delays(fleet: &mut Fleet, id: &str) -> Vec<(u64, u64)> {
    let mut events = fleet.stream();
    events.retain(|event| event.job.as_deref() == Some(id));
    let mut delays = Vec::new();
    let mut start = None;
    for event in events {
        match (event.name.as_str(), start) {
            ("active", _) => start = Some(event.at),
            ("delayed", Some(start)) => {
                let until: u64 = event.entry.get("delay").expect("the event says until when");
                delays.push((until.saturating_sub(event.at), until.saturating_sub(start)));
            }
            _ => {}
        }
    }
    delays
}

/// Each retry was put off as long as expected, and did not start before that.
fn assert_delays(fleet: &mut Fleet, id: &str, expected: &[u64]) {
    let delays = delays(fleet, id);
    assert_eq!(delays.len(), expected.len(), "the retries of {id}: {delays:?}");
    let within = |((least, most), expected): (&(u64, u64), &u64)| (*least..=*most).contains(expected);
    assert!(delays.iter().zip(expected).all(within), "{id}: {delays:?} ms, expected {expected:?} ms");
    let starts = fleet.starts(id);
    let early = starts.windows(2).zip(expected).any(|(pair, delay)| pair[1] - pair[0] < *delay);
    assert!(starts.len() == expected.len() + 1 && !early, "{id}: {starts:?}, expected {expected:?} ms between them");
}

fn a_job_without_options_is_retried_after_5_10_and_20_s(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let id = fleet.add(version, "test.fail", json!({"reason": "the mail server is away"}), json!({}));
    assert_eq!(fleet.job(version, &id)["opts"]["attempts"], 0, "npm writes 0 where nothing was said");
    for (attempt, delay) in [(1, 5000), (2, 10_000), (3, 20_000)] {
        let job = fleet.wait_state(version, &id, "delayed", SOON);
        assert_eq!((&job["delay"], &job["attemptsMade"]), (&json!(delay), &json!(attempt)), "{job:#}");
        assert_eq!(job["failedReason"], "the mail server is away");
        // The delay has been seen; waiting it out would only take time.
        fleet.call(version, "promote", json!({"job": id}));
        fleet_passes_attempt(&mut fleet, version, &id, attempt + 1);
    }
    let job = fleet.wait_state(version, &id, "failed", SOON);
    assert_eq!((&job["attemptsMade"], &job["attemptsStarted"]), (&json!(4), &json!(4)), "{job:#}");
    assert_eq!(job["stacktrace"].as_array().unwrap().len(), 4, "{job:#}");
}

/// Waits until the job has been attempted `times` times and is not active.
fn fleet_passes_attempt(fleet: &mut Fleet, version: u8, id: &str, times: u64) {
    wait_for("the next attempt", SOON, || {
        let job = fleet.job(version, id);
        (job["attemptsMade"] == times).then_some(())
    });
}

fn backoff_of_every_kind_is_kept(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "8")]);
    let mut add = |attempts: u32, backoff: Value| {
        let mut opts = json!({"attempts": attempts});
        if !backoff.is_null() {
            opts["backoff"] = backoff;
        }
        fleet.add(version, "test.fail", json!({"reason": "no"}), opts)
    };
    // The daemon's own 5, 10 and 20 s, scaled down to a tenth.
    let exponential = add(4, json!({"type": "exponential", "delay": 500}));
    let fixed = add(3, json!({"type": "fixed", "delay": 400}));
    let number = add(2, json!(600));
    let at_once = add(3, Value::Null);
    let jittered: Vec<String> =
        (0..6).map(|_| add(2, json!({"type": "fixed", "delay": 2000, "jitter": 0.9}))).collect();
    let ids = [&exponential, &fixed, &number, &at_once].into_iter().chain(&jittered);
    for id in ids {
        fleet.wait_state(version, id, "failed", SOON);
    }
    assert_delays(&mut fleet, &exponential, &[500, 1000, 2000]);
    assert_delays(&mut fleet, &fixed, &[400, 400]);
    assert_delays(&mut fleet, &number, &[600]);
    let at_once = (delays(&mut fleet, &at_once), fleet.starts(&at_once).len());
    assert_eq!(at_once, (vec![], 3), "retried at once, without a delay");
    let jitters: Vec<(u64, u64)> = jittered.iter().map(|id| delays(&mut fleet, id)[0]).collect();
    let within = |(least, most): &(u64, u64)| *least <= 2000 && *most >= 200;
    assert!(jitters.iter().all(within), "{jitters:?}");
    // Six full delays in a row would be a jitter that is not there.
    assert!(jitters.iter().any(|(_, most)| *most < 1900), "{jitters:?}");
}

fn one_attempt_and_unrecoverable_failures_are_final(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let once = fleet.add(version, "test.fail", json!({"reason": "once"}), json!({"attempts": 1}));
    let data = json!({"reason": "the address is not valid", "unrecoverable": true});
    let unrecoverable = fleet.add(version, "test.fail", data, json!({"attempts": 5, "backoff": 50}));
    for (id, reason) in [(once, "once"), (unrecoverable, "the address is not valid")] {
        let job = fleet.wait_state(version, &id, "failed", SOON);
        assert_eq!(job["failedReason"], reason);
        assert_eq!((&job["attemptsMade"], &job["attemptsStarted"]), (&json!(1), &json!(1)), "{job:#}");
    }
}

fn a_failure_shows_reason_stack_and_attempts(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let opts = json!({"attempts": 3, "backoff": 20, "stackTraceLimit": 2});
    let id = fleet.add(version, "test.fail", json!({"reason": "línea 1\nline 2"}), opts);
    let panics = fleet.add(version, "test.panic", json!({"message": "index 7"}), json!({"attempts": 1}));
    let job = fleet.wait_state(version, &id, "failed", SOON);
    assert_eq!(job["failedReason"], "línea 1\nline 2");
    let stack = job["stacktrace"].as_array().unwrap();
    assert_eq!(stack.len(), 2, "stackTraceLimit: {job:#}");
    assert!(stack.iter().all(|trace| trace.as_str().unwrap().contains("línea 1")), "{job:#}");
    assert!(job["finishedOn"].as_u64() >= job["processedOn"].as_u64());
    assert_eq!(job["returnvalue"], Value::Null);
    let job = fleet.wait_state(version, &panics, "failed", SOON);
    assert_eq!(job["failedReason"], "panic: index 7");
    let stack = job["stacktrace"].as_array().unwrap();
    assert_eq!(stack.len(), 1, "{job:#}");
    // Where it happened, and the way there: without the hook there would be the reason alone.
    let trace = stack[0].as_str().unwrap();
    let place = trace.strip_prefix("panic: index 7\n    in at src/jobs/test_jobs.rs:");
    assert!(place.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())), "{trace}");
    assert!(trace.contains("\n   0: ") && trace.contains("\n   1: "), "{trace}");
    // The slot is free and the worker well.
    let next = fleet.add(version, "test.echo", json!({}), json!({}));
    fleet.wait_state(version, &next, "completed", SOON);
}

fn finished_jobs_are_kept_as_their_options_say(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]);
    let mut counts = |name: &str, opts: Value, completed: u64, failed: u64| {
        let mut all = json!({"attempts": 1});
        all.as_object_mut().unwrap().extend(opts.as_object().unwrap().clone());
        fleet.call(version, "addSeries", json!({"name": name, "data": {"reason": "no"}, "count": 12, "opts": all}));
        let end = json!({"waiting": 0, "active": 0, "completed": completed, "failed": failed});
        fleet.wait_counts(version, end, SOON);
    };
    counts("test.echo", json!({"removeOnComplete": true}), 0, 0);
    counts("test.echo", json!({"removeOnComplete": false}), 12, 0);
    counts("test.echo", json!({"removeOnComplete": {"count": 7, "age": 3600}}), 7, 0);
    counts("test.echo", json!({"removeOnComplete": 5}), 5, 0);
    counts("test.fail", json!({"removeOnFail": true}), 5, 0);
    counts("test.fail", json!({"removeOnFail": false}), 5, 12);
    counts("test.fail", json!({"removeOnFail": {"count": 4}}), 5, 4);
    counts("test.fail", json!({"removeOnFail": 3}), 5, 3);
    // By age: what is older than a second goes when the next job finishes.
    std::thread::sleep(Duration::from_millis(2100));
    let id = fleet.add(version, "test.echo", json!({}), json!({"removeOnComplete": {"age": 1}}));
    fleet.wait_state(version, &id, "completed", SOON);
    fleet.wait_counts(version, json!({"completed": 1, "failed": 3}), SOON);
}

fn finished_jobs_run_again_when_retried_by_hand(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let completed = fleet.add(version, "test.effect", json!({"key": "again"}), json!({}));
    fleet.wait_state(version, &completed, "completed", SOON);
    let opts = json!({"attempts": 2, "backoff": 20});
    let failed = fleet.add(version, "test.fail", json!({"reason": "no"}), opts);
    fleet.wait_state(version, &failed, "failed", SOON);

    let mut retry = |id: &str, state: &str, opts: Value| {
        let before = fleet.job(version, id)["finishedOn"].as_u64().unwrap();
        fleet.call(version, "retry", json!({"job": id, "state": state, "opts": opts}));
        wait_for("the retried job is finished again", SOON, || {
            let job = fleet.job(version, id);
            let again = job["state"] == state && job["finishedOn"].as_u64().is_some_and(|at| at > before);
            again.then_some((job["attemptsMade"].as_u64().unwrap(), job["attemptsStarted"].as_u64().unwrap()))
        })
    };
    let reset = json!({"resetAttemptsMade": true, "resetAttemptsStarted": true});
    assert_eq!(retry(&completed, "completed", json!({})), (2, 2));
    assert_eq!(retry(&completed, "completed", reset.clone()), (1, 1));
    // The attempts are used up: one more run. With the counters reset, all attempts again.
    assert_eq!(retry(&failed, "failed", json!({})), (3, 3));
    assert_eq!(retry(&failed, "failed", reset), (2, 2));
    assert_eq!(fleet.effects()["again"], 3, "each retry by hand of a completed job runs it");
}

fn an_option_that_does_not_parse_costs_only_itself(version: u8) {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    // What no client checks: a backoff of a kind that only the producer's own code knows.
    let opts = json!({"attempts": 2, "backoff": {"type": "moon-phase", "delay": 10}, "removeOnFail": true});
    let strange = fleet.add(version, "test.fail", json!({"reason": "no"}), opts);
    let job = fleet.wait_state(version, &strange, "delayed", SOON);
    assert_eq!(job["delay"], 5000, "the default backoff stands in for the unknown one: {job:#}");
    fleet.call(version, "promote", json!({"job": strange}));
    wait_for("its last failure removes it", SOON, || fleet.job(version, &strange).is_null().then_some(()));
    // What a client of another language may write.
    let id = fleet.add(version, "test.fail", json!({"reason": "no"}), json!({"delay": 3_600_000}));
    let raw = json!({"attempts": "two", "backoff": {"type": "fixed", "delay": 150}, "removeOnComplete": {"age": "x"},
        "removeOnFail": 1, "lifo": "yes", "stackTraceLimit": -4});
    let key = fleet.key(&id);
    fleet.redis::<()>("HSET", &[&key, &"opts", &raw.to_string()]);
    fleet.call(version, "promote", json!({"job": id}));
    let job = fleet.wait_state(version, &id, "failed", SOON);
    assert_eq!(job["attemptsMade"], 4, "unreadable attempts are as none: {job:#}");
    assert_delays(&mut fleet, &id, &[150, 150, 150]);
    let log = worker.log();
    for option in ["attempts", "removeOnComplete", "lifo", "stackTraceLimit"] {
        assert!(log.contains(option), "the log names {option}:\n{log}");
    }
}

#[test]
fn of_5010_failures_5000_are_retained() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "16")]);
    let ids = fleet.call(
        6,
        "addSeries",
        json!({"name": "test.fail", "data": {"reason": "no"}, "count": 5010, "opts": {"attempts": 1}}),
    );
    fleet.wait_counts(6, json!({"waiting": 0, "active": 0, "failed": 5000}), Duration::from_secs(300));
    let kept = fleet.call(6, "ids", json!({"types": ["failed"]}));
    let kept = kept.as_array().unwrap();
    assert_eq!(kept.len(), 5000);
    // The oldest are gone, hash and all; the newest are there.
    let ids = ids.as_array().unwrap();
    let newest: Vec<&Value> = ids.iter().rev().take(4000).collect();
    assert!(newest.iter().all(|id| kept.contains(id)), "a recent failure was dropped");
    let hashes: usize = ids
        .iter()
        .map(|id| {
            let key = fleet.key(id.as_str().unwrap());
            fleet.redis::<usize>("EXISTS", &[&key])
        })
        .sum();
    assert_eq!(hashes, 5000);
}

#[test]
fn completed_jobs_do_not_grow_over_1000() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "16")]);
    let last = fleet.call(6, "addSeries", json!({"name": "test.echo", "data": {}, "count": 1300, "opts": {}}));
    let last = last.as_array().unwrap().last().unwrap().as_str().unwrap().to_string();
    fleet.wait_state(6, &last, "completed", Duration::from_secs(120));
    fleet.wait_counts(6, json!({"waiting": 0, "active": 0, "completed": 1000}), SOON);
}
