//! Runs that wait for approvals, with a real worker: each mode, deciding by plain SQL and by flohctl, expiry, reminders and
//! reassignment, and what becomes of them when the run or Redis ends.

use crate::{
    runs_people::peopled,
    support::{Fleet, free_port, runs::quote, smtp::Smtp, wait_for},
};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
/// Wake-ups that Redis has lost are back within a minute.
const MINUTE: Duration = Duration::from_secs(60);

/// What a test does with approvals.
trait Approvals {
    /// Starts a run of a definition with this approval, and waits until it is asked; the run's id.
    fn ask(&self, config: Value) -> String;
    /// The approvals of a run: id, approver, status.
    fn approvals(&self, run: &str) -> Vec<[String; 3]>;
    /// The id of the approval that this person is asked for now; waits for it.
    fn asked(&self, run: &str, approver: &str) -> String;
    /// What an API server does.
    fn decide(&self, id: &str, assignments: &str);
    /// Waits until the run has come to this step, and ended.
    fn wait_end(&self, run: &str, step: &str);
    /// The outbox' rows about a run's approvals that have this name and end.
    fn jobs(&self, run: &str, name: &str, ended: &str) -> usize;
    /// Waits until a person was told so many things.
    fn wait_told(&self, run: &str, email: &str, count: usize);
    /// What a person was told in the application: kind, and how many milliseconds after they were asked.
    fn told(&self, run: &str, email: &str) -> Vec<(String, i64)>;
}

/// A definition whose approval leads to an end of its own for each of these outcomes.
fn definition(config: &Value, outcomes: &[&str]) -> Value {
    let edges: Vec<Value> = outcomes.iter().map(|on| json!({"on": on, "to": format!("was-{on}")})).collect();
    let mut steps = vec![
        json!({"id": "start", "type": "start", "transitions": [{"on": "success", "to": "ask"}]}),
        json!({"id": "ask", "type": "approval", "config": config, "transitions": edges}),
    ];
    steps.extend(outcomes.iter().map(|on| json!({"id": format!("was-{on}"), "type": "end"})));
    json!({"name": format!("d-{}", rand::random::<u64>()), "steps": steps})
}

impl Approvals for Fleet {
    fn ask(&self, config: Value) -> String {
        let outcomes = match config.get("expiresAfter") {
            Some(_) => &["approved", "rejected", "expired"][..],
            None => &["approved", "rejected"],
        };
        let run = self.start_run(&self.define(&definition(&config, outcomes)), &json!({}));
        self.wait_at(&run, "ask", LIMIT);
        run
    }

    fn approvals(&self, run: &str) -> Vec<[String; 3]> {
        let rows = self.sql(&format!(
            "SELECT id, approver, status FROM floh_worker.approval WHERE run_id = '{run}' ORDER BY position, created_at"
        ));
        rows.into_iter().map(|row| [0, 1, 2].map(|column| row[column].clone().unwrap())).collect()
    }

    fn asked(&self, run: &str, approver: &str) -> String {
        wait_for(&format!("{approver} to be asked"), LIMIT, || {
            let rows = self.approvals(run).into_iter();
            rows.filter(|row| row[1] == approver && row[2] == "pending").map(|row| row[0].clone()).next()
        })
    }

    fn decide(&self, id: &str, assignments: &str) {
        let sql = format!("UPDATE floh_worker.approval SET {assignments} WHERE id = '{id}' RETURNING 1");
        assert_eq!(self.sql(&sql).len(), 1, "{sql}");
    }

    fn wait_end(&self, run: &str, step: &str) {
        assert_eq!(
            self.wait_run(run, "completed", LIMIT).current_step.as_deref(),
            Some(step),
            "{:#?}",
            self.steps(run)
        );
    }

    fn jobs(&self, run: &str, name: &str, ended: &str) -> usize {
        let rows = self.sql(&format!(
            "SELECT 1 FROM floh_worker.job_outbox o JOIN floh_worker.approval a ON a.id::text = o.data ->> 'approvalId'
            WHERE a.run_id = '{run}' AND o.name = '{name}' AND coalesce(o.ended, 'no') = '{ended}'"
        ));
        rows.len()
    }

