//! A mail server that is away for longer than a job has attempts: what the jobs had to tell somebody arrives when it is back.

use crate::support::{Fleet, free_port, runs::chain, smtp::Smtp, wait_for, worker::Worker};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// More than a job's attempts.
const TRIES: usize = 6;

/// Starts an instance whose mail goes to this port.
fn worker(fleet: &Fleet, instance: &str, port: u16) -> Worker {
    let port = port.to_string();
    let settings =
        [("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &port), ("SMTP_TLS", "none"), ("SMTP_FROM", "floh@example.com")];
    fleet.worker(instance, &settings)
}

/// Lets a job that has come again run now, and waits until it has ended.
fn hurry(fleet: &mut Fleet, job: &str) {
    let ended = format!("SELECT ended FROM floh_worker.job_outbox WHERE job_id = '{job}' AND sent_at IS NOT NULL");
    let delayed = fleet.key("delayed");
    let how = wait_for(&format!("{job} to end"), LIMIT, || {
        let found = fleet.sql(&ended).pop()?.pop()?;
        if found.is_none() {
            fleet.sql(&format!("UPDATE floh_worker.job_outbox SET due_at = now() WHERE job_id = '{job}'"));
            fleet.redis::<i64>("ZADD", &[&delayed, &"XX", &"0", &job]);
        }
        found
    });
    assert_eq!(how, "completed");
}

/// A step asks Ada while the mail server is away, in vain again and again; then it is back. The mails that come, by their ids.
fn ask_in_vain(fleet: &mut Fleet, step: Value, table: &str, job: &str) -> (String, Vec<Value>) {
    let smtp = Smtp::start();
    let mut deaf = worker(fleet, "1", free_port());
    let run = fleet.start_run(&fleet.define(&chain("asking", vec![step])), &json!({}));
    fleet.wait_at(&run, "ask", LIMIT);
    let sql = format!("SELECT id FROM floh_worker.{table} WHERE run_id = '{run}'");
    let id = fleet.sql(&sql).remove(0).remove(0).unwrap();
    let job = job.replace("ID", &id);
    for again in 1..TRIES {
        hurry(fleet, &format!("{job}-again-{again}"));
    }
    deaf.wait_log("the mail is not sent: the mail server 127.0.0.1:");
    deaf.stop();
    assert_eq!(smtp.mails().len(), 0);
    let _hearing = worker(fleet, "2", smtp.port());
    hurry(fleet, &format!("{job}-again-{TRIES}"));
    let mails = smtp.wait_mails(1).iter().map(|mail| mail["headers"]["message-id"].clone()).collect();
    let told = format!("SELECT 1 FROM floh_worker.notification WHERE run_id = '{run}'");
    assert_eq!(fleet.sql(&told).len(), 1, "told once in the application");
    let rows = format!(
        "SELECT job_id, ended FROM floh_worker.job_outbox WHERE data ->> '{table}Id' = '{id}' AND ended IS DISTINCT FROM 'completed'"
    );
    assert_eq!(fleet.sql(&rows), Vec::<Vec<_>>::new());
    (id, mails)
}

#[test]
fn who_is_asked_to_decide_hears_of_it_when_the_mail_server_is_back() {
    let ways = json!([{"on": "approved", "to": "end"}, {"on": "rejected", "to": "end"}]);
    let step =
        json!({"id": "ask", "type": "approval", "config": {"approvers": ["ada@example.org"]}, "transitions": ways});
    let (id, mails) = ask_in_vain(&mut Fleet::start(), step, "approval", "remind-ID-0");
    assert_eq!(mails, [json!(format!("<approval.{id}.0@floh-worker.example.com>"))]);
}

#[test]
fn who_is_asked_a_question_hears_of_it_when_the_mail_server_is_back() {
    let config = json!({"assignee": "ada@example.org", "fields": [{"name": "colour"}]});
    let step = json!({"id": "ask", "type": "user_prompt", "config": config});
    let (id, mails) = ask_in_vain(&mut Fleet::start(), step, "question", "ask-ID");
    assert_eq!(mails, [json!(format!("<question.{id}@floh-worker.example.com>"))]);
}
