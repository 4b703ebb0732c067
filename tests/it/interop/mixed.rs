//! Our workers beside Node's on one queue, limits that clients set for the whole queue, and jobs of ours for Node.

use crate::support::{Fleet, peer::Peer, wait_for};
use floh_worker::queue::add::NewJob;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(30);

by_5_and_6!(
    the_whole_queue_s_concurrency_is_honoured,
    the_whole_queue_s_rate_limit_is_honoured,
    jobs_of_ours_are_processed_by_a_node_worker,
);

fn ids(list: &Value, field: Option<&str>) -> Vec<String> {
    let id = |entry: &Value| field.map_or(entry, |field| &entry[field]).as_str().unwrap().to_string();
    list.as_array().unwrap().iter().map(id).collect()
}

#[test]
fn of_2000_jobs_each_is_processed_once_by_node_5_node_6_or_us() {
    let mut fleet = Fleet::start();
    let mut nodes = [Peer::of(&fleet.redis), Peer::of(&fleet.redis)];
    let added = fleet.call(
        6,
        "addSeries",
        json!({"name": "test.effect", "data": {"key": "job", "ms": 2}, "count": 2000, "opts": {"removeOnComplete": false}}),
    );
    let all: BTreeSet<String> = ids(&added, None).into_iter().collect();
    assert_eq!(all.len(), 2000);
    let _workers =
        [fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]), fleet.worker("2", &[("WORKER_CONCURRENCY", "2")])];
    for (node, version) in nodes.iter_mut().zip([5, 6]) {
        node.call(version, "workerStart", json!({"concurrency": 2}));
    }
    fleet.wait_counts(6, json!({"waiting": 0, "active": 0, "completed": 2000, "failed": 0}), Duration::from_secs(120));
    let mut times: BTreeMap<String, u64> = BTreeMap::new();
    for (node, version) in nodes.iter_mut().zip([5, 6]) {
        let record = node.call(version, "workerRecord", json!({}));
        assert_eq!((&record["failed"], &record["stalled"], &record["errors"]), (&json!([]), &json!([]), &json!([])));
        let started = ids(&record["started"], Some("id"));
        assert!(started.len() > 20, "Node {version} took part: {}", started.len());
        started.into_iter().for_each(|id| *times.entry(id).or_default() += 1);
    }
    let ours = fleet.sql("SELECT job_id, instance FROM floh_worker.test_effect");
    for instance in ["1", "2"] {
        let of_instance = ours.iter().filter(|row| row[1].as_deref().unwrap().ends_with(instance)).count();
        assert!(of_instance > 20, "instance {instance} took part: {of_instance}");
    }
    ours.into_iter().for_each(|row| *times.entry(row[0].clone().unwrap()).or_default() += 1);
    let not_once: Vec<_> = times.iter().filter(|(_, count)| **count != 1).collect();
    assert!(not_once.is_empty(), "{not_once:?}");
    assert_eq!(times.into_keys().collect::<BTreeSet<_>>(), all);
}

/// The most jobs that were active at once, by the event stream.
fn most_at_once(fleet: &mut Fleet) -> i64 {
    let (mut running, mut most) = (0, 0);
    for event in fleet.stream() {
        match event.name.as_str() {
            "active" => running += 1,
            "completed" => running -= 1,
            _ => {}
        }
        most = most.max(running);
    }
    most
}

fn the_whole_queue_s_concurrency_is_honoured(version: u8) {
    let mut fleet = Fleet::start();
    fleet.call(version, "setGlobalConcurrency", json!({"concurrency": 2}));
    let _workers =
        [fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]), fleet.worker("2", &[("WORKER_CONCURRENCY", "4")])];
    let add = json!({"name": "test.sleep", "data": {"ms": 150}, "count": 12, "opts": {}});
    fleet.call(version, "addSeries", add.clone());
    fleet.wait_counts(version, json!({"completed": 12}), Duration::from_secs(60));
    assert_eq!(most_at_once(&mut fleet), 2, "two at once, over both instances");
    // Without the limit all eight slots are used.
    fleet.call(version, "removeGlobalConcurrency", json!({}));
    fleet.call(version, "addSeries", json!({"name": "test.sleep", "data": {"ms": 1500}, "count": 8, "opts": {}}));
    fleet.wait_counts(version, json!({"completed": 20}), SOON);
    assert_eq!(most_at_once(&mut fleet), 8);
}

fn the_whole_queue_s_rate_limit_is_honoured(version: u8) {
    let mut fleet = Fleet::start();
    fleet.call(version, "setGlobalRateLimit", json!({"max": 3, "duration": 1500}));
    let _workers = [fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]), fleet.worker("2", &[])];
    fleet.call(version, "addSeries", json!({"name": "test.echo", "data": {}, "count": 12, "opts": {}}));
    fleet.wait_counts(version, json!({"waiting": 0, "active": 0, "completed": 12}), Duration::from_secs(60));
    let starts: Vec<u64> = fleet.stream().iter().filter(|event| event.name == "active").map(|event| event.at).collect();
    assert_eq!(starts.len(), 12);
    // The counter's life begins with the first of each three; the fourth after it comes when that is over.
    let fastest = starts.windows(4).map(|four| four[3] - four[0]).min().unwrap();
    assert!(fastest >= 1400, "four starts within {fastest} ms: {starts:?}");
    let all = starts[11] - starts[0];
    assert!((4400..30_000).contains(&all), "12 jobs at 3 per 1.5 s took {all} ms");
}

