//! Runs with the steps that need nothing but the database: they begin, branch, fail, are cancelled and tried again.

use crate::support::{
    Fleet,
    runs::{StepRow, chain},
    wait_for,
};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn edge(on: &str, to: &str) -> Value {
    json!({"on": on, "to": to})
}

/// A definition whose `ask` compares `n` with 5, and whose `sort` knows two departments.
fn branches() -> Value {
    json!({
        "name": "branches",
        "variables": [
            {"name": "n", "type": "number", "required": true},
            {"name": "department", "type": "string"},
            {"name": "since", "type": "date"},
        ],
        "steps": [
            {"id": "start", "type": "start", "transitions": [edge("success", "ask")]},
            {"id": "ask", "type": "condition", "config": {"if": {"variable": "n", "greaterThan": 5}},
             "transitions": [edge("true", "sort"), edge("false", "small")]},
            {"id": "sort", "type": "case", "config": {"cases": [
                {"label": "sales", "when": {"variable": "department", "equals": "Sales"}},
                {"label": "it", "when": {"variable": "department", "in": ["IT", "Dev"]}}]},
             "transitions": [edge("sales", "end"), edge("it", "end"), edge("default", "odd")]},
            {"id": "small", "type": "end", "config": {"status": "cancelled", "reason": "{{n}} is too small"}},
            {"id": "odd", "type": "end", "config": {"status": "failed", "reason": "no such department"}},
            {"id": "end", "type": "end"},
        ],
    })
}

fn story(steps: &[StepRow]) -> Vec<String> {
    steps.iter().map(|step| format!("{}/{} {}", step.id, step.visit, step.outcome.as_deref().unwrap_or("-"))).collect()
}

#[test]
fn a_plain_insert_starts_a_run_and_its_conditions_choose_its_way() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let definition = fleet.define(&branches());
    let run = fleet.start_run(&definition, &json!({"n": 7, "department": "Dev", "decision": {"outcome": "approved"}}));
    let row = fleet.wait_run(&run, "completed", LIMIT);
    assert!(row.variables.get("decision").is_none(), "it was not declared: {}", row.variables);
    assert_eq!(story(&fleet.steps(&run)), ["start/1 success", "ask/1 true", "sort/1 it", "end/1 -"]);
    assert_eq!((row.reason, row.variables["n"].clone(), row.variables["since"].clone()), (None, json!(7), Value::Null));
    assert_eq!(row.variables["submitter"]["id"], Value::Null);
    assert!(fleet.steps(&run).iter().all(|step| step.status == "completed"));

    let run = fleet.start_run(&definition, &json!({"n": 3}));
    assert_eq!(fleet.wait_run(&run, "cancelled", LIMIT).reason.as_deref(), Some("3 is too small"));
    let run = fleet.start_run(&definition, &json!({"n": 30, "department": "Board"}));
    assert_eq!(fleet.wait_run(&run, "failed", LIMIT).reason.as_deref(), Some("no such department"));
    // Everything that is wrong with the variables, at once.
    let run = fleet.start_run(&definition, &json!({"department": 1, "since": "soon"}));
    let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    for words in ["`n` (number) is required", "`department` is of type string", "`since` is a date such as"] {
        assert!(reason.contains(words), "{words}: {reason}");
    }
    worker.stop();
}

#[test]
fn a_failing_step_stops_the_run_or_goes_the_way_that_the_definition_says() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    // `n` is a text here, and cannot be compared.
    let with = |change: &dyn Fn(&mut Value)| {
        let mut definition = branches();
        definition["name"] = json!("stop");
        definition["variables"][0]["type"] = json!("string");
        change(&mut definition);
        let id = fleet.define(&definition);
        fleet.start_run(&id, &json!({"n": "x", "department": "IT"}))
    };
    let run = with(&|_| {});
    let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    assert!(
        reason.starts_with("step `ask`: `n`: only two numbers or two dates are greater or less, and here are a text"),
        "{reason}"
    );
    let steps = fleet.steps(&run);
    assert_eq!((steps[1].status.as_str(), steps[1].outcome.as_deref()), ("failed", Some("error")));

    let run = with(&|definition| {
        definition["name"] = json!("own edge");
        definition["steps"][1]["transitions"].as_array_mut().unwrap().push(edge("error", "odd"));
    });
    assert_eq!(fleet.wait_run(&run, "failed", LIMIT).reason.as_deref(), Some("no such department"));
    let run = with(&|definition| {
        definition["name"] = json!("continue");
        definition["onError"] = json!("continue");
    });
    // What could not be compared does not hold.
    fleet.wait_run(&run, "cancelled", LIMIT);
    assert_eq!(story(&fleet.steps(&run)), ["start/1 success", "ask/1 error", "small/1 -"]);

    // Tried three times, with pauses in which no job holds a place.
    let run = with(&|definition| {
        definition["name"] = json!("retry");
        definition["steps"][1]["retry"] = json!({"attempts": 3, "delay": 0.2});
    });
    fleet.wait_run(&run, "failed", LIMIT);
    assert_eq!(fleet.steps(&run)[1].attempt, 3);
    worker.stop();
}

