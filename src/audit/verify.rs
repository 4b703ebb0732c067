//! Walks the chain, the checkpoints and the log, from one snapshot, in constant memory, up to the first flaw.

use super::{
    canonical::{GENESIS, chain_hash},
    checkpoint::{KeyRing, Unverified},
    evidence::Evidence,
    flaw::Flaw,
};
use crate::store::{
    Store, StoreError,
    audit::{self, AuditSnapshot, ChainLink, Checkpoint, CheckpointHead},
};
use std::ops::ControlFlow;

/// Checkpoints of one page.
const CHECKPOINT_PAGE: i64 = 500;

/// What a verification without a flaw saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Rows of the log, all of them in the chain.
    pub rows: i64,
    /// The hash at the end of the chain.
    pub head: Vec<u8>,
    /// Checkpoints.
    pub checkpoints: i64,
    /// The last one.
    pub last: Option<Checkpoint>,
    /// Rows after the last checkpoint: they are not signed.
    pub unsigned_rows: i64,
    /// False if no key was given.
    pub signatures_checked: bool,
}

/// Follows the chain link by link.
#[derive(Clone, Debug)]
pub struct Walker {
    position: i64,
    hash: Vec<u8>,
    audit_id: Option<i64>,
}

impl Default for Walker {
    /// Before the first position.
    fn default() -> Self {
        Walker { position: 0, hash: GENESIS.to_vec(), audit_id: None }
    }
}

impl Walker {
    /// Behind a position that is known to be good.
    pub fn behind(position: i64, hash: Vec<u8>) -> Walker {
        Walker { position, hash, audit_id: None }
    }

    /// The last good position.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The hash at the last good position.
    pub fn hash(&self) -> &[u8] {
        &self.hash
    }

    /// Checks the next link.
    pub fn step(&mut self, link: &ChainLink) -> Result<(), Flaw> {
        let (position, audit_id) = (link.position, link.audit_id);
        if position != self.position + 1 {
            return Err(Flaw::Gap { position: self.position + 1, after: self.audit_id, before: audit_id });
        }
        if link.previous_hash != self.hash {
            return Err(Flaw::Detached { position, audit_id, follower: None });
        }
        let Some(row) = &link.row else { return Err(Flaw::Removed { position, audit_id }) };
        if link.hash != chain_hash(&self.hash, row) {
            return Err(Flaw::Changed { position, audit_id });
        }
        self.position = position;
        self.hash.clone_from(&link.hash);
        self.audit_id = Some(audit_id);
        Ok(())
    }
}

