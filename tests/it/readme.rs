//! README's SQL, as it stands there: what it grants is enough for what it shows, and each statement does what is said.

use crate::{store_ledger::migrated, support::PostgresServer};
use floh_worker::{
    config::{Config, Variables},
    jobs,
};
use tokio_postgres::Client;

const README: &str = include_str!("../../README.md");
const MANUAL: &str = include_str!("../../packaging/man/floh-worker.8");
/// The run that README's statements name.
const RUN: &str = "6f1c0d3a-0000-0000-0000-000000000000";

/// A section's indented lines without comments, cut into statements at each semicolon that ends a line.
fn statements(heading: &str) -> Vec<String> {
    let (_, section) = README.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let code: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let code: Vec<&str> = code.into_iter().filter(|line| !line.starts_with("--")).collect();
    let text = code.join("\n");
    let (whole, rest) = text.rsplit_once(';').unwrap();
    assert_eq!(rest.trim(), "", "README ends within a statement");
    whole.split(";\n").map(|statement| statement.trim().to_string()).collect()
}

/// What an API server has there before: an active definition, and the run that is asked for, with a step.
async fn furnish(api: &Client) {
    api.batch_execute(&format!(
        "SET search_path = floh_worker;
        INSERT INTO workflow_definition (name, status, definition) VALUES ('onboarding', 'active', '{{}}');
        INSERT INTO workflow_run (id, definition_id) SELECT '{RUN}', id FROM workflow_definition;
        INSERT INTO workflow_step (run_id, step_id, type) VALUES ('{RUN}', 'grant-role', 'role_grant');
        INSERT INTO workflow_run (definition_id, status) SELECT id, 'waiting' FROM workflow_definition;
        INSERT INTO workflow_step (run_id, step_id, type, status)
            SELECT id, 'ask', 'user_prompt', 'waiting_response' FROM workflow_run WHERE status = 'waiting';
        INSERT INTO question (id, kind, run_id, step_id, visit, assignee_id, title, fields)
            SELECT q.id::uuid, q.kind, s.run_id, 'ask', 1, 'u-17', 'A question', q.fields::jsonb
            FROM workflow_step s, (VALUES
                ('6f1c0d3a-0000-0000-0000-000000000001', 'prompt', '[{{\"name\": \"floor\", \"type\": \"number\"}}]'),
                ('6f1c0d3a-0000-0000-0000-000000000002', 'review', '[]')) q (id, kind, fields)
            WHERE s.step_id = 'ask'"
    ))
    .await
    .unwrap();
}

/// A furnished database, the session of its owner, who has granted the role `api` what these chapters name, and their other
/// statements.
async fn stage(chapters: &[&str]) -> (PostgresServer, Client, Vec<String>) {
    let (server, _store) = migrated().await;
    let owner = server.session("floh").await;
    furnish(&owner).await;
    server.admin().await.batch_execute("CREATE ROLE api LOGIN").await.unwrap();
    let (grants, others): (Vec<String>, Vec<String>) =
        chapters.iter().flat_map(|chapter| statements(chapter)).partition(|text| text.starts_with("GRANT "));
    for grant in &grants {
        owner.batch_execute(grant).await.unwrap();
    }
    (server, owner, others)
}

/// Runs the statement that begins so, in the role `api`; the rows as text.
async fn run(server: &PostgresServer, all: &[&String], beginning: &str) -> (u64, Vec<Vec<Option<String>>>) {
    let found: Vec<_> = all.iter().filter(|text| text.starts_with(beginning)).collect();
    assert_eq!(found.len(), 1, "README has {} statements {beginning}", found.len());
    let answers = server.session("api").await.simple_query(found[0]).await.unwrap();
    let mut rows = Vec::new();
    let mut count = 0;
    for answer in answers {
        match answer {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|column| row.get(column).map(str::to_string)).collect());
            }
            tokio_postgres::SimpleQueryMessage::CommandComplete(number) => count = number,
            _ => {}
        }
    }
    (count, rows)
}

/// The outbox has one row, for a job of the released worker in the queue that it has by default.
async fn wakes_up_a_known_job(owner: &Client) {
    let sql = "SELECT queue, name, due_at > now() + interval '1 day' FROM job_outbox WHERE name <> 'resume-run'";
    let row = owner.query_one(sql, &[]).await.unwrap();
    let (queue, name) = (row.get::<_, &str>(0), row.get::<_, &str>(1));
    assert_eq!((queue, row.get::<_, bool>(2)), ("bull:workflow-scheduler", true));
    let (config, _) = Config::load(&Variables::default()).unwrap();
    let known = jobs::registry(&config);
    assert!(known.get(name).is_some() && !name.starts_with("test."), "{}", known.unknown(name));
}

