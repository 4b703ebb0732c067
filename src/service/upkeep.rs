//! What the daemon does beside the jobs: its row in PostgreSQL, old rows, the built-in schedulers, the schedules, the outbox,
//! an ear for notices.

use super::listener;
use crate::{
    config::Config,
    jobs::{self, Reconciler, Runner, Schedules, Sender, Trouble, catch_up},
    queue::{
        Queue,
        connection::Backoff,
        lease::Leases,
        panics,
        schedulers::{self, Builtin, Done, Outcome},
    },
    store::{Notices, Store, StoreError, WorkerInstance},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

/// How often the instance says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often the built-in schedulers are looked at: one that broke is mended, and what it missed has begun, within a minute.
const SCHEDULERS_PERIOD: Duration = Duration::from_secs(40);
/// How often old rows are removed.
const PRUNE_PERIOD: Duration = Duration::from_secs(3600);
/// Ledger rows older than this are removed: far longer than any finish may be late.
const LEDGER_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Rows of wake-ups that have ended stay this long, for people, and against one that is sent twice.
const OUTBOX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// A job is suspected for this long.
const SUSPICION_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Rows of instances that were killed stay this long, for people.
const INSTANCE_AGE: Duration = Duration::from_secs(24 * 3600);

/// The daemon's upkeep.
pub struct Upkeep {
    instance: WorkerInstance,
    store: Store,
    queue: Arc<Queue>,
    notices: Arc<Notices>,
    runner: Arc<Runner>,
    /// PostgreSQL may be away, says who listens.
    away: Notify,
    schedulers: Vec<Builtin>,
    schedules: Schedules,
    sender: Sender,
    reconciler: Reconciler,
}

impl Upkeep {
    /// For one process life.
    pub fn new(
        instance: &str,
        leases: &Leases,
        store: &Store,
        queue: &Arc<Queue>,
        notices: &Arc<Notices>,
        runner: &Arc<Runner>,
        config: &Config,
    ) -> Upkeep {
        Upkeep {
            instance: WorkerInstance {
                invocation: leases.invocation(),
                instance: instance.to_string(),
                host: host_name(),
                pid: i32::try_from(std::process::id()).unwrap_or_default(),
                version: env!("CARGO_PKG_VERSION").to_string(),
            },
            store: store.clone(),
            queue: Arc::clone(queue),
            notices: Arc::clone(notices),
            runner: Arc::clone(runner),
            away: Notify::new(),
            schedulers: jobs::schedulers(config),
            schedules: Schedules::new(store, queue, notices),
            sender: Sender::new(store, queue, notices),
            reconciler: Reconciler::new(store, queue),
        }
    }

    /// For ever. A mistake in one of them ends neither it nor the others.
    pub async fn run(self) {
        tokio::join!(
            panics::again("the care for the schedulers", || self.register_schedulers()),
            panics::again("the care for the schedules", || self.schedules.run()),
            panics::again("the sender of the outbox", || self.sender.run()),
            panics::again("the comparison of outbox and queue", || self.reconciler.run()),
            panics::again("the heartbeat", || self.beat()),
            panics::again("the removal of old rows", || self.prune()),
            panics::again("the listener", || listener::run(&self.store, &self.notices, &self.away))
        );
    }

    /// Makes the built-in schedulers, and looks after them: a Redis that was wiped has forgotten them, one that was due
    /// could not be changed, and a worker that is not ours may have broken a chain.
    async fn register_schedulers(&self) {
        let mut backoff = Backoff::default();
        let mut before = Vec::new();
        loop {
            match self.ensure_schedulers().await {
                Ok(outcomes) => {
                    let news = |outcome: &&Outcome| outcome.done.is_change() || !before.contains(*outcome);
                    outcomes.iter().filter(news).for_each(Outcome::tell);
                    before = outcomes;
                    backoff.reset();
                    tokio::time::sleep(SCHEDULERS_PERIOD.mul_f64(rand::random_range(0.5..1.0))).await;
                }
                Err(error) if error.is_unavailable() => {
                    tracing::debug!("the built-in schedulers wait: {error}");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(error) => {
                    tracing::error!("the built-in schedulers were not registered: {error}");
                    tokio::time::sleep(SCHEDULERS_PERIOD).await;
                }
            }
        }
    }

    /// What came due while a chain was interrupted is made up for before the chain is mended: a worker that ends in between
    /// leaves it to the next one. What came due while it was being mended is looked at afterwards.
    async fn ensure_schedulers(&self) -> Result<Vec<Outcome>, Trouble> {
        for (builtin, next) in schedulers::interrupted(&self.queue, &self.schedulers).await? {
            self.make_up(builtin, next).await?;
        }
        let outcomes = schedulers::ensure(&self.queue, &self.schedulers).await?;
        for Outcome { scheduler, done } in &outcomes {
            if let Done::Added(next) | Done::Mended(next) = done
                && let Some(builtin) = self.schedulers.iter().find(|builtin| builtin.id == *scheduler)
            {
                self.make_up(builtin, *next).await?;
            }
        }
        Ok(outcomes)
    }

    /// While PostgreSQL is away the chain waits too: no job would be taken. Anything else that is wrong there must not stop
    /// the schedules.
    async fn make_up(&self, builtin: &Builtin, next: i64) -> Result<(), Trouble> {
        match catch_up::make_up(&self.store, &self.queue, builtin, catch_up::BUILT_INS, next).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_unavailable() => Err(error),
            Err(error) => {
                tracing::error!("what {} missed is not known: {error}", builtin.name);
                Ok(())
            }
        }
    }

    /// An idle worker learns by its heartbeat that PostgreSQL is away, and need not fetch a job to find out.
    async fn beat(&self) {
        loop {
            if let Err(error) = self.store.heartbeat(&self.instance).await {
                tracing::debug!("no heartbeat: {error}");
                if error.is_unavailable() {
                    self.runner.database_is_away(&error.to_string());
                }
            }
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT) => {}
                () = self.away.notified() => {}
            }
        }
    }

    async fn prune(&self) {
        loop {
            tokio::time::sleep(PRUNE_PERIOD.mul_f64(rand::random_range(0.5..1.5))).await;
            let pruned = async {
                Ok::<u64, StoreError>(
                    self.store.prune_ledger(LEDGER_AGE).await?
                        + self.store.prune_ticks(LEDGER_AGE).await?
                        + self.store.prune_schedule_ticks(LEDGER_AGE).await?
                        + self.store.prune_outbox(OUTBOX_AGE).await?
                        + self.store.prune_suspicions(SUSPICION_AGE).await?
                        + self.store.prune_deaths(LEDGER_AGE).await?
                        + self.store.prune_cancel_requests(INSTANCE_AGE).await?
                        + self.store.prune_instances(INSTANCE_AGE).await?,
                )
            };
            match pruned.await {
                Ok(rows) => tracing::debug!("removed {rows} old rows"),
                Err(error) => tracing::warn!("old rows were not removed: {error}"),
            }
        }
    }
}

/// This host's name, as people know it.
pub fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unknown-host".into())
}
