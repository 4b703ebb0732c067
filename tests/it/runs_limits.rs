//! What a definition makes of a run's variables has an end before the memory has.

use crate::support::{Fleet, runs::chain};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// A large variable; a run may have one more like it.
const LARGE: usize = 400_000;

/// Starts a run of one step that knows the variable `large`.
fn start(fleet: &Fleet, name: &str, kind: &str, config: Value, edges: &[&str]) -> String {
    let edges: Vec<Value> = edges.iter().map(|on| json!({"on": on, "to": "end"})).collect();
    let retry = json!({"attempts": 1});
    let step = json!({"id": "step", "type": kind, "retry": retry, "config": config, "transitions": edges});
    let mut definition = chain(name, vec![step]);
    definition["variables"] = json!([{"name": "large", "type": "string"}]);
    fleet.start_run(&fleet.define(&definition), &json!({"large": "x".repeat(LARGE)}))
}

fn failure(fleet: &Fleet, run: &str) -> String {
    fleet.wait_run(run, "failed", LIMIT).reason.unwrap()
}

#[test]
fn a_variable_that_is_named_again_and_again_fails_the_step() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let call = |name: &str, times: usize| {
        let params = json!({"method": "POST", "url": "https://example.org/", "body": vec!["{{large}}"; times]});
        let config = json!({"connectorId": "http", "command": "request", "params": params, "mock": {"a": 1}});
        start(&fleet, name, "connector", config, &["success"])
    };
    let few = call("few", 10);
    let many = call("many", 12);
    assert_eq!(
        failure(&fleet, &many),
        "step `step`: `params`: the values that are put into templates have more than 4 MiB together"
    );
    fleet.wait_run(&few, "completed", LIMIT);
    worker.stop();
}
