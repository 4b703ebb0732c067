//! Parents, children and deduplicated jobs of npm's BullMQ 5 and 6.

use crate::support::{Fleet, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

by_5_and_6!(
    a_parent_runs_after_its_children,
    a_parent_in_another_queue_gets_our_children_s_values,
    our_parent_waits_for_children_of_another_queue,
    a_failing_child_does_to_its_parent_what_its_option_says,
    a_deduplicated_job_is_added_once_while_it_lives,
    a_throttled_job_is_added_once_in_its_time,
    a_debounced_job_runs_once_with_the_last_data,
    the_last_job_added_while_one_is_active_runs_after_it,
);

/// Ids of a flow's children.
fn children(tree: &Value) -> Vec<String> {
    tree["children"].as_array().unwrap().iter().map(id_of).collect()
}

fn id_of(node: &Value) -> String {
    node["id"].as_str().unwrap().to_string()
}

fn a_parent_runs_after_its_children(version: u8) {
    let mut fleet = Fleet::start();
    let flow = json!({
        "name": "test.echo", "data": {"role": "root"},
        "children": [
            {"name": "test.echo", "data": {"role": "slow"}, "opts": {"delay": 600}},
            {"name": "test.echo", "data": {"role": "first"}, "opts": {"priority": 1}},
            {"name": "test.echo", "data": {"role": "middle"}, "children": [
                {"name": "test.progress", "data": {"steps": 2}},
                {"name": "test.fail", "data": {"reason": "once"}, "opts": {"attempts": 1, "ignoreDependencyOnFailure": true}},
            ]},
        ],
    });
    let tree = fleet.call(version, "flow", json!({"flow": flow}));
    let root = id_of(&tree);
    assert_eq!(fleet.job(version, &root)["state"], "waiting-children");
    let _worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "2")]);
    let job = fleet.wait_state(version, &root, "completed", SOON);
    assert_eq!(job["returnvalue"], json!({"role": "root"}));
    let order = fleet.start_order();
    let place = |id: &str| order.iter().position(|started| started == id).unwrap();
    let middle = &children(&tree)[2];
    assert!(children(&tree).iter().all(|child| place(child) < place(&root)), "{order:?}");
    assert!(children(&tree["children"][2]).iter().all(|child| place(child) < place(middle)), "{order:?}");
    let values = fleet.call(version, "childrenValues", json!({"job": root}));
    let (slow, key) = (&children(&tree)[0], fleet.key(""));
    assert_eq!(values[format!("{key}{slow}")], json!({"role": "slow"}));
    assert_eq!(values.as_object().unwrap().len(), 3);
    let ignored = fleet.call(version, "ignoredFailures", json!({"job": middle}));
    assert_eq!(ignored.as_object().unwrap().values().collect::<Vec<_>>(), ["once"]);
}

fn a_parent_in_another_queue_gets_our_children_s_values(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    fleet.call(version, "workerStart", json!({"queue": "reports"}));
    let flow = json!({
        "name": "node.children", "queueName": "reports", "data": {},
        "children": [
            {"name": "test.echo", "data": {"part": 1}},
            {"name": "test.echo", "data": {"part": 2}, "opts": {"delay": 300}},
        ],
    });
    let tree = fleet.call(version, "flow", json!({"flow": flow}));
    let root = id_of(&tree);
    let ask = json!({"queue": "reports", "job": root});
    let values = fleet.call(version, "waitUntilFinished", ask);
    let mut parts: Vec<u64> = values.as_object().unwrap().values().map(|v| v["part"].as_u64().unwrap()).collect();
    parts.sort_unstable();
    assert_eq!(parts, [1, 2]);
}

fn our_parent_waits_for_children_of_another_queue(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let flow = json!({
        "name": "test.echo", "data": {"role": "ours"},
        "children": [{"name": "test.echo", "queueName": "reports", "data": {"role": "theirs"}}],
    });
    let tree = fleet.call(version, "flow", json!({"flow": flow}));
    let root = id_of(&tree);
    // Another job runs through, so the worker was there and left the parent alone.
    let other = fleet.add(version, "test.echo", json!({}), json!({}));
    fleet.wait_state(version, &other, "completed", SOON);
    assert_eq!(fleet.job(version, &root)["state"], "waiting-children");
    fleet.call(version, "workerStart", json!({"queue": "reports"}));
    fleet.wait_state(version, &root, "completed", SOON);
    let values = fleet.call(version, "childrenValues", json!({"job": root}));
    assert_eq!(values.as_object().unwrap().values().collect::<Vec<_>>(), [&json!({"role": "theirs"})]);
}

