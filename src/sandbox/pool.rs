//! The children: at most so many as scripts run at once, started when they are needed.
//!
//! They belong to a thread that does nothing else. A child is killed by the kernel when the *thread* that started it
//! ends, and handlers run on threads that come and go; and its pipes must not belong to a runtime that ends before it.

use super::{
    Finished, Kind, Script, ScriptError,
    process::{PATIENCE, Process, time_for},
    wire::{self, Answer, Request},
};
use chrono::SecondsFormat;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tokio::{
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{interval, timeout},
};

/// The running program, also where its file has been replaced meanwhile.
pub const OURSELVES: &str = "/proc/self/exe";

/// A child that nobody needed for so long is ended.
const IDLE: Duration = Duration::from_secs(60);

/// How soon a child that waited has to begin. One that does not is replaced, which costs no more.
const SOON: Duration = Duration::from_secs(2);

/// Where scripts run. Clones share the children; with the last one these end.
#[derive(Debug, Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

impl Default for Sandbox {
    /// One script at once, by the running program.
    fn default() -> Sandbox {
        Sandbox::new(OURSELVES.into(), 1)
    }
}

#[derive(Debug)]
struct Shared {
    executable: PathBuf,
    most: usize,
    /// The way to the thread, which is started with the first script.
    orders: OnceLock<mpsc::UnboundedSender<Order>>,
}

/// A script that somebody waits for.
#[derive(Debug)]
struct Order {
    request: Request,
    deadline: Option<Instant>,
    reply: oneshot::Sender<Result<Answer, ScriptError>>,
}

impl Sandbox {
    /// For at most `most` scripts at once. `executable` is a program of ours: [`OURSELVES`] in one.
    #[must_use]
    pub fn new(executable: PathBuf, most: usize) -> Sandbox {
        Sandbox { shared: Arc::new(Shared { executable, most: most.max(1), orders: OnceLock::new() }) }
    }

    /// Runs a script. Dropping the future ends it.
    ///
    /// # Errors
    /// It failed, was stopped, or could not be run.
    pub async fn run(&self, script: &Script<'_>) -> Result<Finished, ScriptError> {
        let machine = |message: String| ScriptError::new(Kind::Machine, message);
        let request = Request {
            code: script.code.to_string(),
            variables: serde_json::to_string(script.variables).map_err(|error| {
                ScriptError::new(Kind::Refused, format!("the run's variables are no JSON: {error}"))
            })?,
            outputs: script.outputs.to_vec(),
            now: script.now.to_rfc3339_opts(SecondsFormat::Millis, true),
            limit_ms: 0,
        };
        super::script::fits(&request).map_err(|failure| ScriptError::new(failure.kind, failure.message))?;
        let (reply, answer) = oneshot::channel();
        let gone = || machine("the thread that looks after the processes of scripts has ended".to_string());
        self.shared.orders().send(Order { request, deadline: script.deadline, reply }).map_err(|_| gone())?;
        let Answer { result, logs, took_ms } = answer.await.map_err(|_| gone())??;
        match result {
            Ok(values) => Ok(Finished { values, logs, duration: Duration::from_millis(took_ms) }),
            Err(failure) => {
                Err(ScriptError { message: failure.message, position: failure.position, kind: failure.kind, logs })
            }
        }
    }
}

impl Shared {
    fn orders(&self) -> &mpsc::UnboundedSender<Order> {
        self.orders.get_or_init(|| {
            let (orders, take) = mpsc::unbounded_channel();
            let pool = Arc::new(Pool {
                executable: self.executable.clone(),
                places: Arc::new(Semaphore::new(self.most)),
                idle: Mutex::default(),
            });
            let started = thread::Builder::new().name("sandbox".to_string()).spawn(move || keep(pool, take));
            if let Err(error) = started {
                // The other end has gone with the closure, so that every script says so.
                tracing::error!("no thread for the processes of scripts: {error}");
            }
            orders
        })
    }
}

