//! The daemon behind a network that loses answers, and jobs that reach it in odd ways: nothing waits until a lock expires.

use crate::support::{
    fleet::Fleet,
    proxy::{Fault, Proxy},
    wait_for,
    worker::Worker,
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(15);

/// What a call sends that names these keys in this order.
fn keys(fleet: &Fleet, names: &[&str]) -> String {
    let argument = |name: &&str| {
        let key = fleet.key(name);
        format!("${}\r\n{key}\r\n", key.len())
    };
    names.iter().map(argument).collect()
}

/// Only a finish names `completed` behind the priorities' counter.
fn finish(fleet: &Fleet) -> String {
    keys(fleet, &["pc", "completed"])
}

/// Only a fetch names the marker there.
fn fetch(fleet: &Fleet) -> String {
    keys(fleet, &["pc", "marker"])
}

fn behind_proxy(fleet: &Fleet, settings: &[(&str, &str)]) -> (Proxy, Worker) {
    let proxy = fleet.proxy();
    let port = proxy.port().to_string();
    let settings: Vec<_> = settings.iter().copied().chain([("REDIS_PORT", port.as_str())]).collect();
    let worker = fleet.worker("1", &settings);
    (proxy, worker)
}

fn add_effects(fleet: &mut Fleet, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| fleet.add(6, "test.effect", json!({"key": key, "ms": 300}), json!({"attempts": 1}))).collect()
}

#[test]
fn what_a_finish_took_whose_answer_was_lost_runs_at_once() {
    for fault in [Fault::CutAfter, Fault::Swallow] {
        let mut fleet = Fleet::start();
        let (proxy, worker) = behind_proxy(&fleet, &[]);
        proxy.arm(&finish(&fleet), fault);
        let ids = add_effects(&mut fleet, &["one", "two"]);
        wait_for("the fault", SOON, || (proxy.sprung() == 1).then_some(()));
        let since = Instant::now();
        // A swallowed call is noticed when its deadline is over.
        let patience = if fault == Fault::Swallow { Duration::from_secs(10) } else { Duration::from_secs(5) };
        for id in &ids {
            let job = fleet.wait_state(6, id, "completed", SOON);
            assert_eq!(job["attemptsMade"], 1, "{job:#}");
        }
        assert!(since.elapsed() < patience, "{fault:?}: {:?}\n{}", since.elapsed(), worker.log());
        assert_eq!(fleet.effects().into_values().collect::<Vec<_>>(), [1, 1], "{fault:?}");
    }
}

#[test]
fn what_a_fetch_took_whose_answer_was_lost_runs_at_once() {
    for fault in [Fault::CutAfter, Fault::Late] {
        let mut fleet = Fleet::start();
        let (proxy, worker) = behind_proxy(&fleet, &[]);
        let ids = add_effects(&mut fleet, &["one"]);
        fleet.wait_state(6, &ids[0], "completed", SOON);
        // The next fetch that brings a job is the one that meets the fault: an idle worker fetches every 2 s.
        let later = add_effects(&mut fleet, &["two", "three"]);
        fleet.wait_state(6, &later[0], "active", SOON);
        proxy.arm(&fetch(&fleet), fault);
        wait_for("the fault", SOON, || (proxy.sprung() == 1).then_some(()));
        let last = add_effects(&mut fleet, &["four"]);
        let since = Instant::now();
        fleet.wait_state(6, &last[0], "completed", Duration::from_secs(8));
        assert!(since.elapsed() < Duration::from_secs(5), "{fault:?}: {:?}\n{}", since.elapsed(), worker.log());
        assert_eq!(fleet.effects().into_values().collect::<Vec<_>>(), [1, 1, 1, 1], "{fault:?}");
    }
}

