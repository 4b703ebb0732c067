//! A worker that finds Redis by its sentinels, while they make another server the primary: killed, frozen, or replaced
//! although it is well.

use crate::support::{
    Fleet, RedisServer,
    sentinel::{Watched, ask, connection},
    wait_for,
    worker::Worker,
};
use floh_worker::{
    config::QueueConfig,
    queue::{Queue, add::NewJob, connection::Fate},
};
use serde_json::json;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// What is promised after a fault's end.
const PROMISE: Duration = Duration::from_secs(5);

/// Adds a job as an API server does that is connected to this server, and returns its id.
fn add(server: &RedisServer, job: NewJob) -> String {
    let names = QueueConfig { name: "workflow-scheduler".into(), prefix: "bull".into(), max_job_bytes: 1024 * 1024 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let queue = Queue::new(&names, &server.config(), Fate::default()).unwrap();
        queue.add(&job).await.unwrap()
    })
}

fn effect(key: &str, ms: u64) -> NewJob {
    NewJob::new("test.effect", json!({"key": key, "ms": ms}))
}

fn wait_completed(server: &RedisServer, id: &str, limit: Duration, worker: &Worker) {
    let mut connection = connection(server.port());
    let end = Instant::now() + limit;
    while ask::<Option<f64>>(&mut connection, &["ZSCORE", "bull:workflow-scheduler:completed", id]).is_none() {
        assert!(Instant::now() < end, "job {id} is not completed within {limit:?}:\n{}", worker.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the replica has all that the primary was told.
fn wait_replicated(primary: &RedisServer) {
    let copies: u64 = ask(&mut connection(primary.port()), &["WAIT", "1", "10000"]);
    assert_eq!(copies, 1);
}

/// Servers with sentinels, and a worker that was told of the sentinels alone.
fn start(fleet: &Fleet) -> (Watched, Worker) {
    let watched = Watched::around(RedisServer::start());
    let settings = watched.settings();
    let mut settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    settings.extend([("REDIS_HOST", ""), ("REDIS_PORT", ""), ("WORKER_CONCURRENCY", "2")]);
    let worker = fleet.worker("1", &settings);
    (watched, worker)
}

/// After the promotion a job that is added to the new primary is run in time.
fn assert_picked_up(watched: &Watched, worker: &Worker) {
    watched.wait_promoted();
    let promoted = Instant::now();
    let id = add(&watched.replica, effect("after", 0));
    wait_completed(&watched.replica, &id, PROMISE.saturating_sub(promoted.elapsed()), worker);
}

#[test]
fn a_primary_that_dies_loses_no_replicated_job_and_the_next_one_is_picked_up_in_time() {
    let fleet = Fleet::start();
    let (mut watched, worker) = start(&fleet);
    let first = add(&watched.primary, effect("before", 0));
    wait_completed(&watched.primary, &first, SOON, &worker);
    let running = add(&watched.primary, effect("during", 5000));
    fleet.wait_in_transaction(SOON);
    let waiting = add(&watched.primary, NewJob { delay: Duration::from_secs(2), ..effect("waiting", 0) });
    wait_replicated(&watched.primary);
    watched.primary.down();
    assert_picked_up(&watched, &worker);
    for id in [&running, &waiting] {
        wait_completed(&watched.replica, id, SOON, &worker);
    }
    let log = worker.log();
    let changed = format!("127.0.0.1:{} now; it was at 127.0.0.1:{}", watched.replica.port(), watched.primary.port());
    assert_eq!(log.matches(&changed).count(), 1, "{log}");
    assert!(log.contains("Redis primary \"mymaster\" (sentinels 127.0.0.1:"), "{log}");

    // The former primary comes back empty and takes itself for the primary; nobody else does.
    watched.primary.up();
    let last = add(&watched.replica, effect("last", 0));
    wait_completed(&watched.replica, &last, PROMISE, &worker);
    let once = ["after", "before", "during", "last", "waiting"].map(|key| (key.to_string(), 1));
    assert_eq!(fleet.effects(), once.into());
}

#[test]
fn a_primary_that_freezes_is_left_for_the_new_one() {
    let fleet = Fleet::start();
    let (watched, mut worker) = start(&fleet);
    watched.primary.freeze();
    assert_picked_up(&watched, &worker);
    // When it thaws it takes itself for the primary, until the sentinels tell it.
    watched.primary.thaw();
    let last = add(&watched.replica, effect("last", 0));
    wait_completed(&watched.replica, &last, PROMISE, &worker);
    worker.stop();
}

#[test]
fn a_primary_that_is_replaced_while_it_is_well_is_left_at_once() {
    let fleet = Fleet::start();
    let (watched, mut worker) = start(&fleet);
    watched.sentinels[0].fail_over();
    assert_picked_up(&watched, &worker);
    worker.stop();
}

#[test]
fn a_worker_waits_for_its_sentinels_and_a_wrong_login_ends_it() {
    let fleet = Fleet::start();
    let mut watched = Watched::around(RedisServer::start());
    // An API server's user that may not administrate, with the one command of that kind that floh-env(5) names.
    let user = ["ACL", "SETUSER", "limited", "on", ">right", "~*", "&*", "+@all", "-@admin", "+role"];
    let _: String = ask(&mut connection(watched.primary.port()), &user);
    let settings = watched.settings();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let with = |more: &[(&'static str, &'static str)]| {
        let mut all = settings.clone();
        all.extend(more);
        fleet.spawn_worker("1", &all)
    };
    let mut worker = with(&[("REDIS_USERNAME", "limited"), ("REDIS_PASSWORD", "right")]);
    worker.wait_ready();
    worker.stop();
    let mut worker = with(&[("REDIS_USERNAME", "limited"), ("REDIS_PASSWORD", "guppytrout")]);
    assert_eq!(worker.wait_end(SOON).code(), Some(78), "{}", worker.log());
    assert!(worker.log().contains("REDIS_PASSWORD") && !worker.log().contains("guppytrout"), "{}", worker.log());
    watched.sentinels.iter_mut().for_each(|sentinel| sentinel.down());
    let worker = with(&[]);
    wait_for("the status", SOON, || {
        let said = worker.status().unwrap_or_default();
        said.starts_with("waiting: Redis primary \"mymaster\" (sentinels 127.0.0.1:").then_some(())
    });
}
