//! One life of the daemon as systemd sees it: waiting, ready, watched, draining, stopped, and its exit codes. The part of
//! systemd is played by the test; the booted tests repeat the main ones with the real one.

use crate::support::{
    RedisServer,
    fleet::Fleet,
    proxy::Fault,
    wait_for,
    worker::{Worker, binary},
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    process::Command,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(15);

fn status_contains(worker: &Worker, words: &str) -> Option<()> {
    worker
        .notices()
        .iter()
        .any(|notice| notice.line.starts_with("STATUS=") && notice.line.contains(words))
        .then_some(())
}

fn ends_with(mut worker: Worker, code: i32) -> String {
    let status = worker.wait_end(SOON);
    assert_eq!(status.code(), Some(code), "{}", worker.log());
    worker.log()
}

#[test]
fn it_is_ready_after_the_first_fetch_and_says_what_it_does_until_it_stops() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    worker.wait_log("ready");
    let id = fleet.add(6, "test.sleep", json!({"ms": 4000}), json!({}));
    wait_for("the job in the status", SOON, || status_contains(&worker, &format!("test.sleep {id} for ")));
    fleet.wait_state(6, &id, "completed", SOON);
    wait_for("the count in the status", SOON, || status_contains(&worker, "idle, 1 done, 0 failed"));
    worker.stop();
    assert!(worker.said("STOPPING=1"));
}

#[test]
fn a_drain_lets_the_running_job_finish_and_takes_no_other() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let running = fleet.add(6, "test.effect", json!({"key": "a", "ms": 2000}), json!({}));
    let waiting = fleet.add(6, "test.echo", json!({}), json!({}));
    // Active it is before the worker knows of it.
    fleet.wait_in_transaction(SOON);
    worker.stop();
    assert_eq!(fleet.job(6, &running)["state"], "completed");
    assert_eq!(fleet.job(6, &waiting)["state"], "waiting");
}

#[test]
fn a_drain_by_sigint_is_the_same() {
    let mut fleet = Fleet::start();
    let settings = [("WORKER_CONCURRENCY", "2"), ("SHUTDOWN_TIMEOUT_SECONDS", "5")];
    let mut worker = fleet.worker("1", &settings);
    let short = fleet.add(6, "test.effect", json!({"key": "a", "ms": 2000}), json!({}));
    let long = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({"attempts": 1}));
    let waiting = fleet.add(6, "test.echo", json!({}), json!({}));
    wait_for("both to run", SOON, || {
        let taken = fleet.sql("SELECT 1 FROM floh_worker.job_execution WHERE state = 'taken'");
        (taken.len() == 2).then_some(())
    });
    worker.signal(Signal::SIGINT);
    let status = worker.wait_end(SOON);
    let log = worker.log();
    assert_eq!(status.code(), Some(0), "{status}\n{log}");
    assert!(worker.said("STOPPING=1"), "{log}");
    assert!(log.contains("SIGINT: no new jobs; 2 running may finish for 5 s") && log.contains("handed back"), "{log}");
    assert_eq!(fleet.job(6, &short)["state"], "completed", "{log}");
    assert_eq!(fleet.effects().get("a"), Some(&1));
    let job = fleet.job(6, &long);
    assert_eq!((&job["state"], &job["attemptsMade"]), (&json!("waiting"), &json!(0)), "{job:#}\n{log}");
    assert_eq!(fleet.starts(&waiting).len(), 0, "{log}");
}

#[test]
fn at_the_deadline_the_job_is_handed_back_again_and_again_and_charged_nothing() {
    let mut fleet = Fleet::start();
    let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({"attempts": 1}));
    for round in 1..=4 {
        let mut worker = fleet.worker("1", &[("SHUTDOWN_TIMEOUT_SECONDS", "1")]);
        fleet.wait_state(6, &id, "active", SOON);
        let asked = Instant::now();
        worker.stop();
        assert!(asked.elapsed() < Duration::from_secs(5), "round {round}: {:?}", asked.elapsed());
        let job = fleet.job(6, &id);
        assert_eq!(job["state"], "waiting", "round {round}: {job:#}");
        assert_eq!(job["attemptsMade"], 0, "round {round}: {job:#}");
        assert!(worker.log().contains("handed back"), "{}", worker.log());
    }
}

#[test]
fn a_handed_back_job_starts_elsewhere_within_a_second() {
    let mut fleet = Fleet::start();
    let mut first = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({"priority": 5}));
    fleet.wait_state(6, &id, "active", SOON);
    let _second = fleet.worker("2", &[]);
    first.signal(Signal::SIGTERM);
    wait_for("the drain", SOON, || first.said("STOPPING=1").then_some(()));
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait_end(SOON).code(), Some(0), "{}", first.log());
    wait_for("the second worker to take it", Duration::from_secs(1), || (fleet.starts(&id).len() == 2).then_some(()));
}

