//! Valid definitions that are made by chance.

use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};
use std::ops::Range;

/// So many milliseconds as a number of seconds that reads well.
fn seconds(random: &mut StdRng, milliseconds: Range<u32>) -> f64 {
    f64::from(random.random_range(milliseconds)) / 1000.0
}

fn edge(on: &str, to: impl Into<String>) -> Value {
    json!({"on": on, "to": to.into()})
}

/// A valid definition of `length` steps between start and end. Every way leads forward, but for loops: from a step that
/// counts its rounds back to an earlier one, through a step that waits.
pub fn random_definition(random: &mut StdRng, number: u32) -> Value {
    let length = random.random_range(3..12_usize);
    let id = |index: usize| if index < length { format!("s{index}") } else { "end".to_string() };
    let mut steps = vec![json!({"id": "start", "type": "start", "transitions": [edge("success", id(0))]})];
    let mut loops = 0;
    for index in 0..length {
        // Everything can be reached: one way leads to the next step.
        let next = id(index + 1);
        let later = id(random.random_range(index + 1..=length));
        let step = match random.random_range(0..12) {
            0 | 1 => transform(random, &id(index), next),
            2 => json!({"id": id(index), "type": "condition",
                "config": {"if": {"variable": "n", "greaterThan": random.random_range(0..6)}},
                "transitions": [edge("true", next), edge("false", later)]}),
            3 => json!({"id": id(index), "type": "case",
                "config": {"cases": [{"label": "few", "when": {"variable": "n", "lessThan": random.random_range(0..6)}}]},
                "transitions": [edge("few", later), edge("default", next)]}),
            4 => failing(random, &id(index), next, later),
            5 => called(random, &id(index), next),
            6 => overtaken(random, &id(index), next, later),
            7 | 8 => asking(random, &id(index), next, later),
            9 => flaky(random, &id(index), next, later),
            10 | 11 if index > 0 => {
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
        edges.push(edge("error", later.as_str()));
    }
    let mut step = json!({"id": id, "type": "transform",
        "config": {"code": "throw new Error('on purpose')", "outputs": [id]}, "transitions": edges});
    if random.random_bool(0.5) {
        step["retry"] = json!({"attempts": random.random_range(2..5), "delay": 0.05});
        limit(random, &mut step, 300, later);
    }
    step
}

/// A step that fails or is slow now and then, with tries and pauses that may take longer than it is given.
fn flaky(random: &mut StdRng, id: &str, next: String, later: String) -> Value {
    let code = format!(
        "const end = Date.now() + 60 * Math.random(); while (Date.now() < end); \
         if (Math.random() < 0.5) throw new Error('this time'); return {{{id}: true}}"
    );
    let backoff = if random.random_bool(0.5) { "exponential" } else { "fixed" };
    let mut step = json!({"id": id, "type": "transform", "config": {"code": code, "outputs": [id]},
        "retry": {"attempts": random.random_range(2..6), "delay": seconds(random, 20..100), "backoff": backoff},
        "transitions": [edge("success", next)]});
    limit(random, &mut step, 600, later);
    step
}

/// Gives a step a `timeout`, perhaps, and an edge for it, perhaps.
fn limit(random: &mut StdRng, step: &mut Value, most: u32, later: String) {
    if random.random_bool(0.6) {
        step["timeout"] = json!(seconds(random, 50..most));
        if random.random_bool(0.5) {
            step["transitions"].as_array_mut().unwrap().push(edge("timeout", later));
        }
    }
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

/// A wait that may be longer than it is given.
fn overtaken(random: &mut StdRng, id: &str, next: String, later: String) -> Value {
    let mut step = waiting(id, next);
    limit(random, &mut step, 200, later);
    step
}

/// A step that asks people, for a time that always ends. What does not lead on leads further, or asks again.
fn asking(random: &mut StdRng, id: &str, next: String, later: String) -> Value {
    let (mut step, mut failures) = match random.random_range(0..5) {
        0 => (prompt(random), vec!["error"]),
        1 => {
            let config = json!({"user": "a@example.org", "text": "I agree."});
            (json!({"type": "consent", "config": config}), vec!["error", "rejected"])
        }
        _ => (approval(random, id), vec!["error", "rejected"]),
    };
    step["id"] = json!(id);
    let limits = random.random_range(0..3);
    if limits != 0 {
        step["timeout"] = json!(seconds(random, 200..700));
        failures.push("timeout");
    }
    if limits != 1 {
        step["config"]["expiresAfter"] = json!(seconds(random, 200..700));
        failures.push("expired");
    }
    let first = if step["type"] == "user_prompt" { "success" } else { "approved" };
    let mut edges = vec![edge(first, next)];
    for on in failures {
        match random.random_range(0..10) {
            0 if on != "error" => edges.push(edge(on, id)),
            0..6 => edges.push(edge(on, later.as_str())),
            _ => {}
        }
    }
    step["transitions"] = json!(edges);
    step
}

fn prompt(random: &mut StdRng) -> Value {
    let fields = json!([{"name": "n", "type": "number", "required": true},
        {"name": "why", "type": "string", "required": random.random_bool(0.5)}]);
    json!({"type": "user_prompt", "config": {"assignee": "a@example.org", "fields": fields}})
}

fn approval(random: &mut StdRng, id: &str) -> Value {
    let count = random.random_range(1..=3_usize);
    let approvers = &["a@example.org", "b@example.org", "c@example.org"][..count];
    let mut config = json!({"approvers": approvers, "notify": random.random_bool(0.5)});
    match random.random_range(0..4) {
        0 => {}
        1 => config["mode"] = json!("sequential"),
        2 => config["mode"] = json!("parallel"),
        _ => {
            config["mode"] = json!("parallel");
            config["quorum"] = json!(random.random_range(1..=count));
        }
    }
    if random.random_bool(0.5) {
        config["output"] = json!(format!("decision_{id}"));
    }
    if random.random_bool(0.2) {
        config["escalation"] = json!({"remindAfter": 0.1, "reassignAfter": 0.2, "reassignTo": "boss@example.org"});
    }
    json!({"type": "approval", "config": config})
}