    fn wait_told(&self, run: &str, email: &str, count: usize) {
        wait_for(&format!("{email} to be told"), LIMIT, || (self.told(run, email).len() == count).then_some(()));
    }

    fn told(&self, run: &str, email: &str) -> Vec<(String, i64)> {
        let rows = self.sql(&format!(
            "SELECT n.kind, floor(extract(epoch FROM n.created_at - a.asked_at) * 1000)::bigint
            FROM floh_worker.notification n JOIN floh_worker.approval a USING (run_id, step_id, visit)
            WHERE n.run_id = '{run}' AND n.email = {0} AND a.approver_email = {0} ORDER BY n.created_at",
            quote(email)
        ));
        rows.into_iter().map(|row| (row[0].clone().unwrap(), row[1].as_deref().unwrap().parse().unwrap())).collect()
    }
}

const YES: &str = "status = 'approved', decided_by = 'api'";
const NO: &str = "status = 'rejected', decided_by = 'api', reason = 'too many'";

fn statuses(rows: &[[String; 3]]) -> Vec<&str> {
    rows.iter().map(|row| row[2].as_str()).collect()
}

#[test]
fn the_first_of_several_decides_by_plain_sql_or_by_flohctl() {
    let fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let config = json!({"approvers": ["a@example.org", "b@example.org"], "title": "A role", "output": "decision"});
    let run = fleet.ask(config.clone());
    let step = |run: &str| fleet.steps(run).into_iter().find(|step| step.id == "ask").unwrap();
    assert_eq!(step(&run).status, "waiting_approval");
    assert_eq!(statuses(&fleet.approvals(&run)), ["pending", "pending"]);
    let id = fleet.asked(&run, "b@example.org");
    worker.wait_log("b@example.org is asked to decide, without a mail: no mail can be sent: SMTP_HOST is not set");
    fleet.wait_told(&run, "a@example.org", 1);
    fleet.decide(&id, "status = 'approved', decided_by = 'b@example.org', reason = 'fine'");
    fleet.wait_end(&run, "was-approved");
    assert_eq!(statuses(&fleet.approvals(&run)), ["void", "approved"]);
    let result = step(&run).result;
    let decision = &result["decisions"][0];
    assert_eq!((&result["outcome"], &decision["decidedBy"]), (&json!("approved"), &json!("b@example.org")));
    assert_eq!((&decision["approver"], &decision["reason"]), (&json!("b@example.org"), &json!("fine")));
    assert_eq!(fleet.run(&run).variables["decision"], result);

    // An operator decides.
    let run = fleet.ask(config);
    let id = fleet.asked(&run, "a@example.org");
    let list = fleet.flohctl(&["approval", "list"]);
    assert_eq!(list.status.code(), Some(0), "{}", list.stderr);
    assert!(list.stdout.contains(&format!("{id} pending a@example.org since ")), "{}", list.stdout);
    assert!(list.stdout.contains(&format!("    run {run}, step ask: A role\n")), "{}", list.stdout);
    let without = fleet.flohctl(&["approval", "reject", &id]);
    assert_eq!(without.status.code(), Some(64), "a rejection has a reason: {}", without.stderr);
    let blank = fleet.flohctl(&["approval", "reject", &id, "--reason", " "]);
    assert_eq!(
        (blank.status.code(), blank.stderr.as_str()),
        (Some(1), "flohctl: a rejection says why: reason is missing\n")
    );
    let done = fleet.flohctl(&["approval", "reject", &id, "--as", "ops@example.org", "--reason", "not now"]);
    assert_eq!(done.status.code(), Some(0), "{}", done.stderr);
    assert_eq!(done.stdout, format!("{id} is rejected by ops@example.org\n"));
    fleet.wait_end(&run, "was-rejected");
    let twice = fleet.flohctl(&["approval", "approve", &id]);
    assert_eq!(twice.status.code(), Some(1));
    let words = format!("flohctl: approval {id} was decided already: rejected by ops@example.org at ");
    assert!(twice.stderr.starts_with(&words) && twice.stderr.lines().count() == 1, "{}", twice.stderr);
    let unknown = "00000000-0000-0000-0000-000000000000";
    let gone = fleet.flohctl(&["approval", "approve", unknown]);
    assert_eq!((gone.status.code(), gone.stderr), (Some(1), format!("flohctl: there is no approval {unknown}\n")));
    assert_eq!(fleet.flohctl(&["approval", "list"]).stdout, "no approval waits for a decision\n");
    let all = fleet.flohctl(&["approval", "list", "--all", "--run", &run[..8]]).stdout;
    assert!(
        all.contains("    by ops@example.org at ") && all.contains(": not now\n") && all.contains(" void "),
        "{all}"
    );
}

