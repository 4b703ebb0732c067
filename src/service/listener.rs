//! Keeps a session that listens to what is said in the database, for whoever subscribes to the notices.

use crate::{
    queue::connection::Backoff,
    store::{Notices, Store},
};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A session that lasted for so long was a good one: the next is tried at once.
const GOOD: Duration = Duration::from_secs(10);
/// One that lasted for so long was refused by nobody: that it ended may be the first sign of an outage.
const OPENED: Duration = Duration::from_secs(1);

/// Listens for ever, again after each error. Says through `lost` that a session has ended.
pub async fn run(store: &Store, notices: &Notices, lost: &Notify) {
    let mut backoff = Backoff::default();
    loop {
        let since = Instant::now();
        let error = store.listen(notices).await;
        tracing::debug!("nothing is heard from PostgreSQL: {error}");
        if since.elapsed() >= OPENED {
            lost.notify_one();
        }
        if since.elapsed() >= GOOD {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