/// Verifies everything: the outer result is whether it could be looked at, the inner one what was found. `progress` is
/// called with the last good position after each page.
pub async fn verify(
    store: &Store,
    evidence: &Evidence,
    mut progress: impl FnMut(i64),
) -> Result<Result<Summary, Flaw>, StoreError> {
    let snapshot = store.audit_snapshot().await?;
    let walker = match verify_chain(&snapshot, &mut progress).await? {
        Ok(walker) => walker,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let last = match verify_checkpoints(&snapshot, evidence).await? {
        Ok(last) => last,
        Err(flaw) => return Ok(Err(flaw)),
    };
    if last.is_none() && evidence.demand_checkpoint && walker.position > 0 {
        return Ok(Err(Flaw::NothingSigned));
    }
    if let Some(audit_id) = find_unchained(&snapshot).await? {
        return Ok(Err(Flaw::Unchained { audit_id }));
    }
    let CheckpointHead { number, to_position } = head_of(last.as_ref());
    Ok(Ok(Summary {
        rows: walker.position,
        unsigned_rows: walker.position - to_position,
        head: walker.hash,
        checkpoints: number,
        last,
        signatures_checked: !evidence.keys.is_empty(),
    }))
}

async fn verify_chain(
    snapshot: &AuditSnapshot,
    progress: &mut impl FnMut(i64),
) -> Result<Result<Walker, Flaw>, StoreError> {
    let mut walker = Walker::default();
    loop {
        let mut flaw = None;
        let page = audit::chain_page(snapshot, walker.position, i64::MAX, |link| match walker.step(link) {
            Ok(()) => ControlFlow::Continue(()),
            Err(found) => {
                flaw = Some(found);
                ControlFlow::Break(())
            }
        });
        let last = page.await?;
        if let Some(Flaw::Detached { follower, .. }) = &mut flaw {
            *follower = audit::chain_follower(snapshot, &walker.hash).await?;
        }
        if let Some(flaw) = flaw {
            return Ok(Err(flaw));
        }
        progress(walker.position);
        if last.is_none() {
            return Ok(Ok(walker));
        }
    }
}

/// What the database should remember if this is its last checkpoint.
fn head_of(last: Option<&Checkpoint>) -> CheckpointHead {
    last.map_or_else(CheckpointHead::default, |last| CheckpointHead {
        number: last.number,
        to_position: last.to_position,
    })
}

/// Checks the checkpoints, and returns the last one.
async fn verify_checkpoints(
    snapshot: &AuditSnapshot,
    evidence: &Evidence,
) -> Result<Result<Option<Checkpoint>, Flaw>, StoreError> {
    let mut last: Option<Checkpoint> = None;
    loop {
        let page = audit::checkpoint_page(snapshot, head_of(last.as_ref()).number, CHECKPOINT_PAGE).await?;
        if page.is_empty() {
            break;
        }
        for (checkpoint, chain_hash) in page {
            let before = head_of(last.as_ref());
            let mut known = evidence.witnesses.iter().filter(|witness| witness.number == checkpoint.number);
            let verified = verify_checkpoint(before, &checkpoint, chain_hash.as_deref(), &evidence.keys)
                .and_then(|()| known.try_for_each(|witness| witness.check(Some(&checkpoint), checkpoint.number)));
            if let Err(flaw) = verified {
                return Ok(Err(flaw));
            }
            last = Some(checkpoint);
        }
    }
    if let Err(flaw) = verify_head(audit::checkpoint_head(snapshot).await?, last.as_ref()) {
        return Ok(Err(flaw));
    }
    let number = head_of(last.as_ref()).number;
    let mut lost = evidence.witnesses.iter().filter(|witness| witness.number > number);
    Ok(lost.try_for_each(|witness| witness.check(None, number)).map(|()| last))
}

/// Checks what the database remembers of the last checkpoint against the last one that there is.
///
/// # Errors
/// They differ, or nothing is remembered.
pub fn verify_head(head: Option<CheckpointHead>, last: Option<&Checkpoint>) -> Result<(), Flaw> {
    let expected = head_of(last);
    let number = expected.number;
    match head {
        Some(head) if head == expected => Ok(()),
        Some(head) if head.number > number => Err(Flaw::CheckpointRemoved { number: number + 1 }),
        _ => Err(Flaw::CheckpointHead { number }),
    }
}

/// Checks a checkpoint against the one before it, its signature (if there are keys), and the chain's hash at its last
/// position.
///
/// # Errors
/// What is wrong with it.
pub fn verify_checkpoint(
    before: CheckpointHead,
    checkpoint: &Checkpoint,
    chain_hash: Option<&[u8]>,
    keys: &KeyRing,
) -> Result<(), Flaw> {
    let Checkpoint { number, from_position, to_position, row_count, .. } = *checkpoint;
    if number != before.number + 1 {
        return Err(Flaw::CheckpointRemoved { number: before.number + 1 });
    }
    if !keys.is_empty() {
        let key_id = || checkpoint.key_id.clone();
        keys.check(checkpoint).map_err(|why| match why {
            Unverified::UnknownKey => Flaw::UnknownKey { number, key_id: key_id() },
            Unverified::BadSignature => Flaw::BadSignature { number, key_id: key_id() },
        })?;
    }
    let expected = before.to_position + 1;
    // The database's constraints keep these numbers far from overflow, but whoever tampers may drop constraints.
    let count = to_position.checked_sub(from_position).and_then(|span| span.checked_add(1));
    if from_position != expected || to_position < from_position || count != Some(row_count) {
        return Err(Flaw::CheckpointRange { number, expected });
    }
    match chain_hash {
        None => Err(Flaw::BeyondChain { number, to_position }),
        Some(hash) if hash != checkpoint.head_hash => Err(Flaw::Rewritten { number, from_position, to_position }),
        Some(_) => Ok(()),
    }
}

async fn find_unchained(snapshot: &AuditSnapshot) -> Result<Option<i64>, StoreError> {
    let mut after = i64::MIN;
    loop {
        match audit::unchained_page(snapshot, after).await? {
            (_, Some(audit_id)) => return Ok(Some(audit_id)),
            (Some(last), None) => after = last,
            (None, None) => return Ok(None),
        }
    }
}
