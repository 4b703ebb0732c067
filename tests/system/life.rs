//! Scaling, stopping, and being watched.

use crate::{
    floh::{Jobs, configure, journal, message, ready_machine, sql, start, suspicions},
    machine::Machine,
    support::wait_for,
};
use floh_worker::events;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(15);

#[test]
fn four_workers_are_active_with_a_status_sentence_and_share_the_jobs() {
    let machine = ready_machine();
    start(&machine, "{1..4}");
    for instance in 1..=4 {
        let unit = format!("floh-worker@{instance}");
        assert_eq!(machine.show(&unit, "ActiveState"), "active");
        let status = machine.show(&unit, "StatusText");
        assert!(status.starts_with("idle, 0 done, 0 failed"), "{unit}: {status}");
    }
    let mut jobs = Jobs::of(&machine);
    let ids: Vec<String> = (0..40).map(|_| jobs.sleep(250)).collect();
    wait_for("all jobs are completed", SOON, || (jobs.count("completed") == 40).then_some(()));
    let mut units = BTreeSet::new();
    for id in &ids {
        let entries = journal(&machine, &format!("FLOH_JOB_ID={id}"));
        assert!(!entries.is_empty(), "nothing in the journal has FLOH_JOB_ID={id}");
        let of_job: BTreeSet<&str> = entries.iter().map(|entry| entry["_SYSTEMD_UNIT"].as_str().unwrap()).collect();
        assert_eq!(of_job.len(), 1, "job {id} was touched by {of_job:?}");
        for entry in &entries {
            assert_eq!(entry["FLOH_JOB_NAME"], "test.sleep", "{entry}");
            assert_eq!(
                format!("floh-worker@{}.service", entry["FLOH_INSTANCE"].as_str().unwrap()),
                entry["_SYSTEMD_UNIT"]
            );
        }
        units.extend(of_job.into_iter().map(ToString::to_string));
    }
    assert_eq!(units.len(), 4, "the jobs ran on {units:?}");
    wait_for("the status sentences add up", SOON, || {
        let done = (1..=4).map(|i| {
            let status = machine.show(&format!("floh-worker@{i}"), "StatusText");
            let number = status.strip_prefix("idle, ").and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
            number.unwrap_or(0)
        });
        (done.sum::<u32>() == 40).then_some(())
    });
}

#[test]
fn a_stop_waits_for_a_job_that_ends_in_time() {
    let machine = ready_machine();
    start(&machine, "1");
    let mut jobs = Jobs::of(&machine);
    let id = jobs.sleep(10_000);
    jobs.wait_until(&id, "active", SOON);
    let took = machine.timed("systemctl stop floh-worker@1");
    assert!(took > Duration::from_secs(7) && took < Duration::from_secs(14), "the stop took {took:?}");
    assert_eq!(machine.show("floh-worker@1", "Result"), "success");
    assert_eq!(jobs.state(&id), "completed");
    assert_eq!(jobs.look(&id)["attemptsMade"], 1);
}

#[test]
fn what_cannot_end_in_time_is_handed_back_and_another_worker_has_it_within_a_second() {
    let machine = ready_machine();
    start(&machine, "1");
    let mut jobs = Jobs::of(&machine);
    let id = jobs.sleep(60_000);
    jobs.wait_until(&id, "active", SOON);
    start(&machine, "2");
    let took = machine.timed("systemctl stop floh-worker@1");
    assert!(took > Duration::from_secs(28) && took < Duration::from_secs(35), "the stop took {took:?}");
    assert_eq!(machine.show("floh-worker@1", "Result"), "success");
    assert_eq!(machine.show("floh-worker@1", "ExecMainStatus"), "0");
    let job = jobs.look(&id);
    assert_eq!((&job["state"], &job["attemptsMade"]), (&"active".into(), &0.into()), "{job}");
    let given_back =
        journal(&machine, &format!("FLOH_JOB_ID={id} FLOH_INSTANCE=1")).pop().expect("a line about the job");
    let given_back: u64 = given_back["__REALTIME_TIMESTAMP"].as_str().unwrap().parse().unwrap();
    let taken = Duration::from_millis(job["processedOn"].as_u64().unwrap());
    let gap = taken.saturating_sub(Duration::from_micros(given_back));
    assert!(taken.as_secs() + 20 > given_back / 1_000_000, "the second worker did not take it at all: {job}");
    assert!(gap < Duration::from_secs(1), "the second worker took the job {gap:?} after the first gave it back");
}

