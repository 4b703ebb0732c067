//! Repeatables of BullMQ 5, whose chains BullMQ 6 would end or leave without their data.

use super::{Bench, SOON, fetch, json};
use crate::support::{eventually, wait_for};
use floh_worker::queue::schedulers::continue_chain;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn add(bench: &mut Bench, repeat: &Value) -> Value {
    let opts = json!({"repeat": repeat, "attempts": 2, "priority": 3, "removeOnFail": 9});
    bench.peer.call(5, "add", json!({"name": "tick", "data": {"n": 1}, "opts": opts}))
}

/// As the versions before 5.13 stored it: under a key that says everything.
async fn add_old(bench: &mut Bench, key: &str, repeat: &Value) -> Value {
    let () = bench.ask(&["ZADD", "bull:workflow-scheduler:repeat", "1", key]).await;
    add(bench, repeat)
}

fn removable(bench: &mut Bench) -> Value {
    let list = bench.peer.call(5, "repeatables", json!({}));
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    list[0].clone()
}

/// Eight ticks or more, taken by our worker and by BullMQ 5's in turn, each once and with its data and options.
async fn take_turns(bench: &mut Bench) {
    let mut ticks = BTreeSet::new();
    let mut count = 0;
    for turn in 0..4 {
        if turn % 2 == 0 {
            for _ in 0..2 {
                let job = bench.take_and_complete().await;
                assert_eq!((job.name.as_str(), job.data()), ("tick", Ok(json!({"n": 1}))));
                assert!(ticks.insert(super::due(&job.id)), "{} ran twice", job.id);
                count += 1;
            }
            continue;
        }
        bench.peer.call(5, "workerStart", json!({"withOpts": true}));
        let started = wait_for("two ticks", SOON, || {
            let record = bench.peer.call(5, "workerRecord", json!({}));
            let done = record["completed"].as_array().unwrap().len() >= 2;
            done.then(|| record["started"].clone())
        });
        bench.peer.call(5, "workerStop", json!({}));
        for job in started.as_array().unwrap() {
            assert_eq!((&job["name"], &job["data"]), (&json!("tick"), &json!({"n": 1})));
            assert_eq!((&job["opts"]["attempts"], &job["opts"]["priority"]), (&json!(2), &json!(3)));
            assert!(ticks.insert(super::due(job["id"].as_str().unwrap())), "{job} ran twice");
            count += 1;
        }
    }
    assert!(count >= 8);
}

