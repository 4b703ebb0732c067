//! A reminder whose worker dies, loses it, or is not alone with it: what is said in the application is there once, it counts
//! once, one reminder follows, and each mail arrives, a repeated one under the same id.

use crate::support::{
    Fleet,
    runs::{chain, points_passed},
    smtp::Smtp,
    wait_for,
    worker::Worker,
};
use serde_json::{Value, json};
use std::{env, net::TcpListener, time::Duration};
use tokio::runtime::Runtime;

const LIMIT: Duration = Duration::from_secs(60);

/// Starts an instance whose mail goes to this port.
fn worker(fleet: &Fleet, instance: &str, port: u16, settings: &[(&str, &str)]) -> Worker {
    let port = port.to_string();
    let mut all = vec![
        ("SMTP_HOST", "127.0.0.1"),
        ("SMTP_PORT", &port),
        ("SMTP_TLS", "none"),
        ("SMTP_FROM", "floh@example.com"),
        ("WORKER_CONCURRENCY", "1"),
    ];
    all.extend_from_slice(settings);
    fleet.worker(instance, &all)
}

/// Publishes a definition that asks Ada, who hears nothing but reminders: the second of two so long after the first.
fn define(fleet: &Fleet, after: &str, every: &str) -> String {
    let config = json!({"approvers": ["ada@example.org"], "notify": false,
        "escalation": {"remindAfter": after, "remindEvery": every, "maxReminders": 2}});
    let ways = json!([{"on": "approved", "to": "end"}, {"on": "rejected", "to": "end"}]);
    fleet
        .define(&chain("asking", vec![json!({"id": "ask", "type": "approval", "config": config, "transitions": ways})]))
}

/// Starts a run and waits until it asks; the approval's id.
fn ask(fleet: &Fleet, definition: &str) -> String {
    let run = fleet.start_run(definition, &json!({}));
    fleet.wait_at(&run, "ask", LIMIT);
    column(fleet, &format!("SELECT id FROM floh_worker.approval WHERE run_id = '{run}'")).remove(0)
}

/// The first column of a query.
fn column(fleet: &Fleet, sql: &str) -> Vec<String> {
    fleet.sql(sql).into_iter().map(|mut row| row[0].take().unwrap_or_default()).collect()
}

/// Makes the first reminder due now.
fn remind(fleet: &mut Fleet, approval: &str) {
    let job = format!("remind-{approval}-1");
    let sent = format!("SELECT 1 FROM floh_worker.job_outbox WHERE job_id = '{job}' AND sent_at IS NOT NULL");
    wait_for("the reminder to be in the queue", LIMIT, || (!fleet.sql(&sent).is_empty()).then_some(()));
    fleet.sql(&format!("UPDATE floh_worker.job_outbox SET due_at = now() WHERE job_id = '{job}'"));
    fleet.call(6, "promote", json!({"job": job}));
}

/// What Ada was told in the application about an approval.
fn told(fleet: &Fleet, approval: &str) -> Vec<String> {
    column(
        fleet,
        &format!(
            "SELECT n.kind FROM floh_worker.notification n JOIN floh_worker.approval a USING (run_id, step_id, visit)
            WHERE a.id = '{approval}' ORDER BY n.created_at"
        ),
    )
}

/// The jobs of an approval's reminders, and how they ended.
fn jobs(fleet: &Fleet, approval: &str) -> Vec<String> {
    column(
        fleet,
        &format!(
            "SELECT (data ->> 'number') || ' ' || coalesce(ended, 'open') FROM floh_worker.job_outbox
            WHERE data ->> 'approvalId' = '{approval}' ORDER BY 1"
        ),
    )
}

/// How often an approval's approver was reminded, as its row says.
fn counted(fleet: &Fleet, approval: &str) -> String {
    column(fleet, &format!("SELECT reminders FROM floh_worker.approval WHERE id = '{approval}'")).remove(0)
}

/// The ids of the mails about an approval, in the order in which they came.
fn mails(smtp: &Smtp, approval: &str) -> Vec<String> {
    let id = |mail: &Value| mail["headers"]["message-id"].as_str().unwrap().to_string();
    smtp.mails().iter().map(id).filter(|id| id.contains(approval)).collect()
}

