//! Keeps a session that listens to what is said in the database, for whoever subscribes to the notices.

use crate::{
    queue::connection::Backoff,
    store::{Notices, Store},
};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A session that lasted for so long was a good one: the next is tried at once.
const GOOD: Duration = Duration::from_secs(10);

/// Listens for ever, again after each error. Says through `away` when PostgreSQL may be away: the session has ended, or none
/// is to be had. Each time, because who looks after the first sign may still find a session that the server has not ended yet.
pub async fn run(store: &Store, notices: &Notices, away: &Notify) {
    let mut backoff = Backoff::default();
    loop {
        let since = Instant::now();
        let error = store.listen(notices).await;
        tracing::debug!("nothing is heard from PostgreSQL: {error}");
        if error.is_unavailable() {
            away.notify_one();
        }
        if since.elapsed() >= GOOD {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
