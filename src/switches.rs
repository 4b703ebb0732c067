//! Parts of the worker that a test can switch off (feature `test-jobs`): a test of a fault shows with it that it would
//! see the fault's damage. Nothing of this is in a released build.
//!
//! * `deadlines`, `renewal-deadline`: what is sent to Redis (by the renewal alone) is waited for as long as it takes.
//! * `reconnect`: a connection that broke or timed out is not rebuilt.
//! * `fetch-again`: the fetch loop does not begin anew after an error, of a fetch or of the read on the marker.
//! * `margin`: a lease whose renewal is not answered is never given up.
//! * `confirm`: the lock is not looked at after the take.
//! * `fence`: effects are committed whoever has the job now.
//! * `acknowledged`: what a finish acknowledged is not read, so that a retry by hand looks like a lost finish.
//! * `orphans`, `hand-back`: jobs that a lost answer took, or that a drain interrupts, stay active.
//! * `interruptions`: an outage fails the job.
//! * `timeouts`, `panics`: a job may run for ever; its panic is not caught.
//! * `redis-time`: scripts are told the host's time.
//! * `reconciler`: nobody looks for the wake-ups that Redis lost.

use std::sync::LazyLock;

static OFF: LazyLock<Vec<String>> = LazyLock::new(|| {
    let list = std::env::var("FLOH_TEST_OFF").unwrap_or_default();
    list.split(',').map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect()
});

/// Whether `FLOH_TEST_OFF`, a list with commas, names this part.
pub fn off(name: &str) -> bool {
    OFF.iter().any(|off| off == name)
}
