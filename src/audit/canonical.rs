//! The canonical form of an audit row, and its place in the chain.

use crate::store::audit::AuditRow;
use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// What stands before the first row of the chain.
pub const GENESIS: Hash = [0; 32];

/// The version of the canonical form, its first byte.
const VERSION: u8 = 1;

/// The bytes that stand for a row: the version, then the columns in the table's order. Numbers are 8 bytes, big-endian;
/// the timestamp is microseconds since 1970 in UTC; a text is one of the fields of `push_field`.
pub fn canonical(row: &AuditRow) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(row.id.to_be_bytes());
    for text in [Some(&row.entity), Some(&row.entity_id), Some(&row.action), row.actor.as_ref(), row.actor_id.as_ref()]
    {
        push_field(&mut bytes, text.map(String::as_str));
    }
    bytes.extend(row.timestamp.timestamp_micros().to_be_bytes());
    for text in [&row.previous_state, &row.new_state, &row.ip_address] {
        push_field(&mut bytes, text.as_deref());
    }
    bytes
}

/// 00 for NULL, else 01, the length in bytes (4 bytes, big-endian) and the text in UTF-8: no two lists of fields have the
/// same bytes.
pub(super) fn push_field(bytes: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => bytes.push(0),
        Some(text) => {
            bytes.push(1);
            // PostgreSQL holds no text of 4 GiB; a shortened length would only make the hash another one.
            bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
    }
}

/// The hash of a row that follows `previous`.
pub fn chain_hash(previous: &[u8], row: &AuditRow) -> Hash {
    let mut digest = Sha256::new();
    digest.update(previous);
    digest.update(canonical(row));
    digest.finalize().into()
}
