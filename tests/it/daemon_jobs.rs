//! What the daemon does with its jobs while Redis or PostgreSQL is away, answers late, or has given a job to somebody else.

use crate::{
    daemon_life::status_contains,
    support::{fleet::Fleet, wait_for},
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(15);

#[test]
fn while_postgresql_is_down_nothing_is_fetched_and_nothing_is_charged() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let first = fleet.add(6, "test.effect", json!({"key": "first"}), json!({"attempts": 1}));
    fleet.wait_state(6, &first, "completed", SOON);
    wait_for("idle", SOON, || worker.status().filter(|status| status.starts_with("idle")).map(drop));
    fleet.postgres.down(Signal::SIGINT);
    // It has nothing to do, and says it all the same: within the seconds in which the status changes.
    wait_for("the status", Duration::from_secs(6), || {
        worker.status().filter(|status| status.starts_with("not fetching: PostgreSQL")).map(drop)
    });
    let second = fleet.add(6, "test.effect", json!({"key": "second"}), json!({"attempts": 1}));
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(fleet.starts(&second).len(), 0, "{}", worker.log());
    assert_eq!(fleet.job(6, &second)["state"], "waiting");
    fleet.postgres.up();
    let job = fleet.wait_state(6, &second, "completed", SOON);
    assert_eq!(job["attemptsMade"], 1, "{job:#}");
    assert_eq!(fleet.effects().values().sum::<u64>(), 2);
}

#[test]
fn an_outage_is_seen_at_once_where_the_first_look_still_found_a_session() {
    let fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    wait_for("idle", SOON, || worker.status().filter(|status| status.starts_with("idle")).map(drop));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let admin = runtime.block_on(fleet.postgres.admin());
    let rows = |query: &str| runtime.block_on(admin.query(query, &[])).unwrap().len();
    let end = |which: &str| {
        rows(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'floh' AND {which}"))
    };
    let listens = "SELECT 1 FROM pg_stat_activity WHERE usename = 'floh' AND query LIKE 'LISTEN%'";
    wait_for("the listener", SOON, || (rows(listens) == 1).then_some(()));
    // From now on there are no new sessions; those that there are go on.
    fleet.postgres.signal(Signal::SIGTERM);
    rows("SELECT set_config('floh.since', clock_timestamp()::text, false)");
    assert_eq!(end("query LIKE 'LISTEN%'"), 1, "{}", worker.log());
    let looked =
        "SELECT 1 FROM floh_worker.worker_instance WHERE last_seen > current_setting('floh.since')::timestamptz";
    wait_for("the look at the sign", SOON, || (rows(looked) == 1).then_some(()));
    assert!(end("true") > 0, "{}", worker.log());
    wait_for("the status", Duration::from_secs(6), || {
        worker.status().filter(|status| status.starts_with("not fetching: PostgreSQL")).map(drop)
    });
}

#[test]
fn a_job_that_finishes_while_redis_restarts_is_finished_over_the_next_connection() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.effect", json!({"key": "once", "ms": 1500}), json!({"attempts": 1}));
    fleet.wait_in_transaction(SOON);
    // Without persistence a restarted Redis would be empty; what was saved by hand it loads.
    let _: String = fleet.redis("SAVE", &[]);
    fleet.redis.shut_down();
    std::thread::sleep(Duration::from_secs(3));
    fleet.redis.up();
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(job["attemptsMade"], 1, "{job:#}");
    assert_eq!(fleet.effects().get("once"), Some(&1), "{}", worker.log());
}

#[test]
fn a_lease_lost_in_the_ledger_commits_nothing_and_the_job_does_not_wait_for_its_lock_to_expire() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.effect", json!({"key": "once", "ms": 1000}), json!({"attempts": 1}));
    wait_for("its row in the ledger", SOON, || {
        let rows = fleet.sql("SELECT 1 FROM floh_worker.job_execution WHERE state = 'taken'");
        (rows.len() == 1).then_some(())
    });
    fleet.sql("UPDATE floh_worker.job_execution SET epoch = nextval('floh_worker.job_epoch')");
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(job["attemptsMade"], 1, "{job:#}");
    assert_eq!(fleet.effects().get("once"), Some(&1));
    worker.wait_log("lease lost");
}

