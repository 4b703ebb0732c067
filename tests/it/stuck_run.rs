//! Which runs are stuck, and what becomes of them.

use crate::{
    store_ledger::{fetch, identity, migrated, taken},
    support::{PostgresServer, within},
};
use floh_worker::{
    jobs::{Batches, JobError, stuck_run_recovery::recover},
    store::{FencedTransaction, Lease, Release, Start, Store, StoreError, WorkerInstance},
};
use serde_json::{Value, json};
use std::{sync::Mutex, time::Duration};
use tokio_postgres::Client;
use uuid::Uuid;

const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// A job's surroundings without a queue: its lease, what it showed as progress, and after how many batches it is told to
/// stop.
pub struct Surroundings {
    pub store: Store,
    pub lease: Lease,
    pub shown: Mutex<Vec<Value>>,
    pub stop_after: Option<usize>,
}

impl Surroundings {
    pub async fn of(store: &Store, job_id: &str) -> Surroundings {
        let lease = taken(store, &identity(job_id), &fetch(1, 100)).await;
        Surroundings { store: store.clone(), lease, shown: Mutex::default(), stop_after: None }
    }
}

impl Batches for Surroundings {
    async fn begin(&self) -> Result<FencedTransaction, StoreError> {
        self.store.begin(&self.lease).await
    }

    async fn complete(&self, transaction: FencedTransaction, value: Value) -> Result<Value, JobError> {
        transaction.commit_result(&value).await?;
        Ok(value)
    }

    async fn progress(&self, progress: &Value) {
        self.shown.lock().unwrap().push(progress.clone());
    }

    fn check_cancelled(&self) -> Result<(), JobError> {
        match self.stop_after {
            Some(batches) if self.shown.lock().unwrap().len() >= batches => {
                Err(JobError::Interrupted("told to stop".into()))
            }
            _ => Ok(()),
        }
    }
}

/// A migrated database, the API server's session in it, and a definition to run.
struct Bench {
    _server: PostgresServer,
    store: Store,
    api: Client,
    definition: Uuid,
}

impl Bench {
    async fn new() -> Bench {
        let (server, store) = migrated().await;
        let api = server.session("floh").await;
        api.batch_execute("SET search_path = floh_worker").await.unwrap();
        let sql = "INSERT INTO workflow_definition (name, status, definition) VALUES ('Onboarding', 'active', '{}')
            RETURNING id";
        let definition = api.query_one(sql, &[]).await.unwrap().get(0);
        Bench { _server: server, store, api, definition }
    }

    /// A run whose last progress was so many minutes ago, with a running, a completed and a pending step.
    async fn run(&self, status: &str, idle_minutes: i32) -> Uuid {
        let sql = "INSERT INTO workflow_run (definition_id, status, updated_at)
            VALUES ($1, $2, now() - make_interval(mins => $3)) RETURNING id";
        let id: Uuid = self.api.query_one(sql, &[&self.definition, &status, &idle_minutes]).await.unwrap().get(0);
        for (step, status) in [("first", "completed"), ("second", "running"), ("third", "pending")] {
            let sql = "INSERT INTO workflow_step (run_id, step_id, type, status) VALUES ($1, $2, 'transform', $3)";
            self.api.execute(sql, &[&id, &step, &status]).await.unwrap();
        }
        id
    }

    /// Changes a run without making progress.
    async fn set(&self, run: Uuid, assignments: &str) {
        let sql =
            format!("UPDATE workflow_run SET {assignments}, updated_at = updated_at - interval '1 us' WHERE id = $1");
        assert_eq!(self.api.execute(&sql, &[&run]).await.unwrap(), 1);
    }

    /// Lets a job of an invocation work on the run.
    async fn lease(&self, run: Uuid, job_id: &str, start: &Start<'_>) -> Lease {
        let lease = taken(&self.store, &identity(job_id), start).await;
        let sql = format!("SELECT id FROM job_execution WHERE epoch = {}", lease.epoch);
        let row: i64 = self.api.query_one(&sql, &[]).await.unwrap().get(0);
        self.set(run, &format!("lease_execution = {row}, lease_epoch = {}", lease.epoch)).await;
        lease
    }

