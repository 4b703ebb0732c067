//! Checkpoints over the audit log's hash chain, and its verification.
//!
//! The database chains each audit row when it is committed (`migrations/V3__audit.sql`). Here the same hashes are
//! computed a second time, independently, from the form that `docs/audit-chain.md` describes.

mod canonical;
mod checkpoint;
mod evidence;
mod flaw;
mod verify;

pub use canonical::{GENESIS, Hash, canonical, chain_hash};
pub use checkpoint::{KeyRing, SigningKey, Unverified};
pub use evidence::{Evidence, Witness};
pub use flaw::Flaw;
pub use verify::{Summary, Walker, verify, verify_checkpoint, verify_head};
