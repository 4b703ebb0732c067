//! What a worker that was killed leaves behind: given back at once by its next life, charged only on evidence, and in
//! nobody else's hands meanwhile.

use crate::{
    memory,
    support::{fleet::Fleet, wait_for, worker::Worker},
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(15);
const TWO_STARTS: &str = "a second start";

/// An instance as systemd starts it: with an id of this start.
fn start(fleet: &Fleet, instance: &str, unit_invocation: &str, settings: &[(&str, &str)]) -> Worker {
    let settings: Vec<_> = settings.iter().copied().chain([("INVOCATION_ID", unit_invocation)]).collect();
    fleet.worker(instance, &settings)
}

fn busy(fleet: &mut Fleet, worker: &Worker, options: serde_json::Value) -> String {
    let id = fleet.add(6, "test.effect", json!({"key": "once", "ms": 2500}), options);
    fleet.wait_in_transaction(SOON);
    assert_eq!(fleet.starts(&id).len(), 1, "{}", worker.log());
    id
}

#[test]
fn a_killed_worker_s_job_runs_again_within_a_second_of_the_restart() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    for expired in [false, true] {
        let id = busy(&mut fleet, &worker, json!({"attempts": 1}));
        worker.kill();
        if expired {
            let lock = fleet.key(&format!("{id}:lock"));
            assert_eq!(fleet.redis::<i64>("DEL", &[&lock]), 1);
        }
        worker = fleet.worker("1", &[]);
        let since = Instant::now();
        wait_for(TWO_STARTS, SOON, || (fleet.starts(&id).len() == 2).then_some(()));
        assert!(since.elapsed() < Duration::from_secs(1), "expired {expired}: {:?}", since.elapsed());
        let job = fleet.wait_state(6, &id, "completed", SOON);
        assert_eq!(job["attemptsMade"], 1, "{job:#}");
    }
    assert_eq!(fleet.effects()["once"], 2, "each of the two jobs once");
    assert!(fleet.sql("SELECT 1 FROM floh_worker.job_suspicion").is_empty(), "no evidence was recorded");
}

#[test]
fn a_clean_stop_leaves_nothing_to_reclaim_and_a_kill_its_life() {
    let fleet = Fleet::start();
    let lives = fleet.state_folder("1").join("1.lives");
    let mut worker = fleet.worker("1", &[]);
    assert!(lives.exists());
    worker.stop();
    assert!(!lives.exists(), "{:?}", fs::read_to_string(&lives));
    let mut worker = fleet.worker("1", &[]);
    worker.kill();
    assert!(lives.exists());
    // Cleared up by the next life, which then ends in order. One that is stopped sooner leaves it to its next.
    let mut worker = fleet.worker("1", &[]);
    let named = || fs::read_to_string(&lives).unwrap_or_default().lines().count();
    wait_for("the killed life is cleared up", SOON, || (named() == 1).then_some(()));
    worker.stop();
    assert!(!lives.exists(), "{:?}", fs::read_to_string(&lives));
}

#[test]
fn what_a_frozen_redis_took_for_a_worker_that_has_drained_is_given_back_at_once_by_its_next_life() {
    let mut fleet = Fleet::start();
    // A worker that holds asks Redis for nothing: so the fetch that follows is what meets the frozen server.
    let (root, mut worker) = memory::start(&fleet, 90);
    worker.wait_log("no job is taken");
    let id = fleet.add(6, "test.echo", json!({}), json!({"attempts": 1}));
    fleet.redis.freeze();
    memory::set(root.path(), 50);
    worker.wait_log("no fetch: ");
    worker.stop();
    fleet.redis.thaw();
    wait_for("the late fetch", SOON, || (fleet.starts(&id).len() == 1).then_some(()));
    assert_eq!(fleet.job(6, &id)["state"], "active", "nobody has it in hand");
    let next = fleet.worker("1", &[]);
    let since = Instant::now();
    wait_for(TWO_STARTS, SOON, || (fleet.starts(&id).len() == 2).then_some(()));
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}\n{}", since.elapsed(), next.log());
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!((&job["attemptsMade"], &job["stalledCounter"]), (&json!(1), &json!(0)), "{job:#}");
}

