//! One life of the daemon: start, ready, work, drain, end.

use super::{
    cancel,
    exit::Exit,
    memory,
    predecessor::{Predecessor, State},
    reclaim::Reclaim,
    signals::Signals,
    start,
    systemd::Manager,
    upkeep::{Upkeep, host_name},
    watch::Watch,
};
use crate::{
    config::{CLOSE_TIME, Config, HAND_BACK_TIME},
    events,
    jobs::{self, Runner},
    queue::{
        self, Queue,
        connection::{Fate, Link},
        consumer::{Consumer, Parts},
        lease::{Leases, Renewer},
        panics,
        pulse::{Pulse, Tally},
    },
    store::{Notices, Store, StoreError},
};
use std::{convert::Infallible, sync::Arc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Everything that lives as long as the process.
struct Daemon {
    manager: Arc<Manager>,
    queue: Arc<Queue>,
    store: Store,
    notices: Arc<Notices>,
    leases: Arc<Leases>,
    pulse: Arc<Pulse>,
    config: Config,
    instance: String,
    worker: String,
    fate: Fate,
    /// This instance's state on this machine, and what its previous lives left behind.
    state: Option<State>,
    predecessors: Vec<Predecessor>,
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
    let stopped = tokio::select! {
        started = daemon.prepare() => started.err(),
        never = start::stay_alive(&daemon.manager) => match never {},
        signal = signals.next() => {
            daemon.manager.stopping("stopped while starting");
            tracing::info!(message_id = events::WORKER_STOPPED, "{signal} while starting: stopped");
            Some(Exit::Clean)
        }
    };
    match stopped {
        None => daemon.work(signals).await,
        Some(exit) => {
            // It has held nothing.
            if let Some(state) = daemon.state {
                state.end();
            }
            exit
        }
    }
}

impl Daemon {
    fn build(instance: &str, config: Config) -> Result<Daemon, String> {
        let fate = Fate::default();
        let application = format!("floh-worker@{instance}");
        let worker = format!("{}:{application}", host_name());
        let queue = Queue::of_worker(&config.queue, &config.redis, fate.clone(), &worker);
        let queue = queue.map_err(|error| error.to_string())?;
        // A handler that was given up may keep its session in its hands.
        let sessions = config.worker.concurrency + 2 + jobs::MOST_LOST;
        let store =
            Store::open(&config.database, sessions, &application).map_err(|error: StoreError| error.to_string())?;
        let leases = Arc::new(Leases::new(Uuid::new_v4()));
        let (state, predecessors) = State::open(instance, leases.invocation()).unzip();
        Ok(Daemon {
            state,
            predecessors: predecessors.unwrap_or_default(),
            manager: Arc::default(),
            queue: Arc::new(queue),
            store,
            notices: Arc::default(),
            leases,
            pulse: Arc::default(),
            worker,
            instance: instance.to_string(),
            config,
            fate,
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
        let links = self.link().and_then(|blocking| Ok((blocking, self.link()?)));
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
        let runner = Arc::new(self.runner(&stop_fetching));
        let upkeep = tokio::spawn(
            Upkeep::new(&self.instance, &self.leases, &self.store, &self.queue, &self.notices, &runner, &self.config)
                .run(),
        );
        let cancel = tokio::spawn({
            let (store, notices, runner) = (self.store.clone(), Arc::clone(&self.notices), Arc::clone(&runner));
            let leases = Arc::clone(&self.leases);
            async move {
                panics::again("the look for jobs to cancel", || cancel::run(&store, &notices, &leases, &runner)).await;
            }
        });
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
        let consumer = Consumer::new(self.parts(blocking, Arc::clone(&runner)), stop_fetching.clone());
        let exit = tokio::select! {
            exit = self.consume(&consumer, &runner, &mut signals, &stop_fetching) => exit,
            never = self.clear_up() => match never {},
        };
        // While nothing was held, a call whose answer was lost may have taken a job. Also of an end that abandoned jobs the
        // next life has to know.
        let in_doubt = consumer.is_in_doubt();
        if in_doubt {
            tracing::warn!(
                "Redis left calls unanswered: what they may have taken, the next life of the instance gives back"
            );
        }
        stop_renewing.cancel();
        upkeep.abort();
        cancel.abort();
        watch.abort();
        self.close().await;
        tracing::info!(
            message_id = events::WORKER_STOPPED,
            "{}: {} done, {} failed, {} handed back",
            match exit {
                Exit::Internal => "stopped, and jobs were abandoned",
                Exit::Restart => "drained, to be started anew",
                _ => "drained",
            },
            self.pulse.total(Tally::Completed),
            self.pulse.total(Tally::Failed),
            self.pulse.total(Tally::HandedBack)
        );
        if exit != Exit::Internal
            && !in_doubt
            && let Some(state) = self.state
        {
            state.end();
        }
        exit
    }

    /// Consumes until a signal, then drains: running jobs may finish until the deadline or a second signal, the rest is
    /// handed back; a third signal ends at once.
    async fn consume(
        &self,
        consumer: &Consumer,
        runner: &Runner,
        signals: &mut Signals,
        stop: &CancellationToken,
    ) -> Exit {
        let consuming = consumer.run();
        tokio::pin!(consuming);
        let (signal, clean) = tokio::select! {
            () = &mut consuming => return Exit::Internal,
            signal = signals.next() => (signal.to_string(), Exit::Clean),
            () = start::schema_excludes_us(&self.store) => {
                ("a schema that excludes this release".to_string(), Exit::Config)
            }
            lost = runner.threads().too_many_lost() => (format!("{lost} threads do not come back"), Exit::Restart),
            why = memory::run(runner, &self.pulse) => (why, Exit::Restart),
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
            () = tokio::time::sleep(patience) => {
                tracing::warn!("the time to finish is over: {} running jobs are handed back", self.leases.held().len());
            }
        }
        self.leases.interrupt_all();
        tokio::select! {
            () = &mut consuming => return clean,
            signal = signals.next() => tracing::error!("{signal} a third time: the end"),
            () = tokio::time::sleep(HAND_BACK_TIME) => {}
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

    /// Gives back what previous lives held; what is left of it when the process ends, the next life does.
    async fn clear_up(&self) -> Infallible {
        if let Some(state) = &self.state {
            let reclaim = Reclaim {
                queue: Arc::clone(&self.queue),
                store: self.store.clone(),
                leases: Arc::clone(&self.leases),
                worker: self.worker.clone(),
            };
            reclaim.run(state, self.predecessors.clone()).await;
        }
        std::future::pending().await
    }

    fn runner(&self, draining: &CancellationToken) -> Runner {
        let registry = jobs::registry(&self.config);
        let timeouts = self.config.worker.job_timeouts.clone();
        let known = registry.names();
        let unknown: Vec<&str> =
            timeouts.by_name.keys().map(String::as_str).filter(|name| !known.contains(name)).collect();
        if !unknown.is_empty() {
            tracing::warn!(
                message_id = events::CONFIG_NOTICE,
                "JOB_TIMEOUTS: this worker knows no job named {}; it knows: {}",
                unknown.join(", "),
                known.join(", ")
            );
        }
        let (store, invocation) = (self.store.clone(), self.leases.invocation());
        Runner::new(registry, store, &self.instance, invocation, timeouts, draining.clone())
    }

    fn parts(&self, blocking: Link, runner: Arc<Runner>) -> Parts {
        Parts {
            queue: Arc::clone(&self.queue),
            blocking,
            leases: Arc::clone(&self.leases),
            pulse: Arc::clone(&self.pulse),
            processor: runner,
            concurrency: self.config.worker.concurrency,
            worker: self.worker.clone(),
        }
    }

    /// Another link of this process.
    fn link(&self) -> Result<Link, queue::Error> {
        Link::new(&self.config.redis, self.fate.clone(), None)
    }

    async fn close(&self) {
        let closing = async {
            if let Err(error) = self.store.unregister(self.leases.invocation()).await {
                tracing::debug!("the instance's row was not removed: {error}");
            }
            self.queue.link.close().await;
        };
        let _ = tokio::time::timeout(CLOSE_TIME, closing).await;
        self.store.close();
    }
}