#[test]
fn a_type_that_is_not_executed_fails_the_run_at_that_step_and_names_it() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let step = json!({"id": "verify", "type": "verify_contact", "transitions": [edge("success", "end")]});
    let definition = fleet.define(&chain("unsupported", vec![step]));
    let run = fleet.start_run(&definition, &json!({}));
    let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    assert!(reason.contains("`verify`") && reason.contains("`verify_contact`"), "{reason}");
    // Its row, what is shown of the run, and the journal name the type, too.
    let sql = format!("SELECT type FROM floh_worker.workflow_step WHERE run_id = '{run}' ORDER BY position");
    let types: Vec<String> = fleet.sql(&sql).into_iter().filter_map(|mut row| row.swap_remove(0)).collect();
    assert_eq!(types, ["start", "verify_contact"]);
    let shown = fleet.flohctl(&["run", "show", &run]).stdout;
    assert!(shown.contains("  verify_contact  "), "{shown}");
    worker.wait_log("verify_contact failed: ");
    // Nothing that is no definition at all harms more than its own run.
    let hopeless = fleet.define(&json!({"name": "hopeless", "steps": {"a": []}}));
    let run = fleet.start_run(&hopeless, &json!({}));
    assert!(fleet.wait_run(&run, "failed", LIMIT).reason.unwrap().contains("type `start`"));
    worker.stop();
}

#[test]
fn runs_of_another_engine_are_not_touched_and_one_that_is_held_back_waits_for_its_turn() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let definition = fleet.define(&chain("plain", vec![]));
    let insert = |columns: &str, values: &str| {
        let sql = format!(
            "INSERT INTO floh_worker.workflow_run (definition_id, {columns}) VALUES ('{definition}', {values}) RETURNING id"
        );
        fleet.sql(&sql)[0][0].clone().unwrap()
    };
    let foreign = insert("engine", "'floh'");
    let held = insert("held_back", "true");
    fleet.sql(&format!("SELECT floh_worker.wake_run('{foreign}'), floh_worker.wake_run('{held}')"));
    // A wake-up that somebody writes by hand finds out.
    for (n, id) in [&foreign, &held].into_iter().enumerate() {
        fleet.sql(&format!(
            "INSERT INTO floh_worker.job_outbox (queue, job_id, name, data) VALUES
                ('bull:workflow-scheduler', 'by-hand-{n}', 'resume-run', jsonb_build_object('runId', '{id}'))"
        ));
        wait_for("the wake-up's end", LIMIT, || {
            let sql = format!("SELECT ended FROM floh_worker.job_outbox WHERE job_id = 'by-hand-{n}'");
            fleet.sql(&sql)[0][0].clone().filter(|ended| ended == "completed")
        });
    }
    assert_eq!((fleet.run(&foreign).status.as_str(), fleet.run(&held).status.as_str()), ("pending", "pending"));
    fleet.sql(&format!("UPDATE floh_worker.workflow_run SET held_back = false WHERE id = '{held}'"));
    fleet.wait_run(&held, "completed", LIMIT);
    let unwanted = insert("held_back", "true");
    fleet.sql(&format!(
        "UPDATE floh_worker.workflow_run SET cancel_requested_at = now(), cancel_reason = 'not needed' WHERE id = '{unwanted}'"
    ));
    assert_eq!(fleet.wait_run(&unwanted, "cancelled", LIMIT).reason.as_deref(), Some("not needed"));
    assert_eq!(fleet.run(&foreign).status, "pending");
    worker.stop();
}

#[test]
fn a_failed_run_goes_on_at_the_step_where_it_failed() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let definition = fleet.define(&branches());
    let run = fleet.start_run(&definition, &json!({"n": 8, "department": 5}));
    fleet.wait_run(&run, "failed", LIMIT);
    // The run never began: a retry begins it, with all checks.
    let reason = fleet.run(&run).reason;
    fleet.sql(&format!("SELECT floh_worker.retry_run('{run}')"));
    wait_for("the second visit", LIMIT, || (fleet.steps(&run).len() == 2).then_some(()));
    assert_eq!(fleet.wait_run(&run, "failed", LIMIT).reason, reason);
    fleet.sql(&format!(
        "UPDATE floh_worker.workflow_run SET variables = '{{\"n\": 8, \"department\": \"IT\"}}' WHERE id = '{run}';
         SELECT floh_worker.retry_run('{run}')"
    ));
    let row = fleet.wait_run(&run, "completed", LIMIT);
    assert_eq!((row.variables["since"].clone(), row.variables["submitter"]["id"].clone()), (Value::Null, Value::Null));
    assert!(row.variables["submitter"].is_object());
    assert_eq!(fleet.sql(&format!("SELECT floh_worker.retry_run('{run}')"))[0][0].as_deref(), Some("f"));
    worker.stop();
}