    /// A worker that started, and was last heard of, so many seconds ago.
    async fn worker(&self, invocation: Uuid, started_seconds: f64, seen_seconds: f64) {
        let worker =
            WorkerInstance { invocation, instance: "1".into(), host: "vm".into(), pid: 1, version: "0.1.0".into() };
        self.store.heartbeat(&worker).await.unwrap();
        let sql = "UPDATE worker_instance SET started_at = now() - make_interval(secs => $2),
            alive_since = now() - make_interval(secs => $2), last_seen = now() - make_interval(secs => $3) WHERE invocation = $1";
        self.api.execute(sql, &[&invocation, &started_seconds, &seen_seconds]).await.unwrap();
    }

    /// A worker that has been there for a day.
    async fn old_fleet(&self) {
        self.worker(Uuid::new_v4(), 86_400.0, 1.0).await;
    }

    async fn recover(&self, job_id: &str) -> Value {
        let surroundings = Surroundings::of(&self.store, job_id).await;
        within("recovery", Duration::from_secs(60), recover(&surroundings, TIMEOUT)).await.unwrap()
    }

    async fn status(&self, run: Uuid) -> String {
        self.api.query_one("SELECT status FROM workflow_run WHERE id = $1", &[&run]).await.unwrap().get(0)
    }

