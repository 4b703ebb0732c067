//! A running job is cancelled from elsewhere, by a statement in the database.

use crate::support::{
    child,
    fleet::Fleet,
    wait_for,
    worker::{Worker, binary},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SOON: Duration = Duration::from_secs(15);

/// Milliseconds, by the clock that Redis has too.
fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// How long after `asked` the job ended.
fn later(job: &Value, asked: u64) -> Duration {
    Duration::from_millis(job["finishedOn"].as_u64().unwrap().saturating_sub(asked))
}

/// Something takes less than a second, by the best of three: on a machine that others use, one of them may be held up.
fn assert_prompt(mut once: impl FnMut() -> Duration, log: impl Fn() -> String) {
    let mut taken = Vec::new();
    while taken.len() < 3 {
        taken.push(once());
        if taken.last().is_some_and(|last| *last < Duration::from_secs(1)) {
            return;
        }
    }
    panic!("{taken:?}\n{}", log());
}

/// The worker hears notices from now on.
fn wait_listening(fleet: &Fleet) {
    let sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND state = 'idle'";
    wait_for("a session that listens", SOON, || (!fleet.sql(sql).is_empty()).then_some(()));
}

/// What an operator's tool does; returns the instances that were asked.
fn cancel(fleet: &Fleet, id: &str, reason: &str) -> Vec<String> {
    let sql = format!(
        "SELECT floh_worker.cancel_job(queue, job_id, '{reason}')
            FROM (SELECT DISTINCT queue, job_id FROM floh_worker.job_execution WHERE job_id = '{id}') j"
    );
    fleet.sql(&sql).into_iter().flatten().flatten().collect()
}

fn wait_taken(fleet: &Fleet, id: &str) {
    let sql = format!("SELECT 1 FROM floh_worker.job_execution WHERE job_id = '{id}' AND state = 'taken'");
    wait_for("the job to be taken", SOON, || (!fleet.sql(&sql).is_empty()).then_some(()));
}

#[test]
fn a_running_job_fails_within_a_second_of_the_request_and_is_not_tried_again() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "2")]);
    wait_listening(&fleet);
    let once = || {
        let neighbour = fleet.add(6, "test.sleep", json!({"ms": 5000}), json!({"attempts": 1}));
        let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({"attempts": 4}));
        wait_taken(&fleet, &id);
        assert_eq!(cancel(&fleet, &id, "not wanted any more"), ["1"]);
        let asked = now();
        let job = fleet.wait_state(6, &id, "failed", SOON);
        let reason = json!("cancelled: not wanted any more");
        assert_eq!((&job["failedReason"], &job["attemptsMade"]), (&reason, &json!(1)), "{job:#}");
        assert_eq!(cancel(&fleet, &id, "again"), [""; 0], "nobody runs it");
        fleet.wait_state(6, &neighbour, "completed", SOON);
        later(&job, asked)
    };
    assert_prompt(once, || worker.log());
}

#[test]
fn a_request_that_was_served_does_not_cancel_the_job_s_next_run() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    wait_listening(&fleet);
    // Longer than the pause between two looks at the requests.
    let id = fleet.add(6, "test.sleep", json!({"ms": 7000}), json!({"attempts": 1}));
    wait_taken(&fleet, &id);
    // The end of one job fetches the next one: a slot has no pause in between.
    let next = fleet.add(6, "test.sleep", json!({"ms": 1500}), json!({}));
    assert_eq!(cancel(&fleet, &id, "enough"), ["1"]);
    fleet.wait_state(6, &id, "failed", SOON);
    wait_taken(&fleet, &next);
    fleet.call(6, "retry", json!({"job": id}));
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(job["attemptsMade"], 2, "{job:#}\n{}", worker.log());
}

#[test]
fn a_handler_that_does_not_react_loses_its_thread_and_commits_nothing() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.effect", json!({"key": "never", "blockMs": 6000}), json!({"attempts": 4}));
    fleet.wait_in_transaction(SOON);
    cancel(&fleet, &id, "it hangs");
    let asked = now();
    let job = fleet.wait_state(6, &id, "failed", SOON);
    assert!(later(&job, asked) < Duration::from_secs(4), "{:?}\n{}", later(&job, asked), worker.log());
    assert_eq!(job["failedReason"], "cancelled: it hangs; it did not react", "{job:#}");
    let next = fleet.add(6, "test.echo", json!({}), json!({}));
    fleet.wait_state(6, &next, "completed", SOON);
    worker.wait_log("has come back");
    assert!(fleet.effects().is_empty(), "{:?}", fleet.effects());
}

