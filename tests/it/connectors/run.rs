//! Steps of the type `connector` in runs.

use super::KEY;
use crate::support::{Fleet, http::HttpServer, runs::chain};
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(30);
const LOCAL: (&str, &str) = ("CONNECTOR_ALLOWED_HOSTS", "localhost");

/// Puts a connector into the table, as flohctl does; returns its id.
pub fn import(fleet: &Fleet, connector: &Value, settings: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("connector.json");
    fs::write(&file, connector.to_string()).unwrap();
    let done = fleet.flohctl_with(&["connector", "import", file.to_str().unwrap()], settings);
    assert_eq!((done.status.code(), done.stderr.as_str()), (Some(0), ""), "{}", done.stdout);
    let name = connector["name"].as_str().unwrap();
    fleet.sql(&format!("SELECT id FROM floh_worker.connector_definition WHERE name = '{name}'"))[0][0].clone().unwrap()
}

fn directory(server: &HttpServer) -> Value {
    json!({"name": "directory", "type": "http", "config": {"baseUrl": server.url("/"), "commands": {
        "add": {"method": "POST", "path": "effects", "body": {"name": "{{params.name}}"}, "outputs": {"account": "user.name"}},
        "flaky": {"method": "POST", "path": "flaky/{{params.times}}"},
        "lost": {"method": "POST", "path": "lost"},
        "refuse": {"path": "status/409"},
    }}, "mocks": {"add": {"user": {"id": 99, "name": "nobody"}}}})
}

fn call(id: &str, connector: &str, command: &str, params: Value, outputs: Value) -> Value {
    let config = json!({"connectorId": connector, "command": command, "params": params, "outputs": outputs});
    json!({"id": id, "type": "connector", "config": config})
}

#[test]
fn answers_become_variables_and_failures_take_their_edge() {
    let (fleet, server) = (Fleet::start(), HttpServer::start());
    let id = import(&fleet, &directory(&server), &[]);
    let mut worker = fleet.worker("1", &[LOCAL]);
    let mut refused = call("refused", "directory", "refuse", json!({}), json!({}));
    refused["transitions"] = json!([{"on": "success", "to": "end"}, {"on": "error", "to": "unknown"}]);
    let mut unknown = call("unknown", "nobody", "x", json!({}), json!({}));
    unknown["onError"] = json!("continue");
    let mut mocked = call("mocked", "directory", "add", json!({}), json!({"mocked": "user.id"}));
    mocked["config"]["mock"] = json!({"user": {"id": "{{first}}", "name": "m"}});
    let mut definition = chain(
        "calls",
        vec![
            call("named", "directory", "add", json!({"name": "{{person}}"}), json!({"first": "user.id"})),
            call("by_id", &id, "add", json!({"name": "{{account}} again"}), json!({"second": "user.id"})),
            call(
                "plain",
                "http",
                "request",
                json!({"url": server.url("/text")}),
                json!({"text": "body", "status": "status"}),
            ),
            refused,
            unknown,
            mocked,
        ],
    );
    definition["variables"] = json!([
        {"name": "person", "type": "string", "required": true},
        {"name": "account", "type": "string", "description": "set by the connector"},
    ]);
    let definition = fleet.define(&definition);
    let run = fleet.start_run(&definition, &json!({"person": "Ada {{x}}"}));
    let row = fleet.wait_run(&run, "completed", LIMIT);
    let variables = row.variables;
    assert_eq!((&variables["first"], &variables["second"], &variables["mocked"]), (&json!(1), &json!(2), &json!(1)));
    assert_eq!(
        (&variables["text"], &variables["status"], &variables["account"]),
        (&json!("hello"), &json!(200), &json!("m"))
    );
    assert_eq!(
        server.effects(),
        json!({
            format!("{run}/named/1"): {"id": 1, "done": 1, "name": "Ada {{x}}"},
            format!("{run}/by_id/1"): {"id": 2, "done": 1, "name": "Ada {{x}} again"},
        })
    );
    let steps = fleet.steps(&run);
    let of = |id: &str| steps.iter().find(|step| step.id == id).unwrap();
    let named = of("named");
    assert_eq!((&named.result["success"], &named.result["data"]["user"]["id"]), (&json!(true), &json!(1)));
    assert_eq!(named.result["outputVariables"], json!({"account": "Ada {{x}}"}));
    assert!(named.result["durationMs"].is_u64());
    // A conflict does not pass, so it is not tried again.
    assert_eq!((of("refused").status.as_str(), of("refused").attempt), ("failed", 1));
    assert_eq!(of("refused").result["error"]["code"], "HTTP_409");
    assert!(of("unknown").reason.as_deref().unwrap().contains("there is no connector `nobody`"));

    // Whole runs with mocks call nobody.
    let calls = server.calls();
    let once = fleet.define(&chain("mocked", vec![call("a", "directory", "add", json!({"name": "x"}), json!({}))]));
    fleet.sql(&format!("INSERT INTO floh_worker.workflow_run (definition_id, use_mocks) VALUES ('{once}', true)"));
    let run = fleet.sql(&format!("SELECT id FROM floh_worker.workflow_run WHERE definition_id = '{once}'"));
    let row = fleet.wait_run(run[0][0].as_deref().unwrap(), "completed", LIMIT);
    assert_eq!((&row.variables["account"], server.calls()), (&json!("nobody"), calls));
    worker.stop();
}

