//! The thread that renews the locks of all leases, and cancels what may pass on.

use super::{Cancelled, LOCK_DURATION, Lease, Leases, pack, uptime_ms};
use crate::queue::{
    Queue,
    connection::{Backoff, COMMAND_DEADLINE, Link},
    error::Error,
    scripts,
};
use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Renewal period.
const RENEWAL_PERIOD: Duration = Duration::from_secs(10);
/// How often the clock is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Renews the locks of all leases until `stop`; runs on its own thread with its own connection.
pub struct Renewer {
    queue: Arc<Queue>,
    link: Link,
    leases: Arc<Leases>,
}

impl Renewer {
    /// A renewer over its own link.
    pub fn new(queue: Arc<Queue>, link: Link, leases: Arc<Leases>) -> Self {
        Renewer { queue, link, leases }
    }

    /// Starts the thread. It ends when `stop` is cancelled.
    pub fn start(self, stop: CancellationToken) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("lease-renewer".into())
            .spawn(move || runtime.block_on(async { stop.run_until_cancelled(self.run()).await.unwrap_or_default() }))
    }

    async fn run(&self) {
        tokio::join!(self.watch_for_ever(), self.renew_for_ever());
    }

    /// Looks at the clock, whatever a renewal waits for: this is what protects a lease while Redis is silent.
    async fn watch_for_ever(&self) {
        loop {
            self.leases.due(uptime_ms());
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn renew_for_ever(&self) {
        let mut backoff = Backoff::default();
        let mut renewed_at = uptime_ms();
        loop {
            let now = uptime_ms();
            let since = Duration::from_millis(u64::try_from(now - renewed_at).unwrap_or(0));
            let mut pause = LOOK;
            if since >= RENEWAL_PERIOD || backoff.is_raised() {
                match self.renew(&self.leases.due(now)).await {
                    Ok(()) => {
                        renewed_at = now;
                        backoff.reset();
                    }
                    Err(error) => {
                        tracing::warn!("locks not renewed: {error}");
                        pause = backoff.next_delay();
                    }
                }
            }
            self.leases.turns.fetch_add(1, Ordering::Relaxed);
            #[cfg(feature = "test-jobs")]
            if crate::switches::off("renew-again") && self.leases.turns() > 6 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn renew(&self, leases: &[Arc<Lease>]) -> Result<(), Error> {
        if leases.is_empty() {
            return Ok(());
        }
        let tokens = pack(&leases.iter().map(|lease| lease.token.as_str()).collect::<Vec<_>>())?;
        let ids = pack(&leases.iter().map(|lease| lease.job_id.as_str()).collect::<Vec<_>>())?;
        let duration = LOCK_DURATION.as_millis().to_string();
        let deadline = COMMAND_DEADLINE;
        #[cfg(feature = "test-jobs")]
        let deadline = if crate::switches::off("renewal-deadline") { Duration::from_secs(3600) } else { deadline };
        let asked = uptime_ms();
        let lost: Vec<String> = scripts::EXTEND_LOCKS
            .call(
                &self.link,
                deadline,
                &[&self.queue.keys.stalled],
                self.queue.settle(),
                &[self.queue.keys.base.as_bytes(), &tokens, &ids, duration.as_bytes()],
            )
            .await?;
        let lost: HashSet<&str> = lost.iter().map(String::as_str).collect();
        for lease in leases {
            if !lost.contains(lease.job_id.as_str()) {
                lease.confirmed_ms.store(asked, Ordering::Release);
            } else if !lease.finishing.load(Ordering::Acquire) {
                tracing::error!(floh_job_id = %lease.job_id, "the lock is no longer ours: the job is cancelled");
                lease.cancel(Cancelled::LeaseLost);
            }
        }
        Ok(())
    }
}
