//! Crash anywhere: the worker of a run is killed at every point between two statements that the run sends to PostgreSQL, one
//! kill per point. Each time the run completes, each committed step has run once, each call had its effect once, and each mail
//! has one Message-ID.

use crate::support::{
    Fleet,
    http::HttpServer,
    runs::{StepRow, chain, points_passed},
    smtp::Smtp,
    wait_for,
    worker::Worker,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, env, time::Duration};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);
/// Of a run.
const CALLS: usize = 4;
const MAILS: usize = 3;

/// Twenty steps between start and end: computed, compared, called, mailed, and waited.
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
    let mail = |id: &str| {
        json!({"id": id, "type": "notification", "config": {
            "to": ["ada@example.org"], "subject": format!("{id} of {{{{run.id}}}}"), "text": "It goes on."}})
    };
    let tell = |id: &str| {
        json!({"id": id, "type": "notification", "config": {
            "channel": "inApp", "to": ["ada@example.org"], "subject": id, "text": "It goes on."}})
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
            mail("m1"),
            wait("w1"),
            tell("t1"),
            ask("q2", "c4"),
            call("c4"),
            transform("a4"),
            mail("m2"),
            ask("q3", "t2"),
            tell("t2"),
            transform("a6"),
            mail("m3"),
            wait("w2"),
            ask("q4", "c7"),
            call("c7"),
            transform("a7"),
        ],
    );
    definition["variables"] = json!([{"name": "n", "type": "number", "required": true}]);
    definition
}

/// Starts a run under an id that is known before.
fn start(fleet: &Fleet, definition: &str, id: Uuid) {
    fleet.sql(&format!(
        "INSERT INTO floh_worker.workflow_run (id, definition_id, variables) VALUES ('{id}', '{definition}', '{{\"n\": 1}}')"
    ));
}

fn worker(fleet: &Fleet, smtp: &Smtp, settings: &[(&str, &str)]) -> Worker {
    let port = smtp.port().to_string();
    let mut all = vec![("CONNECTOR_ALLOWED_HOSTS", "localhost"), ("WORKER_CONCURRENCY", "2")];
    all.extend([
        ("SMTP_HOST", "127.0.0.1"),
        ("SMTP_PORT", &port),
        ("SMTP_TLS", "none"),
        ("SMTP_FROM", "floh@example.com"),
    ]);
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
    let (http, smtp) = (HttpServer::start(), Smtp::start());
    let definition = fleet.define(&twenty_steps(&http));
    fleet.sql("INSERT INTO floh_worker.app_user (id, email, display_name) VALUES ('u-1', 'ada@example.org', 'Ada')");

    // Nobody is killed: how many points there are, and what the run should look like.
    let whole = Uuid::new_v4();
    start(&fleet, &definition, whole);
    let mut first = worker(&fleet, &smtp, &[("FLOH_TEST_KILL_RUN", &whole.to_string())]);
    fleet.wait_run(&whole.to_string(), "completed", LIMIT);
    let points = wait_for("the number of points", LIMIT, || {
        let said = points_passed(&first.log());
        // One job until each of the two waits, one until the end.
        (said.len() >= 3).then(|| said.last().copied()).flatten()
    });
    let reference = story(&fleet.steps(&whole.to_string()));
    assert_eq!(reference.len(), 22);
    assert!(points > 60, "only {points} points");
    first.kill();

    // Each life first finishes the run of the one before it, so that each run meets one kill.
    let mut runs: BTreeMap<Uuid, u64> = BTreeMap::new();
    let mut before: Option<Uuid> = None;
    // One kill for each point in `tests/run full`; in short each third of them, another third each time.
    let step = if env::var("FLOH_CRASH").is_ok_and(|how| how == "all") { 1 } else { 3 };
    for point in (rand::random_range(1..=step)..=points).step_by(usize::try_from(step).unwrap()) {
        let run = Uuid::new_v4();
        let (name, at) = (run.to_string(), point.to_string());
        let mut life = worker(&fleet, &smtp, &[("FLOH_TEST_KILL_RUN", &name), ("FLOH_TEST_KILL_AT", &at)]);
        if let Some(before) = before {
            fleet.wait_run(&before.to_string(), "completed", LIMIT);
        }
        start(&fleet, &definition, run);
        let status = life.wait_end(LIMIT);
        assert_eq!(status.code(), None, "point {point}: it was not killed: {status}\n{}", life.log());
        runs.insert(run, point);
        before = Some(run);
    }
    let mut last = worker(&fleet, &smtp, &[]);
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

    // What is written with a step's commit is there once: two rows for each run.
    let rows = fleet.sql("SELECT count(*), count(DISTINCT run_id) FROM floh_worker.notification");
    let of = |each: usize| Some((each * (runs.len() + 1)).to_string());
    assert_eq!(rows[0], [of(2), of(1)]);

    // One effect for each call of each run, whatever was asked again.
    let seen = http.seen();
    let effects = seen["effects"].as_object().unwrap();
    assert_eq!(effects.len(), CALLS * (runs.len() + 1));
    let keys = seen["calls"].as_array().unwrap().iter().map(|call| {
        let (run, step) = call["key"].as_str().unwrap().split_once('/').unwrap();
        (run.to_string(), step.to_string())
    });
    let repeated = at_most_one_is_repeated(keys.collect(), CALLS);
    assert!(step > 1 || repeated > 0, "no kill came between a call and its commit");
    // The same for mails: one identity each, by which a repeated one can be recognised.
    let keys = smtp.mails().into_iter().map(|mail| {
        let headers = &mail["headers"];
        let run = headers["subject"].as_str().unwrap().rsplit(' ').next().unwrap().to_string();
        (run, headers["message-id"].as_str().unwrap().to_string())
    });
    let repeated = at_most_one_is_repeated(keys.collect(), MAILS);
    assert!(step > 1 || repeated > 0, "no kill came between a mail and its commit");
}

/// What arrived from each run, by an identity of its own: every run has `each` of them, and one of them twice at most, because
/// it was killed once. Returns in how many runs one came twice.
fn at_most_one_is_repeated(arrived: Vec<(String, String)>, each: usize) -> usize {
    let mut by_run: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for (run, identity) in arrived {
        *by_run.entry(run).or_default().entry(identity).or_default() += 1;
    }
    let mut repeated = 0;
    for (run, identities) in &by_run {
        assert_eq!(identities.len(), each, "{run}: {identities:?}");
        let total: usize = identities.values().sum();
        assert!(total <= each + 1, "{run}: {identities:?}");
        repeated += total - each;
    }
    repeated
}
