//! Keeps a session open that listens in PostgreSQL, so that news reaches this process at once.

use crate::{
    queue::connection::Backoff,
    store::{Notices, Store},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A session that lived this long was a good one: the next one is opened without a long pause.
const GOOD: Duration = Duration::from_secs(10);

/// Listens for ever. What is not heard meanwhile is found by the polls.
pub async fn listen(store: Store, notices: Arc<Notices>) {
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        let error = store.listen(&notices).await;
        tracing::debug!("not listening: {error}");
        if began.elapsed() >= GOOD {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
