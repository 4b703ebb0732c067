//! One life of the daemon: start, ready, work, drain, end.

use super::{
    exit::Exit,
    listener,
    signals::Signals,
    start,
    systemd::Manager,
    upkeep::{Upkeep, host_name},
    watch::Watch,
};
use crate::{
    config::Config,
    events,
    jobs::{self, Runner},
    queue::{
        self, Queue,
        connection::{Fate, Link},
        consumer::{Consumer, Parts},
        lease::{Leases, Renewer},
        pulse::{Pulse, Tally},
    },
    store::{Notices, Store, StoreError},
};
use base64::Engine;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long the jobs that are handed back at the end of a drain may take to be so.
const HAND_BACK: Duration = Duration::from_secs(2);
/// How long PostgreSQL and Redis may take to say good-bye.
const CLOSE: Duration = Duration::from_secs(1);

/// Everything that lives as long as the process.
struct Daemon {
    manager: Arc<Manager>,
    queue: Arc<Queue>,
    store: Store,
    leases: Arc<Leases>,
    pulse: Arc<Pulse>,
    config: Config,
    instance: String,
    worker: String,
    fate: Fate,
    notices: Arc<Notices>,
}

/// Runs the daemon until a signal ends it, or until something does that waiting cannot heal.
pub async fn run(instance: &str, config: Config) -> Exit {
    let mut signals = match Signals::new(Manager::is_there()) {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(message_id = events::WORKER_FAILED, "signals cannot be caught: {error}");
            return Exit::Internal;
        }
    };
    let daemon = match Daemon::build(instance, config) {
        Ok(daemon) => daemon,
        Err(why) => {
            tracing::error!(message_id = events::WORKER_FAILED, "{why}");
            return Exit::Config;
        }
    };
    tokio::select! {
        started = daemon.prepare() => match started {
            Ok(()) => {}
            Err(exit) => return exit,
        },
        never = start::stay_alive(&daemon.manager) => match never {},
        signal = signals.next() => {
            daemon.manager.stopping("stopped while starting");
            tracing::info!(message_id = events::WORKER_STOPPED, "{signal} while starting: stopped");
            return Exit::Clean;
        }
    }
    daemon.work(signals).await
}

impl Daemon {
    fn build(instance: &str, config: Config) -> Result<Daemon, String> {
        let fate = Fate::default();
        let queue = Queue::new(&config.queue, &config.redis, fate.clone()).map_err(|error| error.to_string())?;
        let application = format!("floh-worker@{instance}");
        let sessions = config.worker.concurrency + 2;
        let store =
            Store::open(&config.database, sessions, &application).map_err(|error: StoreError| error.to_string())?;
        Ok(Daemon {
            manager: Arc::default(),
            queue: Arc::new(queue),
            store,
            leases: Arc::new(Leases::new(Uuid::new_v4())),
            pulse: Arc::default(),
            worker: format!("{}:{application}", host_name()),
            instance: instance.to_string(),
            config,
            fate,
            notices: Arc::default(),
        })
    }

    async fn prepare(&self) -> Result<(), Exit> {
        tracing::info!(
            message_id = events::WORKER_STARTED,
            "floh-worker {} as instance {}, invocation {}, queue {}, concurrency {}",
            env!("CARGO_PKG_VERSION"),
            self.instance,
            self.leases.invocation(),
            self.queue.keys.base.trim_end_matches(':'),
            self.config.worker.concurrency
        );
        start::wait_for_dependencies(&self.manager, &self.queue, &self.store).await?;
        #[cfg(feature = "test-jobs")]
        jobs::prepare_test_jobs(&self.store).await.map_err(|error| {
            tracing::error!("the table of the test jobs: {error}");
            Exit::Internal
        })?;
        Ok(())
    }

