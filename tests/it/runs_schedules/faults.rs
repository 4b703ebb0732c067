//! Schedules and what goes wrong: Redis is emptied, no worker runs, the first attempt fails, a chain breaks.

use super::{MINUTE, PREFIX, SOON, no_gap, schedule, seconds, ticks, tiny, wait_scheduler};
use crate::support::{Fleet, wait_for};
use std::{thread, time::Duration};

const OFTEN: [(&str, &str); 3] = [("cron", "* * * * * *"), ("catch_up", "all"), ("catch_up_limit", "1000")];

/// Waits until all ticks are dealt with up to some seconds from now; returns when that is.
fn go_on(fleet: &Fleet, id: &str, more: i64, limit: Duration) -> i64 {
    let until = chrono::Utc::now().timestamp() + more;
    wait_for("later ticks", limit, || (seconds(fleet, id, "ticked_until") >= until).then_some(()));
    until
}

#[test]
fn after_redis_was_emptied_no_tick_is_missing_within_a_minute() {
    let mut fleet = Fleet::start();
    tiny(&fleet);
    let _workers = [fleet.worker("1", &[]), fleet.worker("2", &[])];
    let often = schedule(&fleet, "often", &OFTEN);
    let hourly = schedule(&fleet, "hourly", &[("cron", "0 * * * *")]);
    go_on(&fleet, &often, 2, SOON);
    wait_scheduler(&mut fleet, &hourly, Some(("0 * * * *", "UTC")));
    fleet.redis::<String>("FLUSHALL", &[]);
    let until = go_on(&fleet, &often, 1, MINUTE);
    no_gap(&fleet, &often, until);
    wait_scheduler(&mut fleet, &hourly, Some(("0 * * * *", "UTC")));
    assert!(!ticks(&fleet).contains_key(&hourly), "a schedule that missed nothing makes up for nothing");
    // And again, while the chains are lost but not the jobs.
    let repeat = fleet.key("repeat");
    fleet.redis::<i64>("DEL", &[&repeat]);
    let until = go_on(&fleet, &often, 1, MINUTE);
    no_gap(&fleet, &often, until);
}

#[test]
fn what_came_due_while_no_worker_ran_follows_the_policy() {
    let fleet = Fleet::start();
    tiny(&fleet);
    let mut worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]);
    let all = schedule(&fleet, "all", &OFTEN);
    let two = schedule(&fleet, "two", &[("cron", "* * * * * *"), ("catch_up", "all"), ("catch_up_limit", "2")]);
    let one = schedule(&fleet, "one", &[("cron", "*/3 * * * * *"), ("catch_up", "one")]);
    let skip = schedule(&fleet, "skip", &[("cron", "*/3 * * * * *"), ("catch_up", "skip")]);
    for id in [&all, &two, &one, &skip] {
        go_on(&fleet, id, 1, SOON);
    }
    worker.stop();
    let stopped = chrono::Utc::now().timestamp();
    thread::sleep(Duration::from_secs(10));
    let worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]);
    let until = go_on(&fleet, &all, 4, MINUTE);
    for id in [&two, &one, &skip] {
        go_on(&fleet, id, 0, MINUTE);
    }
    no_gap(&fleet, &all, until);
    let ticks = ticks(&fleet);
    // Of the seconds in which nobody ran, and one after the start.
    let within = |id: &str| ticks[id].range(stopped + 1..=stopped + 9).count();
    assert!(within(&two) <= 3, "{:?}", ticks[&two]);
    assert!(within(&one) <= 1, "{:?}", ticks[&one]);
    assert_eq!(within(&skip), 0, "{:?}", ticks[&skip]);
    worker.wait_log("missed, and run now: what schedule all should have started at ");
    worker.wait_log("were missed and are not made up for (catch-up: skip)");
}

#[test]
fn a_first_attempt_that_fails_loses_neither_its_tick_nor_those_that_were_missed() {
    let fleet = Fleet::start();
    tiny(&fleet);
    let _workers = [fleet.worker("1", &[]), fleet.worker("2", &[])];
    let id = schedule(&fleet, "often", &OFTEN);
    go_on(&fleet, &id, 1, SOON);
    fleet.sql("ALTER TABLE floh_worker.schedule_tick ADD CONSTRAINT full_up CHECK (run_id IS NULL) NOT VALID");
    let retried = "SELECT 1 FROM floh_worker.job_execution WHERE state = 'retried' AND name = 'trigger-workflow'";
    wait_for("failures", SOON, || (fleet.sql(retried).len() >= 3).then_some(()));
    fleet.sql("ALTER TABLE floh_worker.schedule_tick DROP CONSTRAINT full_up");
    let until = go_on(&fleet, &id, 6, MINUTE);
    no_gap(&fleet, &id, until);
}

#[test]
fn a_tick_whose_chain_broke_before_it_was_fired_is_found_within_a_minute() {
    let mut fleet = Fleet::start();
    tiny(&fleet);
    let id = schedule(&fleet, "often", &[("cron", "*/5 * * * * *"), ("catch_up", "all")]);
    let _worker = fleet.worker("1", &[]);
    let delayed = fleet.key("delayed");
    let prefix = format!("repeat:{PREFIX}{id}:");
    let lost = wait_for("an iteration that waits for its time", SOON, || {
        let ids: Vec<String> = fleet.redis("ZRANGE", &[&delayed, &"0", &"-1"]);
        let iteration = ids.into_iter().find(|id| id.starts_with(&prefix))?;
        let removed = fleet.redis::<i64>("ZREM", &[&delayed, &iteration]) == 1;
        fleet.redis::<i64>("DEL", &[&fleet.key(&iteration)]);
        removed.then(|| iteration.rsplit(':').next().unwrap().parse::<i64>().unwrap() / 1000)
    });
    wait_for("its run", MINUTE, || {
        ticks(&fleet).get(&id).is_some_and(|ticks| ticks.get(&lost) == Some(&1)).then_some(())
    });
}

#[test]
fn a_schedule_whose_ticks_cannot_be_fired_holds_up_no_other_one() {
    let fleet = Fleet::start();
    let definition = tiny(&fleet);
    // They are looked at in the order of their ids; each has missed a tick, and none has a job.
    let missed = |name: &str, id: &'static str| {
        schedule(&fleet, name, &[("id", id), ("cron", "0 0 1 1 *"), ("ticked_until", "2020-06-01T00:00:00Z")])
    };
    let bad = missed("bad", "00000000-0000-4000-8000-000000000000");
    let good = missed("good", "ffffffff-0000-4000-8000-000000000000");
    fleet.sql(&format!(
        "CREATE FUNCTION floh_worker.refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'there is no room for this run'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON floh_worker.workflow_run
            FOR EACH ROW WHEN (NEW.schedule_id = '{bad}') EXECUTE FUNCTION floh_worker.refuse()"
    ));
    let stranded = fleet.sql(&format!(
        "INSERT INTO floh_worker.workflow_run (definition_id, schedule_id, held_back)
            VALUES ('{definition}', gen_random_uuid(), true) RETURNING id"
    ));
    let worker = fleet.worker("1", &[]);
    worker.wait_log("what schedule bad missed could not be dealt with: ");
    wait_for("the run of the other", SOON, || ticks(&fleet).contains_key(&good).then_some(()));
    fleet.wait_run(stranded[0][0].as_deref().unwrap(), "completed", SOON);
    assert!(!ticks(&fleet).contains_key(&bad));
}
