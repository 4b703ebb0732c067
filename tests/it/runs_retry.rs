//! `retry` with `timeout`: the time is of the whole visit, its tries and its pauses.

use crate::support::{
    Fleet,
    http::HttpServer,
    runs::{StepRow, chain},
};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// A step that calls `path` of the server, with an edge to an end of its own for `error` and `timeout`.
fn definition(http: &HttpServer, path: &str, retry: Value, timeout: &str) -> Value {
    let edges = ["success", "error", "timeout"].map(|on| json!({"on": on, "to": format!("was-{on}")}));
    let call = json!({"id": "call", "type": "connector", "retry": retry, "timeout": timeout, "transitions": edges,
        "config": {"connectorId": "http", "command": "request",
            "params": {"method": "POST", "url": http.url(path), "body": {}}}});
    let mut definition = chain(path, vec![call]);
    let ends = ["success", "error", "timeout"].map(|on| json!({"id": format!("was-{on}"), "type": "end"}));
    definition["steps"].as_array_mut().unwrap().pop();
    definition["steps"].as_array_mut().unwrap().extend(ends);
    definition
}

/// Runs it; the row of its call, which has led to the end of this outcome.
fn call(fleet: &Fleet, definition: &Value, outcome: &str) -> StepRow {
    let run = fleet.start_run(&fleet.define(definition), &json!({}));
    let end = fleet.wait_run(&run, "completed", LIMIT).current_step;
    let steps = fleet.steps(&run);
    assert_eq!(end.unwrap(), format!("was-{outcome}"), "{steps:#?}");
    assert_eq!(steps[1].outcome.as_deref(), Some(outcome), "{steps:#?}");
    steps[1].clone()
}

#[test]
fn a_timeout_is_of_all_tries_and_pauses() {
    let fleet = Fleet::start();
    let http = HttpServer::start();
    let _worker = fleet.worker("1", &[("CONNECTOR_ALLOWED_HOSTS", "localhost")]);

    // The first try fails, the second one gets no answer.
    let row = call(&fleet, &definition(&http, "/worse", json!({"attempts": 5, "delay": 0.2}), "3s"), "timeout");
    assert_eq!((row.status.as_str(), row.attempt), ("failed", 2));
    assert_eq!(row.reason.as_deref(), Some("it took longer than its timeout of 3 s"));
    assert_eq!(http.calls(), 2);

    // In time at the second try.
    let row = call(&fleet, &definition(&http, "/flaky/1", json!({"attempts": 5, "delay": 0.2}), "20s"), "success");
    assert_eq!((row.status.as_str(), row.attempt, row.reason), ("completed", 2, None));
    assert_eq!(http.calls(), 4);

    // The second try would come too late: nobody waits for it.
    let row = call(&fleet, &definition(&http, "/flaky/2", json!({"attempts": 5, "delay": "1m"}), "50s"), "error");
    assert_eq!((row.status.as_str(), row.attempt), ("failed", 1));
    assert!(row.reason.as_deref().unwrap().contains("503"), "{row:#?}");
    assert_eq!(http.calls(), 5);
}
