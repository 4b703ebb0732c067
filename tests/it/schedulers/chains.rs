//! The chains of job schedulers: each tick continued by our worker or by a Node one, as it comes.

use super::{Bench, SOON, fetch, json, queue};
use crate::support::wait_for;
use floh_worker::queue::schedulers::continue_chain;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn upsert(bench: &mut Bench, version: u8, queue: &str, repeat: &Value) {
    let template = json!({
        "name": "tick",
        "data": {"n": 1, "text": "ü"},
        "opts": {"attempts": 3, "backoff": {"type": "fixed", "delay": 10}, "priority": 2, "removeOnFail": 7},
    });
    let arguments = json!({"queue": queue, "scheduler": "s", "repeat": repeat, "template": template});
    bench.peer.call(version, "upsertScheduler", arguments);
}

/// The only iteration of `queue` that has not run, with what must differ from run to run taken out.
async fn successor(bench: &mut Bench, queue: &str) -> BTreeMap<String, Value> {
    let ids: Vec<String> = bench.ask(&["ZRANGE", &format!("bull:{queue}:delayed"), "0", "-1"]).await;
    let [id] = &ids[..] else { panic!("{queue}: {ids:?}") };
    let mut fields: BTreeMap<String, Value> =
        bench.hash(&format!("bull:{queue}:{id}")).await.into_iter().map(|(k, v)| (k, Value::String(v))).collect();
    let mut opts = json(fields["opts"].as_str().unwrap());
    let due = super::due(id);
    assert_eq!(opts["jobId"], json!(id));
    assert_eq!(fields["delay"], json!(opts["delay"].to_string()));
    if let Some(previous) = opts.get("prevMillis") {
        assert_eq!(previous, &json!(due));
    }
    for changing in ["jobId", "delay", "timestamp"] {
        opts[changing] = json!("*");
        fields.insert(changing.to_string(), json!("*"));
    }
    if opts.get("prevMillis").is_some() {
        opts["prevMillis"] = json!("*");
    }
    // An interval's slots lie where its first one fell.
    if opts["repeat"].get("every").is_some() && opts["repeat"].get("offset").is_some() {
        opts["repeat"]["offset"] = json!("*");
    }
    fields.insert("opts".to_string(), opts);
    fields
}

#[tokio::test]
async fn the_next_iteration_is_what_a_node_worker_would_have_made() {
    let mut bench = Bench::start().await;
    let year = json!({"pattern": "0 0 1 1 *", "tz": "Europe/Berlin", "immediately": true});
    let limited =
        json!({"pattern": "15 10 * * *", "immediately": true, "limit": 5, "endDate": "2090-01-01T00:00:00.000Z"});
    let offset = json!({"every": 7_200_000, "offset": 600_000});
    for (n, repeat) in [year, limited, json!({"every": 3_600_000}), offset].iter().enumerate() {
        for version in [6_u8, 5] {
            let (theirs, ours) = (format!("theirs-{n}-{version}"), format!("ours-{n}-{version}"));
            for name in [&theirs, &ours] {
                upsert(&mut bench, version, name, repeat);
                if repeat.get("offset").is_some() {
                    // The first slot of an interval with an offset lies ahead.
                    let ids: Vec<String> = bench.ask(&["ZRANGE", &format!("bull:{name}:delayed"), "0", "-1"]).await;
                    bench.peer.call(version, "promote", json!({"queue": name, "job": ids[0]}));
                }
            }
            bench.peer.call(version, "workerStart", json!({"queue": theirs}));
            wait_for("a tick", SOON, || {
                let record = bench.peer.call(version, "workerRecord", json!({"queue": theirs}));
                (record["completed"].as_array().unwrap().len() == 1).then_some(())
            });
            let queue = queue(&bench.redis, &ours);
            let job = fetch(&queue, "token").await.expect("the first tick");
            continue_chain(&queue, &job).await.unwrap();
            continue_chain(&queue, &job).await.unwrap();
            let (theirs, ours) = (successor(&mut bench, &theirs).await, successor(&mut bench, &ours).await);
            assert_eq!(ours, theirs, "{repeat} of BullMQ {version}");
            assert_eq!(ours["opts"]["repeat"]["count"], json!(2));
        }
    }
}

#[tokio::test]
async fn limits_and_end_dates_end_the_chain() {
    let mut bench = Bench::start().await;
    upsert(&mut bench, 6, "workflow-scheduler", &json!({"every": 20, "limit": 3}));
    for _ in 0..3 {
        bench.take_and_complete().await;
    }
    assert_eq!(bench.delayed().await, Vec::<String>::new());
    assert!(fetch(&bench.queue, "token").await.is_none());
    let end = bench.queue.now_ms().await.unwrap() + 8_000;
    upsert(&mut bench, 6, "workflow-scheduler", &json!({"pattern": "* * * * * *", "endDate": end}));
    let mut last = 0;
    while !bench.unfinished().is_empty() {
        last = super::due(&bench.take_and_complete().await.id);
    }
    assert!(last > 0 && last <= end, "{last}, {end}");
    assert!(fetch(&bench.queue, "token").await.is_none());
}