#[tokio::test]
async fn the_statements_do_what_is_said_with_the_rights_that_are_named() {
    let (server, owner, statements) = stage(&["What an API server does"]).await;
    let all: Vec<&String> = statements.iter().collect();
    let text = |words: &[&str]| words.iter().map(|word| Some((*word).to_string())).collect::<Vec<_>>();

    let (count, rows) = run(&server, &all, "INSERT INTO floh_worker.workflow_run ").await;
    assert_eq!((count, rows.len()), (1, 1));
    let sql = "SELECT status, engine, submitter_id, variables->>'role' FROM workflow_run WHERE id = $1::text::uuid";
    let row = owner.query_one(sql, &[&rows[0][0]]).await.unwrap();
    let new: Vec<&str> = (0..4).map(|column| row.get(column)).collect();
    assert_eq!(new, ["pending", "floh-worker", "u-17", "auditor"]);

    let (_, rows) = run(&server, &all, "SELECT status, failure_reason FROM floh_worker.workflow_run ").await;
    assert_eq!(rows, [vec![Some("pending".to_string()), None]]);
    let (_, rows) = run(&server, &all, "SELECT step_id, ").await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0][..3], text(&["grant-role", "1", "pending"]));

    let (count, _) = run(&server, &all, "UPDATE floh_worker.workflow_run ").await;
    assert_eq!(count, 1);
    let (_, rows) = run(&server, &all, "SELECT status, failure_reason FROM floh_worker.workflow_run ").await;
    assert_eq!(rows, [vec![Some("pending".to_string()), None]], "a worker cancels it");
    let sql = "SELECT cancel_reason FROM workflow_run WHERE cancel_requested_at IS NOT NULL";
    assert_eq!(owner.query_one(sql, &[]).await.unwrap().get::<_, &str>(0), "withdrawn");
    let (count, _) = run(&server, &all, "UPDATE floh_worker.workflow_run ").await;
    assert_eq!(count, 0, "it is not cancelled again");
    // Each run was woken when it was started, and the cancelled one for that.
    let sql = "SELECT count(*) FROM job_outbox WHERE name = 'resume-run'";
    assert_eq!(owner.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 3);
    owner.batch_execute("DELETE FROM job_outbox").await.unwrap();

    for table in ["app_user", "role"] {
        for _ in 0..2 {
            let (count, _) = run(&server, &all, &format!("INSERT INTO floh_worker.{table} ")).await;
            assert_eq!(count, 1, "{table}");
        }
    }
    let (count, rows) = run(&server, &all, "SELECT id, kind, ").await;
    assert_eq!((count, rows.len()), (2, 2));
    let (answer, reject) =
        ("UPDATE floh_worker.question SET status = 'answered'", "UPDATE floh_worker.question SET status = 'rejected'");
    for beginning in [answer, reject] {
        let (count, _) = run(&server, &all, beginning).await;
        assert_eq!(count, 1, "{beginning}");
    }
    let woken = "SELECT wake_seq FROM workflow_run WHERE status = 'waiting'";
    assert_eq!(owner.query_one(woken, &[]).await.unwrap().get::<_, i64>(0), 2);
    owner.batch_execute("DELETE FROM job_outbox").await.unwrap();

    for new in [1, 0] {
        let (count, _) = run(&server, &all, "INSERT INTO floh_worker.job_outbox ").await;
        assert_eq!(count, new, "one wake-up has one row");
    }
    wakes_up_a_known_job(&owner).await;
    owner.batch_execute("DELETE FROM job_outbox").await.unwrap();
    let (_, manual) = MANUAL.split_once("\n.nf\nINSERT INTO floh_worker.job_outbox ").unwrap();
    let manual = manual.split_once("\n.fi\n").unwrap().0.replace("\\-", "-");
    let api = server.session("api").await;
    api.batch_execute(&format!("INSERT INTO floh_worker.job_outbox {manual}")).await.unwrap();
    wakes_up_a_known_job(&owner).await;

    let (count, _) = run(&server, &all, "INSERT INTO floh_worker.audit_log ").await;
    assert_eq!(count, 1);
    let chained = "SELECT action FROM audit_chain JOIN audit_log ON audit_log.id = audit_id";
    assert_eq!(owner.query_one(chained, &[]).await.unwrap().get::<_, &str>(0), "role.granted");
    assert_eq!(all.len(), 13, "a statement that this test does not know: {all:?}");

    // The rights are no more than that.
    let api = server.session("api").await;
    for refused in ["DELETE FROM floh_worker.workflow_run", "SELECT * FROM floh_worker.audit_log"] {
        let error = api.batch_execute(refused).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{refused}");
    }
}

#[tokio::test]
async fn the_statements_about_definitions_do_what_is_said_with_the_rights_that_are_named() {
    let (server, store) = migrated().await;
    let owner = server.session("floh").await;
    furnish(&owner).await;
    server.admin().await.batch_execute("CREATE ROLE api LOGIN").await.unwrap();
    let statements = statements("Workflow definitions");
    let (grants, all): (Vec<_>, Vec<_>) = statements.iter().partition(|text| text.starts_with("GRANT "));
    owner.batch_execute("GRANT USAGE ON SCHEMA floh_worker TO api").await.unwrap();
    for grant in &grants {
        owner.batch_execute(grant).await.unwrap();
    }
    assert_eq!(run(&server, &all, "INSERT INTO floh_worker.workflow_definition ").await.0, 1);
    let states = async || {
        let listed = store.list_definitions(Some("onboarding"), 9).await.unwrap();
        listed.iter().map(|one| (one.version, one.status.word())).collect::<Vec<_>>()
    };
    assert_eq!(states().await, [(2, "active"), (1, "deprecated")]);
    let written = store.definitions(&"onboarding@2".parse().unwrap()).await.unwrap().remove(0);
    assert_eq!(floh_worker::engine::validate(&written.document).1, []);
    assert_eq!(run(&server, &all, "UPDATE floh_worker.workflow_definition ").await.0, 1);
    assert_eq!(states().await, [(2, "deprecated"), (1, "active")]);
    assert_eq!(all.len(), 2, "a statement that this test does not know: {all:?}");
}