#[test]
fn a_drain_that_redis_lets_nobody_in_for_ends_with_70_and_the_next_life_gives_the_job_back() {
    let mut fleet = Fleet::start();
    let () = fleet.redis("ACL", &[&"SETUSER", &"worker", &"on", &">right", &"~*", &"&*", &"+@all"]);
    let login = [("REDIS_USERNAME", "worker"), ("REDIS_PASSWORD", "right")];
    let mut worker = fleet.worker("1", &login);
    let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({"attempts": 1}));
    fleet.wait_state(6, &id, "active", SOON);
    let () = fleet.redis("ACL", &[&"SETUSER", &"worker", &"off"]);
    assert!(fleet.redis::<i64>("CLIENT", &[&"KILL", &"USER", &"worker"]) > 0);
    worker.signal(Signal::SIGTERM);
    worker.wait_log("no new jobs");
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.wait_end(SOON).code(), Some(70), "{}", worker.log());
    assert!(worker.log().contains("abandoned: it could not be handed back"), "{}", worker.log());
    let () = fleet.redis("ACL", &[&"SETUSER", &"worker", &"on"]);
    let _next = fleet.worker("1", &login);
    let since = Instant::now();
    wait_for(TWO_STARTS, SOON, || (fleet.starts(&id).len() == 2).then_some(()));
    // Its lock would have kept it for half a minute.
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    let job = fleet.job(6, &id);
    assert_eq!((&job["attemptsMade"], &job["stalledCounter"]), (&json!(0), &json!(0)), "{job:#}");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn equal_names_on_two_machines_and_a_copied_machine_never_meet() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = busy(&mut fleet, &worker, json!({"attempts": 1}));
    // Another machine with an instance of the same name, and one whose disk is a copy of the first one's.
    let other = fleet.state_folder("other");
    let copy = fleet.state_folder("copy");
    fs::create_dir_all(&other).unwrap();
    copy_folder(&fleet.state_folder("1"), &copy);
    assert!(copy.join("1.lives").exists());
    let folders = [other.display().to_string(), copy.display().to_string()];
    let _others = folders.each_ref().map(|folder| fleet.worker("1", &[("STATE_DIRECTORY", folder)]));
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(job["attemptsMade"], 1, "{job:#}");
    assert_eq!(fleet.starts(&id).len(), 1, "it ran once, where it was");
    assert_eq!(fleet.effects()["once"], 1);
}

#[test]
fn a_second_process_of_an_instance_takes_nothing_from_the_first() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = busy(&mut fleet, &worker, json!({"attempts": 1}));
    let second = fleet.worker("1", &[]);
    second.wait_log("held by another process of this instance");
    fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(fleet.starts(&id).len(), 1);
}

#[test]
fn a_frozen_worker_keeps_its_job_from_a_second_process_until_its_lock_expires() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = busy(&mut fleet, &worker, json!({"attempts": 1}));
    worker.signal(Signal::SIGSTOP);
    let _second = fleet.worker("1", &[]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fleet.starts(&id).len(), 1, "its life is not over");
    worker.signal(Signal::SIGCONT);
    fleet.wait_state(6, &id, "completed", SOON);
}

#[test]
fn ends_that_systemd_does_not_blame_on_the_worker_charge_nobody() {
    let mut fleet = Fleet::start();
    let mut worker = start(&fleet, "1", "life-0", &[]);
    let id = fleet.add(6, "test.sleep", json!({"ms": 4000}), json!({"attempts": 1}));
    for (round, result) in ["timeout", "exit-code", "success", "resources"].into_iter().enumerate() {
        wait_for("its start", SOON, || (fleet.starts(&id).len() == round + 1).then_some(()));
        worker.kill();
        fleet.record_end("1", &format!("life-{round}"), result, "KILL");
        worker = start(&fleet, "1", &format!("life-{}", round + 1), &[]);
    }
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!((&job["attemptsMade"], &job["stalledCounter"]), (&json!(1), &json!(0)), "{job:#}");
    assert!(fleet.sql("SELECT 1 FROM floh_worker.job_suspicion").is_empty());
}