#[test]
fn three_stops_in_a_row_leave_the_job_waiting_with_its_attempts_as_before() {
    let machine = ready_machine();
    configure(&machine, "SHUTDOWN_TIMEOUT_SECONDS=2");
    let mut jobs = Jobs::of(&machine);
    let id = jobs.sleep(60_000);
    for round in 1..=3 {
        start(&machine, "1");
        jobs.wait_until(&id, "active", SOON);
        let took = machine.timed("systemctl stop floh-worker@1");
        assert!(took < Duration::from_secs(7), "stop {round} took {took:?}");
        assert_eq!(machine.show("floh-worker@1", "Result"), "success");
        let job = jobs.look(&id);
        assert_eq!(job["state"], "waiting", "after stop {round}: {job}");
        assert_eq!(job["attemptsMade"], 0, "after stop {round}: {job}");
        assert_eq!(job["stalledCounter"], 0, "after stop {round}: {job}");
    }
}

#[test]
fn stopping_the_target_waits_for_every_worker() {
    let machine = ready_machine();
    machine.ok("systemctl enable --now floh-worker@{1..2}");
    start(&machine, "hand");
    let mut jobs = Jobs::of(&machine);
    let ids: Vec<String> = (0..3).map(|_| jobs.sleep(6_000)).collect();
    for id in &ids {
        jobs.wait_until(id, "active", SOON);
    }
    let took = machine.timed("systemctl stop floh-worker.target");
    assert!(took > Duration::from_secs(3), "the stop of the target took only {took:?}");
    assert_eq!(machine.fails("pgrep -x floh-worker").0, 1, "no worker is left when the stop returns");
    for id in &ids {
        assert_eq!(jobs.state(id), "completed");
    }
    machine.ok("systemctl start floh-worker.target");
    wait_for("the enabled instances come back with the target", SOON, || {
        let up = (1..=2).all(|i| machine.show(&format!("floh-worker@{i}"), "ActiveState") == "active");
        up.then_some(())
    });
    assert_eq!(machine.show("floh-worker@hand", "ActiveState"), "inactive");
}

#[test]
fn a_hung_worker_is_ended_by_the_watchdog_and_started_again() {
    let machine = ready_machine();
    start(&machine, "1");
    let mut jobs = Jobs::of(&machine);
    let id = jobs.sleep(10_000);
    wait_runs(&machine, &id, 1);
    let pid = machine.show("floh-worker@1", "MainPID");
    let start = Instant::now();
    machine.ok(&format!("kill -STOP {pid}"));
    let again = wait_for("the worker is back", Duration::from_secs(60), || {
        let now = machine.show("floh-worker@1", "MainPID");
        (now != pid && machine.show("floh-worker@1", "ActiveState") == "active").then_some(now)
    });
    assert!(start.elapsed() > Duration::from_secs(14), "ended after {:?} only", start.elapsed());
    assert_ne!(again, "0");
    assert_eq!(machine.show("floh-worker@1", "NRestarts"), "1");
    let told = journal(&machine, "_PID=1 UNIT=floh-worker@1.service");
    assert!(told.iter().any(|entry| message(entry).contains("Watchdog timeout")), "{told:?}");
    jobs.wait_until(&id, "completed", Duration::from_secs(60));
    let charged = suspicions(&machine);
    assert!(charged.lines().count() == 1 && charged.starts_with(&format!("{id}|1|watchdog (")), "{charged}");
}

/// Waits until a job runs for the `time`-th time, as the ledger sees it.
fn wait_runs(machine: &Machine, id: &str, time: u32) {
    let query = format!(
        "SELECT count(*) FROM job_execution
            WHERE job_id = '{id}' AND state = 'taken' AND attempts_started = {time}"
    );
    wait_for(&format!("run {time} of job {id}"), Duration::from_secs(60), || {
        (sql(machine, &query).trim() == "1").then_some(())
    });
}

