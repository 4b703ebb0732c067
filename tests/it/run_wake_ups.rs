//! What becomes of a run whose wake-up fails for good, or is taken off the queue by somebody else.

use crate::{
    store_ledger::{fetch, migrated, taken},
    support::{Fleet, PostgresServer, runs::chain},
};
use floh_worker::store::{Identity, Lease, Release, Store, outbox::Failed, run::CommitOutcome};
use serde_json::json;
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

const QUEUE: &str = "bull:workflow-scheduler";

/// A migrated database, a session in it, and a run whose first wake-up has been sent.
struct Bench {
    _server: PostgresServer,
    store: Store,
    api: Client,
    run: Uuid,
}

impl Bench {
    async fn new() -> Bench {
        let (server, store) = migrated().await;
        let api = server.session("floh").await;
        api.batch_execute("SET search_path = floh_worker").await.unwrap();
        let sql = "WITH d AS (INSERT INTO workflow_definition (name, status, definition) VALUES ('x', 'active', '{}')
            RETURNING id) INSERT INTO workflow_run (definition_id) SELECT id FROM d RETURNING id";
        let run = api.query_one(sql, &[]).await.unwrap().get(0);
        let bench = Bench { _server: server, store, api, run };
        bench.api.batch_execute("UPDATE job_outbox SET sent_at = now()").await.unwrap();
        bench
    }

    /// The job of the wake-up with this number, at this attempt.
    fn job(&self, seq: i64, attempts_made: i32) -> Identity {
        let job_id = format!("resume-{}-{seq}", self.run);
        Identity { queue: QUEUE.into(), job_id, timestamp_ms: 1_700_000_000_000, attempts_made }
    }

    async fn lease(&self, seq: i64, attempts_made: i32) -> Lease {
        taken(&self.store, &self.job(seq, attempts_made), &fetch(attempts_made + 1, 100)).await
    }

    async fn take_run(&self, lease: &Lease, seq: i64) {
        self.store.take_run(lease, self.run, Some(seq)).await.unwrap().expect("the run is taken");
    }

    /// Status and reason of the run, and of its steps.
    async fn state(&self) -> Vec<String> {
        let sql = "SELECT status || coalesce(': ' || failure_reason, '') FROM workflow_run WHERE id = $1
            UNION ALL SELECT step_id || ' ' || status || coalesce(': ' || failure_reason, '') FROM workflow_step WHERE run_id = $1";
        self.api.query(sql, &[&self.run]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// The outbox: number of the wake-up, how it ended and why.
    async fn wake_ups(&self) -> Vec<String> {
        let sql = "SELECT (data ->> 'seq') || coalesce(' ' || ended, '') || coalesce(': ' || failure_reason, '')
            FROM job_outbox ORDER BY id";
        self.api.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    async fn outbox_row(&self, seq: i64) -> i64 {
        let job = self.job(seq, 0).job_id;
        self.api.query_one("SELECT id FROM job_outbox WHERE job_id = $1", &[&job]).await.unwrap().get(0)
    }
}

#[tokio::test]
async fn a_run_fails_with_its_job_and_says_why() {
    let bench = Bench::new().await;
    let first = bench.lease(1, 0).await;
    bench.take_run(&first, 1).await;
    let step = "INSERT INTO workflow_step (run_id, step_id, type, status, position) VALUES ($1, 'a', 'transform', 'running', 1)";
    bench.api.execute(step, &[&bench.run]).await.unwrap();
    // An attempt after which another one follows fails nothing.
    assert!(bench.store.release_because(&first, Release::Retried, Some("too early")).await.unwrap());
    assert_eq!(bench.state().await, ["running", "a running"]);
    assert_eq!(bench.wake_ups().await, ["1"]);
    // The last one failed before it came to the run.
    let second = bench.lease(1, 1).await;
    assert!(bench.store.release_because(&second, Release::Failed, Some("panic: \0 no")).await.unwrap());
    assert_eq!(bench.state().await, ["failed: panic: \u{fffd} no", "a failed: panic: \u{fffd} no"]);
    assert_eq!(bench.wake_ups().await, ["1 failed: panic: \u{fffd} no"]);
    // Brought back by hand it finds a run that has ended; the reason is gone.
    let by_hand = taken(&bench.store, &bench.job(1, 1), &fetch(3, 300)).await;
    assert_eq!(bench.wake_ups().await, ["1"]);
    assert!(bench.store.take_run(&by_hand, bench.run, Some(1)).await.unwrap().is_err());
}

#[tokio::test]
async fn a_wake_up_that_never_ran_fails_the_run_that_waits_for_it() {
    let bench = Bench::new().await;
    assert!(bench.store.outbox_job_failed(&bench.job(1, 0), "quarantined").await.unwrap());
    assert_eq!(bench.state().await, ["failed: quarantined"]);
    let bench = Bench::new().await;
    let row = Failed { id: bench.outbox_row(1).await, reason: "it has too much data".into() };
    assert_eq!(bench.store.outbox_failed(std::slice::from_ref(&row)).await.unwrap(), 1);
    assert_eq!(bench.store.outbox_failed(&[row]).await.unwrap(), 0);
    assert_eq!(bench.state().await, ["failed: it has too much data"]);
}

#[tokio::test]
async fn a_failed_wake_up_leaves_a_run_alone_that_another_job_works_on() {
    let bench = Bench::new().await;
    let lease = bench.lease(1, 0).await;
    bench.take_run(&lease, 1).await;
    bench.api.execute("SELECT wake_run($1)", &[&bench.run]).await.unwrap();
    assert!(bench.store.outbox_job_failed(&bench.job(2, 0), "quarantined").await.unwrap());
    assert_eq!(bench.state().await, ["running"]);
    assert_eq!(bench.wake_ups().await, ["1", "2 failed: quarantined"]);
}

#[tokio::test]
async fn a_wake_up_that_somebody_else_took_comes_again() {
    let bench = Bench::new().await;
    let row = bench.outbox_row(1).await;
    assert_eq!(bench.store.outbox_completed(&[row]).await.unwrap(), 1);
    assert_eq!(bench.state().await, ["pending"]);
    assert_eq!(bench.wake_ups().await, ["1 completed", "2"]);
    // An older one that is done says nothing about the one that is on its way.
    let bench = Bench::new().await;
    bench.api.execute("SELECT wake_run($1)", &[&bench.run]).await.unwrap();
    let row = bench.outbox_row(1).await;
    assert_eq!(bench.store.outbox_completed(&[row]).await.unwrap(), 1);
    assert_eq!(bench.wake_ups().await, ["1 completed", "2"]);
}

#[tokio::test]
async fn a_wake_up_that_was_handed_back_and_then_taken_by_somebody_else_comes_again() {
    let bench = Bench::new().await;
    let lease = bench.lease(1, 0).await;
    assert!(bench.store.release_because(&lease, Release::HandedBack, None).await.unwrap());
    let row = bench.outbox_row(1).await;
    assert_eq!(bench.store.outbox_completed(&[row]).await.unwrap(), 1);
    assert_eq!(bench.wake_ups().await, ["1 completed", "2"]);
}

/// Redis has lost the job while a worker had it. It is sent again under its id, and is another job for the ledger.
#[tokio::test]
async fn a_job_that_the_queue_got_again_goes_on_with_its_run() {
    let bench = Bench::new().await;
    let first = bench.lease(1, 0).await;
    bench.take_run(&first, 1).await;
    let again = Identity { timestamp_ms: 1_700_000_100_000, ..bench.job(1, 0) };
    let second = taken(&bench.store, &again, &fetch(1, 200)).await;
    bench.take_run(&second, 1).await;
    let change = json!({
        "step": {"id": "start", "type": "start", "visit": 1, "attempt": 1, "status": "completed", "outcome": "success"},
        "run": {"status": "running"}, "seen": 1,
    });
    let late = bench.store.commit_step(&first, bench.run, &change).await.unwrap();
    assert_eq!(late.outcome, CommitOutcome::Moved);
    let commit = bench.store.commit_step(&second, bench.run, &change).await.unwrap();
    assert_eq!(commit.outcome, CommitOutcome::Committed);
}

/// The queue in the middle: a real worker's job is failed by hand, before any worker takes it.
#[test]
fn a_job_that_failed_in_the_queue_fails_its_run_with_the_queue_s_reason() {
    let mut fleet = Fleet::start();
    let definition = fleet.define(&chain("nothing", vec![]));
    let mut worker = fleet.worker("1", &[]);
    worker.stop();
    let run = fleet.start_run(&definition, &json!({}));
    // As another consumer leaves it that knows no such job.
    let (job, now) = (format!("resume-{run}-1"), "1700000000000");
    let fields = [
        "name",
        "resume-run",
        "data",
        "{}",
        "opts",
        "{}",
        "timestamp",
        now,
        "finishedOn",
        now,
        "failedReason",
        "no such job",
    ];
    let hash = fleet.key(&job);
    let mut arguments: Vec<&str> = vec![&hash];
    arguments.extend(fields);
    let mut command = redis::cmd("HSET");
    arguments.iter().for_each(|argument| _ = command.arg(argument));
    let _: i64 = command.query(&mut fleet.connection).unwrap();
    let failed = fleet.key("failed");
    let _: i64 = redis::cmd("ZADD").arg(&failed).arg(now).arg(&job).query(&mut fleet.connection).unwrap();
    fleet.sql("UPDATE floh_worker.job_outbox SET sent_at = now() - interval '1 minute'");
    let _worker = fleet.worker("2", &[]);
    let row = fleet.wait_run(&run, "failed", Duration::from_secs(90));
    assert_eq!(row.reason.as_deref(), Some("no such job"));
}
