//! Handlers run apart from the worker's own tasks, each on a thread of its own: a section that never yields stops neither
//! the other jobs nor the worker.
//!
//! The main runtime drives timers and connections; the thread only polls the handler. A handler that is to stop is
//! dropped at its next await. Where none comes, its thread is given up: nobody waits for it, its job's context refuses
//! everything, and when it comes back it is dropped. Too many such threads at once, and the worker wants to be started
//! anew.

use super::{Handler, JobContext, JobError};
use crate::queue::panics::{self, Panic};
use serde_json::Value;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// This many threads that do not come back are too many.
pub const MOST_LOST: usize = 3;

/// How a handler ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself.
    Returned(Result<Value, JobError>),
    /// By a panic.
    Panicked(Panic),
    /// It was dropped at an await.
    Dropped,
    /// It did not react, and its thread was given up.
    GivenUp,
}

/// How long a handler may take that has to stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// To come to its own end.
    pub own_end: Duration,
    /// To come to an await, after that.
    pub react: Duration,
}

/// The threads of this process that were given up and have not come back.
#[derive(Debug)]
pub struct Threads {
    lost: watch::Sender<usize>,
}

impl Default for Threads {
    fn default() -> Threads {
        Threads { lost: watch::Sender::new(0) }
    }
}

impl Threads {
    /// Waits until too many threads are lost; says how many.
    pub async fn too_many_lost(&self) -> usize {
        let mut lost = self.lost.subscribe();
        // The sender lives as long as we do, so there is an answer.
        lost.wait_for(|lost| *lost >= MOST_LOST).await.map_or(MOST_LOST, |lost| *lost)
    }
}

const RUNNING: u8 = 0;
const OVER: u8 = 1;
const LOST: u8 = 2;

/// A handler that runs. Dropped, it is told to stop, and nobody waits for it.
pub(super) struct Apart {
    thread: JoinHandle<Ended>,
    drop_it: CancellationToken,
    state: Arc<AtomicU8>,
    context: Arc<JobContext>,
    threads: Arc<Threads>,
}

impl Apart {
    /// Starts a handler on its thread.
    pub(super) fn start(handler: Arc<dyn Handler>, context: &Arc<JobContext>, threads: &Arc<Threads>) -> Apart {
        let (drop_it, state) = (CancellationToken::new(), Arc::new(AtomicU8::new(RUNNING)));
        Apart {
            drop_it: drop_it.clone(),
            state: Arc::clone(&state),
            context: Arc::clone(context),
            threads: Arc::clone(threads),
            thread: spawn_blocking({
                let (context, threads) = (Arc::clone(context), Arc::clone(threads));
                let (runtime, span) = (Handle::current(), tracing::Span::current());
                move || {
                    let run = async {
                        match drop_it.run_until_cancelled(panics::catch(handler.run(&context))).await {
                            Some(Ok(result)) => Ended::Returned(result),
                            Some(Err(panic)) => Ended::Panicked(panic),
                            None => Ended::Dropped,
                        }
                    };
                    let ended = runtime.block_on(run.instrument(span.clone()));
                    if state.swap(OVER, Ordering::AcqRel) == LOST {
                        threads.lost.send_modify(|lost| *lost = lost.saturating_sub(1));
                        span.in_scope(|| {
                            tracing::warn!("the thread that was given up has come back: it commits nothing")
                        });
                    }
                    ended
                }
            }),
        }
    }

    /// Waits for the handler's own end. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> Ended {
        match (&mut self.thread).await {
            Ok(ended) => ended,
            // Panics are caught on the thread, so it is the runtime that ends.
            Err(_) => Ended::Dropped,
        }
    }

    /// Ends the handler: lets it come to its own end, or else drops it at its next await, or else gives its thread up.
    pub(super) async fn stop(mut self, patience: Patience) -> Ended {
        if let Ok(ended) = tokio::time::timeout(patience.own_end, self.ended()).await {
            return ended;
        }
        self.drop_it.cancel();
        if let Ok(ended) = tokio::time::timeout(patience.react, self.ended()).await {
            return ended;
        }
        if self.give_up() { Ended::GivenUp } else { self.ended().await }
    }

    /// From now on nobody waits for the thread; false if it was over.
    fn give_up(&self) -> bool {
        let lost = self.state.compare_exchange(RUNNING, LOST, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if lost {
            self.context.give_up();
            self.threads.lost.send_modify(|lost| *lost += 1);
        }
        lost
    }
}

impl Drop for Apart {
    /// Whoever waited was dropped: a handler that reacts comes back at its next await.
    fn drop(&mut self) {
        self.drop_it.cancel();
        self.give_up();
    }
}