/// The same, once there are so many: the server's word of one may come a little after the worker has its answer.
fn wait_mails(smtp: &Smtp, approval: &str, count: usize) -> Vec<String> {
    wait_for(&format!("{count} mails"), LIMIT, || Some(mails(smtp, approval)).filter(|mails| mails.len() >= count))
}

fn mail_id(approval: &str, number: u32) -> String {
    format!("<approval.{approval}.{number}@floh-worker.example.com>")
}

/// Waits until both reminders have gone out and their jobs are done.
fn wait_done(fleet: &Fleet, approval: &str) {
    wait_for("both reminders", LIMIT, || (jobs(fleet, approval) == ["1 completed", "2 completed"]).then_some(()));
}

/// The worker is killed at each point of a first reminder. The last two are those after its commit: before its mail is sent, and
/// after it. The next life sends the mail, and the second reminder comes at its time.
#[test]
fn a_worker_that_is_killed_at_an_approvals_reminder_loses_no_mail() {
    let (mut fleet, smtp) = (Fleet::start(), Smtp::start());
    let definition = define(&fleet, "1h", "2s");
    let mut life = worker(&fleet, "1", smtp.port(), &[]);
    let whole = ask(&fleet, &definition);
    life.kill();

    // Nobody is killed: how many points there are.
    let name = format!("remind-{whole}-1");
    let mut life = worker(&fleet, "1", smtp.port(), &[("FLOH_TEST_KILL_RUN", &name)]);
    remind(&mut fleet, &whole);
    wait_done(&fleet, &whole);
    assert_eq!(wait_mails(&smtp, &whole, 2), [1, 2].map(|number| mail_id(&whole, number)));
    let points = wait_for("the number of points", LIMIT, || points_passed(&life.log()).pop());
    assert!(points > 10, "only {points} points");
    let mut next = ask(&fleet, &definition);
    life.kill();

    // Each life first does what the one before it has left, so that each reminder meets one kill.
    let all = env::var("FLOH_CRASH").is_ok_and(|how| how == "all");
    let chosen = rand::random_range(0..4);
    let mut before: Option<(String, bool)> = None;
    for point in (1..=points).filter(|point| all || *point + 3 > points || point % 4 == chosen) {
        let approval = next;
        let (name, at) = (format!("remind-{approval}-1"), point.to_string());
        let kill = [("FLOH_TEST_KILL_RUN", name.as_str()), ("FLOH_TEST_KILL_AT", &at)];
        let mut life = worker(&fleet, "1", smtp.port(), &kill);
        if let Some((before, sent)) = before {
            check_done(&fleet, &smtp, &before, sent);
        }
        next = ask(&fleet, &definition);
        remind(&mut fleet, &approval);
        let status = life.wait_end(LIMIT);
        assert_eq!(status.code(), None, "point {point}: it was not killed: {status}\n{}", life.log());
        let (committed, sent) = (point + 1 >= points, point == points);
        assert_eq!(told(&fleet, &approval).len(), usize::from(committed), "killed at point {point}");
        assert_eq!(wait_mails(&smtp, &approval, usize::from(sent)).len(), usize::from(sent), "killed at point {point}");
        before = Some((approval, sent));
    }
    let _last = worker(&fleet, "1", smtp.port(), &[]);
    let (before, sent) = before.unwrap();
    check_done(&fleet, &smtp, &before, sent);
}

/// Both reminders of a worker that was killed at the first one: each is there once, and so is its mail, unless that one had been
/// `sent` when it died.
fn check_done(fleet: &Fleet, smtp: &Smtp, approval: &str, sent: bool) {
    wait_done(fleet, approval);
    let mut expected = vec![mail_id(approval, 1); if sent { 2 } else { 1 }];
    expected.push(mail_id(approval, 2));
    let mut found = wait_mails(smtp, approval, expected.len());
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(told(fleet, approval), ["approval-reminder-1", "approval-reminder-2"]);
    assert_eq!(counted(fleet, approval), "2");
    in_time(fleet, approval);
}

