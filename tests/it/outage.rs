//! PostgreSQL goes away while jobs run: they wait for it, and go on in the same attempt. And no drain waits for a server
//! that is away.

use crate::support::{fleet::Fleet, proxy::Fault, wait_for};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_job_that_runs_when_postgresql_goes_down_goes_on_in_the_same_attempt_when_it_is_back() {
    for how in [Signal::SIGINT, Signal::SIGQUIT] {
        let mut fleet = Fleet::start();
        let mut worker = fleet.worker("1", &[]);
        let id = fleet.add(6, "test.effect", json!({"key": "once", "ms": 1500}), json!({"attempts": 1}));
        fleet.wait_in_transaction(SOON);
        // The test's server does not wait for its disk: without this, an immediate shutdown could forget the take.
        fleet.sql("CHECKPOINT");
        fleet.postgres.down(how);
        wait_for("the handler to notice", SOON, || worker.log().contains("no job is fetched until").then_some(()));
        // Long enough that a job which is handed back would be fetched again.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(fleet.job(6, &id)["state"], "active", "{}", worker.log());
        fleet.postgres.up();
        let job = fleet.wait_state(6, &id, "completed", SOON);
        assert_eq!(job["attemptsMade"], 1, "{job:#}");
        assert_eq!(fleet.starts(&id).len(), 1, "{}", worker.log());
        assert_eq!(fleet.effects().get("once"), Some(&1), "{}", worker.log());
        assert!(worker.log().contains("the job goes on, in the same attempt"), "{}", worker.log());
        worker.stop();
    }
}

/// It waits, or works without yielding: PostgreSQL ends the session either way.
#[test]
fn a_job_that_pauses_in_a_transaction_for_too_long_is_charged_for_it_and_is_no_outage() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "2")]);
    let jobs = ["ms", "blockMs"]
        .map(|pause| fleet.add(6, "test.effect", json!({"key": pause, pause: 11_000}), json!({"attempts": 1})));
    for id in jobs {
        let job = fleet.wait_state(6, &id, "failed", SOON);
        let reason = job["failedReason"].as_str().unwrap();
        let words = "the job paused for 11 s inside a transaction; PostgreSQL ended the session";
        assert!(reason.contains(words), "{job:#}\n{}", worker.log());
        assert_eq!(job["attemptsMade"], 1, "{job:#}");
        assert_eq!(fleet.starts(&id).len(), 1, "{}", worker.log());
    }
    let other = fleet.add(6, "test.echo", json!({}), json!({}));
    fleet.wait_state(6, &other, "completed", SOON);
    assert!(!worker.log().contains("no job is fetched until"), "{}", worker.log());
    assert!(fleet.effects().is_empty(), "{:?}", fleet.effects());
}

#[test]
fn a_job_whose_deadline_passes_in_an_outage_is_handed_back_and_charged_nothing() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[("JOB_TIMEOUTS", "test.effect=4")]);
    let id = fleet.add(6, "test.effect", json!({"key": "once", "ms": 500}), json!({"attempts": 1}));
    fleet.wait_in_transaction(SOON);
    fleet.postgres.down(Signal::SIGINT);
    let job = fleet.wait_state(6, &id, "waiting", SOON);
    assert_eq!(job["attemptsMade"], 0, "{job:#}\n{}", worker.log());
    worker.wait_log("handed back, no attempt charged");
    fleet.postgres.up();
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(job["attemptsMade"], 1, "{job:#}");
    assert_eq!(fleet.effects().get("once"), Some(&1));
}

#[test]
fn a_drain_does_not_wait_for_postgresql() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[("SHUTDOWN_TIMEOUT_SECONDS", "1")]);
    let id = fleet.add(6, "test.effect", json!({"key": "once", "ms": 500}), json!({"attempts": 1}));
    fleet.wait_in_transaction(SOON);
    fleet.postgres.down(Signal::SIGINT);
    wait_for("the handler to notice", SOON, || worker.log().contains("no job is fetched until").then_some(()));
    worker.stop();
    let job = fleet.job(6, &id);
    assert_eq!((&job["state"], &job["attemptsMade"]), (&json!("waiting"), &json!(0)), "{job:#}");
}

