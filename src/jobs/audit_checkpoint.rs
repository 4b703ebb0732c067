//! `audit-checkpoint`: signs what was added to the audit chain since the last checkpoint.
//!
//! The range is verified before it is signed, because a signature under a broken chain would say what is not so: the
//! job fails then, and names the first bad row.

use super::{Batches, Handler, JobContext, JobError};
use crate::{
    audit::{Flaw, GENESIS, SigningKey, Walker},
    events,
    queue::BoxFuture,
    store::{
        FencedTransaction, StoreError,
        audit::{self, Checkpoint, CheckpointHead},
    },
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::ops::ControlFlow;

/// The job's name.
pub const NAME: &str = "audit-checkpoint";

/// The longest range of one checkpoint, that is, of one transaction: a second's work. More rows, as at the first time on
/// a big log, make more checkpoints.
const MAX_ROWS: i64 = 50_000;

/// The handler.
pub struct AuditCheckpoint {
    key: Option<SigningKey>,
}

impl AuditCheckpoint {
    /// Signs with `key`; without one nothing is signed, and each job's result says so.
    pub fn new(key: Option<SigningKey>) -> AuditCheckpoint {
        AuditCheckpoint { key }
    }
}

impl Handler for AuditCheckpoint {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Without a key a tick is not claimed: a job of the same tick on a worker with one can still use it.
    fn once_per_tick(&self) -> bool {
        self.key.is_some()
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<Value, JobError>> {
        Box::pin(async move {
            match &self.key {
                Some(key) => checkpoint(job, key).await,
                None => Ok(skip()),
            }
        })
    }
}

/// The job of a worker without a key. Another worker, with one, has scheduled it, and the next checkpoint covers this one's
/// range too; so it is no failure. To hand it back would only bring it here again.
fn skip() -> Value {
    const WHY: &str = "AUDIT_CHECKPOINT_KEY is not set on this worker: nothing was signed";
    tracing::warn!("{WHY}");
    json!({ "skipped": WHY })
}

/// What stopped a checkpoint.
enum Stopped {
    Job(JobError),
    Flaw(Flaw),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Stopped::Job(error.into())
    }
}

/// Signs everything up to the chain's end, at most `MAX_ROWS` rows in a transaction; two jobs at once queue for each.
/// An empty range makes no checkpoint. Returns how many checkpoints were made and over how many rows.
pub async fn checkpoint(batches: &impl Batches, key: &SigningKey) -> Result<Value, JobError> {
    let (mut made, mut rows) = (0, 0);
    loop {
        batches.check_cancelled()?;
        let transaction = batches.begin().await?;
        let next = match next_checkpoint(batches, &transaction, key).await {
            Ok(next) => next,
            Err(Stopped::Job(error)) => return Err(error),
            Err(Stopped::Flaw(flaw)) => {
                transaction.rollback().await;
                return Err(JobError::Fail(format!("the audit log is not signed any further: {flaw}")));
            }
        };
        let Some((checkpoint, more)) = next else {
            return batches.complete(transaction, json!({ "checkpoints": made, "rows": rows })).await;
        };
        audit::insert_checkpoint(&transaction, &checkpoint).await?;
        made += 1;
        rows += checkpoint.row_count;
        let value = json!({ "checkpoints": made, "rows": rows });
        if !more {
            let value = batches.complete(transaction, value).await?;
            tell(&checkpoint);
            return Ok(value);
        }
        transaction.commit().await?;
        tell(&checkpoint);
        batches.progress(&value).await;
    }
}

/// The checkpoint that comes next, signed, and whether there are rows behind its range.
async fn next_checkpoint(
    batches: &impl Batches,
    transaction: &FencedTransaction,
    key: &SigningKey,
) -> Result<Option<(Checkpoint, bool)>, Stopped> {
    let (head, now) = audit::lock_checkpoint_head(transaction).await?;
    let head = head.ok_or(Stopped::Flaw(Flaw::CheckpointHead { number: 0 }))?;
    let start = last_signed(transaction, head).await?;
    let end = audit::chain_end(transaction).await?;
    let to_position = end.min(head.to_position + MAX_ROWS);
    if to_position <= head.to_position {
        return Ok(None);
    }
    let walker = walk(batches, transaction, start, to_position).await?;
    Ok(Some((sign(key, head, &walker, now), end > to_position)))
}

/// The chain's end as the last checkpoint signed it, if it is still the chain's.
async fn last_signed(transaction: &FencedTransaction, head: CheckpointHead) -> Result<Walker, Stopped> {
    if head.number == 0 {
        return Ok(Walker::behind(0, GENESIS.to_vec()));
    }
    let page = audit::checkpoint_page(transaction, head.number - 1, 1).await?;
    let number = head.number;
    let Some((last, chain_hash)) = page.into_iter().next().filter(|(last, _)| last.number == number) else {
        return Err(Stopped::Flaw(Flaw::CheckpointRemoved { number }));
    };
    if last.to_position != head.to_position {
        return Err(Stopped::Flaw(Flaw::CheckpointHead { number }));
    }
    let Checkpoint { from_position, to_position, .. } = last;
    match chain_hash {
        None => Err(Stopped::Flaw(Flaw::BeyondChain { number, to_position })),
        Some(hash) if hash != last.head_hash => {
            Err(Stopped::Flaw(Flaw::Rewritten { number, from_position, to_position }))
        }
        Some(hash) => Ok(Walker::behind(to_position, hash)),
    }
}

async fn walk(
    batches: &impl Batches,
    transaction: &FencedTransaction,
    mut walker: Walker,
    to_position: i64,
) -> Result<Walker, Stopped> {
    while walker.position() < to_position {
        batches.check_cancelled().map_err(Stopped::Job)?;
        let mut flaw = None;
        let last = audit::chain_page(transaction, walker.position(), to_position, |link| match walker.step(link) {
            Ok(()) => ControlFlow::Continue(()),
            Err(found) => {
                flaw = Some(found);
                ControlFlow::Break(())
            }
        })
        .await?;
        if let Some(flaw) = flaw {
            return Err(Stopped::Flaw(flaw));
        }
        if last.is_none() {
            // The end was there a moment ago, and nothing can be removed.
            return Err(Stopped::Job(JobError::Retry("the audit chain became shorter while it was read".into())));
        }
    }
    Ok(walker)
}

fn sign(key: &SigningKey, head: CheckpointHead, walker: &Walker, now: DateTime<Utc>) -> Checkpoint {
    key.sign(Checkpoint {
        number: head.number + 1,
        from_position: head.to_position + 1,
        to_position: walker.position(),
        row_count: walker.position() - head.to_position,
        head_hash: walker.hash().to_vec(),
        key_id: String::new(),
        signature: Vec::new(),
        created_at: now,
    })
}

fn tell(checkpoint: &Checkpoint) {
    tracing::info!(
        message_id = events::CHECKPOINT_MADE,
        "audit checkpoint {}: positions {} to {} signed",
        checkpoint.number,
        checkpoint.from_position,
        checkpoint.to_position
    );
}