#[test]
fn a_job_that_arrives_with_a_late_answer_is_not_started_by_a_drain() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let first = fleet.add(6, "test.sleep", json!({"ms": 700}), json!({}));
    let second = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({}));
    fleet.wait_state(6, &first, "active", SOON);
    // The finish of the first, which takes the second, is answered only when the pause is over.
    let _: String = fleet.redis("CLIENT", &[&"PAUSE", &3000, &"ALL"]);
    std::thread::sleep(Duration::from_millis(1200));
    let asked = Instant::now();
    worker.stop();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let job = fleet.job(6, &second);
    assert_eq!((&job["state"], &job["attemptsMade"]), (&json!("waiting"), &json!(0)), "{job:#}\n{}", worker.log());
}

#[test]
fn a_database_that_takes_no_writes_is_as_good_as_down() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    fleet.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    fleet.sql("SELECT pg_reload_conf()");
    let id = fleet.add(6, "test.effect", json!({"key": "once"}), json!({"attempts": 1}));
    wait_for("the status", SOON, || status_contains(&_worker, "not fetching:"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(fleet.starts(&id).len() <= 3, "it is not fetched over and over: {:?}", fleet.starts(&id));
    fleet.sql("ALTER SYSTEM RESET default_transaction_read_only");
    fleet.sql("SELECT pg_reload_conf()");
    let job = fleet.wait_state(6, &id, "completed", Duration::from_secs(30));
    assert_eq!(job["attemptsMade"], 1, "{job:#}");
}

#[test]
fn a_redis_that_cannot_save_gets_the_finish_when_it_can_again() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let _: String = fleet.redis("CONFIG", &[&"SET", &"save", &"3600 1"]);
    let id = fleet.add(6, "test.effect", json!({"key": "once", "ms": 2000}), json!({"attempts": 1}));
    fleet.wait_in_transaction(SOON);
    // Its folder is gone, so a save fails, and from then on Redis refuses every write.
    std::fs::remove_dir_all(fleet.redis.folder()).unwrap();
    let _: String = fleet.redis("BGSAVE", &[]);
    wait_for("the refusal", SOON, || worker.log().contains("MISCONF").then_some(()));
    let _: String = fleet.redis("CONFIG", &[&"SET", &"stop-writes-on-bgsave-error", &"no"]);
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(job["attemptsMade"], 1, "{job:#}");
    assert_eq!(fleet.starts(&id).len(), 1, "it ran once:\n{}", worker.log());
}

#[test]
fn a_job_whose_lock_was_taken_away_is_cancelled_and_commits_nothing() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.effect", json!({"key": "never", "ms": 14_000}), json!({}));
    fleet.wait_in_transaction(SOON);
    let lock = fleet.key(&format!("{id}:lock"));
    let _: String = fleet.redis("SET", &[&lock, &"somebody else", &"PX", &60_000]);
    wait_for("the renewal to notice", Duration::from_secs(13), || {
        worker.log().contains("the lock is no longer ours").then_some(())
    });
    wait_for("the slot to be free", SOON, || worker.log().contains("lease lost").then_some(()));
    let other = fleet.add(6, "test.echo", json!({}), json!({}));
    fleet.wait_state(6, &other, "completed", SOON);
    assert!(fleet.effects().is_empty(), "{:?}", fleet.effects());
}

