//! Sending: when, by whom, how often, and what cannot be sent.

use super::{MINUTE, SOON};
use crate::support::{Fleet, proxy::Fault, wait_for};
use serde_json::json;
use std::time::{Duration, Instant};

/// Seconds from a row's commit to its sending, as they usually are: what only the poll finds waits for seconds each time,
/// and one that waited for the machine is no example.
fn usual_wait(fleet: &Fleet) -> f64 {
    let query = "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM sent_at - created_at))
        FROM floh_worker.job_outbox";
    fleet.sql(query)[0][0].as_deref().unwrap().parse().unwrap()
}

#[test]
fn what_a_job_enqueued_is_sent_at_once_when_it_commits() {
    let mut fleet = Fleet::start();
    let _workers = [fleet.worker("1", &[]), fleet.worker("2", &[])];
    fleet.add(6, "test.outbox", json!({"key": "a", "n": 5}), json!({}));
    let expected = ["a", "a-0", "a-1", "a-2", "a-3", "a-4"].map(|key| (key.to_string(), 1)).into();
    wait_for("the effects", SOON, || (fleet.effects() == expected).then_some(()));
    wait_for("the ends", SOON, || (fleet.rows() == [("completed".to_string(), 5)].into()).then_some(()));
    wait_for("the finishes", SOON, || (fleet.job(6, "wake-a-0").is_null()).then_some(()));
    for number in 0..5 {
        let id = format!("later-{number}");
        fleet.write_row(&id);
        fleet.wait_row(&id, "completed", SOON);
    }
    assert!(usual_wait(&fleet) < 1.0, "{} s", usual_wait(&fleet));
}

/// The API server's role has no more rights than the statement needs.
#[test]
fn an_api_server_wakes_with_one_statement_and_few_rights() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    fleet.sql(
        "CREATE ROLE api; GRANT USAGE ON SCHEMA floh_worker TO api; GRANT INSERT ON floh_worker.job_outbox TO api;
        SET ROLE api;
        INSERT INTO floh_worker.job_outbox (queue, job_id, name, data)
            VALUES ('bull:workflow-scheduler', 'remind-17-1', 'test.effect', '{\"key\": \"17\"}') ON CONFLICT DO NOTHING",
    );
    fleet.wait_row("remind-17-1", "completed", SOON);
    assert_eq!(fleet.effects(), [("17".to_string(), 1)].into());
    assert_eq!(fleet.job(6, "remind-17-1"), json!(null), "it has removed itself");
}

#[test]
fn what_was_not_heard_is_found_by_the_poll() {
    let fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let listening = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    wait_for("the listening session", SOON, || (!fleet.sql(&format!("SELECT 1 {listening}")).is_empty()).then_some(()));
    fleet.sql("ALTER TABLE floh_worker.job_outbox DISABLE TRIGGER tell_outbox");
    let written = Instant::now();
    fleet.write_row("unheard");
    fleet.wait_row("unheard", "completed", Duration::from_secs(8));
    assert!(written.elapsed() < Duration::from_secs(8));
    // With the session that listens killed, and again once it is back.
    fleet.sql("ALTER TABLE floh_worker.job_outbox ENABLE TRIGGER tell_outbox");
    let killed = fleet.sql(&format!("SELECT pg_terminate_backend(pid) {listening}"));
    assert_eq!(killed.len(), 1);
    fleet.write_row("while-away");
    fleet.wait_row("while-away", "completed", Duration::from_secs(8));
    wait_for("the listening session", SOON, || (!fleet.sql(&format!("SELECT 1 {listening}")).is_empty()).then_some(()));
    let heard = Instant::now();
    fleet.write_row("heard");
    fleet.wait_row("heard", "completed", Duration::from_secs(8));
    assert!(heard.elapsed() < Duration::from_secs(3), "{:?}", heard.elapsed());
}

#[test]
fn what_was_rolled_back_is_never_sent() {
    let mut fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    // A job that dies in its transaction, with its wake-ups written.
    fleet.add(6, "test.outbox", json!({"key": "a", "n": 3, "ms": 8000}), json!({}));
    fleet.wait_in_transaction(SOON);
    worker.kill();
    let row = "INSERT INTO floh_worker.job_outbox (queue, job_id, name) VALUES ('bull:workflow-scheduler', 'b', 'test.effect')";
    fleet.sql(&format!("BEGIN; {row}; ROLLBACK"));
    let _worker = fleet.worker("2", &[]);
    fleet.write_row("c");
    fleet.wait_row("c", "completed", SOON);
    assert_eq!(fleet.rows(), [("completed".to_string(), 1)].into());
    let added: Vec<_> = fleet.stream().into_iter().filter(|event| event.name == "added").collect();
    assert!(added.iter().all(|event| event.job.as_deref().is_none_or(|id| id == "c" || id == "1")), "{added:?}");
}