    /// The run's and its steps' rows, everything.
    async fn everything(&self, run: Uuid) -> Vec<String> {
        let sql = "SELECT to_jsonb(r)::text FROM workflow_run r WHERE id = $1
            UNION ALL (SELECT to_jsonb(s)::text FROM workflow_step s WHERE run_id = $1 ORDER BY step_id)";
        self.api.query(sql, &[&run]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

fn counts(failed: u64, woken: u64, closed_steps: u64) -> Value {
    json!({ "failed": failed, "woken": woken, "closedSteps": closed_steps })
}

#[tokio::test]
async fn a_run_without_progress_fails_with_its_running_steps() {
    let bench = Bench::new().await;
    let run = bench.run("running", 31).await;
    assert_eq!(bench.recover("a").await, counts(1, 0, 1));
    let sql =
        "SELECT status, failure_reason, finished_at > now() - interval '1 min', updated_at > now() - interval '1 min'
        FROM workflow_run WHERE id = $1";
    let row = bench.api.query_one(sql, &[&run]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "failed");
    assert_eq!(row.get::<_, &str>(1), "Run timed out (no progress for 30 minutes)");
    assert!(row.get::<_, bool>(2) && row.get::<_, bool>(3));
    let sql = "SELECT step_id, status, failure_reason, finished_at IS NOT NULL FROM workflow_step ORDER BY step_id";
    let steps: Vec<(String, String, Option<String>, bool)> = bench
        .api
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect();
    let reason = Some("Run timed out (no progress for 30 minutes)".to_string());
    assert_eq!(
        steps,
        [
            ("first".into(), "completed".into(), None, false),
            ("second".into(), "failed".into(), reason, true),
            ("third".into(), "pending".into(), None, false),
        ]
    );
    // It is not found a second time.
    assert_eq!(bench.recover("b").await, counts(0, 0, 0));
}

#[tokio::test]
async fn what_is_not_stuck_is_not_touched() {
    let bench = Bench::new().await;
    bench.old_fleet().await;
    let mut untouched = Vec::new();
    // Recent progress; and every status that does not claim that somebody works on it.
    untouched.push(("recent", bench.run("running", 29).await));
    for status in ["pending", "waiting", "completed", "failed", "cancelled"] {
        untouched.push((status, bench.run(status, 600).await));
    }
    let foreign = bench.run("running", 600).await;
    bench.set(foreign, "engine = 'node'").await;
    untouched.push(("another engine", foreign));
    // A wake-up in the future, and one that was asked for a moment ago.
    for (what, when) in [("future", "now() + interval '1 day'"), ("recent wake-up", "now() - interval '1 min'")] {
        let run = bench.run("running", 600).await;
        bench.set(run, &format!("wake_at = {when}")).await;
        untouched.push((what, run));
    }
    // A step that takes hours, in the hands of a living worker.
    let start = fetch(1, 100);
    bench.worker(start.invocation, 86_400.0, 20.0).await;
    let held = bench.run("running", 600).await;
    bench.lease(held, "held", &start).await;
    untouched.push(("held", held));
    // The same job, taken again by another living worker after a hand-back, before its first commit.
    let retaken = bench.run("running", 600).await;
    let first = bench.lease(retaken, "retaken", &fetch(1, 100)).await;
    assert!(bench.store.release(&first, Release::HandedBack).await.unwrap());
    let second = fetch(2, 200);
    bench.worker(second.invocation, 86_400.0, 1.0).await;
    taken(&bench.store, &identity("retaken"), &second).await;
    untouched.push(("retaken", retaken));

    let mut before = Vec::new();
    for (_, run) in &untouched {
        before.push(bench.everything(*run).await);
    }
    assert_eq!(bench.recover("a").await, counts(0, 0, 0));
    for ((what, run), before) in untouched.iter().zip(before) {
        assert_eq!(bench.everything(*run).await, before, "{what}");
    }
}

#[tokio::test]
async fn a_run_whose_worker_is_gone_fails() {
    let bench = Bench::new().await;
    bench.old_fleet().await;
    let mut lost = Vec::new();
    // Killed: its ledger row still says taken, its heartbeat stopped.
    let start = fetch(1, 100);
    bench.worker(start.invocation, 86_400.0, 2400.0).await;
    let run = bench.run("running", 40).await;
    bench.lease(run, "killed", &start).await;
    lost.push(run);
    // Its job failed, or lost its lock, and nothing came after.
    for (job, how) in [("failed", Release::Failed), ("lost", Release::Lost)] {
        let run = bench.run("running", 40).await;
        let lease = bench.lease(run, job, &fetch(1, 100)).await;
        assert!(bench.store.release(&lease, how).await.unwrap());
        lost.push(run);
    }
    let sql = "UPDATE job_execution SET updated_at = now() - interval '31 min' WHERE state IN ('failed', 'lost')";
    bench.api.execute(sql, &[]).await.unwrap();
    assert_eq!(bench.recover("a").await, counts(3, 0, 3));
    for run in lost {
        assert_eq!(bench.status(run).await, "failed");
    }
}

#[tokio::test]
async fn a_fleet_that_was_stopped_for_long_fails_nothing_that_it_had_in_hand() {
    let bench = Bench::new().await;
    let day = 24 * 60;
    // Handed back at a step boundary (the run's own transaction says so), handed back in the middle of a step (the
    // ledger says so), and handed back so long ago that the ledger has forgotten it.
    let boundary = bench.run("running", day).await;
    bench.set(boundary, "wake_at = now() - interval '1 day', wake_seq = 4").await;
    let middle = bench.run("running", day).await;
    let lease = bench.lease(middle, "middle", &fetch(1, 100)).await;
    assert!(bench.store.release(&lease, Release::HandedBack).await.unwrap());
    let forgotten = bench.run("running", day * 30).await;
    bench.set(forgotten, "lease_execution = 999999, lease_epoch = 999999").await;
    // Cut off by a power loss: the job is still in the queue, and its turn comes.
    let cut_off = bench.run("running", day).await;
    bench.lease(cut_off, "cut off", &fetch(1, 100)).await;
    // The fleet is back since a minute.
    bench.worker(Uuid::new_v4(), 60.0, 1.0).await;

    let cut_off_before = bench.everything(cut_off).await;
    assert_eq!(bench.recover("a").await, counts(0, 3, 0));
    for (run, wake_seq) in [(boundary, 5_i64), (middle, 1), (forgotten, 1)] {
        let sql =
            "SELECT status, wake_at BETWEEN now() - interval '1 min' AND now(), wake_seq, lease_epoch, lease_execution,
            failure_reason FROM workflow_run WHERE id = $1";
        let row = bench.api.query_one(sql, &[&run]).await.unwrap();
        assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1), row.get::<_, i64>(2)), ("running", true, wake_seq));
        assert_eq!((row.get::<_, Option<i64>>(3), row.get::<_, Option<i64>>(4)), (None, None));
        assert_eq!(row.get::<_, Option<&str>>(5), None);
    }
    assert_eq!(bench.everything(cut_off).await, cut_off_before);
    // Woken once, not every quarter of an hour; again if the wake-up comes to nothing for the whole timeout.
    assert_eq!(bench.recover("b").await, counts(0, 0, 0));
    let sql = "UPDATE workflow_run SET wake_at = now() - interval '31 min', updated_at = now() - interval '31 min'
        WHERE id = $1";
    bench.api.execute(sql, &[&boundary]).await.unwrap();
    assert_eq!(bench.recover("c").await, counts(0, 1, 0));
    // The fleet has been there for the whole timeout, and nobody went on with the run that was cut off.
    bench.api.batch_execute("UPDATE worker_instance SET alive_since = now() - interval '31 min'").await.unwrap();
    assert_eq!(bench.recover("d").await, counts(1, 0, 1));
    assert_eq!(bench.status(cut_off).await, "failed");
}