#[tokio::test]
async fn a_repeatable_with_a_hashed_key_goes_on_and_keeps_its_data() {
    let mut bench = Bench::start().await;
    for repeat in [json!({"every": 150}), json!({"pattern": "* * * * * *", "tz": "UTC"})] {
        add(&mut bench, &repeat);
        take_turns(&mut bench).await;
        let seen = removable(&mut bench);
        assert_eq!(seen["name"], json!("tick"));
        assert_eq!(seen["pattern"], repeat.get("pattern").cloned().unwrap_or(Value::Null));
        assert_eq!(bench.unfinished().len(), 1, "one chain");
        let removed = bench.peer.call(5, "removeRepeatable", json!({"name": "tick", "repeat": repeat}));
        assert_eq!(removed, json!(true));
        assert_eq!(bench.unfinished(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_repeatable_with_an_old_key_goes_on() {
    let mut bench = Bench::start().await;
    let pattern = json!({"pattern": "* * * * * *", "tz": "UTC"});
    for (key, repeat) in [("tick::::150", json!({"every": 150})), ("tick:::UTC:* * * * * *", pattern)] {
        let added = add_old(&mut bench, key, &repeat).await;
        assert_eq!(added["repeatJobKey"], json!(key));
        take_turns(&mut bench).await;
        assert_eq!(removable(&mut bench)["key"], json!(key));
        assert_eq!(bench.unfinished().len(), 1, "one chain");
        let removed = bench.peer.call(5, "removeRepeatable", json!({"name": "tick", "repeat": repeat}));
        assert_eq!(removed, json!(true));
        assert_eq!(bench.unfinished(), Vec::<String>::new());
    }
}

/// Its worker died and its job comes back after the chain went on and its successor came due.
#[tokio::test]
async fn an_old_iteration_that_comes_back_late_does_not_fork_the_chain() {
    let mut bench = Bench::start().await;
    add_old(&mut bench, "tick::::200", &json!({"every": 200})).await;
    let job = bench.take("dead").await;
    let before = bench.unfinished();
    let next = before.iter().find(|id| **id != job.id).expect("a successor");
    eventually("the successor's time", SOON, async || {
        (bench.queue.now_ms().await.unwrap() > super::due(next)).then_some(())
    })
    .await;
    continue_chain(&bench.queue, &job).await.unwrap();
    assert_eq!(bench.unfinished(), before);
}

/// The successor that we make of an old repeatable against the one that npm 5 makes of the same job.
#[tokio::test]
async fn the_successor_of_an_old_repeatable_is_what_npm_5_makes() {
    let mut bench = Bench::start().await;
    let repeat = json!({"pattern": "0 0 1 1 *", "tz": "UTC", "limit": 9});
    let key = "tick:::UTC:0 0 1 1 *";
    let first = add_old(&mut bench, key, &repeat).await;
    let mut made = Vec::new();
    for ours in [true, false] {
        let id = first["id"].as_str().unwrap();
        let hash = format!("bull:workflow-scheduler:{id}");
        if !ours {
            // From the beginning: the same first iteration once more.
            let () = bench.ask(&["DEL", "bull:workflow-scheduler:repeat"]).await;
            bench.peer.call(5, "obliterate", json!({"force": true}));
            let again = add_old(&mut bench, key, &repeat).await;
            assert_eq!(again["id"], first["id"]);
        }
        // Its time has come, and with it the time from which the next is counted.
        let before = bench.hash(&hash).await;
        let due = json(&before["opts"])["prevMillis"].as_i64().unwrap();
        bench.peer.call(5, "promote", json!({"job": id}));
        if ours {
            let job = fetch(&bench.queue, "token").await.unwrap();
            continue_chain(&bench.queue, &job).await.unwrap();
            continue_chain(&bench.queue, &job).await.unwrap();
        } else {
            bench.peer.call(5, "workerStart", json!({}));
        }
        let next = wait_for("the successor", SOON, || {
            let ids = bench.peer.call(5, "ids", json!({"types": ["delayed"]}));
            ids.as_array().unwrap().first().map(|id| id.as_str().unwrap().to_string())
        });
        assert!(super::due(&next) > due);
        let mut fields = bench.hash(&format!("bull:workflow-scheduler:{next}")).await;
        let mut opts = json(&fields.remove("opts").unwrap());
        for changing in ["delay", "timestamp"] {
            fields.remove(changing).unwrap();
            opts[changing] = json!("*");
        }
        let score = bench.schedulers().await;
        made.push((next, fields, opts, score));
    }
    assert_eq!(made[0], made[1]);
}

#[tokio::test]
async fn an_old_repeatable_ends_by_its_limit_and_by_removal_and_is_not_doubled_by_a_return() {
    let mut bench = Bench::start().await;
    add_old(&mut bench, "tick::::60", &json!({"every": 60, "limit": 2})).await;
    bench.take_and_complete().await;
    bench.take_and_complete().await;
    assert_eq!(bench.unfinished(), Vec::<String>::new());
    bench.peer.call(5, "removeRepeatable", json!({"name": "tick", "repeat": {"every": 60}}));

    add_old(&mut bench, "tick::::3600000", &json!({"every": 3_600_000})).await;
    let id = bench.unfinished().remove(0);
    bench.peer.call(5, "promote", json!({"job": id}));
    let job = fetch(&bench.queue, "token").await.unwrap();
    continue_chain(&bench.queue, &job).await.unwrap();
    continue_chain(&bench.queue, &job).await.unwrap();
    assert_eq!(bench.unfinished().len(), 2, "the one that runs and its successor");
    bench.peer.call(5, "removeRepeatable", json!({"name": "tick", "repeat": {"every": 3_600_000}}));
    // Removed while it ran: a second look does not bring it back.
    continue_chain(&bench.queue, &job).await.unwrap();
    assert_eq!(bench.unfinished(), [id]);
}

#[tokio::test]
async fn an_iteration_of_before_bullmq_4_names_no_key_and_goes_on_all_the_same() {
    let mut bench = Bench::start().await;
    add_old(&mut bench, "tick:::UTC:* * * * * *", &json!({"pattern": "* * * * * *", "tz": "UTC"})).await;
    let id = bench.unfinished().remove(0);
    let () = bench.ask(&["HDEL", &format!("bull:workflow-scheduler:{id}"), "rjk"]).await;
    bench.take_and_complete().await;
    let next = bench.unfinished();
    let [next] = &next[..] else { panic!("{next:?}") };
    let rjk: String = bench.ask(&["HGET", &format!("bull:workflow-scheduler:{next}"), "rjk"]).await;
    assert_eq!(rjk, "tick:::UTC:* * * * * *");
}
