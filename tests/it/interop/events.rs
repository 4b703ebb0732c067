//! What `QueueEvents` and a dashboard of npm's BullMQ 5 and 6 see of our work.

use crate::support::{Fleet, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

by_5_and_6!(
    a_job_s_life_is_told_in_events,
    progress_and_logs_are_seen_while_the_job_runs,
    a_dashboard_reads_every_state,
    a_dashboard_lists_each_worker_once,
    a_crashed_node_worker_s_job_is_announced_as_stalled_and_runs_here,
);

/// The events of one job that the client has heard, as (name, event).
fn heard(fleet: &mut Fleet, version: u8, id: &str) -> Vec<(String, Value)> {
    let events = fleet.call(version, "events", json!({}));
    let of_job = events.as_array().unwrap().iter().filter(|event| event["jobId"] == id);
    of_job.map(|event| (event["event"].as_str().unwrap().to_string(), event.clone())).collect()
}

/// Waits until the client has heard `last` of the job.
fn wait_heard(fleet: &mut Fleet, version: u8, id: &str, last: &str) -> Vec<(String, Value)> {
    wait_for(&format!("{last} of job {id} is heard"), SOON, || {
        let events = heard(fleet, version, id);
        events.iter().any(|(name, _)| name == last).then_some(events)
    })
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

fn a_job_s_life_is_told_in_events(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    fleet.call(version, "eventsStart", json!({}));

    let id = fleet.add(version, "test.echo", json!({"n": 1}), json!({"delay": 300}));
    let events = wait_heard(&mut fleet, version, &id, "completed");
    assert_eq!(names(&events), ["added", "delayed", "waiting", "active", "completed"]);
    assert_eq!(events[3].1["prev"], "waiting");
    assert_eq!((&events[4].1["returnvalue"], &events[4].1["prev"]), (&json!({"n": 1}), &json!("active")));

    let opts = json!({"attempts": 3, "backoff": {"type": "fixed", "delay": 200}});
    let id = fleet.add(version, "test.fail", json!({"reason": "no route"}), opts);
    let events = wait_heard(&mut fleet, version, &id, "retries-exhausted");
    let events =
        if names(&events).contains(&"failed") { events } else { wait_heard(&mut fleet, version, &id, "failed") };
    let mut told = names(&events);
    // The two are written by one script, in either order.
    let (end, end_of_story) = (told.split_off(told.len() - 2), ["failed", "retries-exhausted"]);
    assert!(end_of_story.iter().all(|name| end.contains(name)), "{end:?}");
    let retry = ["active", "delayed", "waiting"];
    assert_eq!(told, [&["added", "waiting"][..], &retry, &retry, &["active"]].concat());
    let of = |wanted: &str| events.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
    assert_eq!((&of("failed")["failedReason"], &of("failed")["prev"]), (&json!("no route"), &json!("active")));
    assert_eq!(of("retries-exhausted")["attemptsMade"], "3");

    wait_for("drained is heard", SOON, || {
        let events = fleet.call(version, "events", json!({}));
        events.as_array().unwrap().iter().any(|event| event["event"] == "drained").then_some(())
    });
}

fn progress_and_logs_are_seen_while_the_job_runs(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    fleet.call(version, "eventsStart", json!({}));
    let id = fleet.add(version, "test.progress", json!({"steps": 4}), json!({}));
    let job = fleet.wait_state(version, &id, "completed", SOON);
    assert_eq!(job["progress"], 100);
    assert_eq!(job["logs"].as_array().unwrap().len(), 4, "{job:#}");
    let events = wait_heard(&mut fleet, version, &id, "completed");
    let progress: Vec<f64> = events
        .iter()
        .filter(|(name, _)| name == "progress")
        .map(|(_, event)| event["data"].as_f64().unwrap_or_else(|| panic!("{event}")))
        .collect();
    assert_eq!(progress.last(), Some(&100.0), "{progress:?}");
    assert!(progress.len() >= 4 && progress.windows(2).all(|pair| pair[0] < pair[1]), "{progress:?}");
    // `keepLogs` of the job's options.
    let id = fleet.add(version, "test.progress", json!({"steps": 5}), json!({"keepLogs": 2}));
    let job = fleet.wait_state(version, &id, "completed", SOON);
    let logs = job["logs"].as_array().unwrap();
    assert_eq!(logs.len(), 2, "{logs:?}");
    assert!(logs[1].as_str().unwrap().contains('5'), "the last lines are kept: {logs:?}");
}

fn a_dashboard_reads_every_state(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let done = fleet.add(version, "test.progress", json!({"steps": 1}), json!({}));
    fleet.wait_state(version, &done, "completed", SOON);
    let failed = fleet.add(version, "test.fail", json!({"reason": "no"}), json!({"attempts": 1}));
    fleet.wait_state(version, &failed, "failed", SOON);
    let retrying = fleet.add(version, "test.fail", json!({"reason": "later"}), json!({}));
    fleet.wait_state(version, &retrying, "delayed", SOON);
    let active = fleet.add(version, "test.sleep", json!({"ms": 20_000}), json!({}));
    fleet.wait_state(version, &active, "active", SOON);
    let waiting = fleet.add(version, "test.echo", json!({}), json!({}));
    let prioritized = fleet.add(version, "test.echo", json!({}), json!({"priority": 9}));
    let tree = fleet.call(
        version,
        "flow",
        json!({"flow": {"name": "test.echo", "data": {},
        "children": [{"name": "test.echo", "data": {}, "opts": {"delay": 3_600_000}}]}}),
    );
    let parent = tree["id"].as_str().unwrap().to_string();

    let board = fleet.call(version, "dashboard", json!({}));
    let expected = [
        (&active, "active"),
        (&waiting, "waiting"),
        (&prioritized, "prioritized"),
        (&done, "completed"),
        (&failed, "failed"),
        (&retrying, "delayed"),
        (&parent, "waiting-children"),
    ];
    for (id, state) in expected {
        let page = board["pages"][state].as_array().unwrap();
        let job = page.iter().find(|job| job["id"] == id.as_str()).unwrap_or_else(|| panic!("{state}: {board:#}"));
        assert_eq!(job["state"], state);
    }
    assert_eq!(board["paused"], false);
    // The metrics of the last minutes exist where a worker keeps them; a client reads them either way.
    assert!(board["metrics"].as_array().unwrap().iter().all(|metrics| metrics["meta"]["count"].is_number()));
    let page = &board["pages"]["completed"][0];
    assert_eq!((&page["progress"], page["logs"].as_array().unwrap().len()), (&json!(100), 1));
}

/// What Bull Board shows of a queue's workers is this list.
fn a_dashboard_lists_each_worker_once(version: u8) {
    let mut fleet = Fleet::start();
    let listed = |fleet: &mut Fleet| -> Vec<String> {
        let workers = fleet.call(version, "workers", json!({}));
        let name = |worker: &Value| worker["rawname"].as_str().unwrap_or_else(|| panic!("{worker:#}")).to_string();
        let mut names: Vec<String> = workers.as_array().unwrap().iter().map(name).collect();
        names.sort();
        names
    };
    assert_eq!(listed(&mut fleet), [""; 0]);
    // The first has to do from its start on, and never waits for a job.
    let busy = fleet.add(version, "test.sleep", json!({"ms": 60_000}), json!({}));
    let _first = fleet.worker("1", &[]);
    fleet.wait_state(version, &busy, "active", SOON);
    let mut second = fleet.worker("2", &[]);
    let ends = |names: &[String], ends: &[&str]| {
        names.len() == ends.len() && names.iter().zip(ends).all(|(name, end)| name.ends_with(end))
    };
    let both = listed(&mut fleet);
    assert!(ends(&both, &[":floh-worker@1", ":floh-worker@2"]), "{both:?}");
    second.stop();
    wait_for("the one that stopped is gone", SOON, || ends(&listed(&mut fleet), &[":floh-worker@1"]).then_some(()));
}

fn a_crashed_node_worker_s_job_is_announced_as_stalled_and_runs_here(version: u8) {
    let mut fleet = Fleet::start();
    fleet.call(version, "eventsStart", json!({}));
    let mut node = crate::support::peer::Peer::of(&fleet.redis);
    // Its lock ends soon after the crash, so that the test need not wait for a minute.
    node.call(version, "workerStart", json!({"options": {"lockDuration": 2000}}));
    let id = fleet.add(version, "test.sleep", json!({"ms": 1000}), json!({}));
    fleet.wait_state(version, &id, "active", SOON);
    node.kill();
    let _worker = fleet.worker("1", &[]);
    // Found by two checks, each an interval (30 s and its jitter) after the other, the first at start.
    let job = fleet.wait_state(version, &id, "completed", Duration::from_secs(75));
    assert_eq!(job["attemptsMade"], 1, "{job:#}");
    let events = wait_heard(&mut fleet, version, &id, "stalled");
    assert!(names(&events).contains(&"completed"), "{events:?}");
}
