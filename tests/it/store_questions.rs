//! The rules of answering: they are the database's, so that they hold for whoever writes.

use crate::{
    store_people::peopled,
    support::{PostgresServer, eventually, within},
};
use floh_worker::store::{Store, question};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_postgres::{Client, error::DbError};

/// A run that waits at the step `ask`, and what has woken it so far.
struct Waiting {
    server: PostgresServer,
    store: Store,
    owner: Client,
    run: String,
}

impl Waiting {
    async fn start() -> Waiting {
        let (server, store, owner) = peopled().await;
        let sql = "INSERT INTO workflow_definition (name, status, definition) VALUES ('x', 'active', '{}');
            INSERT INTO workflow_run (definition_id, status, current_step)
                SELECT id, 'waiting', 'ask' FROM workflow_definition;
            INSERT INTO workflow_step (run_id, step_id, type, status, position)
                SELECT id, 'ask', 'user_prompt', 'waiting_response', 1 FROM workflow_run";
        owner.batch_execute(sql).await.unwrap();
        let run = owner.query_one("SELECT id::text FROM workflow_run", &[]).await.unwrap().get(0);
        Waiting { server, store, owner, run }
    }

    /// Asks, with more columns and their values.
    async fn ask(&self, kind: &str, columns: &str, values: &str) -> String {
        let sql = format!(
            "INSERT INTO question (run_id, step_id, visit, kind, assignee_id{columns})
                VALUES ('{}', 'ask', 1, '{kind}', 'u-ada'{values}) RETURNING id::text",
            self.run
        );
        self.owner.query_one(&sql, &[]).await.unwrap().get(0)
    }

    async fn refused(&self, sql: &str) -> DbError {
        let error = self.owner.batch_execute(sql).await.expect_err(sql);
        error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).clone()
    }

    /// How often the run was woken, and how many jobs that made.
    async fn wakes(&self) -> (i64, i64) {
        let sql = "SELECT r.wake_seq, (SELECT count(*) FROM job_outbox WHERE name = 'resume-run') FROM workflow_run r";
        let row = self.owner.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1))
    }

    async fn status(&self, id: &str) -> String {
        let sql = format!("SELECT status FROM question WHERE id = '{id}'");
        self.owner.query_one(&sql, &[]).await.unwrap().get(0)
    }
}

fn answer(id: &str, set: &str) -> String {
    format!("UPDATE question SET {set} WHERE id = '{id}'")
}