#[test]
fn a_request_that_no_notice_announces_is_found_within_seconds() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({}));
    wait_taken(&fleet, &id);
    fleet.sql("UPDATE floh_worker.job_execution SET cancel_requested_at = now(), cancel_reason = 'silently'");
    let asked = now();
    let job = fleet.wait_state(6, &id, "failed", SOON);
    assert!(later(&job, asked) < Duration::from_secs(7), "{:?}\n{}", later(&job, asked), worker.log());
    assert_eq!(job["failedReason"], "cancelled: silently", "{job:#}");
}

#[test]
fn notices_are_heard_again_after_the_session_that_listens_was_ended() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let listening = "FROM pg_stat_activity WHERE query LIKE 'LISTEN %'";
    let pid = || fleet.sql(&format!("SELECT pid {listening}")).first().and_then(|row| row[0].clone());
    let first = wait_for("a session that listens", SOON, pid);
    fleet.sql(&format!("SELECT pg_terminate_backend(pid) {listening}"));
    wait_for("another one", SOON, || pid().filter(|pid| *pid != first));
    let once = || {
        let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({}));
        wait_taken(&fleet, &id);
        cancel(&fleet, &id, "heard");
        let asked = now();
        later(&fleet.wait_state(6, &id, "failed", SOON), asked)
    };
    assert_prompt(once, || worker.log());
}

/// `flohctl job cancel`; what it said, and its exit code.
fn flohctl_cancel(fleet: &Fleet, id: &str) -> (String, Option<i32>) {
    let done = fleet.flohctl(&["job", "cancel", id, "--reason", "not wanted"]);
    (format!("{}{}", done.stdout.trim(), done.stderr.trim()), done.status.code())
}

/// From now on what `flohctl` asks for is kept as it was at first: asking again, after a second, changes the time in the row.
fn keep_requests(fleet: &Fleet) {
    fleet.sql(
        "SET search_path = floh_worker;
        CREATE TABLE test_request AS TABLE job_cancel_request WITH NO DATA;
        CREATE FUNCTION test_keep() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
        BEGIN
            INSERT INTO test_request SELECT NEW.*;
            RETURN NULL;
        END $$;
        CREATE TRIGGER test_keep AFTER INSERT ON job_cancel_request FOR EACH ROW EXECUTE FUNCTION test_keep()",
    );
}

/// How long after the row by which `flohctl` asked for it the job ended. The servers have one clock.
fn after_the_row(fleet: &Fleet, job: &Value) -> Duration {
    let id = job["id"].as_str().unwrap();
    let sql = "SELECT floor(extract(epoch FROM min(requested_at)) * 1000)::bigint FROM floh_worker.test_request";
    let rows = fleet.sql(&format!("{sql} WHERE job_id = '{id}'"));
    let asked = rows[0][0].as_deref().expect("the job's worker was asked").parse().unwrap();
    assert!(job["finishedOn"].as_u64().unwrap() >= asked, "{job:#}\nended before {asked}");
    later(job, asked)
}

#[test]
fn flohctl_cancels_a_job_on_another_instance_and_only_its_latest_attempt() {
    let mut fleet = Fleet::start();
    let workers = ["one", "two"].map(|instance| fleet.worker(instance, &[]));
    keep_requests(&fleet);
    let once = || {
        // Its first attempt completes without a result in the ledger, where it looks as if it still ran.
        let id = fleet.add(6, "test.sleep", json!({"ms": 1}), json!({"attempts": 4}));
        fleet.wait_state(6, &id, "completed", SOON);
        fleet.call(6, "updateData", json!({"job": id, "data": {"ms": 60_000}}));
        fleet.call(6, "retry", json!({"job": id, "state": "completed"}));
        let sql = format!("SELECT instance FROM floh_worker.job_execution WHERE job_id = '{id}' ORDER BY epoch");
        let instances = wait_for("its second attempt", SOON, || Some(fleet.sql(&sql)).filter(|rows| rows.len() == 2));
        let instance = instances[1][0].clone().unwrap();
        let (said, code) = flohctl_cancel(&fleet, &id);
        assert_eq!((said, code), (format!("job {id} is cancelled on floh-worker@{instance}"), Some(0)));
        let job = fleet.wait_state(6, &id, "failed", SOON);
        assert_eq!(job["failedReason"], "cancelled: not wanted", "{job:#}");
        let asked = format!(
            "SELECT attempts_made, state FROM floh_worker.job_execution
                WHERE cancel_requested_at IS NOT NULL AND job_id = '{id}'"
        );
        assert_eq!(fleet.sql(&asked), [["1", "failed"].map(|text| Some(text.to_string()))]);
        let (said, code) = flohctl_cancel(&fleet, &id);
        assert_eq!((said, code), (format!("job {id} is not running: it has failed: cancelled: not wanted"), Some(1)));
        after_the_row(&fleet, &job)
    };
    assert_prompt(once, || workers.each_ref().map(Worker::log).concat());
}

