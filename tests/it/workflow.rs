//! `flohctl workflow`, and the document that explains definitions.

use crate::support::{child, worker::binary};
use floh_worker::engine::{Severity, validate};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, time::Duration};

/// What is shown to those who write definitions.
pub const DOCUMENT: &str = include_str!("../../docs/workflows.md");

/// The JSON blocks of the document.
pub fn examples() -> Vec<Value> {
    let blocks = DOCUMENT.split("```json\n").skip(1);
    blocks.map(|block| serde_json::from_str(block.split("```").next().unwrap()).unwrap()).collect()
}

/// A definition around one step of the document, with the variables that its examples use.
pub fn around(mut step: Value) -> Value {
    let kind = step["type"].as_str().unwrap().to_string();
    let config = step["config"].as_object().cloned().unwrap_or_default();
    let edge = |on: &str| json!({"on": on, "to": "stop"});
    let edges: Vec<Value> = match kind.as_str() {
        "end" => vec![],
        "condition" => vec![edge("true"), edge("false")],
        "case" => vec![edge("sales"), edge("long"), edge("default")],
        "notification" if config.get("acceptance").is_none() => vec![edge("success"), edge("error")],
        "notification" | "approval" | "consent" => vec![edge("approved"), edge("rejected"), edge("expired")],
        "user_prompt" => vec![edge("success"), edge("expired")],
        "document_submission" => vec![edge("success"), edge("rejected")],
        _ => vec![edge("success"), edge("error")],
    };
    step["id"] = json!("step");
    step["config"] = Value::Object(config);
    step["transitions"] = json!(edges);
    let start = json!({"id": "start", "type": "start", "transitions": [{"on": "success", "to": "step"}]});
    let stop = json!({"id": "stop", "type": "end"});
    let steps = if kind == "end" { json!([start, step]) } else { json!([start, step, stop]) };
    let variables = json!([{"name": "employee", "type": "user"}, {"name": "items", "type": "array"}]);
    json!({"name": "x", "variables": variables, "steps": steps})
}

#[test]
fn every_example_of_the_document_is_right() {
    let mut examples = examples();
    let whole = examples.remove(0);
    assert_eq!(validate(&whole).1, []);
    let mut types = BTreeSet::from(["start".to_string()]);
    for step in examples {
        types.insert(step["type"].as_str().unwrap().to_string());
        assert_eq!(validate(&around(step.clone())).1, [], "{step}");
    }
    assert_eq!(types.len(), 15, "every type has an example: {types:?}");
}

#[test]
fn the_document_names_every_code_that_is_found() {
    let source = |name: &str| fs::read_to_string(format!("{}/src/engine/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let steps = fs::read_dir(format!("{}/src/engine/steps", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut text: String =
        ["definition.rs", "fields.rs", "condition.rs", "validate.rs", "validate/ways.rs"].map(source).concat();
    let files = steps.map(|file| file.unwrap().path()).filter(|path| path.is_file());
    text.extend(files.map(|path| fs::read_to_string(path).unwrap()));
    let is_code = |word: &&str| word.len() > 3 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let codes: BTreeSet<&str> = text.split('"').skip(1).step_by(2).filter(is_code).collect();
    assert!(codes.len() > 20, "{codes:?}");
    for code in codes {
        assert!(DOCUMENT.contains(&format!("`{code}`")), "{code} is not explained");
    }
}

fn flohctl(arguments: &[&str], input: &str) -> child::Finished {
    let prepare = |command: &mut std::process::Command| _ = command.args(arguments).env_clear();
    child::run(&binary("flohctl"), prepare, input.as_bytes(), Duration::from_secs(20))
}

#[test]
fn flohctl_validates_and_draws_without_any_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("definition.json");
    let mut definition = examples().remove(0);
    fs::write(&path, definition.to_string()).unwrap();
    let file = path.to_str().unwrap();
    let done = flohctl(&["workflow", "validate", file], "");
    assert_eq!((done.status.code(), done.stderr.as_str()), (Some(0), ""), "{}", done.stdout);
    assert!(done.stdout.contains("can be published"));
    let drawn = flohctl(&["workflow", "show", file], "");
    assert_eq!(drawn.status.code(), Some(0));
    for line in [
        "Employee onboarding (onboarding)",
        "  employee: user, required",
        "ask    approval  The manager decides  [waits]",
        "  ├─ rejected → no",
        "  └─ expired → ask  ↑",
    ] {
        assert!(drawn.stdout.lines().any(|one| one == line), "{line}\n{}", drawn.stdout);
    }
    // From standard input, and wrong.
    definition["steps"][1]["transitions"][0]["to"] = json!("grnat");
    let wrong = flohctl(&["workflow", "validate", "-"], &definition.to_string());
    assert_eq!(wrong.status.code(), Some(1), "{}", wrong.stderr);
    assert!(wrong.stdout.contains("error UNKNOWN_STEP at steps[1].transitions[0].to: there is no step `grnat`"));
}

#[test]
fn what_is_no_definition_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.json");
    fs::write(&large, vec![b' '; 5 * 1024 * 1024]).unwrap();
    for (arguments, input, words) in [
        (["workflow", "validate", "/nonexistent.json"], "", "/nonexistent.json: No such file"),
        (["workflow", "validate", "/"], "", "/: Is a directory"),
        (["workflow", "show", "-"], "{\"name\": ", "-: it is not JSON: EOF"),
        (["workflow", "validate", "-"], "", "-: it is not JSON"),
        (["workflow", "validate", large.to_str().unwrap()], "", "larger than"),
    ] {
        let done = flohctl(&arguments, input);
        assert_eq!(done.status.code(), Some(78), "{arguments:?}: {}", done.stderr);
        assert!(done.stderr.contains(words), "{arguments:?}: {}", done.stderr);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    }
    let nothing = flohctl(&["workflow", "validate", "-"], "[]");
    assert_eq!(nothing.status.code(), Some(1));
    assert!(validate(&json!([])).1.iter().all(|finding| finding.severity == Severity::Error));
}