/// The call has had its effect: what cannot be kept of its answer is no reason to make it again, or to take the way of an error.
#[test]
fn an_answer_that_is_nested_too_deep_to_be_kept_gives_its_variables_all_the_same() {
    let (fleet, server) = (Fleet::start(), HttpServer::start());
    let mut worker = fleet.worker("1", &[LOCAL]);
    let body = format!(r#"{{"id": 7, "deep": {}1{}}}"#, "[".repeat(70), "]".repeat(70));
    let params = json!({"method": "POST", "url": server.url("/raw"), "body": body});
    let outputs = json!({"number": "body.id", "status": "status"});
    let definition = fleet.define(&chain("deep", vec![call("a", "http", "request", params, outputs)]));
    let run = fleet.start_run(&definition, &json!({}));
    let variables = fleet.wait_run(&run, "completed", LIMIT).variables;
    assert_eq!((&variables["number"], &variables["status"]), (&json!(7), &json!(200)));
    let steps = fleet.steps(&run);
    let step = steps.iter().find(|step| step.id == "a").unwrap();
    assert_eq!((step.status.as_str(), step.attempt, server.calls()), ("completed", 1, 1));
    assert_eq!((&step.result["success"], &step.result["data"]), (&json!(true), &Value::Null));
    assert!(step.result["dataBytes"].as_u64().unwrap() > 140, "{:?}", step.result);
    worker.stop();
}

#[test]
fn what_may_pass_is_tried_again_with_the_same_key() {
    let (fleet, server) = (Fleet::start(), HttpServer::start());
    import(&fleet, &directory(&server), &[]);
    let mut worker = fleet.worker("1", &[LOCAL]);
    let mut often = call("often", "directory", "flaky", json!({"times": 2}), json!({}));
    often["retry"] = json!({"attempts": 3, "delay": 0.1, "backoff": "fixed"});
    let by_default = call("by_default", "directory", "flaky", json!({"times": 1}), json!({}));
    let definition = fleet.define(&chain("flaky", vec![often, by_default]));
    let run = fleet.start_run(&definition, &json!({}));
    fleet.wait_run(&run, "completed", LIMIT);
    let attempts: Vec<_> = fleet.steps(&run).iter().map(|step| (step.id.clone(), step.attempt)).collect();
    assert_eq!(attempts[1..3], [("often".to_string(), 3), ("by_default".to_string(), 2)]);
    let keys = [format!("{run}/often/1"), format!("{run}/by_default/1")];
    assert_eq!(
        server.effects().as_object().unwrap().keys().collect::<std::collections::BTreeSet<_>>(),
        keys.iter().collect()
    );
    assert_eq!(server.calls(), 5);
    worker.stop();
}

#[test]
fn a_call_whose_worker_was_killed_is_made_again_and_has_its_effect_once() {
    let (mut fleet, server) = (Fleet::start(), HttpServer::start());
    import(&fleet, &directory(&server), &[]);
    let mut first = fleet.worker("1", &[LOCAL]);
    let definition =
        fleet.define(&chain("lost", vec![call("a", "directory", "lost", json!({}), json!({"id": "user.id"}))]));
    let run = fleet.start_run(&definition, &json!({}));
    crate::support::wait_for("the effect", LIMIT, || (server.calls() == 1).then_some(()));
    first.kill();
    let mut second = fleet.worker("1", &[LOCAL]);
    fleet.check_stalled();
    let row = fleet.wait_run(&run, "completed", Duration::from_secs(60));
    assert_eq!((&row.variables["id"], server.calls()), (&json!(1), 2));
    assert_eq!(server.effects(), json!({format!("{run}/a/1"): {"id": 1, "done": 1}}));
    second.stop();
}

#[test]
fn a_delay_holds_no_slot_and_ends_at_its_time() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "1")]);
    let wait = |id: &str, command: &str, params: Value| call(id, "delay", command, params, json!({}));
    let mut waits = chain(
        "waits",
        vec![
            wait("a", "wait", json!({"duration": 3})),
            wait("b", "until", json!({"time": "{{past}}"})),
            call("c", "delay", "wait", json!({"duration": "{{ten}}"}), json!({"until": "until"})),
        ],
    );
    waits["variables"] = json!([{"name": "past", "type": "date"}, {"name": "ten", "type": "string"}]);
    waits["steps"][3]["config"]["mock"] = json!({"until": "never"});
    let (waits, plain) = (fleet.define(&waits), fleet.define(&chain("plain", vec![])));
    let began = Instant::now();
    let run = fleet.start_run(&waits, &json!({"past": "2020-01-01", "ten": "10h"}));
    fleet.wait_at(&run, "a", LIMIT);
    // The only slot is free meanwhile.
    let other = fleet.start_run(&plain, &json!({}));
    fleet.wait_run(&other, "completed", LIMIT);
    assert_eq!(fleet.run(&run).status, "waiting");
    let row = fleet.wait_run(&run, "completed", LIMIT);
    assert!(began.elapsed() >= Duration::from_secs(3), "it did not wait");
    assert_eq!(row.variables["until"], "never");
    let steps = fleet.steps(&run);
    assert!(steps.iter().all(|step| step.visit == 1 && step.attempt == 1 && step.status == "completed"), "{steps:?}");
    worker.stop();
}