#[test]
fn what_a_template_makes_of_a_text_may_be_a_number_and_nothing_is_said_to_be_nothing() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let ended = |config: Value| {
        let start = json!({"id": "start", "type": "start", "transitions": [edge("success", "end")]});
        json!([start, {"id": "end", "type": "end", "config": config}])
    };
    let called =
        |config: Value| chain("", vec![json!({"id": "call", "type": "connector", "config": config})])["steps"].take();
    let nothing = |name: &str| format!("`{name}` comes to nothing, and has to be a text");
    for (n, (steps, status, seven, null)) in [
        (ended(json!({"status": "failed", "reason": "{{n}}"})), "failed", "7".into(), nothing("reason")),
        (ended(json!({"status": "cancelled", "reason": "{{n}}"})), "cancelled", "7".into(), nothing("reason")),
        (
            called(json!({"connectorId": "{{n}}", "command": "x"})),
            "failed",
            "there is no connector `7`".to_string(),
            nothing("connectorId"),
        ),
        (called(json!({"connectorId": "delay", "command": "{{n}}"})), "failed", "`7`".to_string(), nothing("command")),
    ]
    .into_iter()
    .enumerate()
    {
        let variables = json!([{"name": "n", "type": "number"}]);
        let definition = fleet.define(&json!({"name": format!("texts {n}"), "variables": variables, "steps": steps}));
        let run = fleet.start_run(&definition, &json!({"n": 7}));
        let reason = fleet.wait_run(&run, status, LIMIT).reason.unwrap();
        assert!(reason.contains(&seven), "{n}: {reason}");
        let run = fleet.start_run(&definition, &json!({"n": null}));
        let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
        assert!(reason.ends_with(&null), "{n}: {reason}");
    }
    worker.stop();
}

/// A definition called `versions` in which somebody agrees, and is led to an end that tells the version.
fn versions(version: &str) -> Value {
    let asked = json!({"user": "ada@example.org", "text": "Yes."});
    let reason = format!("by version {version}");
    json!({"name": "versions", "steps": [
        {"id": "start", "type": "start", "transitions": [edge("success", "ask")]},
        {"id": "ask", "type": "consent", "config": asked, "transitions": [edge("approved", version)]},
        {"id": version, "type": "end", "config": {"status": "cancelled", "reason": reason}},
    ]})
}

#[test]
fn a_run_goes_the_way_of_the_version_that_it_began_with() {
    let fleet = Fleet::start();
    let mut first = fleet.worker("1", &[]);
    let definition = fleet.define(&versions("one"));
    let runs = [(); 2].map(|()| fleet.start_run(&definition, &json!({})));
    runs.iter().for_each(|run| fleet.wait_at(run, "ask", LIMIT));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("second.json");
    std::fs::write(&file, versions("two").to_string()).unwrap();
    let published = fleet.flohctl(&["workflow", "publish", file.to_str().unwrap()]);
    assert!(published.stdout.ends_with("in place of version 1\n"), "{} {}", published.stdout, published.stderr);
    let agree = |run: &str| {
        fleet.sql(&format!(
            "UPDATE floh_worker.question SET status = 'approved', answered_by = 'ada' WHERE run_id = '{run}'"
        ));
        fleet.wait_run(run, "cancelled", LIMIT).reason.unwrap()
    };
    // Both versions are known to the worker that goes on with it, or none is.
    let active = "SELECT id FROM floh_worker.workflow_definition WHERE name = 'versions' AND status = 'active'";
    let new = fleet.start_run(fleet.sql(active)[0][0].as_deref().unwrap(), &json!({}));
    fleet.wait_at(&new, "ask", LIMIT);
    assert_eq!(agree(&runs[0]), "by version one");
    first.stop();
    let mut second = fleet.worker("2", &[]);
    assert_eq!(agree(&runs[1]), "by version one");
    assert_eq!(agree(&new), "by version two");
    assert_eq!(story(&fleet.steps(&runs[1])), ["start/1 success", "ask/1 approved", "one/1 -"]);
    second.stop();
}