/// The second reminder is due two seconds after the first was committed, whenever that one's mail went out, and came then.
fn in_time(fleet: &Fleet, approval: &str) {
    let times = format!(
        "SELECT o.due_at - one.created_at BETWEEN '2s' AND '4s' AND two.created_at >= o.due_at
        FROM floh_worker.approval a JOIN floh_worker.job_outbox o ON o.job_id = 'remind-' || a.id || '-2'
            JOIN floh_worker.notification one ON one.run_id = a.run_id AND one.kind = 'approval-reminder-1'
            JOIN floh_worker.notification two ON two.run_id = a.run_id AND two.kind = 'approval-reminder-2'
        WHERE a.id = '{approval}'"
    );
    assert_eq!(column(fleet, &times), ["t"]);
}

/// Somebody adds the job of a reminder twice, and two workers have them at once. Each sends the mail, under the same id.
#[test]
fn two_workers_at_one_reminder_of_an_approval_count_once() {
    let (mut fleet, smtp) = (Fleet::start(), Smtp::start());
    let _workers = ["1", "2"].map(|instance| worker(&fleet, instance, smtp.port(), &[]));
    let approval = ask(&fleet, &define(&fleet, "1h", "1h"));
    // Both are held up where they look at the approval.
    let runtime = Runtime::new().unwrap();
    let somebody = runtime.block_on(fleet.postgres.admin());
    let hold = format!("BEGIN; SELECT FROM floh_worker.approval WHERE id = '{approval}' FOR UPDATE");
    runtime.block_on(somebody.batch_execute(&hold)).unwrap();
    let data = json!({"approvalId": approval, "number": 1});
    let both = [(); 2].map(|()| fleet.add(6, "escalation-reminder", data.clone(), json!({})));
    let held = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE OF a'";
    wait_for("both to be there", LIMIT, || (fleet.sql(held).len() == 2).then_some(()));
    runtime.block_on(somebody.batch_execute("COMMIT")).unwrap();
    for job in &both {
        fleet.wait_state(6, job, "completed", LIMIT);
    }
    let by = column(
        &fleet,
        &format!(
            "SELECT DISTINCT instance FROM floh_worker.job_execution WHERE job_id IN ('{}', '{}')",
            both[0], both[1]
        ),
    );
    assert_eq!(by.len(), 2, "one worker has done both");
    assert_eq!(told(&fleet, &approval), ["approval-reminder-1"]);
    assert_eq!(counted(&fleet, &approval), "1");
    // Its own job, which is due in an hour, and one for the next reminder.
    assert_eq!(jobs(&fleet, &approval), ["1 open", "2 open"]);
    assert_eq!(wait_mails(&smtp, &approval, 2), vec![mail_id(&approval, 1); 2]);
}

/// A worker has committed a reminder and talks to a mail server that says nothing when its job passes on to another one: that
/// one sends the mail, and nothing else is there twice.
#[test]
fn an_approvals_reminder_that_passes_on_before_its_mail_is_sent_by_the_next_worker() {
    let (mut fleet, smtp) = (Fleet::start(), Smtp::start());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let first = worker(&fleet, "1", silent.local_addr().unwrap().port(), &[]);
    let approval = ask(&fleet, &define(&fleet, "1s", "1h"));
    let _connection = wait_for("the first one to be at its mail", LIMIT, || silent.accept().ok());
    assert_eq!((told(&fleet, &approval).len(), jobs(&fleet, &approval)), (1, vec!["1 open".into(), "2 open".into()]));
    let _second = worker(&fleet, "2", smtp.port(), &[]);
    let lock = fleet.key(&format!("remind-{approval}-1:lock"));
    assert_eq!(fleet.redis::<i64>("DEL", &[&lock]), 1);
    // The first check marks what is active, the second one finds it without a lock.
    for _ in 0..2 {
        fleet.check_stalled();
    }
    wait_for("the mail", LIMIT, || (jobs(&fleet, &approval) == ["1 completed", "2 open"]).then_some(()));
    first.wait_log("lease lost, nothing more is written");
    assert_eq!(told(&fleet, &approval), ["approval-reminder-1"]);
    assert_eq!(counted(&fleet, &approval), "1");
    assert_eq!(wait_mails(&smtp, &approval, 1), [mail_id(&approval, 1)]);
}
