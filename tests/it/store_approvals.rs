//! The rules of deciding, which the database keeps for every writer; and deciders who come at the same time.

use crate::{
    store_ledger::migrated,
    support::{PostgresServer, within},
};
use floh_worker::store::{
    Store,
    approval::{self, Approver, NewApproval, Place},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_postgres::{Client, SimpleQueryMessage};
use uuid::Uuid;

/// A migrated database, and an API server's session in it.
struct Bench {
    server: PostgresServer,
    store: Store,
    api: Client,
    definition: Uuid,
}

/// What a step is asked.
struct Question {
    mode: &'static str,
    quorum: i32,
    approvers: i32,
    due_seconds: Option<f64>,
    escalation: Value,
}

impl Question {
    fn of(mode: &'static str, quorum: i32, approvers: i32) -> Question {
        Question { mode, quorum, approvers, due_seconds: None, escalation: json!({}) }
    }
}

impl Bench {
    async fn new() -> Bench {
        let (server, store) = migrated().await;
        let api = server.session("floh").await;
        api.batch_execute("SET search_path = floh_worker").await.unwrap();
        let sql = "INSERT INTO workflow_definition (name, status, definition) VALUES ('Onboarding', 'active', '{}')
            RETURNING id";
        let definition = api.query_one(sql, &[]).await.unwrap().get(0);
        Bench { server, store, api, definition }
    }

    /// A run that waits at `ask` for these approvals; their ids.
    async fn ask(&self, question: &Question) -> (Place, Vec<Uuid>) {
        let sql =
            "INSERT INTO workflow_run (definition_id, status, current_step, wake_seq) VALUES ($1, 'waiting', 'ask', 1)
            RETURNING id";
        let run: Uuid = self.api.query_one(sql, &[&self.definition]).await.unwrap().get(0);
        let sql = "INSERT INTO workflow_step (run_id, step_id, type, status) VALUES ($1, 'ask', 'approval', 'waiting_approval')";
        self.api.execute(sql, &[&run]).await.unwrap();
        let due = match question.due_seconds {
            None => None,
            Some(seconds) => {
                let sql = "SELECT clock_timestamp() + make_interval(secs => $1)";
                Some(self.api.query_one(sql, &[&seconds]).await.unwrap().get(0))
            }
        };
        let rows: Vec<NewApproval> = (1..=question.approvers)
            .map(|position| NewApproval {
                id: Uuid::new_v4(),
                position,
                mode: question.mode,
                quorum: question.quorum,
                who: person(&format!("u-{position}")),
                title: Some("A role".into()),
                message: None,
                status: if question.mode == "sequential" && position > 1 { "waiting" } else { "pending" },
                due_at: due,
                notify: true,
                escalation: question.escalation.clone(),
            })
            .collect();
        let place = Place { run, step: "ask".into(), visit: 1 };
        approval::ask(&self.store.client().await.unwrap(), &place, &rows).await.unwrap();
        (place, rows.iter().map(|row| row.id).collect())
    }

    /// Sets columns of an approval; the SQLSTATE and the message where that is refused.
    async fn set(&self, id: Uuid, assignments: &str) -> Result<(), (String, String)> {
        set(&self.api, id, assignments).await
    }

    async fn outcome(&self, place: &Place) -> Option<String> {
        self.store.approvals_of(place).await.unwrap().outcome
    }

    /// The status of each approval, by place and time.
    async fn statuses(&self, place: &Place) -> Vec<String> {
        self.store.approvals_of(place).await.unwrap().approvals.into_iter().map(|one| one.status).collect()
    }

    /// How often the run was woken since it began to wait.
    async fn wakes(&self, place: &Place) -> i64 {
        let sql = "SELECT count(*) FROM job_outbox WHERE name = 'resume-run' AND data ->> 'runId' = $1::text";
        self.api.query_one(sql, &[&place.run.to_string()]).await.unwrap().get(0)
    }

    async fn assignment(&self, place: &Place) -> Option<String> {
        let sql = "SELECT assignment_state FROM workflow_step WHERE run_id = $1";
        self.api.query_one(sql, &[&place.run]).await.unwrap().get(0)
    }

    /// The jobs about an approval, without its id, by name; and whether they are due within 2 s.
    async fn jobs(&self, id: Uuid) -> Vec<(String, String, bool)> {
        let sql = "SELECT replace(job_id, $1::text, 'ID'), name, due_at < now() + interval '2 s' FROM job_outbox
            WHERE data ->> 'approvalId' = $1 ORDER BY job_id";
        let rows = self.api.query(sql, &[&id.to_string()]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    }
}

fn person(id: &str) -> Approver {
    Approver {
        approver: id.into(),
        approver_id: Some(id.into()),
        approver_email: Some(format!("{id}@example.org")),
        approver_name: Some(id.to_uppercase()),
    }
}

async fn set(client: &Client, id: Uuid, assignments: &str) -> Result<(), (String, String)> {
    let sql = format!("UPDATE floh_worker.approval SET {assignments} WHERE id = '{id}'");
    match client.simple_query(&sql).await {
        Ok(answer) => {
            assert!(matches!(answer[..], [SimpleQueryMessage::CommandComplete(1)]), "{assignments}: {answer:?}");
            Ok(())
        }
        Err(error) => {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{assignments}: {error}"));
            Err((error.code().code().to_string(), error.message().to_string()))
        }
    }
}

/// Asserts that it is refused with this code and these words.
fn refused(answer: Result<(), (String, String)>, code: &str, words: &str) {
    let (found, message) = answer.expect_err(words);
    assert_eq!(found, code, "{message}");
    assert!(message.contains(words), "{message}");
}

const YES: &str = "status = 'approved', decided_by = 'u-9'";
const NO: &str = "status = 'rejected', decided_by = 'u-9', reason = 'too many'";

#[tokio::test]
async fn a_plain_update_decides_wakes_the_run_and_is_refused_the_second_time() {
    let bench = Bench::new().await;
    let (place, ids) = bench.ask(&Question::of("single", 1, 2)).await;
    assert_eq!((bench.outcome(&place).await, bench.wakes(&place).await), (None, 0));
    bench.set(ids[0], YES).await.unwrap();
    assert_eq!(bench.outcome(&place).await.as_deref(), Some("approved"));
    assert_eq!(bench.wakes(&place).await, 1);
    assert_eq!(bench.statuses(&place).await, ["approved", "void"]);
    assert_eq!(bench.assignment(&place).await.as_deref(), Some("approved"));
    let standing = bench.store.approvals_of(&place).await.unwrap();
    let (by, at) = standing.approvals[0].decided.clone().unwrap();
    assert!(by == "u-9" && (chrono::Utc::now() - at).num_seconds().abs() < 60);

    for again in [YES, NO, "status = 'approved'", "decided_by = 'u-1'", "reason = 'x'", "decided_at = now()"] {
        refused(bench.set(ids[0], again).await, "FL020", "was decided already: approved by u-9 at ");
    }
    refused(bench.set(ids[1], YES).await, "FL020", "is void: its step was decided by others");
    assert_eq!(bench.wakes(&place).await, 1);
}

#[tokio::test]
async fn a_decision_says_who_and_a_rejection_why_and_nothing_else_changes() {
    let bench = Bench::new().await;
    let (place, ids) = bench.ask(&Question::of("parallel", 1, 2)).await;
    for (assignments, code, words) in [
        ("status = 'approved'", "FL021", "decided_by is missing"),
        ("status = 'approved', decided_by = ' '", "FL021", "decided_by is missing"),
        ("status = 'approved', decided_by = NULL", "FL021", "decided_by is missing"),
        ("status = 'rejected', decided_by = 'u-1'", "FL021", "reason is missing"),
        ("status = 'rejected', decided_by = 'u-1', reason = E' \\n'", "FL021", "reason is missing"),
        ("status = NULL", "FL022", "not nothing"),
        ("status = 'pending'", "FL022", "can become approved or rejected, and not pending"),
        ("status = 'waiting'", "FL022", "and not waiting"),
        ("status = 'maybe'", "FL022", "and not maybe"),
        ("status = 'void'", "FL022", "still to be decided"),
        ("status = 'expired'", "FL022", "has not expired"),
        ("decided_by = 'u-1'", "FL022", "can become approved or rejected"),
        ("approver = 'u-7'", "FL022", "approver cannot be changed"),
        ("due_at = now() + interval '1 year', quorum = 2", "FL022", "due_at, quorum cannot be changed"),
        ("status = 'approved', decided_by = 'u-1', position = 7", "FL022", "position cannot be changed"),
        ("status = 'approved', decided_by = 'u-1', run_id = gen_random_uuid()", "FL022", "run_id cannot be changed"),
        ("status = 'reassigned', reassigned_because = 'x'", "23514", "approval_check"),
    ] {
        refused(bench.set(ids[0], assignments).await, code, words);
    }
    assert_eq!(bench.statuses(&place).await, ["pending", "pending"]);
    assert_eq!(bench.wakes(&place).await, 0);
    // The time of the decision is the database's, whoever says another.
    bench.set(ids[0], "status = 'approved', decided_by = 'u-1', decided_at = '2001-01-01'").await.unwrap();
    let sql = "SELECT decided_at > now() - interval '1 min' FROM approval WHERE id = $1";
    assert!(bench.api.query_one(sql, &[&ids[0]]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn each_mode_is_settled_by_the_decision_that_leaves_nothing_to_decide() {
    let bench = Bench::new().await;
    // Mode, quorum, approvers; decisions in order; what it comes to, and what is left of the others.
    type Case = (&'static str, i32, i32, &'static [bool], Option<&'static str>, &'static str);
    let cases: [Case; 9] = [
        ("single", 1, 3, &[false], Some("rejected"), "void void"),
        ("parallel", 3, 3, &[true, true], None, "pending"),
        ("parallel", 3, 3, &[true, true, true], Some("approved"), ""),
        ("parallel", 3, 3, &[true, false], Some("rejected"), "void"),
        ("parallel", 2, 3, &[true, true], Some("approved"), "void"),
        ("parallel", 2, 3, &[false, true], None, "pending"),
        ("parallel", 2, 3, &[false, true, true], Some("approved"), ""),
        ("parallel", 2, 3, &[false, false], Some("rejected"), "void"),
        ("sequential", 2, 2, &[false], Some("rejected"), "void"),
    ];
    for (mode, quorum, approvers, decisions, outcome, others) in cases {
        let (place, ids) = bench.ask(&Question::of(mode, quorum, approvers)).await;
        for (id, yes) in ids.iter().zip(decisions) {
            bench.set(*id, if *yes { YES } else { NO }).await.unwrap();
        }
        let what = format!("{mode} {quorum}/{approvers} {decisions:?}");
        assert_eq!(bench.outcome(&place).await.as_deref(), outcome, "{what}");
        let left = bench.statuses(&place).await.split_off(decisions.len()).join(" ");
        assert_eq!(left, others, "{what}");
        assert!(bench.wakes(&place).await >= 1, "{what}");
        let state = bench.assignment(&place).await;
        assert_eq!(state.as_deref(), outcome.or(Some("partly_decided")), "{what}");
    }
}

#[tokio::test]
async fn one_after_the_other_is_decided_only_when_asked() {
    let bench = Bench::new().await;
    let (place, ids) = bench.ask(&Question::of("sequential", 2, 2)).await;
    refused(bench.set(ids[1], YES).await, "FL020", "is not asked for yet");
    assert_eq!(bench.jobs(ids[1]).await, []);
    bench.set(ids[0], YES).await.unwrap();
    assert_eq!((bench.outcome(&place).await, bench.wakes(&place).await), (None, 1));
    approval::ask_next(&bench.store.client().await.unwrap(), ids[1]).await.unwrap();
    assert_eq!(bench.jobs(ids[1]).await, [("remind-ID-0".into(), "escalation-reminder".into(), true)]);
    bench.set(ids[1], YES).await.unwrap();
    assert_eq!(bench.outcome(&place).await.as_deref(), Some("approved"));
    // Asking again changes nothing.
    approval::ask_next(&bench.store.client().await.unwrap(), ids[1]).await.unwrap();
    assert_eq!(bench.statuses(&place).await, ["approved", "approved"]);
}

#[tokio::test]
async fn what_is_past_its_time_is_not_decided_and_expires() {
    let bench = Bench::new().await;
    let question = Question { due_seconds: Some(0.0), ..Question::of("parallel", 2, 2) };
    let (place, ids) = bench.ask(&question).await;
    refused(bench.set(ids[0], YES).await, "FL020", "has expired at ");
    approval::expire(&bench.store.client().await.unwrap(), &place).await.unwrap();
    assert_eq!(bench.outcome(&place).await.as_deref(), Some("expired"));
    assert_eq!(bench.statuses(&place).await, ["expired", "expired"]);
    refused(bench.set(ids[0], YES).await, "FL020", "has expired at ");
    // In time, nobody can let it expire.
    let question = Question { due_seconds: Some(600.0), ..Question::of("single", 1, 1) };
    let (place, ids) = bench.ask(&question).await;
    approval::expire(&bench.store.client().await.unwrap(), &place).await.unwrap();
    refused(bench.set(ids[0], "status = 'expired'").await, "FL022", "has not expired");
    bench.set(ids[0], YES).await.unwrap();
}

#[tokio::test]
async fn an_ended_step_or_run_leaves_nothing_to_decide() {
    let bench = Bench::new().await;
    for (index, end) in [
        "UPDATE workflow_step SET status = 'failed' WHERE run_id = $1",
        "UPDATE workflow_step SET status = 'cancelled' WHERE run_id = $1",
        "UPDATE workflow_run SET status = 'cancelled' WHERE id = $1",
        "SELECT fail_run($1, 'no progress')",
    ]
    .iter()
    .enumerate()
    {
        let (place, ids) = bench.ask(&Question::of("sequential", 2, 2)).await;
        bench.api.execute(*end, &[&place.run]).await.unwrap();
        assert_eq!(bench.statuses(&place).await, ["void", "void"], "{index}");
        refused(bench.set(ids[0], YES).await, "FL020", "is void");
    }
    // The rows go with their run.
    let (place, _) = bench.ask(&Question::of("single", 1, 1)).await;
    bench.api.execute("DELETE FROM workflow_run WHERE id = $1", &[&place.run]).await.unwrap();
    assert_eq!(bench.statuses(&place).await, Vec::<String>::new());
}

/// The step ends while somebody is deciding: it does not wait for the decider, who is refused then, and a job closes what is
/// left.
#[tokio::test]
async fn a_step_that_ends_during_a_decision_is_not_held_up_and_a_job_closes_the_rest() {
    let bench = Bench::new().await;
    let (place, ids) = bench.ask(&Question::of("single", 1, 1)).await;
    let other = bench.server.session("floh").await;
    // Holds the run as the engine does at the end of a step.
    bench.api.batch_execute("BEGIN").await.unwrap();
    bench.api.execute("SELECT FROM workflow_run WHERE id = $1 FOR UPDATE", &[&place.run]).await.unwrap();
    let id = ids[0];
    let decider = tokio::spawn(async move { set(&other, id, YES).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%approval%'";
    let admin = bench.server.admin().await;
    crate::support::eventually("the decider waits", Duration::from_secs(10), async || {
        (admin.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    let end = "UPDATE workflow_step SET status = 'cancelled' WHERE run_id = $1";
    within("the end", Duration::from_secs(3), bench.api.execute(end, &[&place.run])).await.unwrap();
    bench.api.batch_execute("COMMIT").await.unwrap();
    refused(decider.await.unwrap(), "FL020", "cannot be decided any more: its step or its run has ended");
    assert_eq!(bench.statuses(&place).await, ["pending"]);
    let jobs: Vec<_> = bench.jobs(id).await.into_iter().map(|job| job.0).collect();
    assert_eq!(jobs, ["close-ID", "remind-ID-0"]);
    let client = bench.store.client().await.unwrap();
    let found = approval::reminder(&client, id, -1, None).await.unwrap();
    assert_eq!(found, approval::Due::Over("void".into()));
    assert_eq!(bench.statuses(&place).await, ["void"]);
}

#[tokio::test]
async fn who_is_asked_gets_the_jobs_that_tell_remind_and_replace_them() {
    let bench = Bench::new().await;
    let to = json!({"approver": "boss", "approver_id": "boss", "approver_email": "boss@example.org"});
    let escalation =
        json!({"remindAfter": 60, "remindEvery": 30, "maxReminders": 2, "reassignAfter": 0.5, "reassignTo": to});
    let question = Question { escalation, ..Question::of("parallel", 2, 2) };
    let (place, ids) = bench.ask(&question).await;
    let names = |jobs: Vec<(String, String, bool)>| -> Vec<(String, bool)> {
        jobs.into_iter().map(|(id, _, soon)| (id, soon)).collect()
    };
    let expected = [("reassign-ID", true), ("remind-ID-0", true), ("remind-ID-1", false)];
    assert_eq!(names(bench.jobs(ids[0]).await), expected.map(|(id, soon)| (id.to_string(), soon)));

    let client = bench.store.client().await.unwrap();
    let approval::Due::Now(overdue) = approval::overdue(&client, ids[0], None).await.unwrap() else {
        panic!("it is due")
    };
    assert_eq!((overdue.who.label(), overdue.to.label(), overdue.after.as_str()), ("U-1", "boss@example.org", "0.5s"));
    let new = approval::reassign(&client, ids[0], &overdue.to, "too slow").await.unwrap();
    // History is kept, and nobody is asked twice in one step.
    let rows = bench.store.approvals_of(&place).await.unwrap().approvals;
    let told: Vec<_> = rows.iter().map(|row| (row.who.approver.as_str(), row.status.as_str(), row.position)).collect();
    assert_eq!(told, [("u-1", "reassigned", 1), ("boss", "pending", 1), ("u-2", "pending", 2)]);
    assert_eq!((rows[1].id, rows[1].reassigned_from), (new, Some(ids[0])));
    assert_eq!(rows[0].reassigned_because.as_deref(), Some("too slow"));
    assert_eq!(bench.assignment(&place).await.as_deref(), Some("reassigned"));
    refused(bench.set(ids[0], YES).await, "FL020", "was reassigned to boss");
    // Reminders begin anew, and nobody takes the place of the new one.
    let jobs = [("remind-ID-0".to_string(), true), ("remind-ID-1".to_string(), false)];
    assert_eq!(names(bench.jobs(new).await), jobs);
    let why = approval::reassign(&client, ids[1], &overdue.to, "again").await.unwrap_err().to_string();
    assert!(why.contains("cannot be reassigned to boss, who is asked in this step already"), "{why}");
    let gone = Uuid::new_v4();
    let why = approval::reassign(&client, gone, &overdue.to, "x").await.unwrap_err().to_string();
    assert_eq!(why, format!("there is no approval {gone}"));

    // Each reminder sees to the next one, up to the last.
    for (number, next) in [(0, false), (1, true), (2, false)] {
        assert!(matches!(approval::reminder(&client, new, number, None).await.unwrap(), approval::Due::Now(_)));
        approval::next_reminder(&client, new, number).await.unwrap();
        approval::next_reminder(&client, new, number).await.unwrap();
        let jobs = bench.jobs(new).await;
        let is_there = jobs.iter().any(|job| job.0 == format!("remind-ID-{}", number + 1));
        assert_eq!(is_there, next || number == 0, "{number}: {jobs:?}");
    }
    bench.set(new, YES).await.unwrap();
    let found = approval::reminder(&client, new, 2, None).await.unwrap();
    assert_eq!(found, approval::Due::Over("approved".into()));
    assert_eq!(approval::overdue(&client, new, None).await.unwrap(), approval::Due::Over("approved".into()));
}

/// An API server that may do nothing with approvals but read and decide them.
#[tokio::test]
async fn a_role_that_may_only_decide_resumes_the_run() {
    let bench = Bench::new().await;
    let (place, ids) = bench.ask(&Question::of("single", 1, 1)).await;
    let admin = bench.server.admin().await;
    admin
        .batch_execute(
            "CREATE ROLE decider LOGIN; GRANT USAGE ON SCHEMA floh_worker TO decider;
            GRANT SELECT, UPDATE (status, decided_by, reason) ON floh_worker.approval TO decider",
        )
        .await
        .unwrap();
    let decider = bench.server.session("decider").await;
    let error = set(&decider, ids[0], "due_at = NULL").await.unwrap_err();
    assert_eq!(error.0, "42501");
    let error =
        decider.batch_execute(&format!("SELECT floh_worker.close_approvals('{}', NULL, NULL)", place.run)).await;
    assert_eq!(error.unwrap_err().code().unwrap().code(), "42501");
    set(&decider, ids[0], YES).await.unwrap();
    assert_eq!((bench.outcome(&place).await.as_deref(), bench.wakes(&place).await), (Some("approved"), 1));
}

/// Deciders of one step at once: exactly those count that came before it was settled, nobody waits for ever, and the run is
/// woken after each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deciders_at_the_same_time_settle_a_step_once_and_never_block_each_other() {
    const ROUNDS: usize = 200;
    let bench = Bench::new().await;
    let mut clients = Vec::new();
    for isolation in ["read committed", "repeatable read", "read committed", "serializable"] {
        let client = bench.server.session("floh").await;
        client.batch_execute(&format!("SET default_transaction_isolation = '{isolation}'")).await.unwrap();
        clients.push(client);
    }
    let ender = bench.server.session("floh").await;
    ender.batch_execute("SET search_path = floh_worker").await.unwrap();
    let mut refusals = 0;
    for round in 0..ROUNDS {
        let (mode, quorum) = [("single", 1), ("parallel", 4), ("parallel", 2), ("parallel", 3)][round % 4];
        let (place, ids) = bench.ask(&Question::of(mode, quorum, 4)).await;
        let ends = round % 5 == 4;
        let votes: Vec<bool> = (0..4).map(|_| rand::random_bool(0.6)).collect();
        let decisions = clients.iter().zip(&ids).zip(&votes).map(|((client, id), yes)| async move {
            tokio::time::sleep(Duration::from_micros(rand::random_range(0..1500))).await;
            // What an API server does with a serialisation failure.
            loop {
                match set(client, *id, if *yes { YES } else { NO }).await {
                    Err((code, _)) if code == "40001" => {}
                    answer => return answer,
                }
            }
        });
        let end = async {
            if ends {
                tokio::time::sleep(Duration::from_micros(rand::random_range(0..1500))).await;
                ender.query_one("SELECT fail_run($1, 'stuck')", &[&place.run]).await.unwrap();
            }
        };
        let all = async { tokio::join!(futures_util::future::join_all(decisions), end).0 };
        let answers = within("the deciders", Duration::from_secs(20), all).await;
        let mut made = 0;
        for answer in answers {
            match answer {
                Ok(()) => made += 1,
                Err((code, message)) => {
                    assert_eq!(code, "FL020", "round {round}: {message}");
                    refusals += 1;
                }
            }
        }
        let rows = bench.store.approvals_of(&place).await.unwrap();
        let count = |status: &str| rows.approvals.iter().filter(|row| row.status == status).count();
        let (yes, no) = (count("approved"), count("rejected"));
        assert_eq!(made, yes + no, "round {round}: {rows:?}");
        let what = format!("round {round}, {mode} {quorum}: {rows:?}");
        let needed = usize::try_from(quorum).unwrap();
        match rows.outcome.as_deref() {
            Some("approved") => assert!(yes == needed, "{what}"),
            Some("rejected") if mode == "single" => assert!((yes, no) == (0, 1), "{what}"),
            // Without those that the end of the run has made void it says nothing.
            Some("rejected") => assert!(ends || no == 4 - needed + 1, "{what}"),
            outcome => assert!(ends && outcome.is_none(), "{what}"),
        }
        assert!(bench.wakes(&place).await >= i64::try_from(made).unwrap(), "{what}");
    }
    assert!(refusals > 50, "nobody came too late: {refusals}");
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let admin = bench.server.admin().await;
    assert_eq!(admin.query_one(deadlocks, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert!(!bench.server.log().contains("deadlock"), "{}", bench.server.log());
}
