//! Points at which a test kills the worker (feature `test-jobs`): before and after each statement that a run's job, or a
//! reminder, sends to PostgreSQL, so that every state between two of them is met. Nothing of this is in a released build.
//!
//! `FLOH_TEST_KILL_RUN` names the run whose points count, or the job of a reminder, from 1 over the life of the process, and `FLOH_TEST_KILL_AT` is the
//! number of the point. Without it they are only counted, and the job logs how many there were.

use nix::sys::signal::{Signal, raise};
use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

static KILL_AT: LazyLock<Option<u64>> =
    LazyLock::new(|| std::env::var("FLOH_TEST_KILL_AT").ok().and_then(|number| number.parse().ok()));

static KILL_RUN: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("FLOH_TEST_KILL_RUN").ok());

static PASSED: AtomicU64 = AtomicU64::new(0);

tokio::task_local! {
    static COUNTED: ();
}

/// Runs a job of this run. Its points count if it is the one that is meant, or if none is named.
pub async fn counted<F: Future>(run: impl ToString, job: F) -> F::Output {
    if KILL_RUN.as_ref().is_some_and(|meant| *meant != run.to_string()) {
        return job.await;
    }
    count(job).await
}

/// Runs a job that is no run's. Its points count if it is named.
pub async fn counted_job<F: Future>(id: &str, job: F) -> F::Output {
    if KILL_RUN.as_deref() == Some(id) { count(job).await } else { job.await }
}

async fn count<F: Future>(job: F) -> F::Output {
    let output = COUNTED.scope((), job).await;
    tracing::info!("{} points passed", PASSED.load(Ordering::Relaxed));
    output
}

/// A point. The process ends here if it is the one.
pub fn pass() {
    if COUNTED.try_with(|()| ()).is_err() {
        return;
    }
    let number = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
    if *KILL_AT == Some(number) {
        let _ = raise(Signal::SIGKILL);
    }
}
