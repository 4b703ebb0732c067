//! A thousand ticks in less than a minute, while workers are killed: each starts one run, and none is missing.

use super::{no_gap, schedule, seconds, tiny};
use crate::support::{Fleet, crew::Crew, wait_for};
use nix::sys::signal::Signal;
use std::{
    thread,
    time::{Duration, Instant},
};

const SCHEDULES: i64 = 50;
const SECONDS: i64 = 21;
/// How often one of the workers is killed.
const KILLS: Duration = Duration::from_millis(2_500);

#[test]
fn each_of_a_thousand_ticks_has_one_run_although_workers_are_killed() {
    let fleet = Fleet::start();
    tiny(&fleet);
    let member = |instance: &str| {
        (
            instance.to_string(),
            fleet.instance_environment(instance, &[("WORKER_CONCURRENCY", "8"), ("LOG_LEVEL", "warn")]),
        )
    };
    let crew = Crew::start(vec![member("1"), member("2")], None);
    let fields = [("cron", "* * * * * *"), ("catch_up", "all"), ("catch_up_limit", "1000")];
    let ids: Vec<String> = (0..SCHEDULES).map(|n| schedule(&fleet, &format!("every second {n}"), &fields)).collect();
    let until = seconds(&fleet, ids.last().unwrap(), "created_at") + SECONDS;
    let mut kills = 0;
    let mut next = Instant::now() + KILLS;
    while chrono::Utc::now().timestamp() < until {
        if Instant::now() >= next {
            crew.signal(kills % 2, Signal::SIGKILL);
            kills += 1;
            next = Instant::now() + KILLS;
        }
        thread::sleep(Duration::from_millis(50));
    }
    assert!(kills >= 6, "only {kills} kills");
    let late = format!("SELECT 1 FROM floh_worker.workflow_schedule WHERE ticked_until < to_timestamp({until})");
    wait_for("all ticks", Duration::from_secs(60), || fleet.sql(&late).is_empty().then_some(()));
    fleet.sql("UPDATE floh_worker.workflow_schedule SET enabled = false");
    ids.iter().for_each(|id| no_gap(&fleet, id, until));
    let count = |what: &str| -> i64 {
        let query = format!("SELECT count(*) FROM floh_worker.workflow_run r WHERE {what}");
        fleet.sql(&query)[0][0].as_deref().unwrap().parse().unwrap()
    };
    assert!(count("true") >= 1000, "{} runs", count("true"));
    // The kills have cut off runs, too: those go on when the locks of their jobs have passed on.
    wait_for("the ends of all runs", Duration::from_secs(120), || {
        (count("r.status <> 'completed'") == 0).then_some(())
    });
    let repeated = count("(SELECT count(*) FROM floh_worker.workflow_step s WHERE s.run_id = r.id) <> 2");
    assert_eq!(repeated, 0, "each run has visited each of its two steps once");
    crew.stop();
}
