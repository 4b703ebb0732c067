//! Ticks that were missed because the queue lost them are made up for, once, by however many workers.

use crate::support::{Fleet, wait_for, worker::Worker};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);
const SCHEDULER: &str = "floh-worker:test.tick";

const OFTEN: [(&str, &str); 1] = [("FLOH_TEST_SCHEDULE", "*/10 * * * * *")];

/// The pattern of which a tick is one, and the next is an hour later: what a test then sees is not hurried by the clock.
fn hourly_at(due: i64) -> String {
    format!("{} {} * * * *", due / 1000 % 60, due / 60_000 % 60)
}

/// The made-up ticks: when they were due (milliseconds), and how they ended.
fn made_up(fleet: &Fleet) -> Vec<(String, String)> {
    let query = "SELECT floor(extract(epoch FROM tick_at) * 1000)::bigint, coalesce(ended, 'pending')
        FROM floh_worker.job_outbox ORDER BY 1";
    fleet.sql(query).into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())).collect()
}

fn next_due(fleet: &mut Fleet) -> Option<i64> {
    let repeat = fleet.key("repeat");
    fleet.redis::<Option<f64>>("ZSCORE", &[&repeat, &SCHEDULER]).map(|due| due as i64)
}

/// The due time in an iteration's id.
fn due(id: &str) -> i64 {
    id.rsplit(':').next().unwrap().parse().unwrap()
}

fn wait_effect(fleet: &Fleet, tick: i64, limit: Duration) {
    wait_for("the tick's effect", limit, || fleet.effects().contains_key(&tick.to_string()).then_some(()));
}

fn each_once(fleet: &Fleet) {
    assert!(fleet.effects().values().all(|count| *count == 1), "{:?}", fleet.effects());
}

#[test]
fn a_fresh_installation_has_missed_nothing() {
    let mut fleet = Fleet::start();
    let schedule = [("FLOH_TEST_SCHEDULE", "0 0 2 * * *")];
    let _workers = [fleet.worker("1", &schedule), fleet.worker("2", &schedule)];
    wait_for("the scheduler", SOON, || next_due(&mut fleet));
    // Not even when Redis loses the schedule again before it ever ran.
    fleet.redis::<String>("FLUSHALL", &[]);
    wait_for("the scheduler", MINUTE, || next_due(&mut fleet));
    assert!(made_up(&fleet).is_empty(), "{:?}", made_up(&fleet));
}

#[test]
fn a_tick_that_waited_when_redis_was_wiped_is_made_up_for_once_by_three_workers() {
    let mut fleet = Fleet::start();
    let mut first = fleet.worker("0", &OFTEN);
    wait_for("a tick", SOON, || (!fleet.effects().is_empty()).then_some(()));
    fleet.call(6, "pause", json!({}));
    let tick = wait_for("a tick that is due and was not run", SOON, || {
        let (seconds, _): (i64, i64) = fleet.redis("TIME", &[]);
        let due = next_due(&mut fleet)?;
        (due < seconds * 1000 && !fleet.effects().contains_key(&due.to_string())).then_some(due)
    });
    first.stop();
    let ran = fleet.effects().len();
    fleet.redis::<String>("FLUSHALL", &[]);
    let wiped = Instant::now();
    let pattern = hourly_at(tick);
    let schedule = [("FLOH_TEST_SCHEDULE", pattern.as_str())];
    let mut workers: Vec<_> = ["1", "2", "3"].map(|instance| fleet.spawn_worker(instance, &schedule)).into();
    workers.iter_mut().for_each(Worker::wait_ready);
    wait_effect(&fleet, tick, MINUTE);
    assert!(wiped.elapsed() < MINUTE);
    let expected = [(tick.to_string(), "completed".to_string())];
    wait_for("its end", SOON, || (made_up(&fleet) == expected).then_some(()));
    assert_eq!(fleet.effects().len(), ran + 1);
    each_once(&fleet);
    let told = workers.iter().filter(|worker| worker.log().contains("missed, and run now")).count();
    assert_eq!(told, 1);
    assert_eq!(wait_for("the scheduler", SOON, || next_due(&mut fleet)), tick + 3_600_000, "the schedule goes on");
    // Another wipe finds nothing that was missed.
    fleet.redis::<String>("FLUSHALL", &[]);
    wait_for("the scheduler", MINUTE, || next_due(&mut fleet));
    assert_eq!(made_up(&fleet), expected);
}