#[test]
fn one_after_the_other_and_all_at_once_with_a_quorum() {
    let fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let three = json!(["a@example.org", "b@example.org", "c@example.org"]);
    let run = fleet.ask(json!({"approvers": three, "mode": "sequential"}));
    for approver in ["a", "b", "c"] {
        let asked = fleet.asked(&run, &format!("{approver}@example.org"));
        let open = fleet.approvals(&run).iter().filter(|row| row[2] == "pending").count();
        assert_eq!((open, fleet.run(&run).status == "completed"), (1, false));
        // Each is told when it is their turn.
        fleet.wait_told(&run, &format!("{approver}@example.org"), 1);
        fleet.decide(&asked, YES);
    }
    fleet.wait_end(&run, "was-approved");

    let run = fleet.ask(json!({"approvers": three, "mode": "sequential"}));
    fleet.decide(&fleet.asked(&run, "a@example.org"), YES);
    fleet.decide(&fleet.asked(&run, "b@example.org"), NO);
    fleet.wait_end(&run, "was-rejected");
    assert_eq!(statuses(&fleet.approvals(&run)), ["approved", "rejected", "void"]);
    assert_eq!(fleet.told(&run, "c@example.org"), []);

    for (quorum, decisions, end) in [
        (Value::Null, vec![YES, YES, YES], "was-approved"),
        (Value::Null, vec![YES, NO], "was-rejected"),
        (json!(2), vec![NO, YES, YES], "was-approved"),
        (json!(2), vec![NO, NO], "was-rejected"),
    ] {
        let run = fleet.ask(json!({"approvers": three, "mode": "parallel", "quorum": quorum}));
        let rows = fleet.approvals(&run);
        assert_eq!(statuses(&rows), ["pending", "pending", "pending"]);
        for (index, (row, decision)) in rows.iter().zip(&decisions).enumerate() {
            assert_eq!(fleet.run(&run).current_step.as_deref(), Some("ask"), "settled before {index}");
            fleet.decide(&row[0], decision);
        }
        fleet.wait_end(&run, end);
        assert!(fleet.approvals(&run)[decisions.len()..].iter().all(|row| row[2] == "void"));
    }
}

#[test]
fn nobody_is_asked_twice_and_a_quorum_is_of_different_people() {
    let fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let same = json!(["a@example.org", "{{board}}", "A@Example.org"]);
    let config = json!({"approvers": same, "mode": "parallel", "quorum": 3, "notify": false});
    let mut document = definition(&config, &["approved", "rejected"]);
    document["variables"] = json!([{"name": "board", "type": "array", "required": true}]);
    let definition = fleet.define(&document);
    let board = json!({"board": ["b@example.org", {"email": "c@example.org"}, "b@example.org"]});
    let run = fleet.start_run(&definition, &board);
    fleet.wait_at(&run, "ask", LIMIT);
    let approvers: Vec<String> = fleet.approvals(&run).into_iter().map(|row| row[1].clone()).collect();
    assert_eq!(approvers, ["a@example.org", "b@example.org", "c@example.org"]);
    assert_eq!(fleet.jobs(&run, "escalation-reminder", "no"), 0, "nobody is told where `notify` is false");
    let run = fleet.start_run(&definition, &json!({"board": ["a@example.org", "b@example.org"]}));
    let failed = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    assert_eq!(failed, "step `ask`: `quorum` is 3, and only 2 different people are asked");
    let run = fleet.start_run(&definition, &json!({"board": [7]}));
    let failed = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    assert!(failed.starts_with("step `ask`: `approvers`: "), "{failed}");
}

