//! Random valid definitions, with branches, loops that wait, errors and retries, executed by workers that are killed at
//! random: every run ends or waits, no committed step is repeated, and what is stored equals a replay of the step rows.

use crate::support::{
    Fleet,
    runs::{RunRow, StepRow},
    wait_for,
};
use floh_worker::engine::{Severity, validate};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Definitions, with one run each.
const RUNS: usize = 40;
const LIMIT: Duration = Duration::from_secs(120);

fn edge(on: &str, to: impl Into<String>) -> Value {
    json!({"on": on, "to": to.into()})
}

/// A valid definition of `length` steps between start and end. Every way leads forward, but for loops: from a step that
/// counts its rounds back to an earlier one, through a step that waits.
fn random_definition(random: &mut StdRng, number: usize) -> Value {
    let length = random.random_range(3..12_usize);
    let id = |index: usize| if index < length { format!("s{index}") } else { "end".to_string() };
    let mut steps = vec![json!({"id": "start", "type": "start", "transitions": [edge("success", id(0))]})];
    let mut loops = 0;
    for index in 0..length {
        // Everything can be reached: one way leads to the next step.
        let next = id(index + 1);
        let later = id(random.random_range(index + 1..=length));
        let step = match random.random_range(0..8) {
            0 | 1 => transform(random, &id(index), next),
            2 => json!({"id": id(index), "type": "condition",
                "config": {"if": {"variable": "n", "greaterThan": random.random_range(0..6)}},
                "transitions": [edge("true", next), edge("false", later)]}),
            3 => json!({"id": id(index), "type": "case",
                "config": {"cases": [{"label": "few", "when": {"variable": "n", "lessThan": random.random_range(0..6)}}]},
                "transitions": [edge("few", later), edge("default", next)]}),
            4 => failing(random, &id(index), next, later),
            5 => called(random, &id(index), next),
            6 => waiting(&id(index), next),
            _ if index > 0 => {
                // back → wait → an earlier step, at most three times.
                loops += 1;
                let (count, pause) = (format!("rounds{loops}"), format!("pause{loops}"));
                let back = id(random.random_range(0..index));
                steps.push(waiting(&pause, back));
                steps.push(json!({"id": format!("count{loops}"), "type": "transform",
                    "config": {"code": format!("return {{{count}: (floh.variables.{count} || 0) + 1}}"), "outputs": [count]},
                    "transitions": [edge("success", format!("again{loops}"))]}));
                steps.push(json!({"id": format!("again{loops}"), "type": "condition",
                    "config": {"if": {"variable": count, "lessThan": random.random_range(1..4)}},
                    "transitions": [edge("true", pause), edge("false", next)]}));
                json!({"id": id(index), "type": "condition", "config": {"if": {"variable": "n", "exists": true}},
                    "transitions": [edge("true", format!("count{loops}")), edge("false", later)]})
            }
            _ => transform(random, &id(index), next),
        };
        steps.push(step);
    }
    steps.push(json!({"id": "end", "type": "end"}));
    let on_error = if random.random_bool(0.5) { "stop" } else { "continue" };
    json!({
        "name": format!("random {number}"),
        "onError": on_error,
        "variables": [{"name": "n", "type": "number", "required": true}],
        "steps": steps,
    })
}

fn transform(random: &mut StdRng, id: &str, next: String) -> Value {
    let code = match random.random_range(0..4) {
        0 => "return {n: floh.variables.n + 1}".to_string(),
        1 => format!("return {{{id}: [floh.variables.n, {{deep: 'ä'}}]}}"),
        2 => format!("return {{n: 0, {id}: floh.variables.run.definition}}"),
        _ => format!("return {{{id}: null}}"),
    };
    json!({"id": id, "type": "transform", "config": {"code": code, "outputs": ["n", id]},
        "transitions": [edge("success", next)]})
}

/// A step that fails, at once or after a few tries.
fn failing(random: &mut StdRng, id: &str, next: String, later: String) -> Value {
    let mut edges = vec![edge("success", next)];
    if random.random_bool(0.6) {
        edges.push(edge("error", later));
    }
    let mut step = json!({"id": id, "type": "transform",
        "config": {"code": "throw new Error('on purpose')", "outputs": [id]}, "transitions": edges});
    if random.random_bool(0.5) {
        step["retry"] = json!({"attempts": random.random_range(2..4), "delay": 0.05});
    }
    step
}

fn called(random: &mut StdRng, id: &str, next: String) -> Value {
    let mock = if random.random_bool(0.7) {
        json!({"data": {"id": random.random_range(0..100)}})
    } else {
        json!({"error": {"message": "no", "code": "NO"}})
    };
    json!({"id": id, "type": "connector", "retry": {"attempts": 2, "delay": 0.05},
        "config": {"connectorId": "http", "command": "request", "params": {"url": "http://localhost/"}, "mock": mock,
            "outputs": {id: "id"}},
        "transitions": [edge("success", next)]})
}