#[tokio::test]
async fn the_statements_about_schedules_do_what_is_said_with_the_rights_that_are_named() {
    let (server, owner, statements) = stage(&["What an API server does", "Schedules"]).await;
    let all: Vec<&String> = statements.iter().collect();
    let schedule = "SELECT definition, cron, zone, catch_up, catch_up_limit, overlap, enabled FROM workflow_schedule";
    assert_eq!(run(&server, &all, "INSERT INTO floh_worker.workflow_schedule ").await.0, 1);
    let row = owner.query_one(schedule, &[]).await.unwrap();
    let texts: Vec<&str> = (0..3).map(|column| row.get(column)).collect();
    assert_eq!(texts, ["onboarding", "30 7 * * 1-5", "Europe/Berlin"]);
    assert_eq!(run(&server, &all, "UPDATE floh_worker.workflow_schedule SET catch_up = ").await.0, 1);
    assert_eq!(run(&server, &all, "UPDATE floh_worker.workflow_schedule SET enabled = ").await.0, 1);
    let row = owner.query_one(schedule, &[]).await.unwrap();
    let policies: (&str, i32, &str, bool) = (row.get(3), row.get(4), row.get(5), row.get(6));
    assert_eq!(policies, ("all", 10, "queue", false));
    owner
        .batch_execute("INSERT INTO schedule_tick (schedule_id, due_at, outcome) SELECT id, now(), 'skipped' FROM workflow_schedule")
        .await
        .unwrap();
    let (_, rows) = run(&server, &all, "SELECT t.due_at, ").await;
    assert_eq!(rows[0][1..], [Some("skipped".to_string()), None, None]);
    assert_eq!(run(&server, &all, "DELETE FROM floh_worker.workflow_schedule ").await.0, 1);
    assert!(owner.query(schedule, &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_monitoring_statement_runs() {
    let (server, _store) = migrated().await;
    let (_, rest) = README.split_once("    psql -c '").unwrap();
    let (statement, _) = rest.split_once("'\n").unwrap();
    server.session("floh").await.query(statement, &[]).await.unwrap();
}

/// The approval that README's statements name.
const APPROVAL: &str = "a7b0c0de-0000-0000-0000-000000000000";

#[tokio::test]
async fn an_approval_is_found_and_decided_by_one_statement_each() {
    let (server, owner, statements) = stage(&["What an API server does"]).await;
    let all: Vec<&String> = statements.iter().collect();
    owner
        .batch_execute(&format!(
            "INSERT INTO workflow_step (run_id, step_id, type, status) VALUES ('{RUN}', 'ask', 'approval', 'waiting_approval');
            UPDATE workflow_run SET status = 'waiting', current_step = 'ask', wake_at = NULL WHERE id = '{RUN}';
            INSERT INTO approval (id, run_id, step_id, visit, position, mode, quorum, approver, approver_id, title, asked_at)
                VALUES ('{APPROVAL}', '{RUN}', 'ask', 1, 1, 'single', 1, 'u-9', 'u-9', 'A role', now())"
        ))
        .await
        .unwrap();
    let (_, rows) = run(&server, &all, "SELECT id, run_id, ").await;
    let shown: Vec<_> = rows[0].iter().take(4).map(|column| column.as_deref().unwrap()).collect();
    assert_eq!((rows.len(), &shown[..]), (1, &[APPROVAL, RUN, "ask", "A role"][..]));
    let wakes = "SELECT count(*) FROM job_outbox WHERE name = 'resume-run'";
    let before: i64 = owner.query_one(wakes, &[]).await.unwrap().get(0);
    assert_eq!(run(&server, &all, "UPDATE floh_worker.approval ").await.0, 1);
    let after: i64 = owner.query_one(wakes, &[]).await.unwrap().get(0);
    assert_eq!(after, before + 1, "the decision wakes the run");
    let (_, rows) = run(&server, &all, "SELECT id, run_id, ").await;
    assert_eq!(rows.len(), 0);
    let api = server.session("api").await;
    let again = format!(
        "UPDATE floh_worker.approval SET status = 'rejected', decided_by = 'x', reason = 'x' WHERE id = '{APPROVAL}'"
    );
    let error = api.batch_execute(&again).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("was decided already: approved by u-9"), "{error:?}");
    // Nothing else can be written there.
    let error = api.batch_execute("UPDATE floh_worker.approval SET due_at = NULL").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42501");
}