#[test]
fn what_was_committed_and_not_acknowledged_is_acknowledged_and_not_run_again() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.effect", json!({"key": "once", "ms": 1500}), json!({"attempts": 1}));
    fleet.wait_in_transaction(SOON);
    let _: String = fleet.redis("SAVE", &[]);
    fleet.redis.down();
    wait_for("the commit", SOON, || (fleet.effects().get("once") == Some(&1)).then_some(()));
    worker.kill();
    fleet.redis.up();
    // Time passes faster: its lock has expired, and the check that marks it has been.
    let mut connection = redis::Client::open(fleet.redis.url()).unwrap().get_connection().unwrap();
    let _: i64 = redis::cmd("DEL").arg(fleet.key(&format!("{id}:lock"))).query(&mut connection).unwrap();
    let _: i64 = redis::cmd("DEL").arg(fleet.key("stalled-check")).query(&mut connection).unwrap();
    let _: i64 = redis::cmd("SADD").arg(fleet.key("stalled")).arg(&id).query(&mut connection).unwrap();
    let successor = fleet.worker("2", &[]);
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(job["returnvalue"], json!({"key": "once"}), "{job:#}");
    assert_eq!(fleet.effects().get("once"), Some(&1));
    successor.wait_log("committed and not acknowledged");
}

#[test]
fn after_any_fault_of_redis_the_next_job_is_picked_up_within_five_seconds() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let fault = |name: &str, fleet: &mut Fleet| {
        let ended = Instant::now();
        let id = fleet.add(6, "test.echo", json!({}), json!({}));
        fleet.wait_state(6, &id, "completed", Duration::from_secs(20));
        assert!(ended.elapsed() < Duration::from_secs(5), "{name}: {:?}", ended.elapsed());
    };
    fleet.redis.freeze();
    std::thread::sleep(Duration::from_secs(7));
    fleet.redis.thaw();
    fault("frozen", &mut fleet);
    let _: String = fleet.redis("CLIENT", &[&"PAUSE", &5000, &"ALL"]);
    std::thread::sleep(Duration::from_secs(5));
    fault("paused", &mut fleet);
    let _: i64 = fleet.redis("CLIENT", &[&"KILL", &"TYPE", &"normal", &"SKIPME", &"yes"]);
    fault("connections killed", &mut fleet);
}

#[test]
fn eight_jobs_at_a_time_need_three_connections_and_one_blocked_read() {
    let mut fleet = Fleet::start();
    // Whoever else is connected is so before the worker.
    fleet.add(6, "test.echo", json!({}), json!({}));
    let clients = |fleet: &mut Fleet| -> Vec<(String, String)> {
        let list: String = fleet.redis("CLIENT", &[&"LIST"]);
        let client = |line: &str| {
            let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap().to_string();
            (field("id="), field("cmd="))
        };
        list.lines().map(client).collect()
    };
    let before: Vec<String> = clients(&mut fleet).into_iter().map(|(id, _)| id).collect();
    let worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "8")]);
    let ids: Vec<String> = (0..8).map(|_| fleet.add(6, "test.sleep", json!({"ms": 2000}), json!({}))).collect();
    let active = fleet.key("active");
    wait_for("eight at a time", SOON, || (fleet.redis::<u64>("LLEN", &[&active]) == 8).then_some(()));
    let mut seen = 0;
    let mut look = |fleet: &mut Fleet| {
        let mut new = clients(fleet);
        new.retain(|(id, _)| !before.contains(id));
        let blocked = new.iter().filter(|(_, command)| command == "bzpopmin").count();
        assert!(new.len() <= 3 && blocked <= 1, "{new:?}\n{}", worker.log());
        seen = seen.max(blocked);
        seen
    };
    look(&mut fleet);
    for id in &ids {
        fleet.wait_state(6, id, "completed", SOON);
        look(&mut fleet);
    }
    wait_for("the blocked read", SOON, || (look(&mut fleet) == 1).then_some(()));
}

#[test]
fn an_id_of_0_is_an_id_like_any_other() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let (hash, wait, marker) = (fleet.key("0"), fleet.key("wait"), fleet.key("marker"));
    for (field, value) in [("name", "test.echo"), ("data", "{}"), ("opts", "{}"), ("timestamp", "1700000000000")] {
        let _: i64 = fleet.redis("HSET", &[&hash, &field, &value]);
    }
    let _: i64 = fleet.redis("LPUSH", &[&wait, &"0"]);
    let _: i64 = fleet.redis("ZADD", &[&marker, &0, &"0"]);
    wait_for("its completion", SOON, || {
        let score: Option<f64> = fleet.redis("ZSCORE", &[&fleet.key("completed"), &"0"]);
        score.map(|_| ())
    });
}
