//! The workers written in Rust that are measured without a ledger: the consumer of this library, and the one of the
//! official crate. Each is this same program, called as `worker ours|official CONCURRENCY PREFIX` with `REDIS_URL`.
//!
//! All workers, Node's `tests/peers/bench-worker.mjs` too, do the same: they print `ready`; a job does nothing, or sleeps for
//! the `ms` of its data; one with `at` (microseconds of the monotonic clock) notes how long ago that was. When stdin
//! ends they print these notes as a JSON list and end. All put their name on the jobs that they take. SIGTERM closes as the library recommends; a second one ends.

use crate::support::peer::QUEUE;
use floh_worker::{
    config::{QueueConfig, RedisConfig, RedisEndpoint},
    queue::{
        BoxFuture, Execution, Outcome, Processor, Queue,
        connection::{Fate, Link},
        consumer::{Consumer, Parts},
        lease::{Leases, Renewer},
        pulse::Pulse,
    },
};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;
use std::{
    env,
    io::Read,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Microseconds of the clock that all processes of the machine share and that never jumps.
pub fn monotonic_us() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as f64 * 1e6 + time.tv_nsec() as f64 / 1e3
}

/// Notes of [`handle`].
#[derive(Default)]
struct Notes(Mutex<Vec<f64>>);

/// What every job does.
async fn handle(data: &Value, notes: &Notes) {
    if let Some(at) = data["at"].as_f64() {
        notes.0.lock().unwrap_or_else(PoisonError::into_inner).push(monotonic_us() - at);
    }
    if let Some(ms) = data["ms"].as_u64() {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// Plays the worker until it is told to end.
pub fn main(arguments: &[String]) {
    let [kind, concurrency, prefix] = arguments else { panic!("worker ours|official CONCURRENCY PREFIX") };
    let url = env::var("REDIS_URL").expect("REDIS_URL");
    let concurrency = concurrency.parse().expect("a number of jobs");
    let notes = Arc::new(Notes::default());
    print_at_end(Arc::clone(&notes));
    // The daemon's own kind of runtime, which is also the default one of `#[tokio::main]`.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match kind.as_str() {
            "ours" => ours(&url, prefix, concurrency, notes).await,
            "official" => official(url, prefix, concurrency, notes).await,
            other => panic!("no worker is called {other}"),
        }
    });
}

fn print_at_end(notes: Arc<Notes>) {
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let notes = notes.0.lock().unwrap_or_else(PoisonError::into_inner);
        println!("{}", serde_json::to_string(&*notes).unwrap());
        std::process::exit(0);
    });
}

struct Nothing(Arc<Notes>);

impl Processor for Nothing {
    fn process(self: Arc<Self>, execution: Arc<Execution>) -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            handle(&execution.job.data().unwrap_or_default(), &self.0).await;
            Outcome::Completed { value: Value::Null, epoch: None }
        })
    }

    fn hold(&self) -> Option<String> {
        None
    }
}

/// The consumer with its renewal thread, as the daemon builds them.
async fn ours(url: &str, prefix: &str, concurrency: usize, notes: Arc<Notes>) {
    let redis = endpoint(url);
    let fate = Fate::default();
    let link = |fate: &Fate| Link::new(&redis, fate.clone(), None).unwrap();
    let queue = QueueConfig { name: QUEUE.into(), prefix: prefix.into(), max_job_bytes: 1024 * 1024 };
    let queue = Arc::new(Queue::new(&queue, &redis, fate.clone()).unwrap());
    let leases = Arc::new(Leases::new(Uuid::new_v4()));
    let pulse = Arc::new(Pulse::default());
    let stop = CancellationToken::new();
    let renewer = Renewer::new(Arc::clone(&queue), link(&fate), Arc::clone(&leases)).start(stop.clone()).unwrap();
    let parts = Parts {
        queue,
        blocking: link(&fate),
        leases,
        pulse: Arc::clone(&pulse),
        processor: Arc::new(Nothing(notes)),
        concurrency,
        worker: "bench".into(),
    };
    let consumer = Consumer::new(parts, stop);
    tokio::join!(consumer.run(), async {
        pulse.first_round_trip().await;
        println!("ready");
    });
    drop(renewer);
}

async fn official(url: String, prefix: &str, concurrency: usize, notes: Arc<Notes>) {
    let options = bullmq::WorkerOptions {
        connection: bullmq::options::RedisConnectionOptions { url, ..Default::default() },
        prefix: prefix.into(),
        concurrency,
        name: Some("bench".into()),
        ..Default::default()
    };
    let work = move |job: bullmq::Job, _| {
        let notes = Arc::clone(&notes);
        async move {
            handle(job.data(), &notes).await;
            Ok(Value::Null)
        }
    };
    let worker = bullmq::Worker::with_options(QUEUE, work, options).await.unwrap();
    println!("ready");
    let mut terminated = signal(SignalKind::terminate()).unwrap();
    terminated.recv().await;
    println!("closing");
    tokio::select! {
        closed = worker.close(30_000) => closed.unwrap(),
        _ = terminated.recv() => {}
    }
    std::process::exit(0);
}

fn endpoint(url: &str) -> RedisConfig {
    let port = url.trim_start_matches("redis://127.0.0.1:").trim_end_matches("/0").parse();
    RedisConfig {
        endpoint: RedisEndpoint::Tcp { host: "127.0.0.1".into(), port: port.expect("redis://127.0.0.1:PORT/0") },
        username: None,
        password: None,
        database: 0,
        tls: false,
        tls_ca: None,
        sentinel_username: None,
        sentinel_password: None,
    }
}