fn a_failing_child_does_to_its_parent_what_its_option_says(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let mut flow = |option: &str| {
        let mut opts = json!({"attempts": 1});
        if !option.is_empty() {
            opts[option] = json!(true);
        }
        let child = json!({"name": "test.fail", "data": {"reason": "a child's reason"}, "opts": opts});
        let flow =
            json!({"name": "test.echo", "data": {"option": option}, "opts": {"attempts": 1}, "children": [child]});
        let tree = fleet.call(version, "flow", json!({"flow": flow}));
        (id_of(&tree), children(&tree).remove(0))
    };
    let (waits, waits_child) = flow("");
    let (fails, fails_child) = flow("failParentOnFailure");
    let (ignores, _) = flow("ignoreDependencyOnFailure");
    let (forgets, _) = flow("removeDependencyOnFailure");
    let (goes_on, _) = flow("continueParentOnFailure");
    fleet.wait_state(version, &waits_child, "failed", SOON);
    let job = fleet.wait_state(version, &fails, "failed", SOON);
    let expected = format!("child {} failed", fleet.key(&fails_child));
    assert_eq!(job["failedReason"], expected.as_str());
    for id in [&ignores, &forgets, &goes_on] {
        fleet.wait_state(version, id, "completed", SOON);
    }
    let ignored = fleet.call(version, "ignoredFailures", json!({"job": ignores}));
    assert_eq!(ignored.as_object().unwrap().values().collect::<Vec<_>>(), ["a child's reason"]);
    assert_eq!(fleet.call(version, "childrenValues", json!({"job": forgets})), json!({}));
    assert_eq!(fleet.job(version, &waits)["state"], "waiting-children", "without an option the parent waits on");
}

fn a_deduplicated_job_is_added_once_while_it_lives(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let opts = json!({"deduplication": {"id": "sync-users"}});
    let first = fleet.add(version, "test.effect", json!({"key": "first", "ms": 800}), opts.clone());
    let same = fleet.add(version, "test.effect", json!({"key": "dropped"}), opts.clone());
    assert_eq!(first, same, "the client is told the id of the job that is there");
    fleet.wait_state(version, &first, "active", SOON);
    assert_eq!(fleet.add(version, "test.effect", json!({"key": "dropped"}), opts.clone()), first);
    fleet.wait_state(version, &first, "completed", SOON);
    let next = fleet.add(version, "test.effect", json!({"key": "next"}), opts.clone());
    assert_ne!(next, first, "a completed job no longer stands in the way");
    fleet.wait_state(version, &next, "completed", SOON);
    // Neither does one that failed for good.
    let mut failing = opts.clone();
    failing["attempts"] = json!(1);
    let failed = fleet.add(version, "test.fail", json!({"reason": "no"}), failing);
    fleet.wait_state(version, &failed, "failed", SOON);
    let after = fleet.add(version, "test.effect", json!({"key": "after"}), opts);
    fleet.wait_state(version, &after, "completed", SOON);
    assert_eq!(fleet.effects().keys().collect::<Vec<_>>(), ["after", "first", "next"]);
}

fn a_throttled_job_is_added_once_in_its_time(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let opts = json!({"deduplication": {"id": "digest", "ttl": 3000}});
    let first = fleet.add(version, "test.effect", json!({"key": "first"}), opts.clone());
    fleet.wait_state(version, &first, "completed", SOON);
    let within = fleet.add(version, "test.effect", json!({"key": "within"}), opts.clone());
    assert_eq!(within, first, "the time to live outlasts the job");
    let later = wait_for("the end of the throttle", SOON, || {
        let id = fleet.add(version, "test.effect", json!({"key": "later"}), opts.clone());
        (id != first).then_some(id)
    });
    fleet.wait_state(version, &later, "completed", SOON);
    assert_eq!(fleet.effects().keys().collect::<Vec<_>>(), ["first", "later"]);
}

fn a_debounced_job_runs_once_with_the_last_data(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let deduplication = json!({"id": "reindex", "ttl": 1500, "extend": true, "replace": true});
    let opts = json!({"deduplication": deduplication, "delay": 1500});
    let mut last = String::new();
    for key in ["one", "two", "three"] {
        last = fleet.add(version, "test.effect", json!({"key": key}), opts.clone());
    }
    fleet.wait_state(version, &last, "completed", SOON);
    fleet.wait_counts(version, json!({"delayed": 0, "waiting": 0, "active": 0, "completed": 1}), SOON);
    assert_eq!(fleet.effects().into_iter().collect::<Vec<_>>(), [("three".to_string(), 1)]);
}

fn the_last_job_added_while_one_is_active_runs_after_it(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]);
    let opts = json!({"deduplication": {"id": "sync", "keepLastIfActive": true}});
    let first = fleet.add(version, "test.effect", json!({"key": "first", "ms": 1500}), opts.clone());
    fleet.wait_state(version, &first, "active", SOON);
    for key in ["superseded", "last"] {
        fleet.add(version, "test.effect", json!({"key": key}), opts.clone());
    }
    fleet.wait_counts(version, json!({"waiting": 0, "active": 0, "completed": 2}), SOON);
    assert_eq!(fleet.effects().keys().collect::<Vec<_>>(), ["first", "last"]);
    let starts = fleet.stream().into_iter().filter(|event| event.name == "active").map(|event| event.at);
    let starts: Vec<u64> = starts.collect();
    assert!(starts[1] - starts[0] >= 1500, "the two never ran beside each other: {starts:?}");
    // The key is free again.
    let again = fleet.add(version, "test.effect", json!({"key": "again"}), opts);
    fleet.wait_state(version, &again, "completed", SOON);
}
