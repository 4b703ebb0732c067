//! What can go wrong between the outbox and the queue: either side.

use crate::{queue, store::StoreError};

/// An error of the store or of the queue.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// PostgreSQL's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Redis'.
    #[error(transparent)]
    Queue(#[from] queue::Error),
}

impl Trouble {
    /// Whether the same may go well later, by itself.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Trouble::Store(error) => error.is_unavailable(),
            Trouble::Queue(error) => error.is_unavailable(),
        }
    }
}