#[tokio::test]
async fn one_update_answers_and_wakes_the_run() {
    let waiting = Waiting::start().await;
    for (kind, set) in [
        ("prompt", "status = 'answered', answer = '{}', answered_by = 'u-ada'"),
        ("document", "status = 'answered', answer = '{}', answered_by = 'u-ada'"),
        ("review", "status = 'approved', answered_by = 'u-max'"),
        ("review", "status = 'rejected', reason = 'unreadable', answered_by = 'u-max'"),
        ("acceptance", "status = 'rejected', reason = 'not mine', answered_by = 'u-ada'"),
        ("consent", "status = 'rejected', answered_by = 'u-ada'"),
        ("consent", "status = 'approved', answered_by = 'u-ada', reason = 'gladly'"),
    ] {
        let id = waiting.ask(kind, "", "").await;
        let (before, jobs) = waiting.wakes().await;
        waiting.owner.batch_execute(&answer(&id, set)).await.unwrap();
        assert_eq!(waiting.wakes().await, (before + 1, jobs + 1), "{kind}: {set}");
        let sql = format!("SELECT answered_at > created_at FROM question WHERE id = '{id}'");
        assert!(waiting.owner.query_one(&sql, &[]).await.unwrap().get::<_, bool>(0), "{kind}: {set}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_refused_with_a_sentence_and_wakes_nobody() {
    let waiting = Waiting::start().await;
    for (kind, set, code, words) in [
        ("prompt", "status = 'answered', answer = '{}'", "FL021", "answered_by is missing"),
        ("prompt", "status = 'answered', answer = '{}', answered_by = ' '", "FL021", "answered_by is missing"),
        ("prompt", "status = 'approved', answered_by = 'u-ada'", "FL021", "a prompt is answered, and not approved"),
        ("prompt", "status = 'answered', answered_by = 'u-ada'", "FL021", "an answer is an object"),
        ("prompt", "answer = '{}', answered_by = 'u-ada'", "FL022", "an answer comes with the status"),
        ("document", "status = 'rejected', reason = 'x', answered_by = 'u-ada'", "FL021", "a document is answered"),
        ("review", "status = 'answered', answered_by = 'u-max'", "FL021", "a review is approved or rejected"),
        ("review", "status = 'rejected', answered_by = 'u-max'", "FL021", "a rejection says why"),
        ("acceptance", "status = 'rejected', reason = ' ', answered_by = 'u-ada'", "FL021", "a rejection says why"),
        ("consent", "status = 'approved', answer = '{}', answered_by = 'u-ada'", "FL021", "no answer beside"),
        ("consent", "status = 'expired'", "FL022", "has not expired"),
        ("consent", "status = 'maybe'", "23514", "question_status_check"),
        ("consent", "due_at = now() + interval '1 day'", "FL022", "nothing else can be changed"),
        ("consent", "message = 'other words', status = 'approved', answered_by = 'u-ada'", "FL022", "nothing else"),
        ("consent", "assignee_id = 'u-max'", "FL022", "nothing else can be changed"),
    ] {
        let id = waiting.ask(kind, "", "").await;
        let error = waiting.refused(&answer(&id, set)).await;
        assert_eq!(error.code().code(), code, "{kind}: {set}: {error}");
        assert!(error.message().contains(words), "{kind}: {set}: {error}");
        assert_eq!(waiting.status(&id).await, "pending");
    }
    assert_eq!(waiting.wakes().await, (0, 0));
}

/// Every type, its right and wrong values, with and without options.
#[tokio::test]
async fn the_answer_to_a_form_fits_its_fields() {
    let waiting = Waiting::start().await;
    let fields = r#"[{"name": "s", "type": "string"}, {"name": "n", "type": "number"}, {"name": "b", "type": "boolean"},
        {"name": "d", "type": "date"}, {"name": "u", "type": "user"}, {"name": "o", "type": "object"},
        {"name": "a", "type": "array"}, {"name": "plain"},
        {"name": "one", "type": "number", "options": [1, 2]}, {"name": "some", "type": "array", "options": ["x", "y"]}]"#;
    let fields = format!("'{fields}'");
    let long = format!(r#"{{"s": "{}"}}"#, "x".repeat(300_000));
    let deep = format!(r#"{{"a": {}1{}}}"#, "[".repeat(70), "]".repeat(70));
    for (given, problem) in [
        (r#"{}"#, None),
        (r#"{"s": "", "n": null}"#, None),
        (
            r#"{"s": "a", "n": 1.5, "b": false, "d": "2024-02-29", "u": "u-ada", "o": {}, "a": [1, "x"], "plain": "p"}"#,
            None,
        ),
        (
            r#"{"d": "2026-03-29T23:59:59.5+02:00", "u": {"email": "eve@elsewhere.org"}, "one": 1.0, "some": ["y", "x"]}"#,
            None,
        ),
        (r#"{"u": " Eve@elsewhere.org ", "some": []}"#, None),
        (r#"{"u": {"id": "u-max"}}"#, None),
        (r#"{"u": {"id": null, "email": " Ada@Example.org "}}"#, None),
        (r#"{"s": 1}"#, Some("\"s\" has to be a text")),
        (r#"{"plain": []}"#, Some("\"plain\" has to be a text")),
        (r#"{"n": "1"}"#, Some("\"n\" has to be a number")),
        (r#"{"n": ""}"#, Some("\"n\" is empty")),
        (r#"{"b": "true"}"#, Some("\"b\" has to be true or false")),
        (r#"{"d": "29.3.2026"}"#, Some("\"d\" has to be a date such as 2026-03-29")),
        (r#"{"d": "2026-02-30"}"#, Some("\"d\" has to be a date")),
        (r#"{"d": "2026-03-29T24:00:00Z"}"#, Some("\"d\" has to be a date")),
        (r#"{"d": "2026-03-29T12:00:00"}"#, Some("\"d\" has to be a date")),
        (r#"{"d": "0000-01-01"}"#, Some("\"d\" has to be a date")),
        (r#"{"u": "u-nobody"}"#, Some("\"u\" has to be a person's id or address")),
        (r#"{"u": {"id": "u-nobody", "email": "a@b"}}"#, Some("\"u\" has to be a person's id or address")),
        (r#"{"u": {"name": "Ada"}}"#, Some("\"u\" has to be a person's id or address")),
        // The worker takes an object's `email` for an address alone.
        (r#"{"u": {"email": "u-ada"}}"#, Some("\"u\" has to be a person's id or address")),
        (r#"{"u": {"id": null, "email": " u-ada "}}"#, Some("\"u\" has to be a person's id or address")),
        (r#"{"u": {"email": {"email": "ada@example.org"}}}"#, Some("\"u\" has to be a person's id or address")),
        (r#"{"u": 7}"#, Some("\"u\" has to be a person's id or address")),
        (r#"{"o": []}"#, Some("\"o\" has to be an object")),
        (r#"{"a": {}}"#, Some("\"a\" has to be a list")),
        (r#"{"one": 3}"#, Some("\"one\" has to be one of: 1, 2")),
        (r#"{"some": ["x", "z"]}"#, Some("\"some\" has to be one of: x, y")),
        (r#"{"other": 1}"#, Some("\"other\" was not asked for")),
        (r#"[]"#, Some("an answer is an object")),
        (&long, Some("larger than 256 KiB")),
        (&deep, Some("nested too deep")),
    ] {
        let sql = format!("SELECT answer_problem({fields}, $1::text::jsonb)");
        let found: Option<String> = waiting.owner.query_one(&sql, &[&given]).await.unwrap().get(0);
        match (&found, problem) {
            (None, None) => {}
            (Some(found), Some(words)) => assert!(found.contains(words), "{given:.80}: {found}"),
            _ => panic!("{given:.80}: {found:?}, expected {problem:?}"),
        }
    }
    // All that is wrong, at once; and what is required has a value.
    let required = r#", '[{"name": "floor", "type": "number", "required": true}, {"name": "name", "required": true}]'"#;
    let id = waiting.ask("prompt", ", fields", required).await;
    let set = r#"status = 'answered', answer = '{"name": " ", "more": 1}', answered_by = 'u-ada'"#;
    let error = waiting.refused(&answer(&id, set)).await;
    let words = r#"is not answered: "floor" is required; "name" is required; "more" was not asked for"#;
    assert!(error.message().ends_with(words), "{error}");
    let set = r#"status = 'answered', answer = '{"name": "Ada", "floor": 0}', answered_by = 'u-ada'"#;
    waiting.owner.batch_execute(&answer(&id, set)).await.unwrap();
}

#[tokio::test]
async fn an_answer_stands_and_of_many_at_once_one_does() {
    let waiting = Waiting::start().await;
    let id = waiting.ask("review", "", "").await;
    let approve = answer(&id, "status = 'approved', answered_by = 'u-max'");
    waiting.owner.batch_execute(&approve).await.unwrap();
    for set in [
        "status = 'approved', answered_by = 'u-max'",
        "status = 'rejected', reason = 'no', answered_by = 'u-ada'",
        "status = 'pending'",
        "status = 'void'",
        "reason = 'because'",
    ] {
        let error = waiting.refused(&answer(&id, set)).await;
        assert_eq!(error.code().code(), "FL020", "{set}");
        assert!(error.message().contains("was answered already: approved by u-max at "), "{set}: {error}");
    }
    assert_eq!(waiting.wakes().await, (1, 1));

    let id = waiting.ask("review", "", "").await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let client = waiting.server.session("floh").await;
        let set = if n % 2 == 0 { "approved" } else { "rejected" };
        let sql = format!(
            "SET search_path = floh_worker; {}",
            answer(&id, &format!("status = '{set}', reason = 'r', answered_by = 'u-{n}'"))
        );
        tasks.spawn(async move {
            client.batch_execute(&sql).await.map_err(|error| error.as_db_error().unwrap().code().code().to_string())
        });
    }
    let answers = within("eight answers", Duration::from_secs(30), tasks.join_all()).await;
    assert_eq!(answers.iter().filter(|one| one.is_ok()).count(), 1, "{answers:?}");
    assert!(answers.iter().flat_map(|one| one.as_ref().err()).all(|code| code == "FL020"), "{answers:?}");
    assert_eq!(waiting.wakes().await, (2, 2));
}

#[tokio::test]
async fn nothing_is_taken_after_the_time_or_after_the_step() {
    let waiting = Waiting::start().await;
    let late = waiting.ask("consent", ", due_at", ", now() - interval '1 ms'").await;
    let yes = "status = 'approved', answered_by = 'u-ada'";
    let error = waiting.refused(&answer(&late, yes)).await;
    assert!(error.code().code() == "FL020" && error.message().contains("has expired at"), "{error}");
    waiting.owner.batch_execute(&answer(&late, "status = 'expired'")).await.unwrap();
    let error = waiting.refused(&answer(&late, yes)).await;
    assert!(error.message().contains("has expired at"), "{error}");

    // The step goes on: what is open is closed, by its time or for nothing.
    let (open, late) =
        (waiting.ask("consent", "", "").await, waiting.ask("consent", ", due_at", ", now() - interval '1 ms'").await);
    waiting.owner.batch_execute("UPDATE workflow_step SET status = 'completed'").await.unwrap();
    assert_eq!((waiting.status(&open).await.as_str(), waiting.status(&late).await.as_str()), ("void", "expired"));
    let error = waiting.refused(&answer(&open, yes)).await;
    assert!(error.message().contains("is void: its step has ended"), "{error}");
    assert_eq!(waiting.wakes().await, (0, 0), "the end of a step wakes nobody");

    // A run that somebody ends by hand.
    waiting.owner.batch_execute("UPDATE workflow_step SET status = 'waiting_response'").await.unwrap();
    let open = waiting.ask("consent", "", "").await;
    let end = "UPDATE workflow_run SET status = 'cancelled', finished_at = now()";
    waiting.owner.batch_execute(end).await.unwrap();
    assert_eq!(waiting.status(&open).await, "void");
    assert!(waiting.store.open_questions(None, None, 10).await.unwrap().is_empty());
}

/// Whoever withdraws a question wakes the run, too: it would wait for ever.
#[tokio::test]
async fn a_question_that_is_withdrawn_wakes_the_run() {
    let waiting = Waiting::start().await;
    let id = waiting.ask("consent", "", "").await;
    waiting.owner.batch_execute(&answer(&id, "status = 'void'")).await.unwrap();
    assert_eq!(waiting.wakes().await, (1, 1));
}

/// An answer holds the question and wants the run; whoever ends the step or the run has it, and wants the question. They do not
/// wait for each other: the answer is refused, and a job closes what is left.
#[tokio::test]
async fn an_answer_at_the_end_of_its_step_or_run_is_refused_and_a_job_closes_the_rest() {
    for (end, due, closed) in [
        ("UPDATE workflow_step SET status = 'completed'", "", "void"),
        ("UPDATE workflow_step SET status = 'pending'", "", "void"),
        ("UPDATE workflow_run SET status = 'cancelled'", "", "void"),
        ("SELECT fail_run(id, 'no progress') FROM workflow_run", "now() + interval '2 s'", "expired"),
    ] {
        let waiting = Waiting::start().await;
        let (column, value) = if due.is_empty() { ("", String::new()) } else { (", due_at", format!(", {due}")) };
        let id = waiting.ask("consent", column, &value).await;
        let mut ender = waiting.server.session("floh").await;
        ender.batch_execute("SET search_path = floh_worker").await.unwrap();
        let transaction = ender.transaction().await.unwrap();
        transaction.batch_execute("SELECT FROM workflow_run FOR UPDATE").await.unwrap();
        let answerer = waiting.server.session("floh").await;
        let yes = answer(&id, "status = 'approved', answered_by = 'u-ada'");
        let answered =
            tokio::spawn(async move { answerer.batch_execute(&format!("SET search_path = floh_worker; {yes}")).await });
        let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        eventually("the answer waits for the run", Duration::from_secs(20), || async {
            (waiting.owner.query_one(blocked, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
        })
        .await;
        within(end, Duration::from_secs(5), transaction.batch_execute(end)).await.unwrap();
        transaction.commit().await.unwrap();
        let error = within("the answer", Duration::from_secs(10), answered).await.unwrap().expect_err(end);
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "FL020", "{end}: {error}");
        let words = format!("question {id} cannot be answered any more: its step or its run has ended");
        assert_eq!(error.message(), words, "{end}");
        assert_eq!(waiting.status(&id).await, "pending", "{end}");
        assert_eq!(waiting.wakes().await, (0, 0), "{end}");

        let sql = "SELECT data::text, extract(epoch FROM due_at - created_at)::float8 BETWEEN 0.5 AND 5 FROM job_outbox
            WHERE name = 'escalation-reminder' AND job_id = $1";
        let job = waiting.owner.query_opt(sql, &[&format!("close-{id}")]).await.unwrap();
        if end.contains("'pending'") {
            assert!(job.is_none(), "the next try closes it, or asks anew");
        } else {
            let job = job.unwrap_or_else(|| panic!("{end}: no job"));
            let data: Value = serde_json::from_str(job.get(0)).unwrap();
            assert_eq!((data, job.get(1)), (json!({"questionId": id, "close": true}), true), "{end}");
        }
        let over = format!("SELECT coalesce(due_at <= clock_timestamp(), true) FROM question WHERE id = '{id}'");
        eventually("its time is over, if it has one", Duration::from_secs(20), || async {
            waiting.owner.query_one(&over, &[]).await.unwrap().get::<_, bool>(0).then_some(())
        })
        .await;
        question::close_left(&waiting.store.client().await.unwrap(), id.parse().unwrap()).await.unwrap();
        assert_eq!(waiting.status(&id).await, closed, "{end}");
        assert_eq!(waiting.wakes().await, (0, 0), "{end}: the end of a question wakes nobody");
    }
}

/// What is still to be answered, or was, is left as it is by a job that closes.
#[tokio::test]
async fn a_question_that_is_open_or_answered_is_not_closed() {
    let waiting = Waiting::start().await;
    let client = waiting.store.client().await.unwrap();
    let id = waiting.ask("consent", "", "").await;
    question::close_left(&client, id.parse().unwrap()).await.unwrap();
    assert_eq!(waiting.status(&id).await, "pending");
    waiting.owner.batch_execute(&answer(&id, "status = 'approved', answered_by = 'u-ada'")).await.unwrap();
    waiting.owner.batch_execute("UPDATE workflow_step SET status = 'completed'").await.unwrap();
    question::close_left(&client, id.parse().unwrap()).await.unwrap();
    assert_eq!(waiting.status(&id).await, "approved");
}

/// Answers that meet the end of their run, at whatever moment: an answer is either refused, or it was there before the end and
/// has woken the run. Nobody waits for ever, and what nobody has answered is closed, or left to a job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_and_the_end_of_its_run_come_one_after_the_other() {
    const ROUNDS: usize = 150;
    let waiting = Waiting::start().await;
    let mut clients = Vec::new();
    for isolation in ["read committed", "repeatable read", "read committed"] {
        let client = waiting.server.session("floh").await;
        let settings = format!("SET search_path = floh_worker; SET default_transaction_isolation = '{isolation}'");
        client.batch_execute(&settings).await.unwrap();
        clients.push(client);
    }
    let ender = waiting.server.session("floh").await;
    ender.batch_execute("SET search_path = floh_worker").await.unwrap();
    let (mut made, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let again = "DELETE FROM job_outbox; DELETE FROM question;
            UPDATE workflow_run SET status = 'waiting', failure_reason = NULL, finished_at = NULL, wake_seq = 0;
            UPDATE workflow_step SET status = 'waiting_response', failure_reason = NULL, finished_at = NULL";
        waiting.owner.batch_execute(again).await.unwrap();
        let mut ids = Vec::new();
        for _ in &clients {
            ids.push(waiting.ask("consent", "", "").await);
        }
        let answers = clients.iter().zip(&ids).map(|(client, id)| async move {
            tokio::time::sleep(Duration::from_micros(rand::random_range(0..1500))).await;
            let sql = answer(id, "status = 'approved', answered_by = 'u-ada'");
            // What an API server does with a serialisation failure.
            loop {
                let code = client.batch_execute(&sql).await.map_err(|error| error.code().unwrap().code().to_string());
                if code != Err("40001".into()) {
                    return code;
                }
            }
        });
        let end = async {
            tokio::time::sleep(Duration::from_micros(rand::random_range(0..1500))).await;
            ender.query_one("SELECT fail_run(id, 'stuck') FROM workflow_run", &[]).await.unwrap();
        };
        let all = async { tokio::join!(futures_util::future::join_all(answers), end).0 };
        let answers = within("the answers", Duration::from_secs(20), all).await;
        let good = answers.iter().filter(|one| one.is_ok()).count();
        assert!(answers.iter().flat_map(|one| one.as_ref().err()).all(|code| code == "FL020"), "{answers:?}");
        let (woken, _) = waiting.wakes().await;
        assert_eq!(usize::try_from(woken).unwrap(), good, "round {round}: {answers:?}");
        for (id, answer) in ids.iter().zip(&answers) {
            let status = waiting.status(id).await;
            let left = format!("SELECT FROM job_outbox WHERE job_id = 'close-{id}'");
            let left = waiting.owner.query_opt(&left, &[]).await.unwrap().is_some();
            let fine = match (answer, status.as_str()) {
                (Ok(()), "approved") | (Err(_), "void") => true,
                (Err(_), "pending") => left,
                _ => false,
            };
            assert!(fine, "round {round}: {answer:?}, {status}, left to a job: {left}");
        }
        (made, refused) = (made + good, refused + answers.len() - good);
    }
    assert!(made > 20 && refused > 20, "{made} answers, {refused} too late");
    assert!(!waiting.server.log().contains("deadlock"), "{}", waiting.server.log());
}

#[tokio::test]
async fn open_questions_are_listed_for_whom_they_are() {
    let waiting = Waiting::start().await;
    let first = waiting.ask("consent", ", title", ", 'First'").await;
    let second = waiting.ask("prompt", ", assignee_email, due_at", ", 'Ada@Example.org', now() + interval '1 h'").await;
    let ids = |of: Option<&'static str>| {
        let store = waiting.store.clone();
        async move {
            let found = store.open_questions(of, None, 10).await.unwrap();
            found.iter().map(|one| one.id.to_string()).collect::<Vec<_>>()
        }
    };
    assert_eq!(ids(None).await, [first.clone(), second.clone()]);
    assert_eq!(ids(Some("u-ada")).await, [first, second.clone()]);
    assert_eq!(ids(Some("ada@example.ORG")).await, [second]);
    assert!(ids(Some("u-max")).await.is_empty());
}