#[test]
fn a_sealed_secret_is_sent_and_shows_nowhere() {
    let (fleet, server) = (Fleet::start(), HttpServer::start());
    let key = [("CONNECTOR_ENCRYPTION_KEY", KEY)];
    let sealed = super::flohctl::seal("echo", "guppytrout", KEY);
    let connector = json!({"name": "echo", "type": "http", "config": {
        "baseUrl": server.url("/"), "auth": {"type": "bearer", "token": sealed},
        "commands": {"echo": {"path": "echo"}, "refuse": {"path": "status/400"}}}});
    import(&fleet, &connector, &key);
    let definition = fleet.define(&chain(
        "secret",
        vec![
            call("a", "echo", "echo", json!({}), json!({"said": "headers.authorization", "key": "key"})),
            call("b", "echo", "refuse", json!({}), json!({})),
        ],
    ));
    let mut worker = fleet.worker("1", &[LOCAL, key[0], ("LOG_LEVEL", "trace")]);
    let run = fleet.start_run(&definition, &json!({}));
    let row = fleet.wait_run(&run, "failed", LIMIT);
    assert_eq!(server.seen()["calls"][0]["headers"]["authorization"], "Bearer guppytrout");
    assert_eq!((&row.variables["said"], &row.variables["key"]), (&json!("Bearer ***"), &json!(format!("{run}/a/1"))));
    assert!(row.reason.unwrap().ends_with("answered 400 Bad Request: no: Bearer ***"));
    worker.stop();
    let dump = fleet.sql(
        "SELECT string_agg(s::text, ' ') FROM floh_worker.workflow_step s
         UNION ALL SELECT string_agg(r::text, ' ') FROM floh_worker.workflow_run r
         UNION ALL SELECT string_agg(c::text, ' ') FROM floh_worker.connector_definition c",
    );
    let dump = format!("{dump:?}{}", worker.log());
    assert!(dump.contains(&run) && !dump.contains("guppytrout"), "the secret shows");

    // A worker without the key fails the step in a sentence.
    let mut keyless = fleet.worker("2", &[LOCAL]);
    let run = fleet.start_run(&definition, &json!({}));
    let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    assert!(
        reason
            .contains("a sealed secret of the connector `echo` cannot be opened: CONNECTOR_ENCRYPTION_KEY is not set"),
        "{reason}"
    );
    assert!(!reason.contains(&sealed[7..]));
    keyless.stop();
}
