//! Job schedulers of npm's BullMQ 5 and 6 and 5.x's legacy repeatables: their ticks, and what a crash does to them.

use crate::support::{Fleet, wait_for, worker::Worker};
use serde_json::{Value, json};
use std::{collections::BTreeMap, thread, time::Duration};

const SOON: Duration = Duration::from_secs(30);

by_5_and_6!(
    a_scheduler_ticks_until_its_limit,
    a_scheduler_by_pattern_ticks_until_it_is_removed,
    a_tick_that_came_due_while_no_worker_ran_is_run_once_by_one,
    a_tick_that_came_due_while_no_worker_ran_is_run_once_by_three,
    five_ticks_of_a_scheduler_survive_kill_9,
);

/// How often `test.effect` ran for each job id.
fn runs_by_job(fleet: &Fleet) -> BTreeMap<String, u64> {
    let rows = fleet.sql("SELECT job_id, count(*) FROM floh_worker.test_effect GROUP BY job_id");
    rows.into_iter().map(|row| (row[0].clone().unwrap(), row[1].as_deref().unwrap().parse().unwrap())).collect()
}

/// Ids of the jobs that became active and belong to a schedule, without repetitions, in order.
fn ticks(fleet: &mut Fleet) -> Vec<String> {
    let mut ids: Vec<String> = fleet.start_order().into_iter().filter(|id| id.starts_with("repeat:")).collect();
    ids.dedup();
    let own = |id: &String| id.contains("floh-worker:");
    ids.retain(|id| !own(id));
    ids
}

fn template(key: &str, ms: u64) -> Value {
    json!({"name": "test.effect", "data": {"key": key, "ms": ms}, "opts": {"attempts": 2}})
}

/// The jobs of the schedule that are still to come, by id.
fn pending(fleet: &mut Fleet, version: u8) -> Vec<String> {
    let ids = fleet.call(version, "ids", json!({"types": ["delayed", "waiting", "prioritized"]}));
    let ids = ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_string());
    ids.filter(|id| !id.contains("floh-worker:")).collect()
}

fn a_scheduler_ticks_until_its_limit(version: u8) {
    let mut fleet = Fleet::start();
    let _workers = [fleet.worker("1", &[]), fleet.worker("2", &[])];
    let repeat = json!({"every": 600, "limit": 4});
    let ask = json!({"scheduler": "sync", "repeat": repeat, "template": template("tick", 0)});
    fleet.call(version, "upsertScheduler", ask);
    wait_for("four ticks", SOON, || (fleet.effects().get("tick") == Some(&4)).then_some(()));
    assert_eq!(runs_by_job(&fleet).into_values().collect::<Vec<_>>(), [1, 1, 1, 1], "four jobs, each run once");
    wait_for("nothing is left to come", SOON, || pending(&mut fleet, version).is_empty().then_some(()));
    let ids = ticks(&mut fleet);
    let times: Vec<u64> = ids.iter().map(|id| id.rsplit(':').next().unwrap().parse().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 600), "every 600 ms: {ids:?}");
    // What the template said is in every tick.
    let job = fleet.job(version, &ids[3]);
    assert_eq!((&job["name"], &job["opts"]["attempts"]), (&json!("test.effect"), &json!(2)), "{job:#}");
    assert_eq!(job["repeatJobKey"], "sync");
}

fn a_scheduler_by_pattern_ticks_until_it_is_removed(version: u8) {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let repeat = json!({"pattern": "* * * * * *", "tz": "Europe/Berlin"});
    let ask = json!({"scheduler": "each-second", "repeat": repeat, "template": template("tick", 0)});
    fleet.call(version, "upsertScheduler", ask);
    wait_for("three ticks", SOON, || (fleet.effects().get("tick") >= Some(&3)).then_some(()));
    let scheduler = fleet.call(version, "scheduler", json!({"scheduler": "each-second"}));
    assert_eq!(
        (&scheduler["pattern"], &scheduler["tz"]),
        (&json!("* * * * * *"), &json!("Europe/Berlin")),
        "{scheduler}"
    );
    assert!(scheduler["iterationCount"].as_u64() >= Some(3), "{scheduler}");
    assert_eq!(fleet.call(version, "removeScheduler", json!({"scheduler": "each-second"})), true);
    wait_for("nothing is left to come", SOON, || pending(&mut fleet, version).is_empty().then_some(()));
    let (before, marker) =
        (fleet.effects()["tick"], fleet.add(version, "test.effect", json!({"key": "m"}), json!({"delay": 2500})));
    fleet.wait_state(version, &marker, "completed", SOON);
    let after = fleet.effects()["tick"];
    assert!(after <= before + 1, "a tick that was running may end: {before}, then {after}");
    let ids = ticks(&mut fleet);
    let times: Vec<u64> = ids.iter().map(|id| id.rsplit(':').next().unwrap().parse().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[1] > pair[0]) && times.iter().all(|at| at % 1000 == 0), "{ids:?}");
    assert!(runs_by_job(&fleet).into_values().all(|count| count == 1));
}

