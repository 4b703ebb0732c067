//! Long lists of mails: a recipient who is refused or put off costs the others nothing that was noted, and a server that says
//! nothing costs no attempt of the job.

use crate::support::{Fleet, runs::chain, smtp::Smtp, wait_for, worker::Worker};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(200);

fn worker(fleet: &Fleet, smtp: &Smtp, more: &[(&str, &str)]) -> Worker {
    let port = smtp.port().to_string();
    let settings =
        [("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &port), ("SMTP_TLS", "none"), ("SMTP_FROM", "floh@example.com")];
    fleet.worker("1", &[&settings, more].concat())
}

/// Starts a run that tells them something in one try, and goes to an end of its own where it fails.
fn start(fleet: &Fleet, names: &[&str]) -> String {
    let to: Vec<String> = names.iter().map(|name| format!("{name}@example.org")).collect();
    let edges = ["success", "error"].map(|on| json!({"on": on, "to": format!("was-{on}")}));
    let tell = json!({"id": "tell", "type": "notification", "retry": {"attempts": 1}, "transitions": edges,
        "config": {"to": to, "subject": "a", "text": "b"}});
    let mut definition = chain("list", vec![tell]);
    let steps = definition["steps"].as_array_mut().unwrap();
    steps.pop();
    steps.extend(["success", "error"].map(|on| json!({"id": format!("was-{on}"), "type": "end"})));
    fleet.start_run(&fleet.define(&definition), &json!({}))
}

/// Who has been sent a mail, in order.
fn told(smtp: &Smtp) -> Vec<String> {
    let name = |mail: &Value| mail["to"][0].as_str().unwrap().split('@').next().unwrap().to_string();
    let mut told: Vec<String> = smtp.mails().iter().map(name).collect();
    told.sort_unstable();
    told
}

/// The step has failed, in its one try, and gone on by its edge. Why it has.
fn failure(fleet: &Fleet, run: &str) -> String {
    let end = fleet.wait_run(run, "completed", LIMIT).current_step;
    let step = &fleet.steps(run)[1];
    assert_eq!((end.as_deref(), step.attempt), (Some("was-error"), 1), "{step:#?}");
    step.reason.clone().unwrap()
}

/// The worker is killed while it sends the last mail, after the note of the one before.
#[test]
fn who_is_refused_or_put_off_keeps_nobody_from_being_noted() {
    let (fleet, mut smtp) = (Fleet::start(), Smtp::start());
    let mut first = worker(&fleet, &smtp, &[]);
    smtp.rule(&json!({"stage": "rcpt", "to": "ada@example.org", "answer": "550 no such user"}));
    smtp.rule(&json!({"stage": "rcpt", "to": "bob@example.org", "answer": "451 later"}));
    // Longer than 10 s, after which it is noted.
    smtp.rule(&json!({"stage": "data", "to": "eve@example.org", "delay": 10.2}));
    smtp.rule(&json!({"stage": "data", "to": "zoe@example.org", "delay": 20}));
    let run = start(&fleet, &["ada", "bob", "eve", "zoe"]);
    wait_for("the last mail", LIMIT, || (smtp.mails().len() == 2).then_some(()));
    let noted = &fleet.steps(&run)[1].result;
    assert_eq!(noted["sent"], json!(["eve@example.org"]), "{noted}");
    first.kill();
    let mut second = worker(&fleet, &smtp, &[]);
    let why = failure(&fleet, &run);
    assert!(why.starts_with("the mail to bob@example.org was not sent: the mail server 127.0.0.1:"), "{why}");
    let (put_off, refused) = why.split_once("; refused for good: ").expect("both are told");
    assert!(put_off.ends_with(": 451 later") && refused.starts_with("ada@example.org: the mail server"), "{why}");
    assert!(refused.ends_with(": 550 no such user"), "{why}");
    // Nobody knew what had become of the last one.
    assert_eq!(told(&smtp), ["eve", "zoe", "zoe"]);
    assert_eq!(fleet.steps(&run)[1].result, json!({"sent": ["eve@example.org", "zoe@example.org"]}));
    second.stop();
}

/// Each silence takes 30 s, and all of them together more than the job has.
#[test]
fn a_server_that_takes_recipients_and_says_no_more_fails_the_step_and_not_the_job() {
    let (fleet, mut smtp) = (Fleet::start(), Smtp::start());
    let mut worker = worker(&fleet, &smtp, &[("JOB_TIMEOUTS", "resume-run=50")]);
    smtp.rule(&json!({"stage": "data", "delay": 300, "times": 9}));
    let run = start(&fleet, &["ada", "bob", "eve", "zoe"]);
    let why = failure(&fleet, &run);
    assert!(why.starts_with("the mail to ada@example.org was not sent: "), "{why}");
    assert!(why.ends_with("did not answer within 30 s"), "{why}");
    assert_eq!(told(&smtp), ["ada", "bob"], "nobody is sent a second one, and the others wait for a next try");
    worker.stop();
}
