//! What a definition makes of a run's variables has an end before the memory has.

use crate::support::{Fleet, free_port, runs::chain, worker::Worker};
use serde_json::{Value, json};
use std::{fs, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);

/// A large variable; a run may have one more like it.
const LARGE: usize = 400_000;

/// Starts a run of one step that knows the variable `large`.
fn start(fleet: &Fleet, name: &str, kind: &str, config: Value, edges: &[&str]) -> String {
    let edges: Vec<Value> = edges.iter().map(|on| json!({"on": on, "to": "end"})).collect();
    let retry = json!({"attempts": 1});
    let step = json!({"id": "step", "type": kind, "retry": retry, "config": config, "transitions": edges});
    let mut definition = chain(name, vec![step]);
    definition["variables"] = json!([{"name": "large", "type": "string"}]);
    fleet.start_run(&fleet.define(&definition), &json!({"large": "x".repeat(LARGE)}))
}

fn failure(fleet: &Fleet, run: &str) -> String {
    fleet.wait_run(run, "failed", LIMIT).reason.unwrap()
}

fn addresses(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("p{number}@example.org")).collect()
}

#[test]
fn a_variable_that_is_named_again_and_again_fails_the_step() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let call = |name: &str, times: usize| {
        let params = json!({"method": "POST", "url": "https://example.org/", "body": vec!["{{large}}"; times]});
        let config = json!({"connectorId": "http", "command": "request", "params": params, "mock": {"a": 1}});
        start(&fleet, name, "connector", config, &["success"])
    };
    let few = call("few", 10);
    let many = call("many", 12);
    assert_eq!(
        failure(&fleet, &many),
        "step `step`: `params`: the values that are put into templates have more than 4 MiB together"
    );
    fleet.wait_run(&few, "completed", LIMIT);
    worker.stop();
}

#[test]
fn what_many_people_are_shown_has_a_size() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let much = "step `step`: what its people are shown has more than 16 MiB together";
    let tell = json!({"channel": "inApp", "to": addresses(45), "subject": "a", "text": "{{large}}"});
    let told = start(&fleet, "told", "notification", tell, &["success"]);
    let link = json!({"channel": "inApp", "to": addresses(45), "text": "a", "link": "/{{large}}"});
    let linked = start(&fleet, "linked", "notification", link, &["success"]);
    // Before anybody gets a mail about it.
    let accept = json!({"to": addresses(45), "subject": "a", "text": "{{large}}", "acceptance": {}});
    let accepted = start(&fleet, "accepted", "notification", accept, &["approved", "rejected"]);
    let ask = json!({"approvers": addresses(45), "mode": "parallel", "message": "{{large}}"});
    let asked = start(&fleet, "asked", "approval", ask, &["approved", "rejected"]);
    for run in [told, linked, accepted, asked] {
        assert_eq!(failure(&fleet, &run), much);
    }
    assert_eq!(fleet.sql("SELECT count(*) FROM floh_worker.notification")[0][0].as_deref(), Some("0"));
    worker.stop();
}

/// The reference is what the reviewers are shown, and comes out of an answer.
#[test]
fn what_many_reviewers_are_shown_of_a_document_has_a_size() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let config = json!({"assignee": "ada@example.org", "documentType": "nda", "reviewers": addresses(70)});
    let run = start(&fleet, "reviewed", "document_submission", config, &["success", "rejected"]);
    fleet.wait_at(&run, "step", LIMIT);
    let given = json!({"reference": "x".repeat(250_000)});
    fleet.sql(&format!(
        "UPDATE floh_worker.question SET status = 'answered', answer = '{given}', answered_by = 'ada' WHERE run_id = '{run}'"
    ));
    assert_eq!(failure(&fleet, &run), "step `step`: what its people are shown has more than 16 MiB together");
    worker.stop();
}

/// The most memory that it has had, bytes.
fn peak(worker: &Worker) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Nothing listens there, so that the step ends with the first of them.
#[test]
fn mails_are_looked_at_before_the_first_one_is_sent_and_not_kept() {
    let fleet = Fleet::start();
    let port = free_port().to_string();
    let settings =
        [("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &*port), ("SMTP_TLS", "none"), ("SMTP_FROM", "floh@example.com")];
    let mut worker = fleet.worker("1", &settings);
    let tell = |name: &str, to: Vec<String>, text: &str| {
        let config = json!({"to": to, "subject": "a", "text": text, "html": "{{large}}".repeat(2)});
        failure(&fleet, &start(&fleet, name, "notification", config, &["success"]))
    };
    let text = "{{large}}".repeat(2);
    let one = tell("one", addresses(1), &text);
    assert!(one.contains("the mail to p0@example.org was not sent: "), "{one}");
    let before = peak(&worker);
    let all = tell("all", addresses(60), &text);
    assert!(all.contains("the mail to p0@example.org was not sent: "), "{all}");
    let grown = (peak(&worker) - before) / (1024 * 1024);
    assert!(grown < 40, "60 mails of 1.6 MB took {grown} MiB");
    let wrong = tell("wrong", addresses(2), "{{#if (eq recipient.email \"p1@example.org\")}}{{recipient.nick}}{{/if}}");
    assert!(wrong.contains("`text`, line 1: `recipient.nick` has no value"), "{wrong}");
    worker.stop();
}
