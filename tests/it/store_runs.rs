//! A run between its jobs: who may take it, what is committed of it, and what a lost answer or a second wake-up does.

use crate::{
    store_ledger::{fetch, identity, migrated, taken},
    support::PostgresServer,
};
use chrono::{DateTime, TimeDelta, Utc};
use floh_worker::store::{
    Lease, Release, Store, StoreError,
    run::{CommitOutcome, StepStatus, TakenRun, Untaken},
};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

/// A migrated database with a run that has begun: it is at `ask`.
struct Bench {
    _server: PostgresServer,
    store: Store,
    api: Client,
    run: Uuid,
    lease: Lease,
}

impl Bench {
    async fn new() -> Bench {
        let (server, store) = migrated().await;
        let api = server.session("floh").await;
        api.batch_execute("SET search_path = floh_worker").await.unwrap();
        let sql = "WITH d AS (INSERT INTO workflow_definition (name, status, definition)
                VALUES ('x', 'active', '{}') RETURNING id)
            INSERT INTO workflow_run (definition_id) SELECT id FROM d RETURNING id";
        let run = api.query_one(sql, &[]).await.unwrap().get(0);
        let lease = taken(&store, &identity("job-1"), &fetch(1, 100)).await;
        let bench = Bench { _server: server, store, api, run, lease };
        let begun = bench.take(&bench.lease, None).await.unwrap();
        assert_eq!(begun.step, None);
        let change = json!({
            "step": {"id": "start", "type": "start", "visit": 1, "attempt": 1, "status": "completed", "outcome": "success"},
            "set": {"a": 1}, "run": {"status": "running"}, "next": {"id": "ask", "type": "approval"}, "seen": 1,
        });
        let commit = bench.store.commit_step(&bench.lease, run, &change).await.unwrap();
        assert_eq!((commit.outcome, commit.next_visit), (CommitOutcome::Committed, Some(1)));
        bench
    }

    async fn take(&self, lease: &Lease, seq: Option<i64>) -> Result<TakenRun, Untaken> {
        self.store.take_run(lease, self.run, seq).await.unwrap()
    }

    async fn job(&self, id: &str) -> Lease {
        taken(&self.store, &identity(id), &fetch(1, 100)).await
    }

    async fn commit(&self, change: &Value) -> CommitOutcome {
        self.store.commit_step(&self.lease, self.run, change).await.unwrap().outcome
    }

    async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, columns: &str) -> T {
        self.api
            .query_one(&format!("SELECT {columns} FROM workflow_run WHERE id = $1"), &[&self.run])
            .await
            .unwrap()
            .get(0)
    }

    /// The numbers of the wake-ups that were written.
    async fn wake_ups(&self) -> Vec<i64> {
        let sql = "SELECT (data ->> 'seq')::bigint FROM job_outbox WHERE name = 'resume-run' ORDER BY id";
        self.api.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

fn wait(due: Option<DateTime<Utc>>, seen: i64) -> Value {
    json!({
        "seen": seen,
        "step": {"id": "ask", "type": "approval", "visit": 1, "attempt": 1, "status": "waiting_approval", "due": due},
        "run": {"status": "waiting"},
    })
}

fn done() -> Value {
    json!({
        "step": {"id": "ask", "type": "approval", "visit": 1, "attempt": 1, "status": "completed", "outcome": "approved"},
        "set": {"b": 2}, "run": {"status": "running"}, "next": {"id": "end", "type": "end"},
    })
}

/// An answer may be committed between the last look at a step and its timeout.
#[tokio::test]
async fn a_timeout_does_not_pass_over_what_has_come_since_the_step_was_looked_at() {
    let bench = Bench::new().await;
    let timeout = |seen: i64| {
        let mut change = done();
        change["step"]["status"] = json!("failed");
        change["step"]["outcome"] = json!("timeout");
        change["seen"] = json!(seen);
        change
    };
    assert_eq!(bench.commit(&wait(None, 1)).await, CommitOutcome::Committed);
    let seen = bench.take(&bench.lease, None).await.unwrap().wake_seq;
    bench.api.execute("SELECT wake_run($1)", &[&bench.run]).await.unwrap();
    for _ in 0..2 {
        let commit = bench.store.commit_step(&bench.lease, bench.run, &timeout(seen)).await.unwrap();
        assert_eq!((commit.outcome, commit.wake_seq), (CommitOutcome::Overtaken, seen + 1));
    }
    let at = bench.take(&bench.lease, None).await.unwrap().step.unwrap();
    assert_eq!((at.id.as_str(), at.status), ("ask", StepStatus::WaitingApproval));
    // Looked at again, it has timed out.
    assert_eq!(bench.commit(&timeout(seen + 1)).await, CommitOutcome::Committed);
    assert_eq!(bench.one::<String>("current_step").await, "end");
}

#[tokio::test]
async fn a_second_wake_up_does_not_run_a_run_twice_and_is_not_lost() {
    let bench = Bench::new().await;
    let other = bench.job("job-2").await;
    bench.api.execute("SELECT wake_run($1)", &[&bench.run]).await.unwrap();
    assert_eq!(bench.take(&other, Some(2)).await, Err(Untaken::Busy));
    // The holder is about to wait: something has happened meanwhile, so it looks again.
    // Asked again because the answer was lost, it is told the same.
    for _ in 0..2 {
        assert_eq!(bench.commit(&wait(None, 1)).await, CommitOutcome::Woken);
        assert_eq!(bench.one::<String>("status").await, "running");
    }
    assert_eq!(bench.commit(&wait(None, 2)).await, CommitOutcome::Committed);
    assert_eq!(bench.one::<String>("status").await, "waiting");
    // Now the other one may have it, and the first one commits nothing more.
    let second = bench.take(&other, Some(2)).await.unwrap();
    assert_eq!(second.step.unwrap().id, "ask");
    assert_eq!(bench.commit(&done()).await, CommitOutcome::Moved);
    assert_eq!(bench.wake_ups().await, [1, 2]);
}

#[tokio::test]
async fn a_wake_up_is_stale_where_a_later_one_is_on_its_way() {
    let bench = Bench::new().await;
    let due = Utc::now() + TimeDelta::hours(1);
    assert_eq!(bench.commit(&wait(Some(due), 1)).await, CommitOutcome::Committed);
    assert_eq!(bench.wake_ups().await, [1, 2]);
    let other = bench.job("job-2").await;
    assert_eq!(bench.take(&other, Some(1)).await, Err(Untaken::Stale));
    // A time that has come is no wait.
    let taken = bench.take(&other, Some(2)).await.unwrap();
    assert!(taken.step.unwrap().due_at.is_some());
    let past = bench.store.commit_step(&other, bench.run, &wait(Some(Utc::now()), 2)).await.unwrap();
    assert_eq!(past.outcome, CommitOutcome::Woken);
}

#[tokio::test]
async fn a_wake_up_whose_time_has_not_come_is_over_when_another_takes_its_place() {
    let bench = Bench::new().await;
    let due = Utc::now() + TimeDelta::days(30);
    let ended = "SELECT (data ->> 'seq')::bigint FROM job_outbox WHERE ended = 'completed' ORDER BY id";
    assert_eq!(bench.commit(&wait(Some(due), 1)).await, CommitOutcome::Committed);
    bench.api.execute("SELECT wake_run($1)", &[&bench.run]).await.unwrap();
    let over: Vec<i64> = bench.api.query(ended, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!((bench.wake_ups().await, over), (vec![1, 2, 3], vec![2]));
    // Its end wakes nobody, and the one that is due stays.
    let other = bench.job("job-2").await;
    assert_eq!(bench.take(&other, Some(2)).await, Err(Untaken::Stale));
    bench.take(&other, Some(3)).await.unwrap();
    bench.store.commit_step(&other, bench.run, &wait(Some(due), 3)).await.unwrap();
    bench.api.execute("SELECT fail_run($1, 'enough')", &[&bench.run]).await.unwrap();
    let over: Vec<i64> = bench.api.query(ended, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!((bench.wake_ups().await, over), (vec![1, 2, 3, 4], vec![2, 4]));
}

#[tokio::test]
async fn a_job_that_was_taken_again_and_again_fails_its_run_with_it() {
    let bench = Bench::new().await;
    let sql = "INSERT INTO job_outbox (queue, job_id, name, data)
        VALUES ('bull:test', 'job-1', 'resume-run', jsonb_build_object('runId', $1::uuid, 'seq', 1))";
    bench.api.execute(sql, &[&bench.run]).await.unwrap();
    // Its workers died before they came to the run, so the run knows the first of them.
    for start in 2..=4 {
        taken(&bench.store, &identity("job-1"), &fetch(start, i64::from(start) * 100)).await;
    }
    assert!(bench.store.outbox_job_failed(&identity("job-1"), "three workers died of it").await.unwrap());
    assert_eq!(bench.one::<String>("status").await, "failed");
    assert_eq!(bench.one::<String>("failure_reason").await, "three workers died of it");
}

#[tokio::test]
async fn a_commit_that_is_asked_again_changes_nothing() {
    let bench = Bench::new().await;
    for _ in 0..2 {
        let commit = bench.store.commit_step(&bench.lease, bench.run, &done()).await.unwrap();
        assert_eq!((commit.outcome, commit.next_visit), (CommitOutcome::Committed, Some(1)));
    }
    assert_eq!(bench.one::<i32>("steps").await, 3);
    assert_eq!(bench.one::<Value>("variables").await, json!({"a": 1, "b": 2}));
    let end = json!({
        "step": {"id": "end", "type": "end", "visit": 1, "attempt": 1, "status": "completed"},
        "run": {"status": "completed"},
    });
    for _ in 0..2 {
        assert_eq!(bench.commit(&end).await, CommitOutcome::Committed);
    }
    assert_eq!(bench.take(&bench.lease, None).await, Err(Untaken::Ended));
}

#[tokio::test]
async fn only_the_latest_lease_commits_and_an_ended_run_takes_nothing() {
    let bench = Bench::new().await;
    // The job was taken anew: its old life is fenced off.
    let again = taken(&bench.store, &identity("job-1"), &fetch(2, 200)).await;
    let late = bench.store.commit_step(&bench.lease, bench.run, &done()).await.unwrap_err();
    assert!(matches!(late, StoreError::LeaseLost { .. }), "{late}");
    assert_eq!(bench.one::<i32>("steps").await, 2);
    let taken = bench.take(&again, None).await.unwrap();
    assert_eq!((taken.step.unwrap().id.as_str(), taken.variables["a"].clone()), ("ask", json!(1)));
    // One that was handed back is nobody's.
    bench.store.release(&again, Release::HandedBack).await.unwrap();
    let other = bench.job("job-2").await;
    bench.take(&other, None).await.unwrap();
    // Ended from outside: nothing of the step is committed.
    bench.api.execute("SELECT fail_run($1, 'because')", &[&bench.run]).await.unwrap();
    let commit = bench.store.commit_step(&other, bench.run, &done()).await.unwrap();
    assert_eq!(commit.outcome, CommitOutcome::Ended);
    assert_eq!(bench.one::<Value>("variables").await, json!({"a": 1}));
    let open = "SELECT count(*) FROM workflow_step WHERE finished_at IS NULL";
    assert_eq!(bench.api.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_job_hands_its_run_on_once_and_a_request_to_cancel_wakes_it() {
    let bench = Bench::new().await;
    assert!(bench.store.hand_on_run(&bench.lease, bench.run).await.unwrap());
    assert!(!bench.store.hand_on_run(&bench.lease, bench.run).await.unwrap());
    assert_eq!(bench.wake_ups().await, [1, 2]);
    let sql = "UPDATE workflow_run SET cancel_requested_at = now(), cancel_reason = 'enough' WHERE id = $1";
    for _ in 0..2 {
        bench.api.execute(sql, &[&bench.run]).await.unwrap();
    }
    assert_eq!(bench.wake_ups().await, [1, 2, 3]);
    let other = bench.job("job-2").await;
    assert_eq!(bench.take(&other, Some(3)).await.unwrap().cancel_reason.as_deref(), Some("enough"));
}

#[tokio::test]
async fn a_wake_up_that_fails_for_good_fails_its_run_and_one_that_somebody_else_took_comes_again() {
    let bench = Bench::new().await;
    bench.commit(&wait(None, 1)).await;
    bench.api.execute("SELECT wake_run($1)", &[&bench.run]).await.unwrap();
    assert_eq!(bench.wake_ups().await, [1, 2]);
    let end = |seq: i64, how: &str| {
        format!("UPDATE job_outbox SET ended = '{how}', ended_at = now() WHERE (data ->> 'seq')::bigint = {seq}")
    };
    // Not ours to run: another consumer has completed it.
    bench.api.batch_execute(&end(2, "completed")).await.unwrap();
    assert_eq!(bench.wake_ups().await, [1, 2, 3]);
    // An old one has nothing to say any more.
    bench.api.batch_execute(&end(1, "failed")).await.unwrap();
    assert_eq!(bench.one::<String>("status").await, "waiting");
    bench.api.batch_execute("UPDATE job_outbox SET failure_reason = 'out of luck'").await.unwrap();
    bench.api.batch_execute(&end(3, "failed")).await.unwrap();
    assert_eq!(bench.one::<String>("status").await, "failed");
    assert_eq!(bench.one::<String>("failure_reason").await, "out of luck");
    // It can go on by hand, at the step where it was.
    let retried: bool = bench.api.query_one("SELECT retry_run($1)", &[&bench.run]).await.unwrap().get(0);
    assert!(retried);
    let other = bench.job("job-2").await;
    let step = bench.take(&other, Some(4)).await.unwrap().step.unwrap();
    assert_eq!((step.id.as_str(), step.visit), ("ask", 2));
}

/// PostgreSQL keeps more than programs read: a run with such variables would fail without a reason that anybody understands.
#[tokio::test]
async fn variables_that_cannot_be_read_are_refused_where_they_are_written() {
    let bench = Bench::new().await;
    let nested = |levels: usize| format!(r#"{{"a": {}1{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let insert = |variables: &str| {
        format!(
            "INSERT INTO workflow_run (definition_id, engine, variables) SELECT id, 'floh-worker', '{variables}'
                FROM workflow_definition RETURNING variables"
        )
    };
    let update = |variables: &str| {
        format!("UPDATE workflow_run SET variables = '{variables}' WHERE id = '{}' RETURNING variables", bench.run)
    };
    let add = |name: &str, variables: &str| {
        format!(
            "INSERT INTO workflow_schedule (name, definition, cron, variables)
                VALUES ({name}, 'x', '0 4 * * *', '{variables}') RETURNING variables"
        )
    };
    let change =
        |variables: &str| format!("UPDATE workflow_schedule SET variables = '{variables}' RETURNING variables");
    bench.api.execute(&add("'kept'", "{}"), &[]).await.unwrap();
    let all = |variables: &str| {
        let name = "gen_random_uuid()::text";
        [insert(variables), update(variables), add(name, variables), change(variables)]
    };
    for (variables, words) in [
        (r#"{"n": 1e400}"#.to_string(), "they have a number in them that is too large"),
        (r#"{"a": [{"n": -1e309}]}"#.to_string(), "they have a number in them that is too large"),
        (nested(64), "they are nested deeper than 64 levels"),
        (nested(500), "they are nested deeper than 64 levels"),
    ] {
        for sql in all(&variables) {
            let error = bench.api.query(&sql, &[]).await.unwrap_err();
            let error = error.as_db_error().unwrap();
            assert_eq!(error.code().code(), "FL025", "{variables}: {error}");
            assert!(error.message().ends_with(&format!(" are not taken: {words}")), "{variables}: {error}");
        }
    }
    for variables in [r#"{"n": 1e308, "m": 1e-400}"#.to_string(), nested(63)] {
        for sql in all(&variables) {
            let kept: Value = bench.api.query(&sql, &[]).await.unwrap()[0].get(0);
            assert!(kept.is_object(), "{variables}");
        }
    }
    assert!(bench.take(&bench.lease, None).await.is_ok());
    // Another engine's are its own business.
    let foreign = insert(r#"{"n": 1e400}"#).replace("'floh-worker'", "'floh'").replace("RETURNING variables", "");
    assert_eq!(bench.api.execute(&foreign, &[]).await.unwrap(), 1);
}
