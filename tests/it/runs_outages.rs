//! Runs through outages: a Redis that was emptied while they wait, a PostgreSQL that restarts while a call is out, a clock of
//! the worker that is wrong.

use crate::support::{Fleet, http::HttpServer, runs::chain, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const LIMIT: Duration = Duration::from_secs(90);
/// Wake-ups that Redis has lost are back within a minute.
const MINUTE: Duration = Duration::from_secs(60);

fn delay(id: &str, seconds: f64) -> Value {
    json!({"id": id, "type": "connector",
        "config": {"connectorId": "delay", "command": "wait", "params": {"duration": seconds}}})
}

/// A call of another system.
pub fn call(id: &str, url: String) -> Value {
    json!({"id": id, "type": "connector", "config": {
        "connectorId": "http", "command": "request", "params": {"method": "POST", "url": url, "body": {}, "timeout": 30}}})
}

#[test]
fn a_redis_that_was_emptied_gets_every_wake_up_back() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "4")]);
    let short = fleet.define(&chain("short", vec![delay("wait", 20.0)]));
    let long = fleet.define(&chain("long", vec![delay("wait", 3600.0)]));
    let runs: Vec<String> = (0..10).map(|_| fleet.start_run(&short, &json!({}))).collect();
    let sleeping = fleet.start_run(&long, &json!({}));
    for run in runs.iter().chain([&sleeping]) {
        fleet.wait_at(run, "wait", LIMIT);
    }
    fleet.redis::<()>("FLUSHALL", &[]);
    let emptied = Instant::now();
    // Also the one that is not due for an hour.
    let key = fleet.key("delayed");
    wait_for("the wake-up of the sleeping run", MINUTE, || {
        let delayed: Vec<String> = fleet.redis("ZRANGE", &[&key, &"0", &"-1"]);
        delayed.iter().any(|id| id.contains(&sleeping)).then_some(())
    });
    for run in &runs {
        fleet.wait_run(run, "completed", LIMIT);
        assert_eq!(fleet.steps(run).len(), 3, "nothing was repeated");
    }
    println!("all back {:?} after Redis was emptied", emptied.elapsed());
    // A decision reaches a waiting run at once, whatever its wait was.
    fleet.sql(&format!(
        "UPDATE floh_worker.workflow_run SET cancel_requested_at = now(), cancel_reason = 'enough' WHERE id = '{sleeping}'"
    ));
    fleet.wait_run(&sleeping, "cancelled", LIMIT);
    worker.stop();
}

#[test]
fn a_call_that_came_back_while_postgresql_restarted_is_not_made_again() {
    let mut fleet = Fleet::start();
    let http = HttpServer::start();
    let mut worker = fleet.worker("1", &[("CONNECTOR_ALLOWED_HOSTS", "localhost")]);
    // Prepared before, so that the call is the only thing that takes time.
    let definition =
        fleet.define(&chain("calls", vec![call("one", http.url("/effects")), call("two", http.url("/late/3000"))]));
    let run = fleet.start_run(&definition, &json!({}));
    wait_for("the second call", LIMIT, || (http.calls() >= 2).then_some(()));
    fleet.postgres.down(Signal::SIGINT);
    // The answer comes while it is away.
    std::thread::sleep(Duration::from_secs(4));
    fleet.postgres.up();
    fleet.wait_run(&run, "completed", LIMIT);
    assert_eq!(http.calls(), 2, "{:#}", http.seen());
    worker.stop();
}

/// The time in which nobody worked on a step is not the step's.
#[test]
fn a_step_whose_worker_was_killed_has_its_whole_time_again() {
    let fleet = Fleet::start();
    let http = HttpServer::start();
    let settings = [("CONNECTOR_ALLOWED_HOSTS", "localhost")];
    let mut first = fleet.worker("1", &settings);
    let mut slow = call("slow", http.url("/late/1500"));
    slow["timeout"] = json!("4s");
    let run = fleet.start_run(&fleet.define(&chain("slow", vec![slow])), &json!({}));
    wait_for("the call", LIMIT, || (http.calls() == 1).then_some(()));
    first.kill();
    let over = format!(
        "SELECT now() > started_at + interval '4 s' FROM floh_worker.workflow_step WHERE run_id = '{run}' AND step_id = 'slow'"
    );
    wait_for("the step's time to be over", LIMIT, || (fleet.sql(&over)[0][0].as_deref() == Some("t")).then_some(()));
    let mut second = fleet.worker("1", &settings);
    fleet.wait_run(&run, "completed", LIMIT);
    assert_eq!(fleet.steps(&run)[1].outcome.as_deref(), Some("success"), "{:#?}", fleet.steps(&run));
    assert_eq!(http.calls(), 2, "{:#}", http.seen());
    second.stop();
}