#[test]
fn a_rejection_goes_its_way_and_is_never_taken_for_consent() {
    let fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let config = json!({"approvers": ["a@example.org"], "expiresAfter": "1s"});
    let patient = json!({"approvers": ["a@example.org"]});
    let start = |config: &Value, outcomes: &[&str], on_error: &str| {
        let mut document = definition(config, outcomes);
        document["onError"] = json!(on_error);
        let run = fleet.start_run(&fleet.define(&document), &json!({}));
        fleet.wait_at(&run, "ask", LIMIT);
        run
    };
    let run = start(&patient, &["approved", "error"], "stop");
    fleet.decide(&fleet.asked(&run, "a@example.org"), NO);
    fleet.wait_end(&run, "was-error");
    let step = fleet.steps(&run).into_iter().find(|step| step.id == "ask").unwrap();
    assert_eq!((step.status.as_str(), step.outcome.as_deref()), ("failed", Some("rejected")));
    assert_eq!(step.reason.as_deref(), Some("rejected by api: too many"));
    for on_error in ["stop", "continue"] {
        let run = start(&patient, &["approved"], on_error);
        fleet.decide(&fleet.asked(&run, "a@example.org"), NO);
        let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
        assert_eq!(reason, "step `ask`: rejected by api: too many", "{on_error}");
        let run = fleet.start_run(&fleet.define(&definition(&config, &["approved"])), &json!({}));
        let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
        assert!(reason.starts_with("step `ask`: not decided by 2"), "{on_error}: {reason}");
        assert!(reason.ends_with("Z: a@example.org"), "{on_error}: {reason}");
    }
}

#[test]
fn steps_behind_an_edge_for_failures_know_what_it_came_to() {
    let fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let start = |expires: Value, outcomes: &[&str]| {
        let config = json!({"approvers": ["a@example.org"], "expiresAfter": expires, "output": "decision"});
        let mut document = definition(&config, outcomes);
        for step in document["steps"].as_array_mut().unwrap().iter_mut().filter(|step| step["type"] == "end") {
            let decision = "{{decision.outcome}} by {{decision.decisions}}";
            step["config"] = json!({"status": "cancelled", "reason": decision});
        }
        let run = fleet.start_run(&fleet.define(&document), &json!({}));
        fleet.wait_at(&run, "ask", LIMIT);
        run
    };
    let run = start(json!("1s"), &["approved", "expired"]);
    assert_eq!(fleet.wait_run(&run, "cancelled", LIMIT).reason.as_deref(), Some("expired by []"));
    let run = start(json!("1s"), &["approved", "error"]);
    assert_eq!(fleet.wait_run(&run, "cancelled", LIMIT).reason.as_deref(), Some("expired by []"));
    let run = start(Value::Null, &["approved", "error"]);
    fleet.decide(&fleet.asked(&run, "a@example.org"), NO);
    let row = fleet.wait_run(&run, "cancelled", LIMIT);
    assert!(row.reason.unwrap().starts_with("rejected by [{"), "{}", row.variables);
    assert_eq!(row.variables["decision"]["decisions"][0]["reason"], "too many");
    // Where no edge leads on it is the step's result, and no variable: the run may be tried again.
    let run = start(Value::Null, &["approved"]);
    fleet.decide(&fleet.asked(&run, "a@example.org"), NO);
    assert_eq!(fleet.wait_run(&run, "failed", LIMIT).variables["decision"], Value::Null);
    assert_eq!(fleet.steps(&run)[1].result["outcome"], "rejected");
}

