//! What others have written into the tables steers no terminal, and passes for no line of flohctl's own.

use crate::support::{Fleet, peer::QUEUE, runs::quote};
use serde_json::{Value, json};

/// Clears the screen, colours it, turns what follows around, and says something in flohctl's place.
const HOSTILE: &str = "\u{1b}[2J\u{9b}31m\u{202e}x\r\nall is well\u{7}";
/// How that looks in the end, as far as lines allow that are put together of words.
const HARMLESS: &str = r"\u{1b}[2J\u{9b}31m\u{202e}x";
/// Of a definition, a connector, and a run that has failed.
const ID: &str = "6f1c0d3a-0000-4000-8000-000000000000";
/// Of a run that waits.
const WAITING: &str = "6f1c0d3a-0000-4000-8000-000000000001";

/// Puts it wherever the tables take any text. No trigger of ours is asked.
fn fill(fleet: &Fleet) {
    let text = quote(HOSTILE);
    let steps =
        json!([{"id": HOSTILE, "type": HOSTILE, "name": HOSTILE, "transitions": [{"on": HOSTILE, "to": HOSTILE}]}]);
    let variables = json!([{"name": HOSTILE, "type": "string"}]);
    let definition = json!({"name": HOSTILE, "category": HOSTILE, "variables": variables, "steps": steps});
    let values = quote(&json!({HOSTILE: [HOSTILE]}).to_string());
    let fields = quote(&json!([{"name": HOSTILE, "type": HOSTILE, "label": HOSTILE}]).to_string());
    let base = quote(&json!({"baseUrl": HOSTILE}).to_string());
    fleet.sql(&format!(
        "SET session_replication_role = replica; SET search_path = floh_worker;
        INSERT INTO workflow_definition (id, name, status, category, definition)
            VALUES ('{ID}', {text}, 'draft', {text}, {definition});
        INSERT INTO workflow_run (id, definition_id, status, current_step, submitter_id, variables, failure_reason, finished_at)
            VALUES ('{ID}', '{ID}', 'failed', {text}, {text}, {values}, {text}, now());
        INSERT INTO workflow_step (run_id, step_id, type, status, outcome, failure_reason, result, position, started_at)
            VALUES ('{ID}', {text}, {text}, 'failed', {text}, {text}, {values}, 1, now());
        INSERT INTO workflow_run (id, definition_id, status, current_step) VALUES ('{WAITING}', '{ID}', 'waiting', {text});
        INSERT INTO workflow_step (run_id, step_id, type, status, position, started_at)
            VALUES ('{WAITING}', {text}, 'approval', 'waiting_approval', 1, now());
        INSERT INTO approval (run_id, step_id, visit, position, mode, quorum, approver, title, status, asked_at)
            VALUES ('{WAITING}', {text}, 1, 1, 'parallel', 1, {text}, {text}, 'pending', now());
        INSERT INTO approval (run_id, step_id, visit, position, mode, quorum, approver, status, decided_by, decided_at, reason,
                reassigned_because)
            VALUES ('{ID}', {text}, 1, 2, 'parallel', 1, {text}, 'rejected', {text}, now(), {text}, {text});
        INSERT INTO question (run_id, step_id, visit, kind, assignee_id, title, message, fields)
            VALUES ('{WAITING}', {text}, 1, 'prompt', {text}, {text}, {text}, {fields});
        INSERT INTO workflow_schedule (name, definition, cron, zone) VALUES ({text}, {text}, {text}, {text});
        INSERT INTO connector_definition (id, name, type, connector_config, mocks)
            VALUES ('{ID}', {text}, 'http', {base}, {values});
        INSERT INTO job_execution (queue, job_id, job_timestamp, attempts_made, name, attempts_started,
                processed_on, epoch, instance, invocation, state)
            VALUES ('bull:{QUEUE}', {text}, 7, 0, {text}, 1, 1, 1, '1', gen_random_uuid(), 'quarantined');
        INSERT INTO job_suspicion (queue, job_id, job_timestamp, invocation, name, instance, host, evidence)
            VALUES ('bull:{QUEUE}', {text}, 7, gen_random_uuid(), {text}, {text}, {text}, {text})",
        definition = quote(&definition.to_string()),
    ));
}

#[test]
fn foreign_text_is_only_seen() {
    let fleet = Fleet::start();
    fill(&fleet);
    for (arguments, code) in [
        (&["run", "list"][..], 0),
        (&["run", "show", ID], 0),
        (&["run", "show", WAITING], 0),
        (&["approval", "list", "--all"], 0),
        (&["question", "list"], 0),
        (&["schedule", "list"], 0),
        (&["connector", "list"], 0),
        (&["workflow", "list"], 0),
        (&["workflow", "show", ID], 1),
        (&["workflow", "validate", ID], 1),
        (&["job", "quarantine", "list"], 0),
        // What a refusal repeats, on standard error.
        (&["run", "show", HOSTILE], 64),
        (&["workflow", "publish", HOSTILE], 1),
    ] {
        let done = fleet.flohctl(arguments);
        let said = format!("{}{}", done.stdout, done.stderr);
        let acts = |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!said.contains(acts), "{arguments:?}: {said:?}");
        assert!(!said.lines().any(|line| line.starts_with("all is well")), "{arguments:?}: {said}");
        assert!(said.contains(HARMLESS), "{arguments:?}: {said}");
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {said}");
    }
    // JSON means what is there.
    for (arguments, path) in [
        (&["run", "list", "--status", "failed", "--json"][..], "/0/failureReason"),
        (&["run", "show", ID, "--json"], "/steps/0/failureReason"),
        (&["connector", "show", ID], "/config/baseUrl"),
    ] {
        let said = fleet.flohctl(arguments).stdout;
        assert!(!said.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'), "{said:?}");
        let value: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(value.pointer(path), Some(&json!(HOSTILE)), "{arguments:?}: {said}");
    }
}