#[test]
fn flohctl_says_why_a_job_is_not_cancelled() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let unknown = flohctl_cancel(&fleet, "nobody-knows-it");
    assert!(unknown.0.starts_with("there is no job nobody-knows-it in the queue bull:"), "{unknown:?}");
    assert_eq!(unknown.1, Some(1));
    let delayed = fleet.add(6, "test.echo", json!({}), json!({"delay": 600_000}));
    let (said, code) = flohctl_cancel(&fleet, &delayed);
    assert_eq!((said, code), (format!("job {delayed} is not running: it is waiting"), Some(1)));
    let done = fleet.add(6, "test.echo", json!({}), json!({}));
    fleet.wait_state(6, &done, "completed", SOON);
    let (said, code) = flohctl_cancel(&fleet, &done);
    assert_eq!((said, code), (format!("job {done} is not running: it has completed"), Some(1)));
}

#[test]
fn flohctl_does_not_call_a_job_cancelled_that_has_completed_meanwhile() {
    // Shorter than a handler may take to react, so that it may also begin after the request.
    const BLOCKED: u64 = 1800;
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let kept = "has completed on floh-worker@1 before it could be cancelled";
    let removed = "has ended on floh-worker@1 and was removed: it may have completed";
    for (options, what) in [(json!({}), kept), (json!({"removeOnComplete": true}), removed)] {
        let id = fleet.add(6, "test.hang", json!({"ms": BLOCKED}), options);
        wait_taken(&fleet, &id);
        let over = Instant::now() + Duration::from_millis(BLOCKED);
        // The request reaches the worker when the job's work is done.
        worker.signal(Signal::SIGSTOP);
        let environment = fleet.environment();
        let prepare = |command: &mut std::process::Command| {
            command.args(["job", "cancel", &id]).env_clear().envs(environment);
        };
        let asked = format!("SELECT 1 FROM floh_worker.job_cancel_request WHERE job_id = '{id}'");
        let done = std::thread::scope(|scope| {
            let asking = scope.spawn(|| child::run(&binary("flohctl"), prepare, b"", Duration::from_secs(60)));
            let known = || asking.is_finished() || !fleet.sql(&asked).is_empty();
            wait_for("the request", Duration::from_secs(60), || known().then_some(()));
            std::thread::sleep(over.saturating_duration_since(Instant::now()));
            worker.signal(Signal::SIGCONT);
            asking.join().unwrap()
        });
        assert_eq!(done.stdout.trim(), format!("job {id} {what}"), "{}\n{}", done.stderr, worker.log());
        assert_eq!(done.status.code(), Some(1));
    }
}

#[test]
fn flohctl_cancels_a_job_that_is_removed_when_it_has_failed() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({"removeOnFail": true}));
    wait_taken(&fleet, &id);
    let (said, code) = flohctl_cancel(&fleet, &id);
    assert_eq!((said, code), (format!("job {id} is cancelled on floh-worker@1"), Some(0)));
}

#[test]
fn flohctl_cancels_a_suspect_that_waits_until_it_may_run() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[("WORKER_CONCURRENCY", "2")]);
    let running = fleet.add(6, "test.sleep", json!({"ms": 60_000}), json!({}));
    wait_taken(&fleet, &running);
    keep_requests(&fleet);
    let once = || {
        let suspect = fleet.add(6, "test.effect", json!({"key": "never"}), json!({"delay": 700, "attempts": 3}));
        fleet.suspect(&suspect);
        let state = format!("SELECT state FROM floh_worker.job_execution WHERE job_id = '{suspect}'");
        wait_for("it waits", SOON, || (fleet.sql(&state) == [[Some("handed_back".to_string())]]).then_some(()));
        assert_eq!(cancel(&fleet, &suspect, "by the ledger alone"), [""; 0], "it is not running");
        let (said, code) = flohctl_cancel(&fleet, &suspect);
        assert_eq!((said, code), (format!("job {suspect} is cancelled on floh-worker@1"), Some(0)), "{}", worker.log());
        let job = fleet.wait_state(6, &suspect, "failed", SOON);
        let reason = json!("cancelled: not wanted");
        assert_eq!((&job["failedReason"], &job["attemptsMade"]), (&reason, &json!(1)), "{job:#}");
        after_the_row(&fleet, &job)
    };
    assert_prompt(once, || worker.log());
    worker.wait_log("it runs alone");
    // The gate is open again.
    let next = fleet.add(6, "test.echo", json!({}), json!({}));
    fleet.wait_state(6, &next, "completed", SOON);
    assert!(fleet.effects().is_empty());
    assert_eq!(fleet.job(6, &running)["state"], "active");
}
