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

pub fn status_contains(worker: &Worker, words: &str) -> Option<()> {
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
fn redis_that_answers_but_refuses_the_fetch_keeps_it_from_being_ready() {
    let mut fleet = Fleet::start();
    let () = fleet.redis("ACL", &[&"SETUSER", &"worker", &"on", &">right", &"~*", &"&*", &"+@all"]);
    let () = fleet.redis("ACL", &[&"SETUSER", &"worker", &"-eval", &"-evalsha"]);
    let mut worker = fleet.spawn_worker("1", &[("REDIS_USERNAME", "worker"), ("REDIS_PASSWORD", "right")]);
    worker.wait_log("no fetch: ");
    wait_for("the status", SOON, || status_contains(&worker, "waiting for the first fetch: "));
    assert!(!worker.said("READY=1"), "{}", worker.log());
    let () = fleet.redis("ACL", &[&"SETUSER", &"worker", &"+@all"]);
    worker.wait_ready();
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
            // The loop hangs after the first error that a fetch or a read on the marker meets.
            wait_for("an error of the loop", SOON, || {
                let _: i64 = fleet.redis("CLIENT", &[&"KILL", &"TYPE", &"normal", &"SKIPME", &"yes"]);
                std::thread::sleep(Duration::from_millis(50));
                worker.log().contains("the fetch loop hangs").then_some(())
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
