//! A tick of a periodic job is run once, however many schedulers announce it.

use crate::support::{fleet::Fleet, wait_for};
use serde_json::json;
use std::time::Duration;

#[test]
fn two_schedulers_and_two_workers_run_each_tick_once() {
    let mut fleet = Fleet::start();
    for id in ["one", "two"] {
        let template = json!({"name": "test.tick", "data": {}, "opts": {}});
        fleet.call(
            6,
            "upsertScheduler",
            json!({"scheduler": id, "repeat": {"pattern": "* * * * * *"}, "template": template}),
        );
    }
    let _workers = [fleet.worker("1", &[]), fleet.worker("2", &[])];
    wait_for("five ticks", Duration::from_secs(30), || (fleet.effects().len() >= 5).then_some(()));
    let effects = fleet.effects();
    assert!(effects.values().all(|count| *count == 1), "{effects:?}");
    let skipped: i64 = fleet.redis("ZCARD", &[&fleet.key("completed")]);
    assert!(skipped > i64::try_from(effects.len()).unwrap(), "the other scheduler's jobs are completed, not run");
}

/// Five ticks, each from another process life: the one before was killed while the chain stood at that tick.
fn five_ticks_under_kill_9(schedule: impl FnOnce(&mut Fleet)) {
    let mut fleet = Fleet::start();
    schedule(&mut fleet);
    for life in 1..=5 {
        let mut worker = fleet.worker("1", &[]);
        let before = fleet.effects().len();
        wait_for("a tick", Duration::from_secs(30), || (fleet.effects().len() > before).then_some(()));
        worker.kill();
        assert!(fleet.effects().values().all(|count| *count == 1), "life {life}: {:?}", fleet.effects());
    }
    assert!(fleet.effects().len() >= 5);
}

#[test]
fn five_ticks_of_a_scheduler_come_although_the_worker_is_killed_after_each() {
    five_ticks_under_kill_9(|fleet| {
        let template = json!({"name": "test.tick", "data": {"ms": 300}, "opts": {}});
        let repeat = json!({"pattern": "* * * * * *"});
        fleet.call(6, "upsertScheduler", json!({"scheduler": "s", "repeat": repeat, "template": template}));
    });
}

#[test]
fn five_ticks_of_a_5_x_repeatable_come_although_the_worker_is_killed_after_each() {
    five_ticks_under_kill_9(|fleet| {
        fleet.add(5, "test.tick", json!({"ms": 300}), json!({"repeat": {"pattern": "* * * * * *"}}));
    });
}

#[test]
fn a_tick_that_came_due_while_no_worker_ran_is_run_once_when_three_start() {
    let mut fleet = Fleet::start();
    let template = json!({"name": "test.tick", "data": {}, "opts": {}});
    // Daily, at a time that is not now: only the iteration made below is due.
    let repeat = json!({"pattern": "0 0 1 1 *", "tz": "UTC"});
    fleet.call(6, "upsertScheduler", json!({"scheduler": "daily", "repeat": repeat, "template": template}));
    let delayed = fleet.key("delayed");
    let pending: Vec<String> = fleet.redis("ZRANGE", &[&delayed, &0, &-1]);
    assert_eq!(pending.len(), 1);
    let _: i64 = fleet.redis("ZADD", &[&delayed, &4096, &pending[0]]);

    let _workers = ["1", "2", "3"].map(|name| fleet.worker(name, &[]));
    wait_for("the missed tick", Duration::from_secs(20), || (!fleet.effects().is_empty()).then_some(()));
    let completed = fleet.wait_state(6, &pending[0], "completed", Duration::from_secs(20));
    assert_eq!(completed["attemptsMade"], 1);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(fleet.effects().values().collect::<Vec<_>>(), [&1]);
}