#[test]
fn what_a_killed_worker_had_committed_another_one_sends() {
    let mut fleet = Fleet::start();
    let proxy = fleet.proxy();
    let port = proxy.port().to_string();
    let mut first = fleet.worker("1", &[("REDIS_PORT", &port)]);
    // Of all calls only that which adds a job names these keys in this order.
    let keys = ["wait", "paused", "meta", "id"].map(|name| fleet.key(name));
    let argument = |key: &String| format!("${}\r\n{key}\r\n", key.len());
    proxy.arm(&keys.iter().map(argument).collect::<String>(), Fault::Swallow);
    fleet.add(6, "test.outbox", json!({"key": "a", "n": 3}), json!({}));
    wait_for("the sending to be swallowed", SOON, || (proxy.sprung() == 1).then_some(()));
    first.kill();
    assert_eq!(fleet.effects(), [("a".to_string(), 1)].into());
    assert_eq!(fleet.rows(), [("unsent".to_string(), 3)].into());
    let _second = fleet.worker("2", &[]);
    wait_for("the rows' ends", MINUTE, || (fleet.rows() == [("completed".to_string(), 3)].into()).then_some(()));
    assert!(fleet.effects().values().all(|count| *count == 1), "{:?}", fleet.effects());
}

#[test]
fn two_workers_send_each_row_once() {
    const ROWS: usize = 1500;
    let mut fleet = Fleet::start();
    let _workers = [fleet.worker("1", &[]), fleet.worker("2", &[])];
    for part in 0..3 {
        let rows = format!("'w-{part}-' || i, 'test.echo', now() + interval '1 day' FROM generate_series(1, 500) i");
        fleet.write_rows("job_id, name, due_at", &rows);
    }
    wait_for("all to be sent", SOON, || (fleet.rows().get("sent") == Some(&(ROWS as u64))).then_some(()));
    assert_eq!(fleet.redis::<usize>("ZCARD", &[&fleet.key("delayed")]), ROWS);
    let events = fleet.stream();
    let count = |name: &str| events.iter().filter(|event| event.name == name).count();
    assert_eq!((count("added"), count("duplicated")), (ROWS, 0));
}

#[test]
fn a_row_that_the_queue_refuses_fails_alone() {
    let mut fleet = Fleet::start();
    let key = fleet.key("taken");
    fleet.redis::<()>("SET", &[&key, &"of another kind"]);
    let worker = fleet.worker("1", &[]);
    for id in ["-5", "meta", "taken"] {
        fleet.write_row(id);
        fleet.wait_row(id, "failed", SOON);
    }
    worker.wait_log("\"meta\" cannot be a job's id");
    fleet
        .write_rows("job_id, name", "id, 'test.echo' FROM unnest(ARRAY['good', '+7', 'taken-2', 'marker', 'fine']) id");
    let expected = [("completed".to_string(), 3), ("failed".to_string(), 5)].into();
    wait_for("all to end", SOON, || (fleet.rows() == expected).then_some(()));
}

#[test]
fn an_id_whose_ended_job_is_still_kept_is_said_to_be_taken() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    fleet.add(6, "test.fail", json!({}), json!({"jobId": "used", "attempts": 1}));
    fleet.wait_state(6, "used", "failed", SOON);
    fleet.write_row("used");
    fleet.wait_row("used", "failed", SOON);
    worker.wait_log("an ended job of this id is still kept");
}

#[test]
fn a_delay_counts_by_the_database_s_clock() {
    let fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let rows = "'late', 'test.effect', '{\"key\": \"late\"}', now() + interval '3 seconds'";
    fleet.write_rows("job_id, name, data, due_at", rows);
    fleet.wait_row("late", "completed", SOON);
    let query = "SELECT extract(epoch FROM e.at - o.due_at) FROM floh_worker.test_effect e, floh_worker.job_outbox o";
    let late: f64 = fleet.sql(query)[0][0].as_deref().unwrap().parse().unwrap();
    assert!((0.0..3.0).contains(&late), "{late} s after it was due");
}

#[test]
fn the_more_urgent_row_runs_first() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    let busy = fleet.add(6, "test.sleep", json!({"ms": 4000}), json!({}));
    fleet.wait_state(6, &busy, "active", SOON);
    fleet.write_rows("job_id, name, priority", "'p-' || i, 'test.echo', i FROM unnest(ARRAY[5, 0, 1, 3]) i");
    wait_for("all to be sent", SOON, || (fleet.rows().get("sent") == Some(&4)).then_some(()));
    wait_for("all to end", SOON, || (fleet.rows().get("completed") == Some(&4)).then_some(()));
    assert_eq!(fleet.start_order()[1..], ["p-0", "p-1", "p-3", "p-5"]);
}

#[test]
fn while_redis_is_away_rows_wait_and_then_they_are_sent() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    fleet.redis.down();
    fleet.write_row("patient");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fleet.row("patient"), "unsent");
    fleet.redis.up();
    fleet.wait_row("patient", "completed", SOON);
    assert_eq!(fleet.effects(), [("patient".to_string(), 1)].into());
}
