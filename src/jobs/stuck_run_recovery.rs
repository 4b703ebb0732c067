//! `stuck-run-recovery`: runs that say they are running while nobody works on them and nobody will. They are failed;
//! those that were handed back or lost their wake-up are woken instead. The rule is [`run::recover_stuck_runs`]'s.

use super::{Batches, Handler, JobContext, JobError};
use crate::{
    events,
    queue::BoxFuture,
    store::run::{self, StuckPage},
};
use serde_json::{Value, json};
use std::time::Duration;

/// The job's name.
pub const NAME: &str = "stuck-run-recovery";
/// When it runs.
pub const PATTERN: &str = "*/15 * * * *";

/// Runs of one transaction.
const BATCH: u32 = 500;

/// The handler.
pub struct StuckRunRecovery {
    timeout: Duration,
}

impl StuckRunRecovery {
    /// A run without progress for `timeout` is stuck.
    pub fn new(timeout: Duration) -> StuckRunRecovery {
        StuckRunRecovery { timeout }
    }
}

impl Handler for StuckRunRecovery {
    fn name(&self) -> &'static str {
        NAME
    }

    fn once_per_tick(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<Value, JobError>> {
        Box::pin(recover(job, self.timeout))
    }
}

/// Deals with all stuck runs, batch by batch, and returns how many it were. What is committed is not found again, so a
/// job that was interrupted goes on where it was.
pub async fn recover(batches: &impl Batches, timeout: Duration) -> Result<Value, JobError> {
    let reason = reason(timeout);
    let (mut failed, mut woken, mut steps) = (0, 0, 0);
    let mut after = None;
    loop {
        batches.check_cancelled()?;
        let transaction = batches.begin().await?;
        let page = run::recover_stuck_runs(&transaction, timeout, &reason, after.as_ref(), BATCH).await?;
        failed += page.failed.len();
        woken += page.woken.len();
        steps += page.closed_steps;
        let value = json!({ "failed": failed, "woken": woken, "closedSteps": steps });
        if page.next.is_none() {
            let value = batches.complete(transaction, value).await?;
            tell(&page, &reason);
            return Ok(value);
        }
        transaction.commit().await?;
        tell(&page, &reason);
        batches.progress(&value).await;
        after = page.next;
    }
}

/// What a failed run says.
fn reason(timeout: Duration) -> String {
    format!("Run timed out (no progress for {} minutes)", timeout.as_secs() / 60)
}

/// One line for each run, so that the journal tells its story.
fn tell(page: &StuckPage, reason: &str) {
    for id in &page.failed {
        tracing::warn!(message_id = events::RUNS_FAILED_AS_STUCK, floh_run_id = %id, "run failed: {reason}");
    }
    for id in &page.woken {
        tracing::info!(message_id = events::RUNS_WOKEN, floh_run_id = %id, "run woken: it had lost its wake-up");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_the_configured_minutes() {
        assert_eq!(reason(Duration::from_secs(30 * 60)), "Run timed out (no progress for 30 minutes)");
    }
}
