//! Checkpoints over the audit log's hash chain, and its verification.
