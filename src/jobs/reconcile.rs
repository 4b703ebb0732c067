//! What the queue has lost is sent again: every wake-up that was sent and has not ended is looked for in Redis, which may
//! have been emptied, restored from an old copy, or have lost its last seconds in a failover.

use super::Trouble;
use crate::{
    events,
    queue::{Queue, Standing, connection::COMMAND_DEADLINE, state::End},
    store::{
        Store,
        outbox::{Failed, Pending},
    },
};
use std::{sync::Arc, time::Duration};

/// How often each worker wants to look. With what sending and taking need, a lost wake-up is back within a minute.
const PERIOD: Duration = Duration::from_secs(30);
/// One look of the fleet per this time, whichever worker begins it. The key is in Redis: where that was emptied, the next
/// worker looks.
const GUARD: Duration = Duration::from_secs(15);
/// A row that was sent just now is not looked for: its sender may not have finished.
const YOUNG: Duration = Duration::from_secs(5);
/// Rows of one round trip.
const PAGE: usize = 1000;

/// Compares the outbox with the queue.
pub struct Reconciler {
    store: Store,
    queue: Arc<Queue>,
}

impl Reconciler {
    /// For the rows of this queue.
    pub fn new(store: &Store, queue: &Arc<Queue>) -> Reconciler {
        Reconciler { store: store.clone(), queue: Arc::clone(queue) }
    }

    /// For ever.
    pub async fn run(&self) {
        #[cfg(feature = "test-jobs")]
        if crate::switches::off("reconciler") {
            return;
        }
        loop {
            match self.turn().await {
                Ok(_) => {}
                Err(error) if error.is_unavailable() => tracing::debug!("the queue is not compared: {error}"),
                Err(error) => tracing::warn!("the outbox and the queue could not be compared: {error}"),
            }
            tokio::time::sleep(PERIOD.mul_f64(rand::random_range(0.66..=1.0))).await;
        }
    }

    /// Looks once, unless another worker does or has just done so (`None`). Returns how many wake-ups were lost.
    pub async fn turn(&self) -> Result<Option<u64>, Trouble> {
        let key = format!("{}floh-worker:reconcile", self.queue.keys.base);
        let mut guard = redis::cmd("SET");
        guard.arg(&key).arg("1").arg("NX").arg("PX").arg(GUARD.as_millis() as u64);
        let first: Option<String> = self.queue.link.query(&guard, "SET", COMMAND_DEADLINE).await?;
        if first.is_none() {
            return Ok(None);
        }
        let (mut restored, mut after, mut waiting) = (0, 0, None);
        loop {
            let page = self.store.outbox_pending(&self.queue.qualified_name, after, YOUNG, PAGE as i64).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            let standing = self.queue.standing(page.iter().map(|row| row.job_id.as_str())).await?;
            let those = |wanted: Standing| -> Vec<i64> {
                page.iter().zip(&standing).filter(|(_, found)| **found == wanted).map(|(row, _)| row.id).collect()
            };
            // A hash alone says that a job is pending, and runs nothing. The search for such jobs takes long in a large Redis.
            let pending = page.iter().zip(&standing).filter(|(_, found)| **found == Standing::Pending);
            let pending: Vec<_> = pending.map(|(row, _)| row.job_id.clone()).collect();
            self.queue.restore_if_lost(&pending, &mut waiting).await?;
            // What was done has its end committed before it left the queue: it does not count as lost, whenever it did so.
            let lost = those(Standing::Missing);
            if !lost.is_empty() {
                restored += self.store.outbox_lost(&lost).await?;
            }
            let completed = those(Standing::Completed);
            if !completed.is_empty() {
                let count = self.store.outbox_completed(&completed).await?;
                tracing::debug!("{count} wake-ups had completed without us");
            }
            let failed =
                page.iter().zip(&standing).filter(|(_, found)| **found == Standing::Failed).map(|(row, _)| row);
            self.note_failures(failed).await?;
            if page.len() < PAGE {
                break;
            }
            let mut extend = redis::cmd("PEXPIRE");
            extend.arg(&key).arg(GUARD.as_millis() as u64);
            let _: i64 = self.queue.link.query(&extend, "PEXPIRE", COMMAND_DEADLINE).await?;
        }
        if restored > 0 {
            tracing::warn!(
                message_id = events::WAKE_UPS_RESTORED,
                "{restored} wake-ups that the queue had lost are sent again"
            );
        }
        Ok(Some(restored))
    }

    /// Wake-ups whose jobs have failed, each with the reason that the queue keeps.
    async fn note_failures(&self, rows: impl Iterator<Item = &Pending>) -> Result<(), Trouble> {
        let mut failed = Vec::new();
        for row in rows {
            // One that was retried by hand meanwhile has not ended.
            if let Some(End::Failed(reason)) = self.queue.end(&row.job_id).await? {
                failed.push(Failed { id: row.id, reason });
            }
        }
        if !failed.is_empty() {
            let count = self.store.outbox_failed(&failed).await?;
            tracing::debug!("{count} wake-ups had failed without us");
        }
        Ok(())
    }
}