#[test]
fn a_job_that_kills_its_worker_three_times_is_quarantined_with_the_evidence_until_it_is_released() {
    let mut fleet = Fleet::start();
    let neighbour = fleet.worker("2", &[]);
    neighbour.signal(Signal::SIGSTOP);
    let mut worker = start(&fleet, "1", "life-0", &[]);
    let id = fleet.add(6, "test.sleep", json!({"ms": 600_000}), json!({"attempts": 5}));
    for (round, result) in ["oom-kill", "watchdog", "signal"].into_iter().enumerate() {
        wait_for("the ledger's row", SOON, || {
            let sql = format!(
                "SELECT 1 FROM floh_worker.job_execution WHERE state = 'taken' AND attempts_started = {}",
                round + 1
            );
            (!fleet.sql(&sql).is_empty()).then_some(())
        });
        worker.kill();
        fleet.record_end("1", &format!("life-{round}"), result, "KILL");
        worker = start(&fleet, "1", &format!("life-{}", round + 1), &[]);
        worker.wait_log("it is suspected");
    }
    let job = fleet.wait_state(6, &id, "failed", SOON);
    let reason = job["failedReason"].as_str().unwrap();
    for words in ["quarantined", "oom-kill (KILL)", "watchdog", "signal", "floh-worker@1", "quarantine release"] {
        assert!(reason.contains(words), "{words}: {reason}");
    }
    // A retry by hand brings it back as quarantined as before.
    fleet.call(6, "retry", json!({"job": id}));
    wait_for("its second failure", SOON, || (fleet.starts(&id).len() == 5).then_some(()));
    fleet.wait_state(6, &id, "failed", SOON);

    let listed = fleet.flohctl(&["job", "quarantine", "list"]);
    assert!(listed.status.success(), "{}", listed.stderr);
    assert!(listed.stdout.contains(&format!("{id} test.sleep since")), "{}", listed.stdout);
    assert!(listed.stdout.contains("oom-kill (KILL) on floh-worker@1"), "{}", listed.stdout);
    let data = json!({"ms": 1});
    fleet.call(6, "updateData", json!({"job": id, "data": data}));
    let released = fleet.flohctl(&["job", "quarantine", "release", &id]);
    assert!(released.status.success() && released.stdout.contains("waits to be run again"), "{}", released.stdout);
    fleet.wait_state(6, &id, "completed", SOON);
    assert!(fleet.flohctl(&["job", "quarantine", "list"]).stdout.contains("no job is in quarantine"));
    let again = fleet.flohctl(&["job", "quarantine", "release", &id]);
    assert_eq!(again.status.code(), Some(1), "{}", again.stdout);
    neighbour.signal(Signal::SIGCONT);
}

#[test]
fn an_iteration_of_a_schedule_is_quarantined_as_any_job_and_the_chain_goes_on() {
    let mut fleet = Fleet::start();
    let template = json!({"name": "test.sleep", "data": {"ms": 600_000}, "opts": {}});
    fleet.call(
        6,
        "upsertScheduler",
        json!({"scheduler": "sync", "repeat": {"every": 3_600_000}, "template": template}),
    );
    let mut worker = start(&fleet, "1", "life-0", &[]);
    for round in 0..3 {
        wait_for("the ledger's row", SOON, || {
            let sql = format!(
                "SELECT 1 FROM floh_worker.job_execution WHERE state = 'taken' AND attempts_started = {}",
                round + 1
            );
            (!fleet.sql(&sql).is_empty()).then_some(())
        });
        worker.kill();
        fleet.record_end("1", &format!("life-{round}"), "core-dump", "SEGV");
        worker = start(&fleet, "1", &format!("life-{}", round + 1), &[]);
    }
    let failed = fleet.key("failed");
    let id =
        wait_for("the failed iteration", SOON, || fleet.redis::<Vec<String>>("ZRANGE", &[&failed, &"0", &"-1"]).pop());
    assert!(id.starts_with("repeat:sync:"), "{id}");
    assert!(fleet.job(6, &id)["failedReason"].as_str().unwrap().contains("core-dump (SEGV)"));
    let next = fleet.call(6, "schedulers", json!({}));
    assert_eq!(fleet.call(6, "counts", json!({}))["delayed"], 1, "{next}");
}

