//! Workers and schedules: what is changed in the table takes effect, and who else may start runs.

use super::{SOON, no_gap, schedule, schedulers, seconds, ticks, tiny, wait_scheduler};
use crate::support::{Fleet, runs::quote, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

/// Waits until a job has failed, and returns its reason.
fn failed(fleet: &mut Fleet, data: Value) -> String {
    let id = fleet.add(6, "trigger-workflow", data, json!({"attempts": 3}));
    let job = fleet.wait_state(6, &id, "failed", SOON);
    assert_eq!(job["attemptsMade"], 1, "{job:#}");
    job["failedReason"].as_str().unwrap().to_string()
}

#[test]
fn what_the_table_says_takes_effect_and_others_schedulers_are_left_alone() {
    let mut fleet = Fleet::start();
    tiny(&fleet);
    let template = json!({"name": "trigger-workflow", "data": {"definition": "tiny"}});
    let theirs = json!({"scheduler": "theirs", "repeat": {"pattern": "0 0 1 1 *"}, "template": template});
    fleet.call(6, "upsertScheduler", theirs);
    let workers = [fleet.worker("1", &[]), fleet.worker("2", &[])];
    let id = schedule(&fleet, "nightly", &[("cron", "30 2 * * *"), ("zone", "Europe/Berlin")]);
    wait_scheduler(&mut fleet, &id, Some(("30 2 * * *", "Europe/Berlin")));
    let iteration = fleet.call(6, "scheduler", json!({"scheduler": format!("{}{id}", super::PREFIX)}));
    let next = floh_worker::cron::Timetable::parse("30 2 * * *", "Europe/Berlin").unwrap();
    let next = next.next_after(chrono::Utc::now().timestamp_millis());
    assert_eq!((iteration["next"].as_i64(), &iteration["name"]), (next, &json!("trigger-workflow")));

    let change = |fleet: &Fleet, what: &str| {
        _ = fleet.sql(&format!("UPDATE floh_worker.workflow_schedule SET {what} WHERE id = '{id}'"))
    };
    change(&fleet, "cron = '0 4 * * *', zone = 'America/New_York'");
    wait_scheduler(&mut fleet, &id, Some(("0 4 * * *", "America/New_York")));
    change(&fleet, "enabled = false");
    wait_scheduler(&mut fleet, &id, None);
    change(&fleet, "enabled = true");
    wait_scheduler(&mut fleet, &id, Some(("0 4 * * *", "America/New_York")));
    // What cannot be read is said once by each worker, and the others go on.
    change(&fleet, "cron = 'every day'");
    wait_scheduler(&mut fleet, &id, None);
    let bad_zone = schedule(&fleet, "lost", &[("cron", "0 4 * * *"), ("zone", "Mars/Base")]);
    let elsewhere = schedule(&fleet, "elsewhere", &[("cron", "0 4 * * *"), ("queue", "bull:other")]);
    let good = schedule(&fleet, "good", &[("cron", "0 4 * * *")]);
    wait_scheduler(&mut fleet, &good, Some(("0 4 * * *", "UTC")));
    for worker in &workers {
        worker.wait_log(
            "the schedule lost starts nothing until it is mended: the zone `Mars/Base` is not in the IANA database",
        );
        // In one look at both either may come first.
        worker.wait_log("the schedule nightly starts nothing until it is mended");
        assert_eq!(worker.log().matches("the schedule nightly starts nothing until it is mended").count(), 1);
    }
    let kept = schedulers(&mut fleet);
    assert!(!kept.contains_key(&bad_zone) && !kept.contains_key(&elsewhere), "{kept:?}");
    fleet.sql(&format!("DELETE FROM floh_worker.workflow_schedule WHERE id = '{good}'"));
    wait_scheduler(&mut fleet, &good, None);
    let ids: Vec<String> = fleet.redis("ZRANGE", &[&fleet.key("repeat"), &"0", &"-1"]);
    assert!(ids.contains(&"theirs".to_string()), "{ids:?}");
    assert!(ticks(&fleet).is_empty());
}

#[test]
fn a_job_from_npm_starts_a_run_and_a_bad_one_says_why_not() {
    let mut fleet = Fleet::start();
    let definition = tiny(&fleet);
    let _worker = fleet.worker("1", &[]);
    for (version, data) in [
        (6, json!({"definition": "tiny", "variables": {"a": [1, "x"]}, "submitter": {"id": "u-1"}})),
        (5, json!({"workflowId": definition, "variables": {"a": [1, "x"]}, "submitterId": "u-1"})),
    ] {
        let id = fleet.add(version, "trigger-workflow", data, json!({}));
        let job = fleet.wait_state(version, &id, "completed", SOON);
        let run = job["returnvalue"]["runId"].as_str().unwrap().to_string();
        let run = fleet.wait_run(&run, "completed", SOON);
        assert_eq!((&run.variables["a"], &run.variables["submitter"]["id"]), (&json!([1, "x"]), &json!("u-1")));
    }
    assert_eq!(failed(&mut fleet, json!({"definition": "large"})), "there is no workflow definition `large`");
    assert!(
        failed(&mut fleet, json!({"definition": "tiny", "variables": 7})).ends_with("its `variables` are no object")
    );
    assert!(failed(&mut fleet, json!({})).ends_with("its data has neither"));
    let nobody = "6f1c0d3a-0000-4000-8000-000000000000";
    assert!(failed(&mut fleet, json!({"scheduleId": nobody})).starts_with(&format!("there is no schedule {nobody};")));
    assert_eq!(fleet.sql("SELECT count(*) FROM floh_worker.workflow_run"), [[Some("2".to_string())]]);

    // A schedule's run on demand: once for each job, without a tick.
    let id = schedule(&fleet, "yearly", &[("cron", "0 0 1 1 *"), ("variables", "{\"b\": 2}")]);
    for _ in 0..2 {
        let job = fleet.add(6, "trigger-workflow", json!({"scheduleId": id}), json!({}));
        let job = fleet.wait_state(6, &job, "completed", SOON);
        let run = fleet.wait_run(job["returnvalue"]["runs"][0].as_str().unwrap(), "completed", SOON);
        assert_eq!(run.variables["b"], 2);
    }
    let query = format!("SELECT count(*), count(tick_at) FROM floh_worker.workflow_run WHERE schedule_id = '{id}'");
    assert_eq!(fleet.sql(&query), [[Some("2".to_string()), Some("0".to_string())]]);
}

#[test]
fn a_legacy_repeatable_of_npm_5_starts_a_run_at_each_of_its_times() {
    let mut fleet = Fleet::start();
    tiny(&fleet);
    let _workers = [fleet.worker("1", &[]), fleet.worker("2", &[])];
    let repeat = json!({"repeat": {"pattern": "* * * * * *", "tz": "Europe/Berlin"}});
    fleet.add(5, "trigger-workflow", json!({"definition": "tiny", "variables": {"n": 1}}), repeat);
    let runs = "SELECT id FROM floh_worker.workflow_run WHERE status = 'completed' AND variables ->> 'n' = '1'";
    wait_for("four runs", SOON, || (fleet.sql(runs).len() >= 4).then_some(()));
    // No more than there were seconds: one run for each job, one job for each second.
    let rows = fleet.sql("SELECT count(*) - 1 <= extract(epoch FROM max(created_at) - min(created_at)) + 1 FROM floh_worker.workflow_run");
    assert_eq!(rows, [[Some("t".to_string())]]);
}

#[test]
fn a_scheduler_of_npm_and_two_workers_start_one_run_for_each_tick() {
    let mut fleet = Fleet::start();
    tiny(&fleet);
    let _workers = [fleet.worker("1", &[]), fleet.worker("2", &[])];
    let id = schedule(&fleet, "often", &[("cron", "* * * * * *"), ("catch_up", "all")]);
    let template = json!({"name": "trigger-workflow", "data": {"scheduleId": id}});
    let theirs = json!({"scheduler": "theirs", "repeat": {"pattern": "* * * * * *"}, "template": template});
    fleet.call(6, "upsertScheduler", theirs);
    let until = seconds(&fleet, &id, "created_at") + 8;
    wait_for("eight ticks", SOON, || (seconds(&fleet, &id, "ticked_until") >= until).then_some(()));
    no_gap(&fleet, &id, until);
    // Both have fired: the one that came second found nothing to do.
    let skipped =
        "SELECT count(*) FROM floh_worker.job_execution WHERE value ->> 'skipped' = 'this tick was dealt with before'";
    wait_for("a second job of a tick", SOON, || (fleet.sql(skipped)[0][0].as_deref() != Some("0")).then_some(()));
    let runs = format!("SELECT 1 FROM floh_worker.workflow_run WHERE schedule_id = '{id}' AND status = 'completed'");
    wait_for("its runs", SOON, || (fleet.sql(&runs).len() >= 8).then_some(()));
}

#[test]
fn runs_of_a_queueing_schedule_follow_each_other_and_those_of_a_skipping_one_leave_ticks_out() {
    let fleet = Fleet::start();
    let wait = json!({"id": "wait", "type": "connector", "config": {
        "connectorId": "delay", "command": "wait", "params": {"duration": 1.6}}});
    let mut slow = crate::support::runs::chain("tiny", vec![wait]);
    slow["name"] = json!("tiny");
    fleet.define(&slow);
    let _workers = [fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]), fleet.worker("2", &[])];
    let queue = schedule(&fleet, "queue", &[("cron", "* * * * * *"), ("overlap", "queue"), ("catch_up", "all")]);
    let skip = schedule(&fleet, "skip", &[("cron", "* * * * * *"), ("overlap", "skip"), ("catch_up", "all")]);
    let until = seconds(&fleet, &queue, "created_at") + 6;
    let ticked = |id: &str| seconds(&fleet, id, "ticked_until") >= until;
    wait_for("six ticks", SOON, || (ticked(&queue) && ticked(&skip)).then_some(()));
    fleet.sql("UPDATE floh_worker.workflow_schedule SET enabled = false");
    let open = "SELECT 1 FROM floh_worker.workflow_run WHERE status IN ('pending', 'running', 'waiting')";
    wait_for("the ends of all runs", Duration::from_secs(50), || fleet.sql(open).is_empty().then_some(()));
    no_gap(&fleet, &queue, until);
    // One began after the other had ended.
    for id in [&queue, &skip] {
        let overlaps = format!(
            "SELECT 1 FROM floh_worker.workflow_run a JOIN floh_worker.workflow_run b ON a.schedule_id = b.schedule_id
                AND a.tick_at < b.tick_at AND b.started_at < a.finished_at WHERE a.schedule_id = {}",
            quote(id)
        );
        assert!(fleet.sql(&overlaps).is_empty());
    }
    let outcomes =
        format!("SELECT DISTINCT outcome FROM floh_worker.schedule_tick WHERE schedule_id = '{skip}' ORDER BY 1");
    assert_eq!(fleet.sql(&outcomes), [[Some("skipped".to_string())], [Some("started".to_string())]]);
}