#[test]
fn a_hand_back_whose_answer_is_lost_is_one_all_the_same() {
    let mut fleet = Fleet::start();
    let proxy = fleet.proxy();
    let port = proxy.port().to_string();
    let mut worker = fleet.worker("1", &[("REDIS_PORT", &port)]);
    let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({}));
    fleet.wait_state(6, &id, "active", SOON);
    // Of all calls only the hand-back names these keys in this order.
    let keys = ["active", "wait", "stalled", "paused"].map(|name| fleet.key(name));
    let argument = |key: &String| format!("${}\r\n{key}\r\n", key.len());
    proxy.arm(&keys.iter().map(argument).collect::<String>(), Fault::CutAfter);
    worker.signal(Signal::SIGTERM);
    wait_for("the drain", SOON, || worker.said("STOPPING=1").then_some(()));
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.wait_end(SOON).code(), Some(0), "{}", worker.log());
    assert_eq!(proxy.sprung(), 1);
    let log = worker.log();
    assert!(log.contains("handed back, no attempt charged") && !log.contains("could not be handed back"), "{log}");
    let job = fleet.job(6, &id);
    assert_eq!((&job["state"], &job["attemptsMade"]), (&json!("waiting"), &json!(0)), "{job:#}");
}

#[test]
fn a_third_signal_ends_at_once_and_names_what_is_abandoned() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({}));
    fleet.wait_state(6, &id, "active", SOON);
    fleet.redis.freeze();
    worker.signal(Signal::SIGTERM);
    wait_for("the drain", SOON, || worker.said("STOPPING=1").then_some(()));
    worker.signal(Signal::SIGTERM);
    wait_for("the hand-back", SOON, || worker.log().contains("SIGTERM again").then_some(()));
    worker.signal(Signal::SIGINT);
    let log = ends_with(worker, 70);
    assert!(log.contains("abandoned") && log.contains(&format!("job_id={id}")), "{log}");
    fleet.redis.thaw();
}

#[test]
fn a_stop_while_it_waits_for_a_dependency_is_a_clean_one() {
    let mut fleet = Fleet::start();
    fleet.redis.down();
    let worker = fleet.spawn_worker("1", &[]);
    wait_for("the status", SOON, || status_contains(&worker, "waiting: Redis at 127.0.0.1"));
    assert!(worker.notices().iter().any(|notice| notice.line.starts_with("EXTEND_TIMEOUT_USEC=")));
    worker.signal(Signal::SIGTERM);
    ends_with(worker, 0);
}

#[test]
fn it_waits_for_redis_for_postgresql_for_a_name_and_for_the_schema_and_says_so() {
    let mut fleet = Fleet::start();
    fleet.redis.down();
    let mut one = fleet.spawn_worker("1", &[]);
    wait_for("Redis in the status", SOON, || status_contains(&one, "waiting: Redis at 127.0.0.1"));
    fleet.redis.up();
    one.wait_ready();

    fleet.postgres.down(Signal::SIGINT);
    let mut two = fleet.spawn_worker("2", &[]);
    wait_for("PostgreSQL in the status", SOON, || status_contains(&two, "PostgreSQL"));
    assert!(!two.said("READY=1"));
    fleet.postgres.up();
    two.wait_ready();

    let three = fleet.spawn_worker("3", &[("REDIS_HOST", "no-such-host.invalid"), ("DB_HOST", "nor-this.invalid")]);
    wait_for("both names in the status", SOON, || {
        status_contains(&three, "no-such-host.invalid").and_then(|()| status_contains(&three, "nor-this.invalid"))
    });

    let mut four = fleet.spawn_worker("4", &[("DB_SCHEMA", "another")]);
    wait_for("the schema in the status", SOON, || status_contains(&four, "flohctl migrate"));
    assert!(!four.said("READY=1"));
    let migrated = fleet.flohctl_with(&["migrate"], &[("DB_SCHEMA", "another")]);
    assert!(migrated.status.success(), "{}", migrated.stderr);
    four.wait_ready();
}

#[test]
fn the_schema_can_be_migrated_again_after_a_worker_has_used_it() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let migrated = fleet.flohctl(&["migrate"]);
    assert!(migrated.status.success(), "{}", migrated.stderr);
    worker.stop();
    let migrated = fleet.flohctl(&["migrate"]);
    assert!(migrated.status.success(), "{}", migrated.stderr);
}