#[test]
fn what_nobody_decides_expires_and_a_decision_in_time_counts_whenever_somebody_looks() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let config =
        |mode: &str| json!({"approvers": ["a@example.org", "b@example.org"], "mode": mode, "expiresAfter": "3s"});
    let runs = ["single", "sequential", "parallel"].map(|mode| fleet.ask(config(mode)));
    let half = fleet.ask(config("parallel"));
    fleet.decide(&fleet.asked(&half, "a@example.org"), YES);
    for run in &runs {
        fleet.wait_end(run, "was-expired");
        assert_eq!(statuses(&fleet.approvals(run)), ["expired", "expired"]);
    }
    fleet.wait_end(&half, "was-expired");
    assert_eq!(statuses(&fleet.approvals(&half)), ["approved", "expired"]);

    let run = fleet.ask(config("single"));
    worker.stop();
    fleet.decide(&fleet.asked(&run, "a@example.org"), YES);
    let over = format!("SELECT 1 FROM floh_worker.approval WHERE run_id = '{run}' AND due_at < clock_timestamp()");
    wait_for("the time to be over", LIMIT, || (!fleet.sql(&over).is_empty()).then_some(()));
    let _worker = fleet.worker("2", &[]);
    fleet.wait_end(&run, "was-approved");
}

#[test]
fn reminders_come_in_their_time_and_then_somebody_else_is_asked() {
    let fleet = Fleet::start();
    let _worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]);
    let escalation = json!({"remindAfter": "1s", "remindEvery": "1s", "maxReminders": 2, "reassignAfter": "10s",
        "reassignTo": "boss@example.org"});
    let run = fleet.ask(json!({"approvers": ["a@example.org"], "escalation": escalation}));
    let quick = fleet.ask(json!({"approvers": ["a@example.org"], "escalation": escalation}));
    let old = fleet.asked(&run, "a@example.org");
    fleet.decide(&fleet.asked(&quick, "a@example.org"), YES);
    fleet.wait_end(&quick, "was-approved");
    let new = fleet.asked(&run, "boss@example.org");
    let told = fleet.told(&run, "a@example.org");
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["approval", "approval-reminder-1", "approval-reminder-2"], "{told:?}");
    for ((_, at), due) in told.iter().zip([0, 1000, 2000]) {
        assert!((due..due + 4000).contains(at), "{told:?}");
    }
    // Who was asked, and why not any more.
    let sql = format!("SELECT status, reassigned_to, reassigned_because FROM floh_worker.approval WHERE id = '{old}'");
    let because = "a@example.org has not decided within 10s";
    assert_eq!(fleet.sql(&sql), [["reassigned", new.as_str(), because].map(|text| Some(text.to_string())).to_vec()]);
    let sql = format!(
        "SELECT extract(epoch FROM n.asked_at - o.asked_at)::float8 FROM floh_worker.approval n
        JOIN floh_worker.approval o ON o.id = n.reassigned_from WHERE n.id = '{new}'"
    );
    let after: f64 = fleet.sql(&sql)[0][0].as_deref().unwrap().parse().unwrap();
    assert!((10.0..14.0).contains(&after), "{after}");
    // The new one is reminded from the beginning, and replaced by nobody.
    fleet.wait_told(&run, "boss@example.org", 3);
    fleet.decide(&new, YES);
    fleet.wait_end(&run, "was-approved");
    // Of the one who decided in time nothing more is wanted: all jobs have come, and were void.
    wait_for("the jobs of the decided one", LIMIT, || {
        let names = ["escalation-reminder", "escalation-reassignment"];
        names.iter().all(|name| fleet.jobs(&quick, name, "no") == 0).then_some(())
    });
    assert!(fleet.jobs(&quick, "escalation-reminder", "completed") >= 2, "the first word, and one that was void");
    assert_eq!(fleet.jobs(&quick, "escalation-reassignment", "completed"), 1);
    let late = format!(
        "SELECT n.kind FROM floh_worker.notification n JOIN floh_worker.approval a USING (run_id)
        WHERE n.run_id = '{quick}' AND n.created_at > a.decided_at"
    );
    assert_eq!(fleet.sql(&late), Vec::<Vec<_>>::new());
    assert_eq!(fleet.approvals(&quick).len(), 1);
}