/// All workers of a queue are gone; others on another queue are there.
#[tokio::test]
async fn a_run_whose_job_is_still_to_be_done_is_left_to_it() {
    let bench = Bench::new().await;
    bench.old_fleet().await;
    let start = fetch(1, 100);
    bench.worker(start.invocation, 86_400.0, 2400.0).await;
    let sql =
        "INSERT INTO job_outbox (queue, job_id, name, sent_at) VALUES ('bull:test', 'waits', 'test.sleep', now())";
    bench.api.execute(sql, &[]).await.unwrap();
    let run = bench.run("running", 40).await;
    bench.lease(run, "waits", &start).await;
    assert_eq!(bench.recover("a").await, counts(0, 0, 0));
    // It has ended, and did not go on with the run.
    bench.api.execute("UPDATE job_outbox SET ended = 'completed', ended_at = now()", &[]).await.unwrap();
    assert_eq!(bench.recover("b").await, counts(1, 0, 1));
    assert_eq!(bench.status(run).await, "failed");
}

/// 2,500 stuck runs, each with a running step, among 100 that are not.
async fn many(bench: &Bench) {
    let sql = "INSERT INTO workflow_run (definition_id, status, updated_at)
        SELECT $1::uuid, 'running', now() - interval '1 hour' - make_interval(secs => n / 50) FROM generate_series(1, 2500) n
        UNION ALL SELECT $1::uuid, 'running', now() FROM generate_series(1, 100)";
    bench.api.execute(sql, &[&bench.definition]).await.unwrap();
    let sql = "INSERT INTO workflow_step (run_id, step_id, type, status) SELECT id, 'one', 'transform', 'running' FROM
        workflow_run";
    bench.api.execute(sql, &[]).await.unwrap();
}

async fn in_status(bench: &Bench, table: &str, status: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table} WHERE status = $1");
    bench.api.query_one(&sql, &[&status]).await.unwrap().get(0)
}

#[tokio::test]
async fn many_runs_are_dealt_with_in_batches_that_survive_an_interruption() {
    let bench = Bench::new().await;
    many(&bench).await;
    let mut first = Surroundings::of(&bench.store, "job").await;
    first.stop_after = Some(2);
    let error = recover(&first, TIMEOUT).await.unwrap_err();
    assert!(matches!(error, JobError::Interrupted(_)), "{error}");
    assert_eq!(*first.shown.lock().unwrap(), [counts(500, 0, 500), counts(1000, 0, 1000)]);
    assert_eq!(in_status(&bench, "workflow_run", "failed").await, 1000);
    assert!(bench.store.release(&first.lease, Release::HandedBack).await.unwrap());
    // The next worker takes the same job.
    let lease = taken(&bench.store, &identity("job"), &fetch(2, 200)).await;
    let second = Surroundings { lease, shown: Mutex::default(), stop_after: None, store: bench.store.clone() };
    assert_eq!(recover(&second, TIMEOUT).await.unwrap(), counts(1500, 0, 1500));
    assert_eq!(in_status(&bench, "workflow_run", "failed").await, 2500);
    assert_eq!(in_status(&bench, "workflow_run", "running").await, 100);
    assert_eq!(in_status(&bench, "workflow_step", "running").await, 100);
}

#[tokio::test]
async fn two_recoveries_at_once_deal_with_each_run_once() {
    let bench = Bench::new().await;
    many(&bench).await;
    let (one, two) = (Surroundings::of(&bench.store, "one").await, Surroundings::of(&bench.store, "two").await);
    let (one, two) = tokio::join!(recover(&one, TIMEOUT), recover(&two, TIMEOUT));
    let failed = |value: Value| value["failed"].as_u64().unwrap();
    assert_eq!(failed(one.unwrap()) + failed(two.unwrap()), 2500);
    assert_eq!(in_status(&bench, "workflow_run", "failed").await, 2500);
}

#[tokio::test]
async fn a_run_that_is_being_worked_on_is_passed_over() {
    let bench = Bench::new().await;
    let (busy, idle) = (bench.run("running", 60).await, bench.run("running", 50).await);
    bench.api.batch_execute("BEGIN").await.unwrap();
    bench.api.execute("SELECT FROM workflow_run WHERE id = $1 FOR UPDATE", &[&busy]).await.unwrap();
    assert_eq!(bench.recover("a").await, counts(1, 0, 1));
    bench.api.execute("UPDATE workflow_run SET current_step = 'third' WHERE id = $1", &[&busy]).await.unwrap();
    bench.api.batch_execute("COMMIT").await.unwrap();
    assert_eq!(bench.status(idle).await, "failed");
    assert_eq!(bench.recover("b").await, counts(0, 0, 0));
    assert_eq!(bench.status(busy).await, "running");
}