#[test]
fn a_job_whose_worker_is_killed_three_times_while_it_runs_is_quarantined() {
    let machine = ready_machine();
    start(&machine, "1");
    let mut jobs = Jobs::of(&machine);
    let id = jobs.sleep(600_000);
    for time in 1..=3 {
        wait_runs(&machine, &id, time);
        machine.ok("systemctl kill -s KILL floh-worker@1");
    }
    wait_for("the quarantine", Duration::from_secs(60), || (jobs.state(&id) == "failed").then_some(()));
    let reason = jobs.look(&id)["failedReason"].to_string();
    assert!(reason.contains("quarantined") && reason.contains("signal (KILL)"), "{reason}");
    assert_eq!(suspicions(&machine).trim(), vec![format!("{id}|1|signal (KILL)"); 3].join("\n"));
    let listed = machine.ok("flohctl job quarantine list");
    assert!(listed.contains(&format!("{id} test.sleep since")), "{listed}");
    let told = journal(&machine, &format!("MESSAGE_ID={} FLOH_JOB_ID={id}", events::JOB_SUSPECTED));
    assert_eq!(told.len(), 3, "{told:?}");
}

#[test]
fn a_killed_worker_is_started_again_and_its_job_runs_again_and_completes_once() {
    let machine = ready_machine();
    configure(&machine, "LOG_LEVEL=debug");
    start(&machine, "1");
    let mut jobs = Jobs::of(&machine);
    let id = jobs.sleep(5_000);
    wait_runs(&machine, &id, 1);
    let pid = machine.show("floh-worker@1", "MainPID");
    machine.ok("systemctl kill -s KILL floh-worker@1");
    wait_for("systemd starts the worker again", SOON, || {
        let now = machine.show("floh-worker@1", "MainPID");
        (now != pid && machine.show("floh-worker@1", "ActiveState") == "active").then_some(())
    });
    assert_eq!(machine.show("floh-worker@1", "NRestarts"), "1");
    let told = journal(&machine, "_PID=1 UNIT=floh-worker@1.service");
    assert!(told.iter().any(|entry| message(entry).contains("status=9/KILL")), "{told:?}");

    // The next life of the instance gives it back at once: it does not wait until its lock expires.
    jobs.wait_until(&id, "completed", Duration::from_secs(20));
    let entries = journal(&machine, &format!("FLOH_JOB_ID={id}"));
    let times = |event: &str| entries.iter().filter(|entry| entry["MESSAGE_ID"] == event).count();
    assert_eq!(times(events::JOB_STARTED), 2, "{entries:?}");
    assert_eq!(times(events::JOB_COMPLETED), 1, "{entries:?}");
    assert_eq!((jobs.count("completed"), jobs.count("failed"), jobs.count("waiting")), (1, 0, 0));
    assert_eq!(jobs.look(&id)["attemptsMade"], 1, "the killed run was charged as an attempt");
    assert_eq!(suspicions(&machine).trim(), format!("{id}|1|signal (KILL)"));
    assert_eq!(machine.show("floh-worker@1", "NRestarts"), "1");
}

#[test]
fn a_worker_that_ends_on_purpose_is_started_anew_and_has_not_failed() {
    let machine = ready_machine();
    configure(&machine, "JOB_TIMEOUTS=test.hang=1");
    start(&machine, "1");
    let pid = machine.show("floh-worker@1", "MainPID");
    let mut jobs = Jobs::of(&machine);
    let hangs: Vec<String> = (0..3).map(|_| jobs.add("test.hang", 600_000, 1)).collect();
    wait_for("the worker is back", Duration::from_secs(60), || {
        let now = machine.show("floh-worker@1", "MainPID");
        (now != pid && now != "0" && machine.show("floh-worker@1", "ActiveState") == "active").then_some(())
    });
    assert_eq!(machine.show("floh-worker@1", "NRestarts"), "1");
    let told = journal(&machine, "_PID=1 UNIT=floh-worker@1.service");
    assert!(!told.iter().any(|entry| message(entry).contains("Failed with result")), "{told:?}");
    for id in hangs {
        assert_eq!(jobs.state(&id), "failed");
    }
    let id = jobs.sleep(10);
    jobs.wait_until(&id, "completed", SOON);
    // A stop by hand is one, although the next life could be forced.
    machine.ok("systemctl stop floh-worker@1");
    assert_eq!(machine.show("floh-worker@1", "ActiveState"), "inactive");
}
