//! What a tick does while a run of its schedule has not ended.

use super::{Asked, SOON, Table, at, fire, schedule};
use crate::support::{Fleet, runs::chain};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

const HOURLY: (&str, &str) = ("cron", "0 * * * *");

async fn three_ticks(table: &Table, overlap: &str) -> Uuid {
    let id = table.add(&[HOURLY, ("overlap", overlap), ("catch_up", "all")], "2026-05-01T00:00:00Z").await;
    for hour in 1..=3 {
        let tick = format!("2026-05-01T0{hour}:00:00Z");
        table.fire(id, &tick, Asked::Tick(at(&tick))).await.unwrap();
    }
    id
}

/// Status and `held_back` of a schedule's runs, oldest tick first.
async fn runs(table: &Table, id: Uuid) -> Vec<String> {
    let query = format!("SELECT status, held_back FROM workflow_run WHERE schedule_id = '{id}' ORDER BY tick_at");
    table.sql(&query).await.into_iter().map(|row| row.join(" ")).collect()
}

async fn end(table: &Table, id: Uuid, hour: u8, status: &str) {
    let sql = format!(
        "UPDATE workflow_run SET status = '{status}' WHERE schedule_id = '{id}' AND tick_at = '2026-05-01T0{hour}:00:00Z'"
    );
    table.sql(&sql).await;
}

/// How many wake-ups the schedule's runs have.
async fn wake_ups(table: &Table, id: Uuid) -> String {
    let query = format!(
        "SELECT count(*) FROM job_outbox o JOIN workflow_run r ON o.data ->> 'runId' = r.id::text WHERE r.schedule_id = '{id}'"
    );
    table.sql(&query).await[0][0].clone()
}

#[tokio::test]
async fn allow_starts_each_and_skip_none_that_a_replay_would_start_later() {
    let table = Table::start().await;
    let id = three_ticks(&table, "allow").await;
    assert_eq!(runs(&table, id).await, ["pending f", "pending f", "pending f"]);
    let id = three_ticks(&table, "skip").await;
    assert_eq!(runs(&table, id).await, ["pending f"]);
    let noted = format!("SELECT outcome FROM schedule_tick WHERE schedule_id = '{id}' ORDER BY due_at");
    assert_eq!(table.sql(&noted).await, [["started"], ["skipped"], ["skipped"]]);
    end(&table, id, 1, "completed").await;
    for hour in 1..=3 {
        let tick = at(&format!("2026-05-01T0{hour}:00:00Z"));
        let value = table.fire(id, "2026-05-01T03:10:00Z", Asked::Tick(tick)).await.unwrap();
        assert_eq!(value["skipped"], "this tick was dealt with before");
    }
    // One of somebody else's scheduler, too: it is known by its row alone.
    let odd = at("2026-05-01T03:20:00Z");
    let id_of_row = "INSERT INTO schedule_tick (schedule_id, due_at, outcome) VALUES";
    table.sql(&format!("{id_of_row} ('{id}', '2026-05-01T03:20:00Z', 'skipped')")).await;
    let value = table.fire(id, "2026-05-01T03:20:00Z", Asked::Tick(odd)).await.unwrap();
    assert_eq!(value["skipped"], "this tick was dealt with before");
    assert_eq!(runs(&table, id).await, ["completed f"]);
    table.fire(id, "2026-05-01T04:00:00Z", Asked::Tick(at("2026-05-01T04:00:00Z"))).await.unwrap();
    assert_eq!(runs(&table, id).await, ["completed f", "pending f"]);
}

