//! Cancels jobs of ours that somebody wants cancelled: told by a notice at once, and found by a look every few seconds.

use crate::{
    jobs::{Runner, Running},
    queue::lease::Leases,
    store::{CancelRequest, Meant, Notice, Notices, Store},
};
use std::time::Duration;

/// How often is looked without a notice: notices are lost while nobody listens.
const LOOK: Duration = Duration::from_secs(5);

/// Looks for ever.
pub async fn run(store: &Store, notices: &Notices, leases: &Leases, runner: &Runner) {
    let mut notice = notices.subscribe(Notice::Cancel);
    loop {
        // Seen before the look, so that a notice that comes meanwhile leads to another one.
        notice.mark_unchanged();
        match store.cancel_requests(leases.invocation()).await {
            Ok(requests) => {
                cancel_held(leases, &requests);
                runner.running().look_at(requests);
            }
            Err(error) => tracing::debug!("requests to cancel jobs were not read: {error}"),
        }
        // An error is the end of the notices, which live as long as the daemon; the look goes on without them.
        if let Ok(Err(_)) = tokio::time::timeout(LOOK, notice.changed()).await {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Cancels what is meant by its lock: it may still wait for its turn.
fn cancel_held(leases: &Leases, requests: &[CancelRequest]) {
    for request in requests {
        if let Meant::Fetch(token) = &request.meant
            && let Some(lease) = leases.held_under(token, &request.job_id)
        {
            Running::cancel(&lease, request);
        }
    }
}
