//! Notifications that people have to accept, with a real worker: by mail and in the application, answered as an API server
//! does; and a long list of mails, whose progress is noted.

use crate::{
    runs_people::{about, answer, edge, peopled, rows},
    support::{Fleet, smtp::Smtp, wait_for, worker::Worker},
};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn worker(fleet: &Fleet, smtp: &Smtp) -> Worker {
    let port = smtp.port().to_string();
    let settings =
        [("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &port), ("SMTP_TLS", "none"), ("SMTP_FROM", "floh@example.com")];
    fleet.worker("1", &settings)
}

/// Starts a run in which Ada and Max are told of new rules, with an end of its own for each of these outcomes.
fn start(fleet: &Fleet, name: &str, more: Value, outcomes: &[&str]) -> String {
    let edges: Vec<Value> = outcomes.iter().map(|on| edge(on, &format!("was-{on}"))).collect();
    let mut config = json!({"to": ["u-ada", "max@example.org"], "subject": "New rules for {{recipient.displayName}}",
        "text": "Read them.", "acceptance": {}});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let tell =
        json!({"id": "tell", "type": "notification", "onError": "continue", "transitions": edges, "config": config});
    let mut definition = about(name, vec![tell]);
    definition["variables"] = json!([{"name": "n", "type": "number"}]);
    let steps = definition["steps"].as_array_mut().unwrap();
    steps.pop();
    steps.extend(outcomes.iter().map(|on| json!({"id": format!("was-{on}"), "type": "end"})));
    fleet.start_run(&fleet.define(&definition), &json!({"n": 7}))
}

/// The questions of a run that waits for them: id and address, Ada's first.
fn asked(fleet: &Fleet, run: &str) -> Vec<String> {
    fleet.wait_at(run, "tell", LIMIT);
    rows(fleet, &format!("SELECT id FROM question WHERE run_id = '{run}' AND kind = 'acceptance' ORDER BY assignee_id"))
}

/// How a run's questions stand, Ada's first.
fn statuses(fleet: &Fleet, run: &str) -> Vec<String> {
    rows(fleet, &format!("SELECT status FROM question WHERE run_id = '{run}' ORDER BY assignee_id"))
}

fn wait_end(fleet: &Fleet, run: &str, step: &str) {
    assert_eq!(fleet.wait_run(run, "completed", LIMIT).current_step.as_deref(), Some(step));
}

const YES: &str = "status = 'approved', answered_by = 'u-ada'";
const NO: &str = "status = 'rejected', reason = 'too strict', answered_by = 'u-max'";
const BOTH: [&str; 2] = ["approved", "rejected"];

#[test]
fn all_have_to_accept_it_and_one_rejection_decides() {
    let (fleet, smtp) = (peopled(), Smtp::start());
    let mut worker = worker(&fleet, &smtp);
    let run = start(&fleet, "accepted", json!({}), &BOTH);
    let questions = asked(&fleet, &run);
    assert_eq!(smtp.wait_mails(2).len(), 2);
    let sql = format!(
        "SELECT assignee_id, assignee_email, title, message FROM question WHERE run_id = '{run}' ORDER BY assignee_id"
    );
    assert_eq!(
        rows(&fleet, &sql),
        ["u-ada Ada@Example.org New rules for Ada Read them.", "u-max max@example.org New rules for Max Read them."]
    );
    answer(&fleet, &questions[0], YES);
    // The first answer wakes the run, which goes on waiting for the other one.
    let waits = format!(
        "SELECT 1 FROM workflow_run WHERE id = '{run}' AND status = 'waiting' AND wake_seq > 1 AND wake_at IS NULL"
    );
    wait_for("the run to wait on", LIMIT, || (!rows(&fleet, &waits).is_empty()).then_some(()));
    assert_eq!(statuses(&fleet, &run), ["approved", "pending"]);
    answer(&fleet, &questions[1], "status = 'approved', answered_by = 'u-max'");
    wait_end(&fleet, &run, "was-approved");
    let accepted = &fleet.steps(&run)[1].result["accepted"];
    assert_eq!((&accepted[0]["answeredBy"], &accepted[1]["answeredBy"]), (&json!("u-ada"), &json!("u-max")));

    let run = start(&fleet, "rejected", json!({}), &BOTH);
    answer(&fleet, &asked(&fleet, &run)[1], NO);
    wait_end(&fleet, &run, "was-rejected");
    assert_eq!(statuses(&fleet, &run), ["void", "rejected"]);
    assert_eq!(fleet.steps(&run)[1].result["reason"], "too strict");
    assert_eq!(smtp.mails().len(), 4, "nobody is told twice");
    worker.stop();
}

#[test]
fn in_the_application_they_are_told_and_asked_at_once() {
    let fleet = peopled();
    let mut worker = fleet.worker("1", &[]);
    let run = start(&fleet, "in the application", json!({"channel": "inApp", "link": "{{n}}"}), &BOTH);
    let questions = asked(&fleet, &run);
    let sql = format!("SELECT user_id, kind, title, body, link FROM notification WHERE run_id = '{run}' ORDER BY 1");
    let told =
        ["Ada", "Max"].map(|who| format!("u-{} notification New rules for {who} Read them. 7", who.to_lowercase()));
    assert_eq!(rows(&fleet, &sql), told);
    questions.iter().for_each(|question| answer(&fleet, question, YES));
    wait_end(&fleet, &run, "was-approved");
    assert_eq!(rows(&fleet, &sql), told);
    worker.stop();
}

#[test]
fn without_an_answer_nobody_has_accepted_or_rejected_it() {
    let (fleet, mut smtp) = (peopled(), Smtp::start());
    let mut worker = worker(&fleet, &smtp);
    let expiring = json!({"acceptance": {"expiresAfter": 2}});
    let run = start(&fleet, "with an edge", expiring.clone(), &["approved", "rejected", "expired"]);
    answer(&fleet, &asked(&fleet, &run)[0], YES);
    wait_end(&fleet, &run, "was-expired");
    assert_eq!(statuses(&fleet, &run), ["approved", "expired"]);
    // These go on in spite of errors, but not by what nobody has said.
    let run = start(&fleet, "without", expiring, &BOTH);
    let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    assert!(reason.starts_with("step `tell`: not answered by "), "{reason}");
    smtp.rule(&json!({"stage": "rcpt", "to": "max@example.org", "answer": "550 no such user"}));
    let run = start(&fleet, "not told", json!({}), &BOTH);
    let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    assert!(reason.starts_with("step `tell`: not every mail was sent: max@example.org"), "{reason}");
    assert!(statuses(&fleet, &run).is_empty());
    smtp.rule(&json!({"stage": "rcpt", "to": "max@example.org", "answer": "550 no such user"}));
    let run = start(&fleet, "nobody is asked", json!({"acceptance": null}), &["success"]);
    wait_end(&fleet, &run, "was-success");
    worker.stop();
}

/// A slow server, and a worker that is killed while it sends the second mail: who was noted gets no second one.
#[test]
fn who_has_got_a_mail_is_noted_when_the_list_takes_long() {
    let (fleet, mut smtp) = (peopled(), Smtp::start());
    let mut first = worker(&fleet, &smtp);
    // Longer than 10 s, after which it is noted; the second one is under way when the note is seen.
    smtp.rule(&json!({"stage": "data", "to": "Ada@Example.org", "delay": 10.2}));
    smtp.rule(&json!({"stage": "data", "to": "max@example.org", "delay": 20}));
    let run = start(&fleet, "slow", json!({}), &BOTH);
    let noted = format!("SELECT result ->> 'sent' FROM workflow_step WHERE run_id = '{run}' AND result ? 'sent'");
    let sent = wait_for("the note", LIMIT, || rows(&fleet, &noted).into_iter().next());
    assert_eq!(sent, r#"["Ada@Example.org"]"#);
    assert!(rows(&fleet, &format!("SELECT id FROM question WHERE run_id = '{run}'")).is_empty(), "asked before told");
    smtp.wait_mails(2);
    first.kill();
    // The same instance knows that its predecessor is dead.
    let mut second = worker(&fleet, &smtp);
    asked(&fleet, &run).iter().for_each(|question| answer(&fleet, question, YES));
    wait_end(&fleet, &run, "was-approved");
    let mut to: Vec<String> = smtp.mails().iter().map(|mail| mail["to"][0].as_str().unwrap().to_string()).collect();
    to.sort_unstable();
    assert_eq!(to, ["Ada@Example.org", "max@example.org", "max@example.org"]);
    assert_eq!(fleet.steps(&run)[1].attempt, 1);
    second.stop();
}