#[test]
fn what_waiting_cannot_heal_ends_it_with_78_and_one_clear_line() {
    let fleet = Fleet::start();
    let guarded = RedisServer::start_with(&["--requirepass", "right"]);
    let port = guarded.port().to_string();
    let refused = |settings: &[(&str, &str)], named: &[&str]| {
        let log = ends_with(fleet.spawn_worker("1", settings), 78);
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert_eq!(errors.len(), named.len(), "{log}");
        for name in named {
            assert_eq!(errors.iter().filter(|line| line.contains(name)).count(), 1, "{name}: {log}");
        }
        log
    };
    let log = refused(&[("REDIS_PORT", &port), ("REDIS_PASSWORD", "hunter2")], &["REDIS_PASSWORD"]);
    assert!(!log.contains("hunter2"), "{log}");
    refused(&[("DB_NAME", "nowhere")], &["DB_NAME"]);
    let mistakes = [
        ("DB_PORT", "many"),
        ("REDIS_TLS", "perhaps"),
        ("WORKER_CONCURRENCY", "0"),
        ("SHUTDOWN_TIMEOUT_SECONDS", "600"),
        ("AUDIT_CHECKPOINT_KEY", "short"),
    ];
    refused(&mistakes, &mistakes.map(|(name, _)| name));
    fleet.sql("INSERT INTO floh_worker.schema_version (version, compatible_from) VALUES (999, '99.0.0')");
    refused(&[], &["99.0.0"]);
}

#[test]
fn a_hang_up_under_systemd_neither_ends_it_nor_reloads_anything() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    worker.signal(Signal::SIGHUP);
    worker.wait_log("nothing to reload");
    let id = fleet.add(6, "test.echo", json!({}), json!({}));
    fleet.wait_state(6, &id, "completed", SOON);
    worker.stop();
}

#[test]
fn a_call_that_cannot_be_right_ends_with_64() {
    let fleet = Fleet::start();
    let log = ends_with(fleet.spawn_worker("\\x7b1..4\\x7d", &[]), 64);
    assert_eq!(log.matches("without quotes").count(), 1, "{log}");
    // The unit calls it a second time, to record that end: with the same name, which was said to be wrong.
    let again = Command::new(binary("floh-worker")).args(["--record-end", "\\x7b1..4\\x7d"]).output().unwrap();
    let said = String::from_utf8_lossy(&again.stdout).into_owned() + &String::from_utf8_lossy(&again.stderr);
    assert_eq!((again.status.code(), said.as_str()), (Some(64), ""));
}

#[test]
fn the_watchdog_is_fed_while_idle_and_while_redis_is_away_and_not_by_a_stopped_process() {
    let fleet = Fleet::start();
    let worker = fleet.worker("1", &[("WATCHDOG_USEC", "1500000")]);
    let pings = |since: Instant| {
        let said = worker.notices();
        said.iter().filter(|notice| notice.line == "WATCHDOG=1" && notice.at > since).count()
    };
    let start = Instant::now();
    wait_for("pings while idle", SOON, || (pings(start) >= 3).then_some(()));
    fleet.redis.freeze();
    let frozen = Instant::now();
    wait_for("pings while Redis is frozen", SOON, || (pings(frozen) >= 2).then_some(()));
    fleet.redis.thaw();
    worker.signal(Signal::SIGSTOP);
    let stopped = Instant::now() + Duration::from_millis(50);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(pings(stopped), 0, "a stopped process pings nobody");
    worker.signal(Signal::SIGCONT);
    let again = Instant::now();
    wait_for("pings again", SOON, || (pings(again) >= 2).then_some(()));
}

#[test]
fn a_hung_fetch_loop_and_a_hung_renewal_starve_the_watchdog_although_the_process_lives() {
    for hang in ["fetch-again", "renew-again"] {
        let mut fleet = Fleet::start();
        let mut worker = fleet.worker("1", &[("WATCHDOG_USEC", "1500000"), ("FLOH_TEST_OFF", hang)]);
        wait_for("a ping", SOON, || worker.said("WATCHDOG=1").then_some(()));
        if hang == "fetch-again" {
            // The loop hangs after the first error that a fetch meets.
            wait_for("an error of a fetch", SOON, || {
                let _: i64 = fleet.redis("CLIENT", &[&"KILL", &"TYPE", &"normal", &"SKIPME", &"yes"]);
                std::thread::sleep(Duration::from_millis(50));
                worker.log().contains("no fetch: ").then_some(())
            });
        }
        // Many times the time after which systemd would kill it.
        wait_for("the pings to end", Duration::from_secs(40), || {
            let last = worker.notices().into_iter().rev().find(|notice| notice.line == "WATCHDOG=1")?;
            (last.at.elapsed() > Duration::from_secs(6)).then_some(())
        });
        assert!(worker.try_end().is_none(), "{hang}: it lives:\n{}", worker.log());
    }
}

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
