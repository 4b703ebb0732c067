//! Jobs as API servers add them, with npm's BullMQ 5 and 6: what becomes of each kind, seen by the same client.

use crate::support::Fleet;
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

by_5_and_6!(
    immediate_jobs_are_completed_with_everything_a_client_reads,
    delayed_jobs_wait_for_their_time,
    custom_ids_are_taken_once,
    priorities_and_fifo_decide_the_order,
    lifo_jobs_go_first,
    jobs_in_bulk_and_with_large_and_odd_data,
);

fn immediate_jobs_are_completed_with_everything_a_client_reads(version: u8) {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let data = json!({"user": "Åsa \"quoted\" \u{1F600}\n", "nested": {"list": [1, 2.5, null, true]}});
    let id = fleet.add(version, "test.echo", data.clone(), json!({}));
    let job = fleet.wait_state(version, &id, "completed", SOON);
    assert_eq!(job["returnvalue"], data);
    assert_eq!(job["data"], data);
    assert_eq!(
        (&job["attemptsMade"], &job["attemptsStarted"], &job["stalledCounter"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert_eq!((&job["failedReason"], &job["stacktrace"], &job["delay"]), (&Value::Null, &json!([]), &json!(0)));
    let time = |name: &str| job[name].as_u64().unwrap_or_else(|| panic!("{name} of {job:#}"));
    assert!(time("timestamp") <= time("processedOn") + 1000, "the clocks of client and Redis are one here: {job:#}");
    assert!(time("processedOn") <= time("finishedOn"), "{job:#}");
    let by = job["processedBy"].as_str().unwrap_or_else(|| panic!("processedBy of {job:#}"));
    assert!(by.contains("floh-worker@1"), "processedBy names the instance: {by}");
    // What an API server does that waits for the answer.
    let awaited = fleet.call(version, "waitUntilFinished", json!({"job": id}));
    assert_eq!(awaited, data);
    assert_lock_is_gone(&mut fleet, &id);
    drop(worker);
}

fn delayed_jobs_wait_for_their_time(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let late = fleet.add(version, "test.echo", json!({"n": 2}), json!({"delay": 2500}));
    let early = fleet.add(version, "test.echo", json!({"n": 1}), json!({"delay": 700}));
    let far = fleet.add(version, "test.echo", json!({"n": 3}), json!({"delay": 3_600_000}));
    for (id, delay) in [(&early, 700), (&late, 2500)] {
        let job = fleet.wait_state(version, id, "completed", SOON);
        let waited = job["processedOn"].as_u64().unwrap() - job["timestamp"].as_u64().unwrap();
        assert!((delay..delay + 5000).contains(&waited), "a delay of {delay} ms became {waited} ms");
    }
    assert_eq!(fleet.start_order(), [early, late]);
    assert_eq!(fleet.job(version, &far)["state"], "delayed");
    // A dashboard's button: the job need not wait any longer.
    fleet.call(version, "promote", json!({"job": far}));
    fleet.wait_state(version, &far, "completed", SOON);
}

fn custom_ids_are_taken_once(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let opts = json!({"jobId": "resume-6f1c-1"});
    fleet.call(version, "eventsStart", json!({}));
    let id = fleet.add(version, "test.effect", json!({"key": "first"}), opts.clone());
    assert_eq!(id, "resume-6f1c-1");
    fleet.wait_state(version, &id, "completed", SOON);
    fleet.add(version, "test.effect", json!({"key": "second"}), opts);
    let marker = fleet.add(version, "test.effect", json!({"key": "marker"}), json!({}));
    fleet.wait_state(version, &marker, "completed", SOON);
    let effects = fleet.effects();
    assert_eq!(effects.keys().collect::<Vec<_>>(), ["first", "marker"], "the second job under the id was never added");
    assert!(fleet.stream().iter().any(|event| event.name == "duplicated" && event.job.as_deref() == Some(&id)));
}

fn priorities_and_fifo_decide_the_order(version: u8) {
    let mut fleet = Fleet::start();
    let mut ids = Vec::new();
    for (position, priority) in [30, 2, 0, 2, 1, 0, 2_097_151].into_iter().enumerate() {
        let opts = if priority == 0 { json!({}) } else { json!({"priority": priority}) };
        ids.push(fleet.add(version, "test.echo", json!({"position": position}), opts));
    }
    let lowest = ids[6].clone();
    fleet.call(version, "changePriority", json!({"job": lowest, "opts": {"priority": 3}}));
    let _worker = fleet.worker("1", &[]);
    fleet.wait_counts(version, json!({"completed": 7, "prioritized": 0}), SOON);
    // Jobs without a priority first, then the smallest number, equals in the order in which they came.
    let expected: Vec<String> = [2, 5, 4, 1, 3, 6, 0].into_iter().map(|i: usize| ids[i].clone()).collect();
    assert_eq!(fleet.start_order(), expected);
}

fn lifo_jobs_go_first(version: u8) {
    let mut fleet = Fleet::start();
    let ids: Vec<String> = [false, false, true, true]
        .into_iter()
        .map(|lifo| fleet.add(version, "test.echo", json!({}), json!({"lifo": lifo})))
        .collect();
    let _worker = fleet.worker("1", &[]);
    fleet.wait_counts(version, json!({"completed": 4}), SOON);
    assert_eq!(fleet.start_order(), [&ids[3], &ids[2], &ids[0], &ids[1]].map(String::as_str));
}

fn jobs_in_bulk_and_with_large_and_odd_data(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]);
    let large = json!({"text": "x".repeat(300_000)});
    let datas = [json!({}), json!([1, [2]]), json!("text"), json!(5), json!(null), json!(false), large];
    let jobs: Vec<Value> = datas.iter().map(|data| json!({"name": "test.echo", "data": data, "opts": {}})).collect();
    let added = fleet.call(version, "addBulk", json!({"jobs": jobs}));
    for (job, data) in added.as_array().unwrap().iter().zip(&datas) {
        let job = fleet.wait_state(version, job["id"].as_str().unwrap(), "completed", SOON);
        assert_eq!(&job["returnvalue"], data, "what went in comes back");
    }
}

fn assert_lock_is_gone(fleet: &mut Fleet, id: &str) {
    let lock = fleet.key(&format!("{id}:lock"));
    assert!(!fleet.redis::<bool>("EXISTS", &[&lock]), "{lock} outlived its job");
}