#[tokio::test]
async fn a_lease_that_was_lost_changes_nothing() {
    let bench = Bench::new().await;
    let run = bench.run("running", 31).await;
    let frozen = Surroundings::of(&bench.store, "job").await;
    taken(&bench.store, &identity("job"), &fetch(2, 200)).await;
    let error = recover(&frozen, TIMEOUT).await.unwrap_err();
    assert!(matches!(error, JobError::LeaseLost(_)), "{error}");
    assert_eq!(bench.status(run).await, "running");
}

#[tokio::test]
async fn any_update_is_progress_unless_it_sets_the_time_itself() {
    let bench = Bench::new().await;
    let run = bench.run("running", 60).await;
    let fresh = "SELECT updated_at > now() - interval '1 min' FROM workflow_run WHERE id = $1";
    assert!(!bench.api.query_one(fresh, &[&run]).await.unwrap().get::<_, bool>(0));
    bench.api.execute("UPDATE workflow_run SET current_step = 'x' WHERE id = $1", &[&run]).await.unwrap();
    assert!(bench.api.query_one(fresh, &[&run]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn a_plain_insert_is_a_new_run_for_this_engine() {
    let bench = Bench::new().await;
    let sql = "INSERT INTO workflow_run (definition_id, variables) VALUES ($1, '{\"user\": \"u1\"}')
        RETURNING status, engine, wake_seq";
    let row = bench.api.query_one(sql, &[&bench.definition]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, i64>(2)), ("pending", "floh-worker", 1));
    for bad in ["status = 'runing'", "engine = ''", "lease_epoch = 1", "failure_reason = 'x'", "variables = '[]'"] {
        let error = bench.api.batch_execute(&format!("UPDATE workflow_run SET {bad}")).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "23514", "{bad}");
    }
}

#[tokio::test]
async fn after_an_outage_no_run_fails_because_its_worker_could_not_say_that_it_lives() {
    let bench = Bench::new().await;
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    // For 40 minutes nobody could write. Then one of the two says that it lives; the other one has not come to it yet.
    bench.worker(first, 86_400.0, 2400.0).await;
    bench.worker(second, 86_400.0, 2400.0).await;
    let held = bench.run("running", 45).await;
    bench.lease(held, "held", &Start { invocation: second, ..fetch(1, 100) }).await;
    let worker =
        WorkerInstance { invocation: first, instance: "1".into(), host: "vm".into(), pid: 1, version: "0.1.0".into() };
    bench.store.heartbeat(&worker).await.unwrap();
    assert_eq!(bench.recover("recovery").await, counts(0, 0, 0));
    assert_eq!(bench.status(held).await, "running");
}

#[tokio::test]
async fn a_run_whose_worker_was_killed_lately_or_whose_attempt_just_ended_has_the_whole_timeout() {
    let bench = Bench::new().await;
    bench.old_fleet().await;
    // Its worker was killed five minutes ago, and its job waits behind others.
    let killed = Uuid::new_v4();
    bench.worker(killed, 86_400.0, 300.0).await;
    let waits = bench.run("running", 45).await;
    bench.lease(waits, "waits", &Start { invocation: killed, ..fetch(1, 100) }).await;
    // An attempt failed just now, and the next one waits for its delay.
    let retried = bench.run("running", 45).await;
    let lease = bench.lease(retried, "retried", &fetch(1, 100)).await;
    assert!(bench.store.release(&lease, Release::Failed).await.unwrap());
    assert_eq!(bench.recover("recovery").await, counts(0, 0, 0));
    // Half an hour later both are stuck.
    for sql in [
        "UPDATE worker_instance SET last_seen = last_seen - interval '30 minutes' WHERE invocation = $1",
        "UPDATE job_execution SET updated_at = now() - interval '31 minutes' WHERE invocation = $1 OR state = 'failed'",
    ] {
        bench.api.execute(sql, &[&killed]).await.unwrap();
    }
    assert_eq!(bench.recover("recovery again").await, counts(2, 0, 2));
}