    /// Works until the drain is over.
    async fn work(self, mut signals: Signals) -> Exit {
        let (stop_fetching, stop_renewing) = (CancellationToken::new(), CancellationToken::new());
        let links = self.link(true).and_then(|blocking| Ok((blocking, self.link(false)?)));
        let (blocking, renewal) = match links {
            Ok(links) => links,
            Err(error) => {
                tracing::error!(message_id = events::WORKER_FAILED, "{error}");
                return Exit::Config;
            }
        };
        let renewer = Renewer::new(Arc::clone(&self.queue), renewal, Arc::clone(&self.leases));
        if let Err(error) = renewer.start(stop_renewing.clone()) {
            tracing::error!(message_id = events::WORKER_FAILED, "no thread for the renewal of locks: {error}");
            return Exit::Internal;
        }
        let upkeep = Upkeep::new(&self.instance, &self.leases, &self.store, &self.queue, &self.config, &self.notices);
        let upkeep = tokio::spawn(upkeep.run());
        let listener = tokio::spawn(listener::listen(self.store.clone(), Arc::clone(&self.notices)));
        let watch = tokio::spawn({
            let watch = Watch::new(&self.manager, &self.pulse, &self.leases, &stop_fetching);
            let manager = Arc::clone(&self.manager);
            let pulse = Arc::clone(&self.pulse);
            async move {
                start::wait_for_first_fetch(&manager, &pulse).await;
                tracing::info!(message_id = events::WORKER_READY, "ready");
                watch.run().await;
            }
        });
        let consumer = Consumer::new(self.parts(blocking), stop_fetching.clone());
        let exit = self.consume(&consumer, &mut signals, &stop_fetching).await;
        stop_renewing.cancel();
        upkeep.abort();
        listener.abort();
        watch.abort();
        self.close().await;
        tracing::info!(
            message_id = events::WORKER_STOPPED,
            "{}: {} done, {} failed, {} handed back",
            if exit == Exit::Internal { "stopped, and jobs were abandoned" } else { "drained" },
            self.pulse.total(Tally::Completed),
            self.pulse.total(Tally::Failed),
            self.pulse.total(Tally::HandedBack)
        );
        exit
    }

    /// Consumes until a signal, then drains: running jobs may finish until the deadline or a second signal, the rest is
    /// handed back; a third signal ends at once.
    async fn consume(&self, consumer: &Consumer, signals: &mut Signals, stop: &CancellationToken) -> Exit {
        let consuming = consumer.run();
        tokio::pin!(consuming);
        let (signal, clean) = tokio::select! {
            () = &mut consuming => return Exit::Internal,
            signal = signals.next() => (signal, Exit::Clean),
            () = start::schema_excludes_us(&self.store) => ("a schema that excludes this release", Exit::Config),
        };
        let patience = self.config.worker.shutdown_timeout;
        let running = self.leases.held().len();
        self.manager.stopping(&format!("draining, {running} running"));
        tracing::info!(
            message_id = events::WORKER_DRAINING,
            "{signal}: no new jobs; {running} running may finish for {} s",
            patience.as_secs()
        );
        stop.cancel();
        tokio::select! {
            () = &mut consuming => return clean,
            signal = signals.next() => tracing::warn!("{signal} again: running jobs are handed back now"),
            () = tokio::time::sleep(patience) => tracing::warn!("the time to finish is over: running jobs are handed back"),
        }
        self.leases.interrupt_all();
        tokio::select! {
            () = &mut consuming => return clean,
            signal = signals.next() => tracing::error!("{signal} a third time: the end"),
            () = tokio::time::sleep(HAND_BACK) => {}
        }
        for lease in self.leases.held() {
            tracing::error!(
                message_id = events::JOB_ABANDONED,
                floh_job_id = %lease.job_id,
                floh_job_name = %lease.job_name,
                "abandoned: it could not be handed back and runs again when its lock has expired"
            );
        }
        if self.leases.held().is_empty() { clean } else { Exit::Internal }
    }

    fn parts(&self, blocking: Link) -> Parts {
        Parts {
            queue: Arc::clone(&self.queue),
            blocking,
            leases: Arc::clone(&self.leases),
            pulse: Arc::clone(&self.pulse),
            processor: Arc::new(Runner::new(
                jobs::registry(&self.config),
                self.store.clone(),
                &self.instance,
                self.leases.invocation(),
            )),
            concurrency: self.config.worker.concurrency,
            worker: self.worker.clone(),
        }
    }

    /// Another link of this process. One of them bears the name by which BullMQ's clients list the queue's workers.
    fn link(&self, listed: bool) -> Result<Link, queue::Error> {
        let queue = &self.config.queue;
        let name = listed.then(|| {
            let encoded = base64::engine::general_purpose::STANDARD.encode(&queue.name);
            format!("{}:{encoded}:w:{}", queue.prefix, self.worker)
        });
        Link::new(&self.config.redis, self.fate.clone(), name)
    }

    async fn close(&self) {
        let closing = async {
            if let Err(error) = self.store.unregister(self.leases.invocation()).await {
                tracing::debug!("the instance's row was not removed: {error}");
            }
            self.queue.link.close().await;
        };
        let _ = tokio::time::timeout(CLOSE, closing).await;
        self.store.close();
    }
}
