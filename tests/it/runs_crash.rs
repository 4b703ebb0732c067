//! Crash anywhere: the worker of a run is killed at every point between two statements that the run sends to PostgreSQL, one
//! kill per point. Each time the run completes, each committed step has run once, and each call had its effect once.

use crate::support::{
    Fleet,
    http::HttpServer,
    runs::{StepRow, chain},
    wait_for,
    worker::Worker,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);

/// Twenty steps between start and end: computed, compared, called, and waited.
fn twenty_steps(http: &HttpServer) -> Value {
    let transform = |id: &str| {
        let code = format!("return {{{id}: (floh.variables.n || 0) + 1}}");
        json!({"id": id, "type": "transform", "config": {"code": code, "outputs": [id]}})
    };
    let call = |id: &str| {
        json!({"id": id, "type": "connector", "config": {
            "connectorId": "http", "command": "request",
            "params": {"method": "POST", "url": http.url("/effects"), "body": {"step": id}},
            "outputs": {format!("{id}_done"): "body.user.id"}}})
    };
    let ask = |id: &str, next: &str| {
        json!({"id": id, "type": "condition", "config": {"if": {"variable": "n", "equals": 1}},
               "transitions": [{"on": "true", "to": next}, {"on": "false", "to": "end"}]})
    };
    let wait = |id: &str| {
        json!({"id": id, "type": "connector", "config": {
            "connectorId": "delay", "command": "wait", "params": {"duration": 0.3}}})
    };
    let mut definition = chain(
        "twenty",
        vec![
            transform("a1"),
            call("c1"),
            ask("q1", "a2"),
            transform("a2"),
            call("c2"),
            call("c3"),
            wait("w1"),
            transform("a3"),
            ask("q2", "c4"),
            call("c4"),
            transform("a4"),
            call("c5"),
            ask("q3", "a5"),
            transform("a5"),
            transform("a6"),
            call("c6"),
            wait("w2"),
            ask("q4", "c7"),
            call("c7"),
            transform("a7"),
        ],
    );
    definition["variables"] = json!([{"name": "n", "type": "number", "required": true}]);
    definition
}

/// A run whose id is known before it begins.
fn start(fleet: &Fleet, definition: &str) -> Uuid {
    let id = Uuid::new_v4();
    fleet.sql(&format!(
        "INSERT INTO floh_worker.workflow_run (id, definition_id, variables) VALUES ('{id}', '{definition}', '{{\"n\": 1}}')"
    ));
    id
}

fn worker(fleet: &Fleet, settings: &[(&str, &str)]) -> Worker {
    let mut all = vec![("CONNECTOR_ALLOWED_HOSTS", "localhost"), ("WORKER_CONCURRENCY", "2")];
    all.extend_from_slice(settings);
    fleet.spawn_worker("1", &all)
}

/// What has to be the same however often the worker was killed.
fn story(steps: &[StepRow]) -> Vec<String> {
    steps
        .iter()
        .map(|step| {
            let outcome = step.outcome.as_deref().unwrap_or("-");
            format!("{}/{} try {} {} {outcome}", step.id, step.visit, step.attempt, step.status)
        })
        .collect()
}

#[test]
fn a_worker_that_is_killed_at_any_point_repeats_no_committed_step_and_no_effect() {
    let fleet = Fleet::start();
    let http = HttpServer::start();
    let definition = fleet.define(&twenty_steps(&http));

    // Nobody is killed: how many points there are, and what the run should look like.
    let whole = start(&fleet, &definition);
    let mut first = worker(&fleet, &[("FLOH_TEST_KILL_RUN", &whole.to_string())]);
    fleet.wait_run(&whole.to_string(), "completed", LIMIT);
    let points = wait_for("the number of points", LIMIT, || {
        let log = first.log();
        let said: Vec<u64> = log
            .lines()
            .filter_map(|line| line.split(" points passed").next()?.rsplit(' ').next()?.parse().ok())
            .collect();
        // One job until each of the two waits, one until the end.
        (said.len() >= 3).then(|| said.last().copied()).flatten()
    });
    let reference = story(&fleet.steps(&whole.to_string()));
    assert_eq!(reference.len(), 22);
    assert!(points > 60, "only {points} points");
    first.kill();

    // Each life also finishes the run of the one before it.
    let mut runs = BTreeMap::new();
    for point in 1..=points {
        let run = start(&fleet, &definition);
        runs.insert(run, point);
        let (run, at) = (run.to_string(), point.to_string());
        let mut life = worker(&fleet, &[("FLOH_TEST_KILL_RUN", &run), ("FLOH_TEST_KILL_AT", &at)]);
        let status = life.wait_end(LIMIT);
        assert_eq!(status.code(), None, "point {point}: it was not killed: {status}\n{}", life.log());
    }
    let mut last = worker(&fleet, &[]);
    for (run, point) in &runs {
        let run = run.to_string();
        let row = fleet.wait_run(&run, "completed", LIMIT);
        let steps = fleet.steps(&run);
        assert_eq!(story(&steps), reference, "killed at point {point}");
        let mut replayed = json!({"n": 1});
        for step in &steps {
            replayed.as_object_mut().unwrap().extend(step.set.as_object().unwrap().clone());
        }
        assert_eq!(row.variables, replayed, "killed at point {point}");
    }
    last.stop();

    // One effect for each call of each run, whatever was asked again; and at most one call of each run was.
    let seen = http.seen();
    let effects = seen["effects"].as_object().unwrap();
    assert_eq!(effects.len(), 7 * (runs.len() + 1));
    let mut calls: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for call in seen["calls"].as_array().unwrap() {
        let key = call["key"].as_str().unwrap();
        *calls.entry(key.split('/').next().unwrap()).or_default().entry(key).or_default() += 1;
    }
    for (run, keys) in &calls {
        assert_eq!(keys.len(), 7, "{run}: {keys:?}");
        assert!(keys.values().sum::<usize>() <= 8, "{run}: {keys:?}");
    }
    assert!(calls.values().any(|keys| keys.values().sum::<usize>() == 8), "no kill came between a call and its commit");
}