#[test]
fn a_tick_that_ran_when_redis_was_wiped_is_made_up_for_and_has_one_effect() {
    let mut fleet = Fleet::start();
    let slow = ("FLOH_TEST_TICK_MS", "6000");
    let first = fleet.worker("1", &[OFTEN[0], slow]);
    fleet.wait_in_transaction(SOON);
    first.signal(Signal::SIGSTOP);
    let ids = fleet.sql("SELECT job_id FROM floh_worker.job_execution WHERE state = 'taken'");
    let cut_off = ids[0][0].clone().unwrap();
    let tick = due(&cut_off);
    fleet.redis::<String>("FLUSHALL", &[]);
    let wiped = Instant::now();
    let pattern = hourly_at(tick);
    let _second = fleet.worker("2", &[("FLOH_TEST_SCHEDULE", pattern.as_str()), slow]);
    wait_for("the made-up tick", MINUTE, || (!made_up(&fleet).is_empty()).then_some(()));
    first.signal(Signal::SIGCONT);
    wait_effect(&fleet, tick, MINUTE);
    assert!(wiped.elapsed() < MINUTE, "{:?}", wiped.elapsed());
    first.wait_log(&cut_off);
    each_once(&fleet);
    let claim = format!("SELECT job_id FROM floh_worker.job_tick WHERE due_at = to_timestamp({tick} / 1000)");
    assert_eq!(fleet.sql(&claim), [[Some(format!("tick-test.tick-{tick}"))]]);
}

#[test]
fn a_broken_chain_is_mended_and_made_up_for_within_a_minute() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &OFTEN);
    wait_for("a tick", SOON, || (!fleet.effects().is_empty()).then_some(()));
    let (delayed, prefix) = (fleet.key("delayed"), format!("repeat:{SCHEDULER}:"));
    // A look at the schedulers that comes before the lost iteration would have been due only puts it back.
    let (broken, lost) = (0..5)
        .find_map(|_| {
            let id = wait_for("an iteration that waits for its time", SOON, || {
                let ids: Vec<String> = fleet.redis("ZRANGE", &[&delayed, &"0", &"-1"]);
                let id = ids.into_iter().find(|id| id.starts_with(&prefix))?;
                (fleet.redis::<i64>("ZREM", &[&delayed, &id]) == 1).then_some(id)
            });
            fleet.redis::<i64>("DEL", &[&fleet.key(&id)]);
            let at = Instant::now();
            wait_for("it to be mended", MINUTE, || {
                if !made_up(&fleet).is_empty() {
                    return Some(Some((at, due(&id))));
                }
                fleet.effects().contains_key(&due(&id).to_string()).then_some(None)
            })
        })
        .expect("a chain that was broken long enough");
    let made: i64 = made_up(&fleet)[0].0.parse().unwrap();
    assert!(made >= lost, "made up for {made}, broken at {lost}");
    wait_effect(&fleet, made, MINUTE);
    assert!(broken.elapsed() < MINUTE, "{:?}", broken.elapsed());
    worker.wait_log("had no next iteration: mended");
    let before = fleet.effects().len();
    wait_for("the chain to go on", MINUTE, || (fleet.effects().len() > before + 1).then_some(()));
    each_once(&fleet);
    // One is made up for, the latest; another one only if it came due while the chain was being mended.
    assert!(made_up(&fleet).len() <= 2, "{:?}", made_up(&fleet));
}

#[test]
fn a_tick_whose_retry_was_lost_is_made_up_for() {
    let mut fleet = Fleet::start();
    let mut first = fleet.worker("1", &OFTEN);
    fleet.sql("ALTER TABLE floh_worker.test_effect ADD CONSTRAINT full_up CHECK (key = '') NOT VALID");
    let id = wait_for("a tick's first failure", SOON, || {
        let ids = fleet.sql("SELECT job_id FROM floh_worker.job_execution WHERE state = 'retried'");
        ids.first().and_then(|row| row[0].clone())
    });
    first.kill();
    fleet.redis::<String>("FLUSHALL", &[]);
    fleet.sql("ALTER TABLE floh_worker.test_effect DROP CONSTRAINT full_up");
    let pattern = hourly_at(due(&id));
    let _second = fleet.worker("2", &[("FLOH_TEST_SCHEDULE", pattern.as_str())]);
    wait_effect(&fleet, due(&id), MINUTE);
    each_once(&fleet);
}