#[test]
fn a_drain_gives_back_what_a_lost_answer_took() {
    let mut fleet = Fleet::start();
    let (proxy, mut worker) = behind_proxy(&fleet, &[]);
    let ids = add_effects(&mut fleet, &["one", "two"]);
    fleet.wait_state(6, &ids[0], "active", SOON);
    proxy.arm(&finish(&fleet), Fault::CutAfter);
    wait_for("the fault", SOON, || (proxy.sprung() == 1).then_some(()));
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.wait_end(SOON).code(), Some(0), "{}", worker.log());
    assert_eq!(fleet.job(6, &ids[0])["state"], "completed", "{}", worker.log());
    let second = fleet.job(6, &ids[1]);
    // It may have run before the signal came; what it may not be is active, in nobody's hands.
    assert!(second["state"] == "waiting" || second["state"] == "completed", "{second:#}\n{}", worker.log());
    assert_eq!(fleet.redis::<i64>("LLEN", &[&fleet.key("active")]), 0, "{}", worker.log());
}

#[test]
fn a_half_open_connection_is_noticed_and_replaced() {
    let mut fleet = Fleet::start();
    let (proxy, worker) = behind_proxy(&fleet, &[]);
    proxy.arm(&fetch(&fleet), Fault::Swallow);
    wait_for("the fault", SOON, || (proxy.sprung() == 1).then_some(()));
    let since = Instant::now();
    let ids = add_effects(&mut fleet, &["one"]);
    wait_for("its start", SOON, || (!fleet.starts(&ids[0]).is_empty()).then_some(()));
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}\n{}", since.elapsed(), worker.log());
}

#[test]
fn a_job_that_no_marker_announces_is_found_within_the_block_time() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let (hash, wait, marker) = (fleet.key("quiet"), fleet.key("wait"), fleet.key("marker"));
    for (field, value) in [("name", "test.echo"), ("data", "{}"), ("opts", "{}"), ("timestamp", "1700000000000")] {
        let _: i64 = fleet.redis("HSET", &[&hash, &field, &value]);
    }
    let since = Instant::now();
    let _: i64 = fleet.redis("LPUSH", &[&wait, &"quiet"]);
    assert_eq!(fleet.redis::<i64>("EXISTS", &[&marker]), 0);
    fleet.wait_state(6, "quiet", "completed", SOON);
    assert!(since.elapsed() < Duration::from_millis(4500), "{:?}", since.elapsed());
    // And a stop does not wait for the blocked read.
    let asked = Instant::now();
    worker.stop();
    assert!(asked.elapsed() < Duration::from_millis(1500), "{:?}", asked.elapsed());
}

#[test]
fn a_node_worker_s_stall_verdict_is_overruled_and_another_deferred_failure_is_not() {
    let mut fleet = Fleet::start();
    let delay = json!({"delay": 1500, "attempts": 1});
    let stalled = fleet.add(6, "test.effect", json!({"key": "stalled"}), delay.clone());
    let condemned = fleet.add(6, "test.effect", json!({"key": "condemned"}), delay);
    let verdicts = [(&stalled, "job stalled more than allowable limit"), (&condemned, "child bull:other:7 failed")];
    for (id, verdict) in verdicts {
        let hash = fleet.key(id);
        let _: i64 = fleet.redis("HSET", &[&hash, &"defa", &verdict]);
    }
    let _worker = fleet.worker("1", &[]);
    fleet.wait_state(6, &stalled, "completed", SOON);
    let job = fleet.wait_state(6, &condemned, "failed", SOON);
    assert_eq!(job["failedReason"], "child bull:other:7 failed", "{job:#}");
    assert_eq!(fleet.effects().into_keys().collect::<Vec<_>>(), ["stalled"]);
}

#[test]
fn the_chain_goes_on_behind_iterations_that_cannot_run() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let large = json!({"text": "x".repeat(2 * 1024 * 1024)});
    for (scheduler, name, data) in [("unknown", "no-such-job", json!({})), ("large", "test.echo", large)] {
        let template = json!({"name": name, "data": data, "opts": {}});
        let ask = json!({"scheduler": scheduler, "repeat": {"every": 1000}, "template": template});
        fleet.call(6, "upsertScheduler", ask);
    }
    let failed = fleet.key("failed");
    wait_for("two failed iterations of each", SOON, || {
        let ids: Vec<String> = fleet.redis("ZRANGE", &[&failed, &"0", &"-1"]);
        let of = |part: &str| ids.iter().filter(|id| id.contains(part)).count();
        (of(":unknown:") >= 2 && of(":large:") >= 2).then_some(())
    });
}