#[test]
fn a_cancelled_run_leaves_nothing_to_decide_and_a_timeout_neither() {
    let fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let config = json!({"approvers": ["a@example.org", "b@example.org"], "mode": "sequential"});
    let run = fleet.ask(config.clone());
    let cancel = format!("UPDATE floh_worker.workflow_run SET cancel_requested_at = now() WHERE id = '{run}'");
    fleet.sql(&cancel);
    fleet.wait_run(&run, "cancelled", LIMIT);
    assert_eq!(statuses(&fleet.approvals(&run)), ["void", "void"]);
    let id = &fleet.approvals(&run)[0][0];
    let done = fleet.flohctl(&["approval", "approve", id]);
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stderr.contains("is void: its step was decided by others, or has ended"), "{}", done.stderr);

    let mut document = definition(&config, &["approved", "rejected", "timeout"]);
    document["steps"][1]["timeout"] = json!("1s");
    let run = fleet.start_run(&fleet.define(&document), &json!({}));
    fleet.wait_end(&run, "was-timeout");
    assert_eq!(statuses(&fleet.approvals(&run)), ["void", "void"]);
}

#[test]
fn approvers_are_known_by_id_and_by_address() {
    let fleet = peopled();
    let _worker = fleet.worker("1", &[]);
    let run = fleet.ask(json!({"approvers": ["u-ada", "MAX@example.org", "eve@example.net"], "mode": "parallel"}));
    let sql = format!(
        "SELECT concat_ws(' ', approver_id, approver_email, approver_name) FROM floh_worker.approval
        WHERE run_id = '{run}' ORDER BY position"
    );
    let found: Vec<String> = fleet.sql(&sql).into_iter().filter_map(|mut row| row.remove(0)).collect();
    assert_eq!(found, ["u-ada Ada@Example.org Ada", "u-max max@example.org Max", "eve@example.net eve@example.net"]);
}

/// Nobody waits for one who cannot answer any more; who is asked by an address alone goes on as before.
#[test]
fn who_is_disabled_before_their_turn_is_not_asked() {
    let fleet = peopled();
    let _worker = fleet.worker("1", &[]);
    let run = fleet.ask(json!({"approvers": ["u-ada", "eve@example.net", "max@example.org"], "mode": "sequential"}));
    fleet.sql("UPDATE floh_worker.app_user SET status = 'disabled' WHERE id = 'u-max'");
    fleet.decide(&fleet.asked(&run, "u-ada"), YES);
    fleet.decide(&fleet.asked(&run, "eve@example.net"), YES);
    let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    assert_eq!(reason, "step `ask`: `approvers`: Max (max@example.org) is disabled and cannot answer");
    assert_eq!(statuses(&fleet.approvals(&run)), ["approved", "approved", "void"]);
    let asked = format!("SELECT asked_at FROM floh_worker.approval WHERE run_id = '{run}' AND approver_id = 'u-max'");
    assert_eq!(fleet.sql(&asked), [[None::<String>]]);
}

/// What was decided can be neither taken back nor asked again: a `retry` is of the asking alone.
#[test]
fn a_step_that_has_asked_is_not_tried_again() {
    let fleet = peopled();
    let _worker = fleet.worker("1", &[]);
    let mut definition = definition(&json!({"approvers": ["u-ada", "u-max"], "mode": "sequential"}), &["approved"]);
    definition["steps"][1]["retry"] = json!({"attempts": 20, "delay": "1s", "backoff": "fixed"});
    let name = fleet.define(&definition);
    fleet.sql("UPDATE floh_worker.app_user SET status = 'disabled' WHERE id = 'u-max'");
    let run = fleet.start_run(&name, &json!({}));
    // It cannot ask yet.
    wait_for("another try", LIMIT, || fleet.steps(&run).iter().any(|step| step.attempt > 1).then_some(()));
    fleet.sql("UPDATE floh_worker.app_user SET status = 'active' WHERE id = 'u-max'");
    let first = fleet.asked(&run, "u-ada");
    fleet.sql("UPDATE floh_worker.app_user SET status = 'disabled' WHERE id = 'u-max'");
    fleet.decide(&first, YES);
    let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    assert_eq!(reason, "step `ask`: `approvers`: Max (max@example.org) is disabled and cannot answer");
    assert_eq!(statuses(&fleet.approvals(&run)), ["approved", "void"]);
}

