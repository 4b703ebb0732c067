//! Signatures of checkpoints: HMAC-SHA256 over everything that a checkpoint says.

use super::canonical::push_field;
use crate::{config::CheckpointKey, store::audit::Checkpoint};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use sha2::Sha256;
use std::{collections::BTreeMap, fmt};

/// The version of the signed form, its first byte.
const VERSION: u8 = 1;

/// A key with its name.
#[derive(Clone)]
pub struct SigningKey {
    id: String,
    mac: Hmac<Sha256>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

impl SigningKey {
    /// From 64 hex characters; the error says what is wrong, without the key.
    pub fn new(id: &str, hex_key: &str) -> Result<SigningKey, String> {
        let bytes = hex::decode(hex_key.trim()).ok().filter(|bytes| bytes.len() == 32);
        let bytes = bytes.ok_or_else(|| format!("the audit checkpoint key {id} is not 64 hex characters"))?;
        let mac = Hmac::new_from_slice(&bytes).map_err(|error| error.to_string())?;
        Ok(SigningKey { id: id.to_string(), mac })
    }

    /// The configuration's key.
    pub fn from_config(key: &CheckpointKey) -> Result<SigningKey, String> {
        SigningKey::new(&key.id, key.hex.expose_secret())
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Puts this key's name and signature on a checkpoint.
    pub fn sign(&self, mut checkpoint: Checkpoint) -> Checkpoint {
        checkpoint.key_id.clone_from(&self.id);
        checkpoint.signature = self.over(&checkpoint).finalize().into_bytes().to_vec();
        checkpoint
    }

    /// Whether a checkpoint is as this key signed it, in constant time.
    pub fn signed(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.key_id == self.id && self.over(checkpoint).verify_slice(&checkpoint.signature).is_ok()
    }

    fn over(&self, checkpoint: &Checkpoint) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(&signed_form(checkpoint));
        mac
    }
}

/// What is signed: the version, number, range and count (8 bytes each, big-endian), the head's 32 bytes, the key's name
/// as a field of the canonical form, and the microseconds since 1970.
fn signed_form(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for number in [checkpoint.number, checkpoint.from_position, checkpoint.to_position, checkpoint.row_count] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(&checkpoint.head_hash);
    push_field(&mut bytes, Some(&checkpoint.key_id));
    bytes.extend(checkpoint.created_at.timestamp_micros().to_be_bytes());
    bytes
}

/// The keys that a verification knows. Without any, signatures are not checked.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    keys: BTreeMap<String, SigningKey>,
}

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unverified {
    /// No key of that name is known.
    UnknownKey,
    /// The key says something else.
    BadSignature,
}

impl KeyRing {
    /// Adds a key; one of the same name is replaced.
    pub fn add(&mut self, key: SigningKey) {
        self.keys.insert(key.id.clone(), key);
    }

    /// True if it holds no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks a checkpoint's signature.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<(), Unverified> {
        let key = self.keys.get(&checkpoint.key_id).ok_or(Unverified::UnknownKey)?;
        if key.signed(checkpoint) { Ok(()) } else { Err(Unverified::BadSignature) }
    }
}