/// Makes the one delayed job whose id contains `part` due an hour ago; its id.
fn make_due(fleet: &mut Fleet, part: &str) -> String {
    let delayed = fleet.key("delayed");
    let ids: Vec<String> = fleet.redis("ZRANGE", &[&delayed, &"0", &"-1"]);
    let mut ids: Vec<String> = ids.into_iter().filter(|id| id.contains(part)).collect();
    assert_eq!(ids.len(), 1, "one pending iteration of {part}: {ids:?}");
    let (seconds, _): (u64, u64) = fleet.redis("TIME", &[]);
    let score = (seconds - 3600) * 1000 * 4096;
    fleet.redis::<()>("ZADD", &[&delayed, &score.to_string(), &ids[0]]);
    ids.remove(0)
}

fn start<const N: usize>(fleet: &Fleet, instances: [&str; N]) -> [Worker; N] {
    let mut workers = instances.map(|instance| fleet.spawn_worker(instance, &[]));
    workers.iter_mut().for_each(Worker::wait_ready);
    workers
}

fn a_tick_that_came_due_while_no_worker_ran_is_run_once_by_one(version: u8) {
    a_tick_that_came_due_while_no_worker_ran_is_run_once(version, ["1"]);
}

fn a_tick_that_came_due_while_no_worker_ran_is_run_once_by_three(version: u8) {
    a_tick_that_came_due_while_no_worker_ran_is_run_once(version, ["1", "2", "3"]);
}

fn a_tick_that_came_due_while_no_worker_ran_is_run_once<const N: usize>(version: u8, instances: [&str; N]) {
    let mut fleet = Fleet::start();
    let ask = json!({"scheduler": "nightly", "repeat": {"pattern": "0 2 * * *"}, "template": template("nightly", 0)});
    fleet.call(version, "upsertScheduler", ask);
    let due = make_due(&mut fleet, "nightly");
    let _workers = start(&fleet, instances);
    wait_for("the nightly tick has run", SOON, || (fleet.effects().get("nightly") == Some(&1)).then_some(()));
    let marker = fleet.add(version, "test.effect", json!({"key": "marker"}), json!({"delay": 2500}));
    fleet.wait_state(version, &marker, "completed", SOON);
    assert_eq!(fleet.effects()["nightly"], 1);
    assert_eq!(ticks(&mut fleet), [due], "one tick was started, once");
    // And the next day's is there, once.
    assert_eq!(pending(&mut fleet, version).len(), 1);
}

/// The daemon's own schedules: a fleet that starts while a tick waits neither skips it nor runs it twice.
#[test]
fn a_tick_of_our_own_that_waits_at_start_is_run_once_by_three() {
    let mut fleet = Fleet::start_with_periodic_jobs();
    let mut first = fleet.worker("1", &[]);
    wait_for("the daemon's own schedule", SOON, || (own_ticks(&mut fleet) == 1).then_some(()));
    first.stop();
    let due = make_due(&mut fleet, OWN);
    let _workers = start(&fleet, ["1", "2", "3"]);
    wait_for("the tick has run", SOON, || (!fleet.starts(&due).is_empty()).then_some(()));
    wait_for("the next tick is there", SOON, || (own_ticks(&mut fleet) == 1).then_some(()));
    let marker = fleet.add(6, "test.echo", json!({}), json!({"delay": 2500}));
    fleet.wait_state(6, &marker, "completed", SOON);
    let starts: Vec<String> = fleet.start_order().into_iter().filter(|id| id.contains(OWN)).collect();
    assert_eq!(starts, [due], "started once, and no other tick beside it");
    assert_eq!(own_ticks(&mut fleet), 1);
}

/// A job that every worker schedules for itself.
const OWN: &str = "stuck-run-recovery";

/// How many iterations of [`OWN`] are still to come.
fn own_ticks(fleet: &mut Fleet) -> usize {
    let delayed = fleet.key("delayed");
    let ids: Vec<String> = fleet.redis("ZRANGE", &[&delayed, &"0", &"-1"]);
    ids.iter().filter(|id| id.contains(OWN)).count()
}

/// Kills the worker at five ticks, each at another moment after the tick became active, and checks that every tick ran
/// to its end once. `stop` ends the schedule.
fn survive_kill_9(fleet: &mut Fleet, stop: impl FnOnce(&mut Fleet)) {
    let mut worker = fleet.worker("1", &[]);
    for (round, pause) in [0, 4, 15, 60, 200].into_iter().enumerate() {
        // A chain that broke is mended by the stalled check, which takes a while; the usual case is the next tick.
        wait_for("the next tick", Duration::from_secs(120), || (ticks(fleet).len() > round).then_some(()));
        thread::sleep(Duration::from_millis(pause));
        worker.kill();
        worker = fleet.worker("1", &[]);
    }
    wait_for("ticks after the last crash", Duration::from_secs(120), || (ticks(fleet).len() > 6).then_some(()));
    stop(fleet);
    // The jobs of killed workers come back when their locks have expired, at the latest.
    wait_for("every tick that began has ended", Duration::from_secs(150), || {
        let ended = runs_by_job(fleet);
        ticks(fleet).iter().all(|id| ended.contains_key(id)).then_some(())
    });
    let runs = runs_by_job(fleet);
    assert!(runs.values().all(|count| *count == 1), "an effect was doubled: {runs:?}");
    assert_eq!(fleet.call(6, "counts", json!({}))["failed"], 0);
}

