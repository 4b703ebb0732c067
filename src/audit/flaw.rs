//! What verification can find.

/// The first thing that is wrong with the audit log; each message names the row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A position of the chain is not there.
    #[error(
        "position {position} of the chain is missing: a row was removed between audit rows {} and {before}",
        after.map_or_else(|| "(none)".to_string(), |id| id.to_string())
    )]
    Gap {
        /// The missing position.
        position: i64,
        /// The audit row at the position before.
        after: Option<i64>,
        /// The audit row at the next position that exists.
        before: i64,
    },
    /// A row of the chain does not follow the one before it.
    #[error(
        "audit row {audit_id} at position {position} does not follow position {}: {}",
        position - 1,
        match follower {
            Some((at, id)) => format!("audit row {id} does, which stands at position {at} (rows were swapped)"),
            None => "the row before it or the link itself was changed".to_string(),
        }
    )]
    Detached {
        /// Where the chain breaks.
        position: i64,
        /// The audit row that stands there.
        audit_id: i64,
        /// Position and audit row of what does follow, if it is anywhere.
        follower: Option<(i64, i64)>,
    },
    /// The chain points at an audit row that is not there.
    #[error("audit row {audit_id} (position {position}) was removed")]
    Removed {
        /// Its position.
        position: i64,
        /// The missing row.
        audit_id: i64,
    },
    /// An audit row is not what was chained.
    #[error(
        "audit row {audit_id} (position {position}) was changed, or swapped with another: it is not what was chained \
         there"
    )]
    Changed {
        /// Its position.
        position: i64,
        /// The row.
        audit_id: i64,
    },
    /// An audit row was never chained, or its link was removed.
    #[error("audit row {audit_id} is not in the chain: it was inserted past the trigger, or its link was removed")]
    Unchained {
        /// The row.
        audit_id: i64,
    },
    /// A checkpoint is not there.
    #[error("checkpoint {number} was removed")]
    CheckpointRemoved {
        /// Its number.
        number: i64,
    },
    /// The row that remembers the last checkpoint does not agree with the checkpoints.
    #[error("audit_checkpoint_head was changed: it does not name the last checkpoint, which is number {number}")]
    CheckpointHead {
        /// The last checkpoint that is there; 0 for none.
        number: i64,
    },
    /// A checkpoint's range does not continue the one before.
    #[error("checkpoint {number} was changed: its range does not begin at position {expected}, or is miscounted")]
    CheckpointRange {
        /// Its number.
        number: i64,
        /// Where it should begin.
        expected: i64,
    },
    /// A checkpoint's signature does not hold.
    #[error(
        "checkpoint {number} is not what the key {key_id} signed: it was changed or forged, or another key is used here \
         under that name"
    )]
    BadSignature {
        /// Its number.
        number: i64,
        /// Which key it names.
        key_id: String,
    },
    /// A checkpoint was signed with a key that is not known here.
    #[error(
        "checkpoint {number} is signed with the key {key_id}, which is not known here (an older key is given with --key)"
    )]
    UnknownKey {
        /// Its number.
        number: i64,
        /// Which key it names.
        key_id: String,
    },
    /// A checkpoint that is remembered outside the database is not there.
    #[error(
        "checkpoint {number} is gone: it is known from outside with the head hash {expected}, and here the last one is \
         number {last}; the checkpoints were removed, or this is an older state of the database (a restored backup)"
    )]
    CheckpointLost {
        /// Its number.
        number: i64,
        /// The last checkpoint that is there; 0 for none.
        last: i64,
        /// The head hash that it had.
        expected: String,
    },
    /// A checkpoint is not the one that is remembered outside the database.
    #[error(
        "checkpoint {number} is another one: its head hash is {found}, and it is known from outside with {expected}; the \
         log was rewritten and signed again, or an older state of the database was continued (a restored backup)"
    )]
    CheckpointReplaced {
        /// Its number.
        number: i64,
        /// The head hash that it had.
        expected: String,
        /// The head hash that it has.
        found: String,
    },
    /// There is no checkpoint, and one is demanded.
    #[error(
        "nothing is signed: the log has rows and no checkpoint; the checkpoints were removed, or none was made yet"
    )]
    NothingSigned,
    /// The chain is shorter than it was when a checkpoint was made.
    #[error(
        "the end of the log was cut off: checkpoint {number} was made over position {to_position}, which is missing"
    )]
    BeyondChain {
        /// The checkpoint's number.
        number: i64,
        /// Its last position.
        to_position: i64,
    },
    /// The chain is not the one that was signed.
    #[error(
        "the log was rewritten: positions {from_position} to {to_position} are not those that checkpoint {number} was \
         made over"
    )]
    Rewritten {
        /// The checkpoint's number.
        number: i64,
        /// Its first position.
        from_position: i64,
        /// Its last position.
        to_position: i64,
    },
}