#[tokio::test]
async fn queue_lets_one_go_after_the_other_however_each_ends() {
    let table = Table::start().await;
    let id = three_ticks(&table, "queue").await;
    assert_eq!(runs(&table, id).await, ["pending f", "pending t", "pending t"]);
    assert_eq!(wake_ups(&table, id).await, "1");
    end(&table, id, 1, "failed").await;
    assert_eq!(runs(&table, id).await, ["failed f", "pending f", "pending t"]);
    assert_eq!(wake_ups(&table, id).await, "2");
    // Somebody asks for a run now: it waits behind the others.
    table.fire(id, "2026-05-01T03:30:00Z", Asked::Now).await.unwrap();
    // One that waits is cancelled: the one before it is still under way.
    end(&table, id, 3, "cancelled").await;
    assert_eq!(runs(&table, id).await, ["failed f", "pending f", "cancelled t", "pending t"]);
    end(&table, id, 2, "completed").await;
    assert_eq!(runs(&table, id).await, ["failed f", "completed f", "cancelled t", "pending f"]);
    assert_eq!(wake_ups(&table, id).await, "3");
    // The schedule may be gone meanwhile, and a run may be deleted: a look finds who waits for nobody.
    table.fire(id, "2026-05-01T03:40:00Z", Asked::Now).await.unwrap();
    table.sql(&format!("DELETE FROM workflow_schedule WHERE id = '{id}'")).await;
    table
        .sql(&format!("DELETE FROM workflow_run WHERE schedule_id = '{id}' AND status = 'pending' AND NOT held_back"))
        .await;
    assert_eq!(table.store.let_stranded_runs_go().await.unwrap(), 1);
    assert_eq!(table.store.let_stranded_runs_go().await.unwrap(), 0);
    assert_eq!(wake_ups(&table, id).await, "3");
}

/// Lets the run of an hour go on, as `flohctl run retry` does; or what the database says.
async fn retry(table: &Table, id: Uuid, hour: u8) -> Result<(), String> {
    let sql = format!(
        "SET search_path = floh_worker; SELECT retry_run(id) FROM workflow_run
            WHERE schedule_id = '{id}' AND tick_at = '2026-05-01T0{hour}:00:00Z'"
    );
    let done = table.server.session("floh").await.batch_execute(&sql).await;
    done.map_err(|error| error.as_db_error().unwrap().message().to_string())
}

#[tokio::test]
async fn a_failed_run_that_is_tried_again_goes_on_as_the_schedule_says() {
    let table = Table::start().await;
    let id = three_ticks(&table, "allow").await;
    end(&table, id, 1, "failed").await;
    retry(&table, id, 1).await.unwrap();
    assert_eq!(runs(&table, id).await, ["pending f", "pending f", "pending f"]);

    let id = three_ticks(&table, "skip").await;
    end(&table, id, 1, "failed").await;
    let tick = "2026-05-01T04:00:00Z";
    table.fire(id, tick, Asked::Tick(at(tick))).await.unwrap();
    let live = format!("SELECT id FROM workflow_run WHERE schedule_id = '{id}' AND status = 'pending'");
    let live = table.sql(&live).await[0][0].clone();
    let why = retry(&table, id, 1).await.unwrap_err();
    assert!(why.contains(&format!("run {live} of the same schedule has not ended")), "{why}");
    assert_eq!(runs(&table, id).await, ["failed f", "pending f"]);
    end(&table, id, 4, "completed").await;
    retry(&table, id, 1).await.unwrap();
    assert_eq!(runs(&table, id).await, ["pending f", "completed f"]);

    let id = three_ticks(&table, "queue").await;
    let failed = format!(
        "INSERT INTO workflow_step (run_id, step_id, type, status) SELECT id, 'a', 'transform', 'failed' FROM workflow_run
            WHERE schedule_id = '{id}' AND NOT held_back;
         UPDATE workflow_run SET current_step = 'a' WHERE schedule_id = '{id}' AND NOT held_back"
    );
    table.sql(&failed).await;
    end(&table, id, 1, "failed").await;
    retry(&table, id, 1).await.unwrap();
    assert_eq!(runs(&table, id).await, ["pending t", "pending f", "pending t"]);
    assert_eq!(wake_ups(&table, id).await, "2");
    end(&table, id, 2, "completed").await;
    assert_eq!(runs(&table, id).await, ["pending f", "completed f", "pending t"]);
    assert_eq!(wake_ups(&table, id).await, "3");
    let visits = format!(
        "SELECT visit, s.status FROM workflow_step s JOIN workflow_run r ON r.id = s.run_id
            WHERE schedule_id = '{id}' ORDER BY visit"
    );
    assert_eq!(table.sql(&visits).await, [["1", "failed"], ["2", "running"]]);
}