fn five_ticks_of_a_scheduler_survive_kill_9(version: u8) {
    let mut fleet = Fleet::start();
    let ask = json!({"scheduler": "sync", "repeat": {"every": 1500}, "template": template("tick", 100)});
    fleet.call(version, "upsertScheduler", ask);
    survive_kill_9(&mut fleet, |fleet| {
        fleet.call(version, "removeScheduler", json!({"scheduler": "sync"}));
    });
}

#[test]
fn five_ticks_of_a_legacy_repeatable_survive_kill_9() {
    let mut fleet = Fleet::start();
    let repeat = json!({"every": 1500});
    fleet.add(5, "test.effect", json!({"key": "tick", "ms": 100}), json!({"repeat": repeat}));
    survive_kill_9(&mut fleet, |fleet| {
        fleet.call(5, "removeRepeatable", json!({"name": "test.effect", "repeat": repeat}));
    });
}

/// The same under a key as the versions before 5.13 stored it, which says everything: it is continued by a script of ours.
#[test]
fn five_ticks_of_a_repeatable_with_an_old_key_survive_kill_9() {
    let mut fleet = Fleet::start();
    let (schedulers, key, repeat) = (fleet.key("repeat"), "test.effect::::1500", json!({"every": 1500}));
    // npm goes on with an old key that is there.
    fleet.redis::<()>("ZADD", &[&schedulers, &"1", &key]);
    let first = fleet.add(5, "test.effect", json!({"key": "tick", "ms": 100}), json!({"repeat": repeat}));
    assert_eq!(fleet.job(5, &first)["repeatJobKey"], key);
    survive_kill_9(&mut fleet, |fleet| {
        let removed = fleet.call(5, "removeRepeatable", json!({"name": "test.effect", "repeat": repeat}));
        assert_eq!(removed, true);
    });
    for id in ticks(&mut fleet) {
        let job = fleet.job(5, &id);
        assert_eq!((&job["repeatJobKey"], &job["data"]["key"]), (&json!(key), &json!("tick")), "{job:#}");
    }
    assert_eq!(pending(&mut fleet, 5), [""; 0], "the chain is one, and ended");
}

#[test]
fn a_legacy_repeatable_ticks_until_its_limit() {
    let mut fleet = Fleet::start();
    let _workers = [fleet.worker("1", &[]), fleet.worker("2", &[])];
    let opts = json!({"repeat": {"every": 700, "limit": 3}, "attempts": 2});
    fleet.add(5, "test.effect", json!({"key": "tick"}), opts);
    wait_for("three ticks", SOON, || (fleet.effects().get("tick") == Some(&3)).then_some(()));
    wait_for("nothing is left to come", SOON, || pending(&mut fleet, 5).is_empty().then_some(()));
    assert_eq!(runs_by_job(&fleet).into_values().collect::<Vec<_>>(), [1, 1, 1]);
    let ids = ticks(&mut fleet);
    let times: Vec<u64> = ids.iter().map(|id| id.rsplit(':').next().unwrap().parse().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 700), "{ids:?}");
    let job = fleet.job(5, &ids[2]);
    assert_eq!((&job["opts"]["attempts"], &job["opts"]["repeat"]["count"]), (&json!(2), &json!(3)), "{job:#}");
}

#[test]
fn a_legacy_repeatable_by_pattern_ticks_until_it_is_removed() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let repeat = json!({"pattern": "* * * * * *", "tz": "America/New_York"});
    fleet.add(5, "test.effect", json!({"key": "tick"}), json!({"repeat": repeat, "jobId": "each-second"}));
    wait_for("three ticks", SOON, || (fleet.effects().get("tick") >= Some(&3)).then_some(()));
    let mut listed = fleet.call(5, "repeatables", json!({}));
    let listed = listed.as_array_mut().unwrap();
    listed.retain(|repeatable| repeatable["name"] == "test.effect");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0]["pattern"], &listed[0]["tz"]), (&repeat["pattern"], &repeat["tz"]), "{listed:?}");
    let ask = json!({"name": "test.effect", "repeat": repeat, "jobId": "each-second"});
    assert_eq!(fleet.call(5, "removeRepeatable", ask), true);
    wait_for("nothing is left to come", SOON, || pending(&mut fleet, 5).is_empty().then_some(()));
    let before = fleet.effects()["tick"];
    let marker = fleet.add(5, "test.effect", json!({"key": "marker"}), json!({"delay": 2500}));
    fleet.wait_state(5, &marker, "completed", SOON);
    assert!(fleet.effects()["tick"] <= before + 1);
    assert!(runs_by_job(&fleet).into_values().all(|count| count == 1));
}
