//! Keeps a session that listens to what is said in the database, for whoever subscribes to the notices.

use crate::{
    queue::connection::Backoff,
    store::{Deaf, Notices, Store},
};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A session that lasted for so long was a good one: the next is tried at once.
const GOOD: Duration = Duration::from_secs(10);

/// Listens for ever, again after each error. Says through `lost` that a session has ended.
pub async fn run(store: &Store, notices: &Notices, lost: &Notify) {
    let mut backoff = Backoff::default();
    loop {
        let since = Instant::now();
        let Deaf { listened, error } = store.listen(notices).await;
        tracing::debug!("nothing is heard from PostgreSQL: {error}");
        if listened {
            lost.notify_one();
        }
        if since.elapsed() >= GOOD {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