/// Waits until instance `instance` has the job in the ledger.
fn wait_taken_by(fleet: &Fleet, id: &str, instance: &str) {
    let sql = format!(
        "SELECT 1 FROM floh_worker.job_execution
            WHERE job_id = '{id}' AND instance = '{instance}' AND state = 'taken'"
    );
    wait_for("the ledger's row", SOON, || (!fleet.sql(&sql).is_empty()).then_some(()));
}

/// Takes the lock away and lets the stalled check bring the job back, as it does half a minute after a death.
fn stall(fleet: &mut Fleet, id: &str) {
    let lock = fleet.key(&format!("{id}:lock"));
    assert_eq!(fleet.redis::<i64>("DEL", &[&lock]), 1);
    // The first check marks what is active, the second one finds it without a lock.
    for _ in 0..2 {
        fleet.check_stalled();
    }
}

/// What the death of `floh-worker@1` was charged to.
fn charged(fleet: &Fleet) -> Vec<Vec<Option<String>>> {
    fleet.sql("SELECT job_id, instance, evidence FROM floh_worker.job_suspicion ORDER BY job_id")
}

/// A worker that has done some jobs in order, and dies while it runs one. Returns that one.
fn die(fleet: &mut Fleet) -> String {
    let mut worker = start(fleet, "1", "life-0", &[]);
    for (name, state) in [("test.echo", "completed"), ("test.fail", "failed")] {
        let id = fleet.add(6, name, json!({}), json!({"attempts": 1}));
        fleet.wait_state(6, &id, state, SOON);
    }
    let id = fleet.add(6, "test.sleep", json!({"ms": 600_000}), json!({"attempts": 1}));
    wait_taken_by(fleet, &id, "1");
    worker.kill();
    fleet.record_end("1", "life-0", "watchdog", "KILL");
    id
}

#[test]
fn a_death_is_charged_to_a_job_that_a_neighbour_took_before_the_restart() {
    let mut fleet = Fleet::start();
    let id = die(&mut fleet);
    let neighbour = fleet.worker("2", &[]);
    stall(&mut fleet, &id);
    wait_taken_by(&fleet, &id, "2");
    assert!(charged(&fleet).is_empty(), "nobody knows of it yet");
    let again = start(&fleet, "1", "life-1", &[]);
    again.wait_log("it is suspected");
    let expected = [id.as_str(), "1", "watchdog (KILL)"].map(|text| Some(text.to_string()));
    assert_eq!(charged(&fleet), [expected], "{}", again.log());
    assert_eq!(fleet.job(6, &id)["state"], "active", "where it is, it goes on\n{}", neighbour.log());
    assert_eq!(fleet.starts(&id).len(), 2);
}

#[test]
fn a_death_is_charged_to_a_job_that_waits_again_and_it_runs_alone() {
    let mut fleet = Fleet::start();
    let id = die(&mut fleet);
    stall(&mut fleet, &id);
    assert_eq!(fleet.job(6, &id)["state"], "waiting");
    let again = start(&fleet, "1", "life-1", &[("WORKER_CONCURRENCY", "2")]);
    wait_for("the suspicion", SOON, || (!charged(&fleet).is_empty()).then_some(()));
    let expected = [id.as_str(), "1", "watchdog (KILL)"].map(|text| Some(text.to_string()));
    assert_eq!(charged(&fleet), [expected], "{}", again.log());
    assert_eq!(fleet.job(6, &id)["state"], "active");
}