/// Lets the time of an approval's reassignment come now, and waits for its job.
fn reassign(fleet: &mut Fleet, run: &str, approval: &str) {
    let job = format!("reassign-{approval}");
    wait_for("the job to be delayed", LIMIT, || are_delayed(fleet, std::slice::from_ref(&job)));
    fleet.sql(&format!("UPDATE floh_worker.job_outbox SET due_at = now() WHERE job_id = '{job}'"));
    fleet.call(6, "promote", json!({"job": job}));
    wait_for("the job", LIMIT, || (fleet.jobs(run, "escalation-reassignment", "completed") == 1).then_some(()));
}

/// Max gets another address after the step has asked, and somebody else has his old one by the time at which he is asked.
#[test]
fn the_person_of_a_reassignment_is_the_one_who_was_named_whoever_has_the_address_then() {
    let mut fleet = peopled();
    let _worker = fleet.worker("1", &[]);
    let escalation = json!({"reassignAfter": "1h", "reassignTo": "max@example.org"});
    let config = json!({"approvers": ["a@example.org"], "escalation": escalation});
    let run = fleet.ask(config.clone());
    let old = fleet.asked(&run, "a@example.org");
    fleet.sql(
        "SET search_path = floh_worker;
        UPDATE app_user SET email = 'new@example.org' WHERE id = 'u-max';
        INSERT INTO app_user (id, email, display_name) VALUES ('u-other', 'max@example.org', 'Other')",
    );
    reassign(&mut fleet, &run, &old);
    let sql = format!(
        "SELECT approver, approver_id, approver_email, approver_name FROM floh_worker.approval
        WHERE reassigned_from = '{old}' AND status = 'pending'"
    );
    let expected = ["max@example.org", "u-max", "new@example.org", "Max"].map(|text| Some(text.to_string()));
    assert_eq!(fleet.sql(&sql), [expected.to_vec()]);

    // Now the address is the other one's when the step asks. Who is disabled before the time comes is not asked.
    let run = fleet.ask(config);
    let old = fleet.asked(&run, "a@example.org");
    fleet.sql("UPDATE floh_worker.app_user SET status = 'disabled' WHERE id = 'u-other'");
    reassign(&mut fleet, &run, &old);
    assert_eq!(statuses(&fleet.approvals(&run)), ["pending"]);
}

/// By their names: a worker's own scheduler may be there, too.
fn are_delayed(fleet: &mut Fleet, jobs: &[String]) -> Option<()> {
    let delayed = fleet.key("delayed");
    jobs.iter().all(|job| fleet.redis::<Option<f64>>("ZSCORE", &[&delayed, job]).is_some()).then_some(())
}

/// Redis loses everything: reminder and reassignment are back within a minute. One that somebody sets off before its time
/// does nothing, and comes again at its time.
#[test]
fn an_emptied_redis_gets_the_escalations_back_and_none_comes_before_its_time() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let escalation = json!({"remindAfter": "1h", "reassignAfter": "2h", "reassignTo": "boss@example.org"});
    let run = fleet.ask(json!({"approvers": ["a@example.org"], "escalation": escalation}));
    let id = fleet.asked(&run, "a@example.org");
    wait_for("the first word", LIMIT, || (fleet.jobs(&run, "escalation-reminder", "completed") == 1).then_some(()));
    let jobs = ["remind-ID-1", "reassign-ID"].map(|job| job.replace("ID", &id));
    wait_for("both to be delayed", LIMIT, || are_delayed(&mut fleet, &jobs));
    fleet.redis::<String>("FLUSHALL", &[]);
    fleet.sql("UPDATE floh_worker.job_outbox SET sent_at = sent_at - interval '10 seconds'");
    wait_for("both to be back", MINUTE, || are_delayed(&mut fleet, &jobs));
    for job in &jobs {
        fleet.call(6, "promote", json!({"job": job}));
        let again = format!(
            "SELECT 1 FROM floh_worker.job_outbox a JOIN floh_worker.job_outbox b ON b.job_id = '{job}'
            WHERE a.job_id = '{job}-again-1' AND a.due_at = b.due_at AND a.ended IS NULL AND b.ended = 'completed'"
        );
        wait_for("it to come again", LIMIT, || (!fleet.sql(&again).is_empty()).then_some(()));
    }
    assert_eq!(statuses(&fleet.approvals(&run)), ["pending"]);
    assert_eq!(fleet.told(&run, "a@example.org").len(), 1);
    fleet.decide(&id, YES);
    fleet.wait_end(&run, "was-approved");
}

