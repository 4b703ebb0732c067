//! A worker that stops in the middle of a long run hands it back between two steps; another one goes on.

use crate::{
    runs_outages::call,
    support::{Fleet, http::HttpServer, runs::chain, wait_for},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const STEPS: usize = 60;

/// A step that takes a while.
fn slow(number: usize) -> Value {
    let id = format!("s{number}");
    let code = format!("const end = Date.now() + 60; while (Date.now() < end) {{}} return {{{id}: {number}}}");
    json!({"id": id, "type": "transform", "config": {"code": code, "outputs": [id]}})
}

#[test]
fn a_run_is_handed_back_at_the_boundary_of_a_step_and_continued_at_once() {
    let mut fleet = Fleet::start();
    let http = HttpServer::start();
    let mut workers = ["1", "2"].map(|instance| fleet.worker(instance, &[("CONNECTOR_ALLOWED_HOSTS", "localhost")]));
    // Of each three one is heard by somebody, who would notice a repetition that the rows do not show.
    let step = |number: usize| match number % 3 {
        0 => call(&format!("c{number}"), http.url("/late/60")),
        _ => slow(number),
    };
    let definition = fleet.define(&chain("long", (0..STEPS).map(step).collect()));
    let run = fleet.start_run(&definition, &json!({}));
    let holder = || {
        let sql = format!(
            "SELECT j.instance, j.job_id FROM floh_worker.workflow_run r
                JOIN floh_worker.job_execution j ON j.id = r.lease_execution AND j.epoch = r.lease_epoch
                WHERE r.id = '{run}' AND r.steps > 10"
        );
        let rows = fleet.sql(&sql);
        rows.first().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap()))
    };
    let (first, job) = wait_for("the middle of the run", LIMIT, holder);
    let index = if first == "1" { 0 } else { 1 };
    workers[index].signal(Signal::SIGTERM);
    let status = workers[index].wait_end(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{}", workers[index].log());
    let log = workers[index].log();
    assert!(log.contains("between two steps of the run"), "{log}");
    let row = fleet.wait_run(&run, "completed", LIMIT);

    let steps = fleet.steps(&run);
    assert_eq!(steps.len(), STEPS + 2);
    assert!(
        steps.iter().all(|step| (step.visit, step.attempt, step.status.as_str()) == (1, 1, "completed")),
        "{steps:#?}"
    );
    assert!((0..STEPS).all(|number| number % 3 == 0 || row.variables[format!("s{number}")] == json!(number)));
    assert_eq!(http.calls(), STEPS / 3, "{:#}", http.seen());
    // By another worker, within a second, and nothing was charged.
    let starts = fleet.starts(&job);
    let given_back: Vec<u64> = fleet
        .stream()
        .iter()
        .filter(|event| event.name == "waiting" && event.job.as_deref() == Some(job.as_str()))
        .map(|event| event.at)
        .collect();
    assert_eq!(starts.len(), 2, "{starts:?}");
    let pause = starts[1] - given_back.last().copied().unwrap();
    assert!(pause <= 1000, "it went on only after {pause} ms");
    let sql = format!("SELECT attempts_made, instance FROM floh_worker.job_execution WHERE job_id = '{job}'");
    let rows = fleet.sql(&sql);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0][0].as_deref(), Some("0"));
    assert_ne!(rows[0][1].as_deref(), Some(first.as_str()));
    workers[1 - index].stop();
}

#[test]
fn a_job_with_half_of_its_time_gone_hands_its_run_on() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[("JOB_TIMEOUTS", "resume-run=2")]);
    let definition = fleet.define(&chain("long", (0..STEPS).map(slow).collect()));
    let run = fleet.start_run(&definition, &json!({}));
    fleet.wait_run(&run, "completed", LIMIT);
    let steps = fleet.steps(&run);
    assert!(steps.iter().all(|step| (step.visit, step.attempt) == (1, 1)), "{steps:#?}");
    let sql =
        format!("SELECT count(*) FROM floh_worker.job_outbox WHERE data ->> 'runId' = '{run}' AND ended = 'completed'");
    let jobs = wait_for("the last job's end", LIMIT, || {
        let count: u32 = fleet.sql(&sql)[0][0].as_deref()?.parse().ok()?;
        (count >= 3).then_some(count)
    });
    assert!(jobs < 20, "{jobs} jobs for {STEPS} steps");
    worker.stop();
}