#[test]
fn a_drain_without_jobs_does_not_wait_for_redis_and_leaves_its_life_behind() {
    for (frozen, most) in [(false, 5), (true, 8)] {
        let mut fleet = Fleet::start();
        let mut worker = fleet.worker("1", &[]);
        if frozen {
            fleet.redis.freeze();
        } else {
            fleet.redis.down();
        }
        wait_for("the status", SOON, || {
            worker.status().filter(|status| status.starts_with("not fetching: Redis")).map(drop)
        });
        let asked = Instant::now();
        worker.stop();
        assert!(asked.elapsed() < Duration::from_secs(most), "frozen {frozen}: {:?}", asked.elapsed());
        assert!(!worker.log().contains("the time to finish is over"), "{}", worker.log());
        // A call without an answer may have taken a job: the next life looks, and then nothing is left to look for.
        let lives = fleet.state_folder("1").join("1.lives");
        assert!(lives.exists(), "frozen {frozen}:\n{}", worker.log());
        if frozen {
            fleet.redis.thaw();
        } else {
            fleet.redis.up();
        }
        let mut next = fleet.worker("1", &[]);
        wait_for("the first life to be cleared up", SOON, || {
            (std::fs::read_to_string(&lives).unwrap().lines().count() == 1).then_some(())
        });
        next.stop();
        assert!(!lives.exists(), "{}", next.log());
    }
}

#[test]
fn a_commit_whose_answer_is_lost_is_asked_about_before_the_job_goes_on() {
    for (fault, turns) in [(Fault::CutBefore, 2), (Fault::CutAfter, 1)] {
        let mut fleet = Fleet::start();
        let proxy = fleet.postgres_proxy();
        let worker = fleet.worker("1", &[("DB_PORT", &*proxy.port().to_string())]);
        proxy.arm("COMMIT\0", fault);
        let id = fleet.add(6, "test.effect", json!({"key": "once"}), json!({"attempts": 1}));
        let job = fleet.wait_state(6, &id, "completed", SOON);
        assert_eq!((proxy.sprung(), &job["attemptsMade"]), (1, &json!(1)), "{fault:?}: {job:#}");
        assert_eq!(fleet.starts(&id).len(), 1, "{fault:?}: {}", worker.log());
        assert_eq!(fleet.effects().get("once"), Some(&1), "{fault:?}: {}", worker.log());
        let again = worker.log().matches("the job goes on, in the same attempt").count();
        assert_eq!(again + 1, turns, "{fault:?}: {}", worker.log());
    }
}

/// What a failover to a replica that was behind, or a restart from an old copy, does to a job.
#[test]
fn a_job_that_comes_back_from_before_its_first_attempt_has_its_effect_once() {
    let mut fleet = Fleet::start();
    // Node has started when the time begins to run.
    fleet.call(6, "counts", json!({}));
    let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(5);
    let data = json!({"key": "back", "failBefore": until.as_millis() as u64});
    let id = fleet.add(6, "test.effect", data, json!({"attempts": 100, "backoff": 200}));
    let hash = fleet.key(&id);
    let before: Vec<u8> = fleet.redis("DUMP", &[&hash]);
    let _worker = fleet.worker("1", &[]);
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert!(job["attemptsMade"].as_u64().unwrap() > 1, "a later attempt had the effect: {job}");
    assert_eq!(fleet.effects()["back"], 1);

    let _: String = fleet.redis("RESTORE", &[&hash, &"0", &before, &"REPLACE"]);
    let (completed, wait, marker) = (fleet.key("completed"), fleet.key("wait"), fleet.key("marker"));
    let _: i64 = fleet.redis("ZREM", &[&completed, &id]);
    let _: i64 = fleet.redis("LPUSH", &[&wait, &id]);
    let _: i64 = fleet.redis("ZADD", &[&marker, &"0", &"0"]);
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(job["returnvalue"], json!({"key": "back"}));
    assert_eq!(fleet.effects()["back"], 1, "{job}");
}
