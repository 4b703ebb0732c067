//! What speaks for the log from outside the database. The database alone can say that its tables agree with each other,
//! but not that they are the ones of yesterday: whoever can write all of them can make them agree anew.

use super::{checkpoint::KeyRing, flaw::Flaw};
use crate::store::audit::Checkpoint;
use std::{fmt, str::FromStr};

/// A checkpoint as somebody outside the database remembers it. Its text form is `NUMBER=HASH`, the hash in 64 hex
/// characters: in the journal, in Redis, on flohctl's command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The checkpoint's number.
    pub number: i64,
    /// The chain's hash at its last position.
    pub head_hash: Vec<u8>,
}

impl Witness {
    /// Compares with the checkpoint that has this number now, if there is one; `last` is the last number that there is.
    ///
    /// # Errors
    /// It is missing, or another one stands there.
    pub fn check(&self, found: Option<&Checkpoint>, last: i64) -> Result<(), Flaw> {
        let number = self.number;
        match found {
            None => Err(Flaw::CheckpointLost { number, last, expected: hex::encode(&self.head_hash) }),
            Some(found) if found.head_hash != self.head_hash => Err(Flaw::CheckpointReplaced {
                number,
                expected: hex::encode(&self.head_hash),
                found: hex::encode(&found.head_hash),
            }),
            Some(_) => Ok(()),
        }
    }
}

impl From<&Checkpoint> for Witness {
    fn from(checkpoint: &Checkpoint) -> Witness {
        Witness { number: checkpoint.number, head_hash: checkpoint.head_hash.clone() }
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.number, hex::encode(&self.head_hash))
    }
}

impl FromStr for Witness {
    type Err = String;

    fn from_str(text: &str) -> Result<Witness, String> {
        let parsed = text.trim().split_once('=').and_then(|(number, hash)| {
            let number = number.parse().ok().filter(|number| *number > 0)?;
            let head_hash = hex::decode(hash).ok().filter(|bytes| bytes.len() == 32)?;
            Some(Witness { number, head_hash })
        });
        parsed.ok_or_else(|| "expected NUMBER=HASH, with 64 hex characters".to_string())
    }
}

/// Everything that a verification is given beside the database.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The keys that signed. Without any, signatures are not checked.
    pub keys: KeyRing,
    /// Checkpoints that have to be there.
    pub witnesses: Vec<Witness>,
    /// Whether a log with rows but without a checkpoint is a flaw.
    pub demand_checkpoint: bool,
}

impl From<KeyRing> for Evidence {
    fn from(keys: KeyRing) -> Evidence {
        Evidence { keys, ..Evidence::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_is_a_number_and_a_hash() {
        let hash = "0a".repeat(32);
        let witness: Witness = format!("12={hash}\n").parse().unwrap();
        assert_eq!((witness.number, witness.head_hash.as_slice()), (12, [10; 32].as_slice()));
        assert_eq!(witness.to_string(), format!("12={hash}"));
        assert_eq!(format!("12={}", hash.to_uppercase()).parse(), Ok(witness));
        for bad in [&hash, "12", "=", &format!("0={hash}"), &format!("-1={hash}"), "12=0a", &format!("12={hash}0a")] {
            assert!(bad.parse::<Witness>().is_err(), "{bad}");
        }
    }
}