#[tokio::test]
async fn our_worker_and_both_of_node_take_turns() {
    let mut bench = Bench::start().await;
    upsert(&mut bench, 6, "workflow-scheduler", &json!({"pattern": "* * * * * *", "tz": "UTC"}));
    let mut ticks = Vec::new();
    for turn in 0..6 {
        let version = [0, 6, 5][turn % 3];
        if version == 0 {
            ticks.push(super::due(&bench.take_and_complete().await.id));
            continue;
        }
        bench.peer.call(version, "workerStart", json!({}));
        let started = wait_for("a tick", SOON, || {
            let record = bench.peer.call(version, "workerRecord", json!({}));
            record["completed"].as_array().unwrap().first()?;
            Some(record["started"].clone())
        });
        bench.peer.call(version, "workerStop", json!({}));
        for job in started.as_array().unwrap() {
            assert_eq!(job["data"], json!({"n": 1, "text": "ü"}));
            ticks.push(super::due(job["id"].as_str().unwrap()));
        }
    }
    assert_eq!(ticks.iter().collect::<BTreeSet<_>>().len(), ticks.len(), "a tick ran twice: {ticks:?}");
    assert!(ticks.is_sorted(), "{ticks:?}");
    assert_eq!(bench.unfinished().len(), 1, "one chain");
}

/// A worker that dies between taking a job, adding the next iteration, and finishing: its job comes back.
#[tokio::test]
async fn five_ticks_survive_a_death_at_every_point() {
    let mut bench = Bench::start().await;
    upsert(&mut bench, 6, "workflow-scheduler", &json!({"every": 100}));
    let mut ticks = Vec::new();
    for tick in 0..5 {
        let first = crate::support::eventually("a tick", SOON, async || fetch(&bench.queue, "dead").await).await;
        if tick % 2 == 1 {
            // It died later: the next iteration is there already.
            continue_chain(&bench.queue, &first).await.unwrap();
        }
        let () = bench.ask(&["DEL", &format!("bull:workflow-scheduler:{}:lock", first.id)]).await;
        let () = bench.ask(&["LREM", "bull:workflow-scheduler:active", "1", &first.id]).await;
        let () = bench.ask(&["RPUSH", "bull:workflow-scheduler:wait", &first.id]).await;
        let again = bench.take("alive").await;
        assert_eq!(again.id, first.id);
        continue_chain(&bench.queue, &again).await.unwrap();
        bench.complete(&again, "alive").await;
        ticks.push(super::due(&again.id));
        assert_eq!(bench.unfinished().len(), 1, "after tick {tick}");
    }
    assert!(ticks.is_sorted_by(|a, b| a < b), "{ticks:?}");
}

#[tokio::test]
async fn a_job_whose_options_are_lost_does_not_end_the_chain() {
    let mut bench = Bench::start().await;
    let far = json!({"pattern": "15 10 * * *", "tz": "Asia/Kolkata", "immediately": true});
    for (n, repeat) in [far, json!({"every": 3_600_000})].iter().enumerate() {
        let name = format!("lost-{n}");
        upsert(&mut bench, 6, &name, repeat);
        let ids: Vec<String> = bench.ask(&["ZRANGE", &format!("bull:{name}:prioritized"), "0", "-1"]).await;
        let () = bench.ask(&["HSET", &format!("bull:{name}:{}", ids[0]), "opts", "{broken", "data", "{broken"]).await;
        let queue = queue(&bench.redis, &name);
        let job = fetch(&queue, "token").await.unwrap();
        continue_chain(&queue, &job).await.unwrap();
        let next = successor(&mut bench, &name).await;
        assert_eq!(json(next["data"].as_str().unwrap()), json!({"n": 1, "text": "ü"}));
        assert_eq!((&next["opts"]["attempts"], &next["opts"]["repeat"]["count"]), (&json!(3), &json!(2)));
    }
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_is_no_error_of_its_job() {
    let mut bench = Bench::start().await;
    upsert(&mut bench, 6, "workflow-scheduler", &json!({"pattern": "15 10 * * *", "immediately": true}));
    let mut job = fetch(&bench.queue, "token").await.unwrap();
    for repeat in [
        json!({"pattern": "no pattern"}),
        json!({"pattern": "* * * * *", "every": 5}),
        json!({"pattern": "* * * * *", "tz": "Mars/Base"}),
        json!({"pattern": "0 0 31 4,6 *"}),
    ] {
        job.options.raw.insert("repeat".into(), repeat);
        continue_chain(&bench.queue, &job).await.unwrap();
        assert_eq!(bench.delayed().await, Vec::<String>::new());
    }
    // Removed while its iteration ran.
    bench.peer.call(6, "removeScheduler", json!({"scheduler": "s"}));
    job.options.raw.insert("repeat".into(), json!({"pattern": "15 10 * * *"}));
    continue_chain(&bench.queue, &job).await.unwrap();
    assert_eq!(bench.delayed().await, Vec::<String>::new());
}

/// A Redis whose clock went back, or an iteration that somebody promoted: the slot that runs is not made again.
#[tokio::test]
async fn an_iteration_that_runs_before_its_time_has_a_later_successor() {
    let mut bench = Bench::start().await;
    upsert(&mut bench, 6, "workflow-scheduler", &json!({"pattern": "15 10 * * *", "tz": "UTC"}));
    let first = bench.delayed().await.remove(0);
    bench.peer.call(6, "promote", json!({"job": first}));
    assert_eq!(bench.take_and_complete().await.id, first);
    let next = bench.delayed().await;
    assert_eq!(next, [format!("repeat:s:{}", super::due(&first) + 24 * 3_600_000)]);
}