fn waiting(id: &str, next: String) -> Value {
    json!({"id": id, "type": "connector",
        "config": {"connectorId": "delay", "command": "wait", "params": {"duration": 0.1}},
        "transitions": [edge("success", next)]})
}

/// The step that follows, by the definition alone.
fn follower(definition: &Value, row: &StepRow) -> Option<String> {
    let step = definition["steps"].as_array().unwrap().iter().find(|step| step["id"] == row.id.as_str()).unwrap();
    let edges = step["transitions"].as_array()?;
    let to = |on: &str| edges.iter().find(|edge| edge["on"] == on).map(|edge| edge["to"].as_str().unwrap().to_string());
    let own = to(row.outcome.as_deref()?);
    if row.status == "completed" {
        return own;
    }
    let carries_on = definition["onError"] == "continue";
    // As if it had succeeded; what could not be compared does not hold.
    let first = match step["type"].as_str()? {
        "condition" => "false",
        "case" => "default",
        _ => edges.first()?["on"].as_str()?,
    };
    own.or_else(|| to("error")).or_else(|| to(first).filter(|_| carries_on))
}

/// The run and its rows agree with each other and with the definition.
fn check_replay(definition: &Value, given: &Value, run: &RunRow, rows: &[StepRow]) {
    let mut variables: Map<String, Value> = given.as_object().unwrap().clone();
    let mut visits: BTreeMap<&str, i32> = BTreeMap::new();
    let mut expected = Some("start".to_string());
    for row in rows {
        assert_eq!(expected.as_deref(), Some(row.id.as_str()), "{definition:#}\n{rows:#?}");
        let visit = visits.entry(&row.id).or_default();
        *visit += 1;
        assert_eq!(row.visit, *visit, "{rows:#?}");
        assert!(["completed", "failed"].contains(&row.status.as_str()), "{rows:#?}");
        let allowed =
            definition["steps"].as_array().unwrap().iter().find(|step| step["id"] == row.id.as_str()).unwrap();
        assert!(i64::from(row.attempt) <= allowed["retry"]["attempts"].as_i64().unwrap_or(1), "{rows:#?}");
        variables.extend(row.set.as_object().unwrap().clone());
        expected = follower(definition, row);
    }
    assert_eq!(expected, None, "it ends where no way leads on: {rows:#?}");
    let last = rows.last().unwrap();
    let status = if last.id == "end" { "completed" } else { "failed" };
    assert_eq!(run.status, status, "{run:#?}\n{rows:#?}");
    assert_eq!(run.current_step.as_deref(), Some(last.id.as_str()));
    assert_eq!(run.variables, Value::Object(variables), "{rows:#?}");
}

#[test]
fn random_definitions_end_and_their_runs_equal_a_replay_of_their_steps() {
    let seed = rand::rng().next_u64();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let fleet = Fleet::start();
    let settings = [("WORKER_CONCURRENCY", "4"), ("CONNECTOR_ALLOWED_HOSTS", "localhost")];
    let mut workers = [fleet.worker("1", &settings), fleet.worker("2", &settings)];
    let mut runs = Vec::new();
    for number in 0..RUNS {
        let definition = random_definition(&mut random, number);
        let errors: Vec<_> =
            validate(&definition).1.into_iter().filter(|one| one.severity == Severity::Error).collect();
        // A step that both ways lead past cannot be reached; the rest of the definition is as good.
        if !errors.is_empty() {
            assert!(errors.iter().all(|one| one.code == "UNREACHABLE_STEP"), "{errors:#?}\n{definition:#}");
            continue;
        }
        let given = json!({"n": random.random_range(0..8)});
        let row = fleet.define(&definition);
        runs.push((fleet.start_run(&row, &given), definition, given));
        if number % 10 == 9 {
            let index = usize::from(random.random_bool(0.5));
            let name = if index == 0 { "1" } else { "2" };
            workers[index].kill();
            workers[index] = fleet.worker(name, &settings);
        }
    }
    assert!(runs.len() > RUNS / 2, "only {} of {RUNS} definitions are valid", runs.len());
    wait_for("the runs' ends", LIMIT, || {
        let open = "SELECT id FROM floh_worker.workflow_run WHERE status IN ('pending', 'running', 'waiting')";
        fleet.sql(open).is_empty().then_some(())
    });
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for (id, definition, given) in &runs {
        let run = fleet.run(id);
        check_replay(definition, given, &run, &fleet.steps(id));
        *ends.entry(run.status).or_default() += 1;
    }
    // Where all ended alike, the definitions were not what they should be.
    assert!(ends.contains_key("completed") && ends.contains_key("failed"), "{ends:?}");
    for worker in &mut workers {
        worker.stop();
    }
}