/// The mail server is down: what is said in the application is there, and the reminders go on. The mail is tried again, and
/// that of an earlier one no more when a later one has come.
#[test]
fn a_mail_server_that_is_down_costs_no_reminder() {
    let fleet = Fleet::start();
    let port = free_port().to_string();
    let settings =
        [("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &port), ("SMTP_TLS", "none"), ("SMTP_FROM", "f@example.org")];
    let worker = fleet.worker("1", &[settings.to_vec(), vec![("WORKER_CONCURRENCY", "4")]].concat());
    let escalation = json!({"remindAfter": "1s", "remindEvery": "1s", "maxReminders": 2});
    let run = fleet.ask(json!({"approvers": ["a@example.org"], "escalation": escalation}));
    fleet.wait_told(&run, "a@example.org", 3);
    worker.wait_log("the mail is not sent: the mail server 127.0.0.1:");
    let sql = format!("SELECT reminders FROM floh_worker.approval WHERE run_id = '{run}'");
    assert_eq!(fleet.sql(&sql)[0][0].as_deref(), Some("2"));
    let id = fleet.asked(&run, "a@example.org");
    let again = format!(
        "SELECT data ->> 'number' FROM floh_worker.job_outbox
        WHERE data ->> 'approvalId' = '{id}' AND name = 'escalation-reminder' AND ended IS NULL"
    );
    wait_for("only the latest to be tried again", MINUTE, || {
        let open = fleet.sql(&again);
        (open.len() == 1 && open[0][0].as_deref() == Some("2")).then_some(())
    });
    assert_eq!(fleet.jobs(&run, "escalation-reminder", "failed"), 0);
    fleet.decide(&id, YES);
    fleet.wait_end(&run, "was-approved");
    // And then nobody needs it.
    wait_for("the void one", MINUTE, || (fleet.jobs(&run, "escalation-reminder", "no") == 0).then_some(()));
    assert_eq!(fleet.jobs(&run, "escalation-reminder", "failed"), 0);
}

#[test]
fn approvers_get_mail_each_with_an_identity_of_its_own() {
    let fleet = Fleet::start();
    let server = Smtp::start();
    let port = server.port().to_string();
    let settings =
        [("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &port), ("SMTP_TLS", "none"), ("SMTP_FROM", "floh@example.com")];
    let _worker = fleet.worker("1", &settings);
    let config = json!({"approvers": ["ada@example.org"], "title": "A role\nBcc: eve@example.org", "message": "For May.",
        "expiresAfter": "1h", "escalation": {"remindAfter": "1s"}});
    let run = fleet.ask(config);
    let id = fleet.asked(&run, "ada@example.org");
    let mails = server.wait_mails(2);
    for (number, (mail, subject)) in mails.iter().zip(["Please decide: ", "Reminder: please decide: "]).enumerate() {
        let headers = &mail["headers"];
        assert_eq!(mail["to"], json!(["ada@example.org"]));
        assert_eq!(headers["subject"], format!("{subject}A role Bcc: eve@example.org"));
        assert_eq!(headers["message-id"], format!("<approval.{id}.{number}@floh-worker.example.com>"));
        let text = mail["text"].as_str().unwrap();
        assert!(text.contains("For May.") && text.contains(&run) && text.contains("It expires at 2"), "{text}");
    }
    fleet.decide(&id, YES);
    fleet.wait_end(&run, "was-approved");
    assert_eq!(server.mails().len(), 2);
}