/// Redis loses everything together with the worker that had the run's job: the job comes again, and the run goes on.
#[test]
fn a_run_goes_on_whose_worker_was_killed_when_redis_was_emptied() {
    let mut fleet = Fleet::start();
    let http = HttpServer::start();
    let settings = [("CONNECTOR_ALLOWED_HOSTS", "localhost")];
    let mut first = fleet.worker("1", &settings);
    let definition =
        fleet.define(&chain("calls", vec![call("one", http.url("/effects")), call("two", http.url("/late/3000"))]));
    let run = fleet.start_run(&definition, &json!({}));
    wait_for("the second call", LIMIT, || (http.calls() >= 2).then_some(()));
    first.kill();
    fleet.redis::<()>("FLUSHALL", &[]);
    let mut second = fleet.worker("2", &settings);
    fleet.wait_run(&run, "completed", LIMIT);
    let steps = fleet.steps(&run);
    assert_eq!(steps.len(), 4, "{steps:#?}");
    // Only the call that was out is made again, with its key.
    assert_eq!(http.calls(), 3, "{:#}", http.seen());
    assert_eq!(http.effects().as_object().unwrap().len(), 2, "{:#}", http.seen());
    second.stop();
}

#[test]
fn a_run_is_not_locked_while_a_call_is_out_and_cancelled_at_the_next_boundary() {
    let fleet = Fleet::start();
    let http = HttpServer::start();
    let mut worker = fleet.worker("1", &[("CONNECTOR_ALLOWED_HOSTS", "localhost")]);
    let definition =
        fleet.define(&chain("calls", vec![call("one", http.url("/late/2000")), call("two", http.url("/effects"))]));
    let run = fleet.start_run(&definition, &json!({}));
    wait_for("the call", LIMIT, || (http.calls() == 1).then_some(()));
    // Refused at once where somebody holds it.
    let sql = format!("SELECT status FROM floh_worker.workflow_run WHERE id = '{run}' FOR UPDATE NOWAIT");
    assert_eq!(fleet.sql(&sql)[0][0].as_deref(), Some("running"));
    fleet.sql(&format!(
        "UPDATE floh_worker.workflow_run SET cancel_requested_at = now(), cancel_reason = 'enough' WHERE id = '{run}'"
    ));
    assert_eq!(fleet.wait_run(&run, "cancelled", LIMIT).reason.as_deref(), Some("enough"));
    // The step that was under way is done, and the next one has not begun.
    let steps = fleet.steps(&run);
    let one = steps.iter().find(|step| step.id == "one").unwrap();
    assert_eq!((one.status.as_str(), one.outcome.as_deref()), ("completed", Some("success")));
    assert_eq!(http.calls(), 1, "{:#}", http.seen());
    assert_eq!(steps.last().map(|step| (step.id.as_str(), step.status.as_str())), Some(("two", "cancelled")));
    worker.stop();
}

#[test]
fn a_run_that_somebody_holds_locked_stands_in_nobody_s_way() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "1")]);
    let definition = fleet.define(&chain("short", vec![delay("wait", 1.0)]));
    let run = fleet.start_run(&definition, &json!({}));
    fleet.wait_at(&run, "wait", LIMIT);
    let runtime = Runtime::new().unwrap();
    let somebody = runtime.block_on(fleet.postgres.admin());
    let hold = format!("BEGIN; SELECT FROM floh_worker.workflow_run WHERE id = '{run}' FOR UPDATE");
    runtime.block_on(somebody.batch_execute(&hold)).unwrap();
    // PostgreSQL gives each wait for the lock 10 s.
    wait_for("the run to be put off", LIMIT, || {
        worker.log().contains("handed back, no attempt charged, again in ").then_some(())
    });
    let other = fleet.add(6, "test.echo", json!({}), json!({}));
    fleet.wait_state(6, &other, "completed", LIMIT);
    assert_eq!(fleet.run(&run).status, "waiting");
    runtime.block_on(somebody.batch_execute("COMMIT")).unwrap();
    fleet.wait_run(&run, "completed", LIMIT);
    worker.stop();
}

#[test]
fn two_wake_ups_at_once_and_a_decision_in_the_middle_of_a_step_run_nothing_twice() {
    let fleet = Fleet::start();
    let http = HttpServer::start();
    let settings = [("CONNECTOR_ALLOWED_HOSTS", "localhost"), ("WORKER_CONCURRENCY", "4")];
    let mut workers = [fleet.worker("1", &settings), fleet.worker("2", &settings)];
    let definition = fleet.define(&chain(
        "calls",
        vec![call("one", http.url("/late/300")), delay("wait", 0.5), call("two", http.url("/late/300"))],
    ));
    let runs: Vec<String> = (0..5).map(|_| fleet.start_run(&definition, &json!({}))).collect();
    // Woken again and again, under way or waiting.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        fleet.sql("SELECT floh_worker.wake_run(id) FROM floh_worker.workflow_run");
        std::thread::sleep(Duration::from_millis(20));
    }
    for run in &runs {
        fleet.wait_run(run, "completed", LIMIT);
        let steps = fleet.steps(run);
        assert_eq!(steps.len(), 5, "{steps:#?}");
        assert!(steps.iter().all(|step| (step.visit, step.attempt) == (1, 1)), "{steps:#?}");
    }
    assert_eq!(http.calls(), 10, "{:#}", http.seen());
    for worker in &mut workers {
        worker.stop();
    }
}