/// However long it waits for its turn: its time and its delay begin when the step does.
#[test]
fn a_failed_run_that_waits_for_its_turn_has_all_of_its_time_then() {
    let fleet = Fleet::start();
    let wait = json!({"id": "wait", "type": "connector", "timeout": "1m", "config": {
        "connectorId": "delay", "command": "wait", "params": {"duration": 0.5}}});
    let definition = fleet.define(&chain("tiny", vec![wait]));
    let id = schedule(&fleet, "queue", &[("cron", "0 0 1 1 *"), ("overlap", "queue")]);
    let run = |fields: &str, values: &str| {
        let rows = fleet.sql(&format!(
            "INSERT INTO floh_worker.workflow_run (definition_id, schedule_id, {fields})
                VALUES ('{definition}', '{id}', {values}) RETURNING id"
        ));
        rows[0][0].clone().unwrap()
    };
    let failed = run("status, current_step, steps", "'failed', 'wait', 1");
    fleet.sql(&format!(
        "INSERT INTO floh_worker.workflow_step (run_id, step_id, type, status, position)
            VALUES ('{failed}', 'wait', 'connector', 'failed', 1)"
    ));
    let other = run("status, wake_at", "'waiting', now() + '1 day'");
    let _worker = fleet.worker("1", &[]);
    fleet.sql(&format!("SET search_path = floh_worker; SELECT retry_run('{failed}')"));
    let held = format!("SELECT status FROM floh_worker.workflow_run WHERE id = '{failed}' AND held_back");
    assert_eq!(fleet.sql(&held), [[Some("pending".to_string())]]);
    // As if that had been hours ago.
    let visit = format!("run_id = '{failed}' AND step_id = 'wait' AND visit = 2");
    let long_ago = "UPDATE floh_worker.workflow_step SET started_at = started_at - interval '3 h'";
    assert_eq!(fleet.sql(&format!("{long_ago} WHERE {visit} RETURNING 1")).len(), 1);
    fleet.sql(&format!("UPDATE floh_worker.workflow_run SET status = 'completed' WHERE id = '{other}'"));
    fleet.wait_run(&failed, "completed", SOON);
    let took = "SELECT finished_at - started_at BETWEEN '0.5 s' AND '1 m', outcome FROM floh_worker.workflow_step";
    let took = fleet.sql(&format!("{took} WHERE {visit}"));
    assert_eq!(took, [[Some("t".to_string()), Some("success".to_string())]]);
}

/// Many sessions fire the same ticks and end the runs at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticks_and_ends_at_the_same_time_lose_nothing_and_lock_nobody_out() {
    const TICKS: i64 = 60;
    let table = Table::start().await;
    let mut ids = Vec::new();
    for overlap in ["queue", "skip", "allow"] {
        ids.push(
            table
                .add(&[("cron", "* * * * * *"), ("overlap", overlap), ("catch_up", "all")], "2026-05-01T00:00:00Z")
                .await,
        );
    }
    let begin = at("2026-05-01T00:00:00Z");
    let mut firing = Vec::new();
    for _ in 0..2 {
        let (store, ids) = (table.store.clone(), ids.clone());
        firing.push(tokio::spawn(async move {
            for second in 1..=TICKS {
                for id in &ids {
                    let tick = begin + second * 1000;
                    fire(&store, *id, tick + 100, Asked::Tick(tick)).await.unwrap();
                }
            }
        }));
    }
    let done = async || firing.iter().all(tokio::task::JoinHandle::is_finished);
    let session = table.server.session("floh").await;
    session.batch_execute("SET search_path = floh_worker; SET lock_timeout = '5s'").await.unwrap();
    // Ends what is under way, and sometimes what waits, too.
    let end_all = "UPDATE workflow_run SET status = 'completed' WHERE id IN (SELECT id FROM workflow_run
        WHERE status = 'pending' AND (NOT held_back OR random() < 0.02) ORDER BY random() LIMIT 3)";
    let limit = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let finished = done().await;
        let ended = session.execute(end_all, &[]).await.unwrap();
        if finished && ended == 0 {
            break;
        }
        assert!(std::time::Instant::now() < limit, "they hold each other up");
    }
    for task in firing {
        task.await.unwrap();
    }
    let counts = async |id: Uuid, what: &str| {
        let query = format!("SELECT count(*) FROM workflow_run WHERE schedule_id = '{id}' {what}");
        table.sql(&query).await[0][0].parse::<i64>().unwrap()
    };
    for id in [ids[0], ids[2]] {
        assert_eq!(counts(id, "").await, TICKS, "each tick has one run");
    }
    for id in &ids {
        assert_eq!(counts(*id, "AND status = 'pending'").await, 0, "nobody is left behind");
        let noted = format!("SELECT count(*) FROM schedule_tick WHERE schedule_id = '{id}'");
        assert_eq!(table.sql(&noted).await, [[TICKS.to_string()]]);
    }
}
