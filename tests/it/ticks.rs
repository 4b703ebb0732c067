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
    let queues = fleet.sql("SELECT DISTINCT queue FROM floh_worker.job_tick");
    assert_eq!(queues, [[Some("bull:workflow-scheduler".to_string())]]);
    let skipped: i64 = fleet.redis("ZCARD", &[&fleet.key("completed")]);
    assert!(skipped > i64::try_from(effects.len()).unwrap(), "the other scheduler's jobs are completed, not run");
}