/// The children and the places for them.
#[derive(Debug)]
struct Pool {
    executable: PathBuf,
    places: Arc<Semaphore>,
    /// Those that wait for a script, and since when; the last one first.
    idle: Mutex<Vec<(Process, Instant)>>,
}

/// A child with the place that it takes.
struct Placed {
    process: Process,
    place: OwnedSemaphorePermit,
}

/// The thread's life: until nobody can send scripts any more.
fn keep(pool: Arc<Pool>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("no runtime for the processes of scripts: {error}");
            return;
        }
    };
    runtime.block_on(async {
        let mut running = JoinSet::new();
        let mut look = interval(IDLE / 4);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => drop(running.spawn(Arc::clone(&pool).serve(order))),
                    None => break,
                },
                _ = look.tick() => pool.end_idle(IDLE).await,
                Some(_) = running.join_next() => {}
            }
        }
        // Nobody waits for these: dropped, they kill their child.
        running.shutdown().await;
        pool.end_idle(Duration::ZERO).await;
    });
}

impl Pool {
    /// Runs a script for as long as somebody waits for it, then clears up.
    async fn serve(self: Arc<Pool>, order: Order) {
        let Order { request, deadline, mut reply } = order;
        let (answer, placed) = tokio::select! {
            // Dropping the other future kills the child that works on it.
            () = reply.closed() => return,
            run = self.run(request, deadline) => run,
        };
        let healthy = matches!(&answer, Ok(answer) if !ended_badly(answer));
        let _ = reply.send(answer);
        let Some(Placed { mut process, place }) = placed else { return };
        if healthy && process.is_ready().await {
            self.idle().push((process, Instant::now()));
        } else {
            process.kill().await;
        }
        drop(place);
    }

    async fn run(
        &self,
        mut request: Request,
        deadline: Option<Instant>,
    ) -> (Result<Answer, ScriptError>, Option<Placed>) {
        let late = || ScriptError::new(Kind::TimedOut, "the time was up before the script could begin");
        let until = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        let place = match timeout(until, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => return (Err(late()), None),
        };
        let limit = time_for(deadline);
        if limit.is_zero() {
            return (Err(late()), None);
        }
        request.limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        match self.hand_over(&request).await {
            Ok(mut process) => (process.answer(time_for(deadline).min(limit)).await, Some(Placed { process, place })),
            Err(error) => (Err(error), None),
        }
    }

    /// A child that has the script: one that waited, or a new one.
    async fn hand_over(&self, request: &Request) -> Result<Process, ScriptError> {
        let frame = wire::pack(request).map_err(|error| ScriptError::new(Kind::Refused, error.to_string()))?;
        // One may have died while it waited.
        while let Some(mut process) = self.take_idle() {
            if process.lives() && process.send(&frame, SOON).await.is_ok() {
                return Ok(process);
            }
        }
        let machine = |message| ScriptError::new(Kind::Machine, message);
        let mut process = Process::start(&self.executable).await.map_err(machine)?;
        match process.send(&frame, PATIENCE).await {
            Ok(()) => Ok(process),
            Err(error) => Err(machine(format!("the process for scripts takes no script: {error}"))),
        }
    }

    fn take_idle(&self) -> Option<Process> {
        self.idle().pop().map(|(process, _)| process)
    }

    /// Ends those that have waited for too long.
    async fn end_idle(&self, most: Duration) {
        let old: Vec<_> = self.idle().extract_if(.., |(_, since)| since.elapsed() >= most).collect();
        for (process, _) in old {
            process.kill().await;
        }
    }

    /// Nothing panics while it is locked.
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Process, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After these a child is not trusted with another script.
fn ended_badly(answer: &Answer) -> bool {
    matches!(&answer.result, Err(failure) if matches!(failure.kind, Kind::TimedOut | Kind::OutOfMemory | Kind::Machine))
}
