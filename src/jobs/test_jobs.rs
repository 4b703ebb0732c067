//! Jobs for tests only (feature `test-jobs`): they do what a test can watch.

use super::{Handler, JobContext, JobError};
use crate::{
    queue::{BoxFuture, schedulers::Builtin},
    store::{Store, StoreError, outbox::WakeUp},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_postgres::types::ToSql;

/// Makes the table that `test.effect` writes to.
pub async fn prepare(store: &Store) -> Result<(), StoreError> {
    // Several workers start at once, and IF NOT EXISTS alone does not keep them from colliding. The statements of one
    // round trip are one transaction, so the lock is held until the table is visible.
    let sql = "SELECT pg_advisory_xact_lock(7421); \
               CREATE TABLE IF NOT EXISTS test_effect (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL, \
               job_id text NOT NULL, epoch bigint NOT NULL, instance text NOT NULL, at timestamptz NOT NULL DEFAULT now())";
    store.client().await?.batch_execute(sql).await?;
    Ok(())
}

/// All of them.
pub(super) fn all() -> Vec<Test> {
    [
        "test.echo",
        "test.sleep",
        "test.hang",
        "test.fail",
        "test.panic",
        "test.abort",
        "test.segfault",
        "test.effect",
        "test.tick",
        "test.outbox",
        "test.progress",
    ]
    .map(Test)
    .to_vec()
}

/// The schedule of `test.tick`, if the environment names a pattern for it: `FLOH_TEST_SCHEDULE`, and `FLOH_TEST_TICK_MS` for
/// how long each tick takes.
pub(super) fn scheduler() -> Option<Builtin> {
    let pattern = std::env::var("FLOH_TEST_SCHEDULE").ok()?;
    let ms: u64 = std::env::var("FLOH_TEST_TICK_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(0);
    Some(Builtin { data: json!({ "ms": ms }), ..Builtin::new("test.tick", &pattern) })
}

/// One of them, by its name.
#[derive(Clone, Copy)]
pub(super) struct Test(&'static str);

impl Handler for Test {
    fn name(&self) -> &'static str {
        self.0
    }

    fn once_per_tick(&self) -> bool {
        self.0 == "test.tick"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<Value, JobError>> {
        Box::pin(async move {
            match self.0 {
                "test.sleep" => sleep(job).await,
                "test.hang" => Ok(hang(job, "ms")),
                "test.abort" => std::process::abort(),
                "test.segfault" => segfault(),
                "test.fail" => Err(fail(job)),
                "test.panic" => panic(job),
                "test.effect" => effect(job, job.data.get("key").and_then(Value::as_str)).await,
                "test.tick" => effect(job, job.job_id().rsplit([':', '-']).next()).await,
                "test.outbox" => outbox(job).await,
                "test.progress" => progress(job).await,
                _ => Ok(job.data.clone()),
            }
        })
    }
}

fn milliseconds(job: &JobContext, field: &str) -> u64 {
    job.data.get(field).and_then(Value::as_u64).unwrap_or(0)
}

/// Never yields.
fn hang(job: &JobContext, field: &str) -> Value {
    let ms = milliseconds(job, field);
    std::thread::sleep(Duration::from_millis(ms));
    json!({ "hung": ms })
}

/// The standard library's handler takes the first signal for a stack overflow that was none, and restores the default.
fn segfault() -> ! {
    loop {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSEGV);
    }
}

async fn sleep(job: &JobContext) -> Result<Value, JobError> {
    let ms = milliseconds(job, "ms");
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Ok(json!({ "slept": ms }))
}

fn fail(job: &JobContext) -> JobError {
    let reason = job.data.get("reason").and_then(Value::as_str).unwrap_or("told to fail").to_string();
    if job.data.get("unrecoverable").and_then(Value::as_bool).unwrap_or(false) {
        JobError::Fail(reason)
    } else {
        JobError::Retry(reason)
    }
}

#[expect(clippy::panic, reason = "that is what this job is for")]
fn panic(job: &JobContext) -> Result<Value, JobError> {
    panic!("{}", job.data.get("message").and_then(Value::as_str).unwrap_or("told to panic"))
}

async fn effect(job: &JobContext, key: Option<&str>) -> Result<Value, JobError> {
    let key = key.unwrap_or_else(|| job.job_id()).to_string();
    if i64::try_from(milliseconds(job, "failBefore")).is_ok_and(|until| chrono::Utc::now().timestamp_millis() < until) {
        return Err(JobError::Retry("told to fail until then".into()));
    }
    if let Some(before) = job.data.get("before").and_then(Value::as_u64) {
        tokio::time::sleep(Duration::from_millis(before)).await;
    }
    hang(job, "blockFirstMs");
    let transaction = job.begin().await?;
    let sql = "INSERT INTO test_effect (key, job_id, epoch, instance) VALUES ($1, $2, $3, $4)";
    transaction.execute(sql, &[&key, &job.job_id(), &job.lease.epoch.0, &&*job.instance]).await?;
    tokio::time::sleep(Duration::from_millis(milliseconds(job, "ms"))).await;
    hang(job, "blockMs");
    let value = job.complete(transaction, json!({ "key": key })).await?;
    match job.data.get("failAfterComplete").and_then(Value::as_str) {
        None => Ok(value),
        Some("panic") => panic(job),
        Some("value") => Ok(json!({ "another": "value" })),
        Some("hang") => Ok(hang(job, "hangMs")),
        Some(_) => Err(fail(job)),
    }
}

/// Writes an effect, and `n` wake-ups that will write theirs, in one transaction.
async fn outbox(job: &JobContext) -> Result<Value, JobError> {
    let number = |name: &str| job.data.get(name).and_then(Value::as_u64).unwrap_or(0);
    let key = job.data.get("key").and_then(Value::as_str).unwrap_or_else(|| job.job_id());
    let transaction = job.begin().await?;
    let sql = "INSERT INTO test_effect (key, job_id, epoch, instance) VALUES ($1, $2, $3, $4)
        RETURNING clock_timestamp() + make_interval(secs => $5)";
    let seconds = number("delayMs") as f64 / 1000.0;
    let params: [&(dyn ToSql + Sync); 5] = [&key, &job.job_id(), &job.lease.epoch.0, &&*job.instance, &seconds];
    let due_at = transaction.query_one(sql, &params).await?.try_get(0).map_err(StoreError::from)?;
    let wake_up = |i: u64| WakeUp {
        due_at,
        ..WakeUp::new(format!("wake-{key}-{i}"), "test.effect", json!({ "key": format!("{key}-{i}") }))
    };
    let added = job.enqueue_all(&transaction, (0..number("n")).map(wake_up).collect()).await?;
    tokio::time::sleep(Duration::from_millis(milliseconds(job, "ms"))).await;
    job.complete(transaction, json!({ "key": key, "wakeUps": added })).await
}

async fn progress(job: &JobContext) -> Result<Value, JobError> {
    let steps = job.data.get("steps").and_then(Value::as_u64).unwrap_or(1).max(1);
    for step in 1..=steps {
        job.check_cancelled()?;
        job.log(&format!("step {step} of {steps}")).await;
        job.progress(&json!(step * 100 / steps)).await;
    }
    Ok(json!({ "steps": steps }))
}