fn jobs_of_ours_are_processed_by_a_node_worker(version: u8) {
    let mut fleet = Fleet::start();
    fleet.call(version, "eventsStart", json!({}));
    let plain = NewJob::new("test.echo", json!({"text": "ÿ \u{1F600}"}));
    let mut jobs = vec![
        NewJob { id: Some("resume-42-1".into()), ..plain.clone() },
        NewJob { delay: Duration::from_millis(900), ..plain.clone() },
        NewJob { priority: 5, ..plain.clone() },
        NewJob { priority: 2, ..plain.clone() },
        NewJob { lifo: true, ..plain.clone() },
        NewJob { remove_on_complete: true, ..plain.clone() },
        NewJob { attempts: 1, ..NewJob::new("test.fail", json!({"reason": "no"})) },
    ];
    let added: Vec<String> = jobs.drain(..).map(|job| fleet.add_ours(job)).collect();
    assert_eq!(added[0], "resume-42-1");
    let again = NewJob { id: Some("resume-42-1".into()), ..NewJob::new("test.fail", json!({"reason": "doubled"})) };
    assert_eq!(fleet.add_ours(again), "resume-42-1", "an id that exists adds nothing");
    fleet.call(version, "workerStart", json!({"concurrency": 1, "withOpts": true}));
    fleet.wait_counts(version, json!({"completed": 5, "failed": 1, "delayed": 0, "waiting": 0}), SOON);
    let record = fleet.call(version, "workerRecord", json!({}));
    let order = ids(&record["started"], Some("id"));
    // LIFO, then first in, first out, then by priority. The delayed one comes when it is due, wherever that is.
    let expected: Vec<&String> = [4, 0, 5, 6, 3, 2].into_iter().map(|index| &added[index]).collect();
    assert_eq!(order.iter().filter(|id| **id != added[1]).collect::<Vec<_>>(), expected);
    assert!(order.contains(&added[1]));
    let first = &record["started"][1];
    assert_eq!((&first["name"], &first["data"]), (&json!("test.echo"), &json!({"text": "ÿ \u{1F600}"})));
    assert_eq!(first["opts"]["attempts"], 4);
    assert_eq!(first["opts"]["backoff"], json!({"type": "exponential", "delay": 5000}));
    let job = fleet.job(version, &added[1]);
    let waited = job["processedOn"].as_u64().unwrap() - job["timestamp"].as_u64().unwrap();
    assert!((890..6000).contains(&waited), "a delay of 900 ms became {waited} ms");
    assert_eq!(fleet.job(version, &added[5]), Value::Null, "it removed itself");
    let failed = fleet.job(version, &added[6]);
    assert_eq!((&failed["state"], &failed["failedReason"]), (&json!("failed"), &json!("no")));
    wait_for("the client hears of a job of ours", SOON, || {
        let events = fleet.call(version, "events", json!({}));
        let of_job =
            |name: &str| events.as_array().unwrap().iter().any(|e| e["event"] == name && e["jobId"] == *added[1]);
        (of_job("added") && of_job("delayed") && of_job("completed")).then_some(())
    });
}

#[test]
fn queues_of_equal_names_under_two_prefixes_share_a_database_and_no_job() {
    let mut fleet = Fleet::start();
    let _workers = [fleet.worker("1", &[]), fleet.worker("2", &[("QUEUE_PREFIX", "other")])];
    // Each queue counts its own ids, and the clocks of two API servers can give one millisecond.
    for prefix in ["bull", "other"] {
        let opts = json!({"jobId": "same", "timestamp": 1_700_000_000_000_u64, "removeOnComplete": false});
        fleet.call(6, "add", json!({"prefix": prefix, "name": "test.effect", "data": {"key": prefix}, "opts": opts}));
        wait_for("the job", SOON, || {
            let counts = fleet.call(6, "counts", json!({"prefix": prefix}));
            (counts["completed"] == 1).then_some(())
        });
    }
    assert_eq!(fleet.effects(), [("bull".to_string(), 1), ("other".to_string(), 1)].into());
    let queues = fleet.sql("SELECT queue FROM floh_worker.job_execution WHERE name = 'test.effect' ORDER BY queue");
    let named = ["bull:workflow-scheduler", "other:workflow-scheduler"].map(|queue| [Some(queue.to_string())]);
    assert_eq!(queues, named);
}

#[test]
fn ids_that_bullmq_refuses_are_refused() {
    let mut fleet = Fleet::start();
    for id in ["12", "a:b", ""] {
        let job = NewJob { id: Some(id.into()), ..NewJob::new("test.echo", json!({})) };
        let error = fleet.try_add_ours(job).expect_err("refused");
        assert!(error.contains("cannot be a job's id"), "{error}");
    }
}
