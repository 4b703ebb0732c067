//! `audit-checkpoint`: signs what was added to the audit chain since the last checkpoint.
//!
//! The range is verified before it is signed, because a signature under a broken chain would say what is not so: the
//! job fails then, and names the first bad row. So is the last checkpoint: it has to bear our own signature, and to be
//! one that continues what was remembered in Redis. Who has written to the database alone can take the checkpoints away
//! and compute another chain, and must not get it signed.

use super::{Batches, Handler, JobContext, JobError, Memory};
use crate::{
    audit::{Flaw, GENESIS, KeyRing, SigningKey, Walker, Witness, verify_checkpoint, verify_head},
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

/// The last checkpoint is remembered under this name, as a [`Witness`].
const MEMORY: &str = "last-audit-checkpoint";

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
                Some(key) => checkpoint(job, job, key).await,
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
pub async fn checkpoint(batches: &impl Batches, memory: &impl Memory, key: &SigningKey) -> Result<Value, JobError> {
    // What is remembered was committed before. Meanwhile another job may make a checkpoint and remember it: ours is then
    // an older one, which has to be there as well.
    let mut witness = recall(memory).await?;
    let (mut made, mut rows) = (0, 0);
    loop {
        batches.check_cancelled()?;
        let transaction = batches.begin().await?;
        let next = match next_checkpoint(batches, &transaction, key, witness.as_ref()).await {
            Ok(next) => next,
            Err(Stopped::Job(error)) => return Err(error),
            Err(Stopped::Flaw(flaw)) => {
                transaction.rollback().await;
                return Err(refusal(&flaw, memory));
            }
        };
        let (checkpoint, more) = match next {
            Next::Sign(checkpoint, more) => (checkpoint, more),
            Next::Nothing(last) => {
                let value = batches.complete(transaction, json!({ "checkpoints": made, "rows": rows })).await?;
                if let Some(last) = last.filter(|last| witness.as_ref() != Some(last)) {
                    memory.remember(MEMORY, &last.to_string()).await;
                }
                return Ok(value);
            }
        };
        audit::insert_checkpoint(&transaction, &checkpoint).await?;
        made += 1;
        rows += checkpoint.row_count;
        let mut value = json!({ "checkpoints": made, "rows": rows });
        if more {
            transaction.commit().await?;
        } else {
            value = batches.complete(transaction, value).await?;
        }
        tell(&checkpoint, "signed");
        let signed = Witness::from(&checkpoint);
        memory.remember(MEMORY, &signed.to_string()).await;
        if !more {
            return Ok(value);
        }
        witness = Some(signed);
        batches.progress(&value).await;
    }
}

/// What is remembered outside the database.
async fn recall(memory: &impl Memory) -> Result<Option<Witness>, JobError> {
    let text = memory.recall(MEMORY).await?;
    text.map(|text| text.parse()).transpose().map_err(|expected| {
        let place = memory.place(MEMORY);
        JobError::Fail(format!("{place} was changed: {expected}; find out by whom, and delete it"))
    })
}

/// Why nothing is signed, and the way out where the flaw may have an innocent reason.
fn refusal(flaw: &Flaw, memory: &impl Memory) -> JobError {
    let way_out = match flaw {
        Flaw::CheckpointLost { .. } | Flaw::CheckpointReplaced { .. } => format!(
            ". If a backup was restored and this is the log that you want to continue, delete {}",
            memory.place(MEMORY)
        ),
        _ => String::new(),
    };
    JobError::Fail(format!("the audit log is not signed any further: {flaw}{way_out}"))
}

/// What a transaction is to do.
enum Next {
    /// Insert this checkpoint; whether there are rows behind its range.
    Sign(Checkpoint, bool),
    /// Nothing: no row is newer than the last checkpoint.
    Nothing(Option<Witness>),
}

/// The checkpoint that comes next, signed.
async fn next_checkpoint(
    batches: &impl Batches,
    transaction: &FencedTransaction,
    key: &SigningKey,
    witness: Option<&Witness>,
) -> Result<Next, Stopped> {
    let (head, now) = audit::lock_checkpoint_head(transaction).await?;
    let last = last_signed(transaction, head, key, witness).await?;
    let (head, start) = last.as_ref().map_or_else(
        || (CheckpointHead::default(), Walker::behind(0, GENESIS.to_vec())),
        |last| {
            let head = CheckpointHead { number: last.number, to_position: last.to_position };
            (head, Walker::behind(last.to_position, last.head_hash.clone()))
        },
    );
    let end = audit::chain_end(transaction).await?;
    let to_position = end.min(head.to_position.saturating_add(MAX_ROWS));
    if to_position <= head.to_position {
        return Ok(Next::Nothing(last.as_ref().map(Witness::from)));
    }
    let walker = walk(batches, transaction, start, to_position).await?;
    Ok(Next::Sign(sign(key, head, &walker, now), end > to_position))
}

/// The last checkpoint, verified: the database remembers it as the last, this key signed it, the chain is still the one
/// that was signed, and the remembered checkpoint is it or one before it.
async fn last_signed(
    transaction: &FencedTransaction,
    head: Option<CheckpointHead>,
    key: &SigningKey,
    witness: Option<&Witness>,
) -> Result<Option<Checkpoint>, Stopped> {
    let found = audit::last_checkpoint(transaction).await?;
    let last = found.as_ref().map(|(last, _)| last);
    verify_head(head, last).map_err(Stopped::Flaw)?;
    let remembered = last.map(Witness::from).as_ref() == witness;
    if let Some((last, chain_hash)) = &found {
        let mut keys = KeyRing::default();
        if last.key_id == key.id() {
            keys.add(key.clone());
        } else if !remembered {
            // As after a change of the key, whose old one is not here.
            tracing::warn!(
                "audit checkpoint {} was signed with the key {}, and this worker has {}: its signature was not checked",
                last.number,
                last.key_id,
                key.id()
            );
        }
        // Only `flohctl audit verify` reads the checkpoint before, too: here it is taken to end where this one begins.
        let before =
            CheckpointHead { number: last.number.saturating_sub(1), to_position: last.from_position.saturating_sub(1) };
        verify_checkpoint(before, last, chain_hash.as_deref(), &keys).map_err(Stopped::Flaw)?;
    }
    if let Some(witness) = witness {
        let page = audit::checkpoint_page(transaction, witness.number - 1, 1).await?;
        let same = page.iter().map(|(checkpoint, _)| checkpoint).find(|found| found.number == witness.number);
        witness.check(same, last.map_or(0, |last| last.number)).map_err(Stopped::Flaw)?;
    }
    if let Some(last) = last.filter(|_| !remembered) {
        // Whoever made it may have ended before it could say so.
        tell(last, "was signed earlier");
    }
    Ok(found.map(|(last, _)| last))
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

/// Logs a checkpoint with everything that identifies it: the journal is a witness outside the database.
fn tell(checkpoint: &Checkpoint, what: &str) {
    let (head, signature) = (hex::encode(&checkpoint.head_hash), hex::encode(&checkpoint.signature));
    tracing::info!(
        message_id = events::CHECKPOINT_MADE,
        floh_checkpoint = checkpoint.number,
        floh_checkpoint_position = checkpoint.to_position,
        floh_checkpoint_hash = head,
        floh_checkpoint_key_id = checkpoint.key_id,
        floh_checkpoint_signature = signature,
        "audit checkpoint {} {what}: positions {} to {}, signature {signature}",
        Witness::from(checkpoint),
        checkpoint.from_position,
        checkpoint.to_position
    );
}
