//! Cancels jobs of ours that somebody wants cancelled: told by a notice at once, and found by a look every few seconds.

use crate::{
    jobs::Runner,
    store::{Notice, Notices, Store},
};
use std::time::Duration;
use uuid::Uuid;

/// How often is looked without a notice: notices are lost while nobody listens.
const LOOK: Duration = Duration::from_secs(5);

/// Looks for ever.
pub async fn run(store: &Store, notices: &Notices, invocation: Uuid, runner: &Runner) {
    let mut notice = notices.subscribe(Notice::Cancel);
    loop {
        // Seen before the look, so that a notice that comes meanwhile leads to another one.
        notice.mark_unchanged();
        match store.cancel_requests(invocation).await {
            Ok(requests) => {
                for request in requests.iter().filter(|request| runner.running().cancel(request)) {
                    tracing::info!(floh_job_id = %request.job_id, "somebody wants it cancelled: {}", request.reason);
                }
            }
            Err(error) => tracing::debug!("requests to cancel jobs were not read: {error}"),
        }
        // An error is the end of the notices, which live as long as the daemon; the look goes on without them.
        if let Ok(Err(_)) = tokio::time::timeout(LOOK, notice.changed()).await {
            tokio::time::sleep(LOOK).await;
        }
    }
}
