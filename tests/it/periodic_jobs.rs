//! The daemon's own periodic jobs, from their schedulers to what they leave in PostgreSQL.

use crate::support::{Fleet, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const KEY: (&str, &str) = ("AUDIT_CHECKPOINT_KEY", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");

/// A stuck run with a running step.
fn add_stuck_run(fleet: &Fleet) {
    fleet.sql(
        "SET search_path = floh_worker;
        INSERT INTO workflow_definition (name, status, definition) VALUES ('Offboarding', 'active', '{}');
        INSERT INTO workflow_run (definition_id, status, updated_at)
            SELECT id, 'running', now() - interval '2 hours' FROM workflow_definition;
        INSERT INTO workflow_step (run_id, step_id, type, status) SELECT id, 'revoke', 'connector', 'running' FROM
            workflow_run",
    );
}

fn run(fleet: &Fleet) -> Vec<String> {
    let rows = fleet.sql(
        "SELECT r.status, r.failure_reason, s.status FROM floh_worker.workflow_run r
            JOIN floh_worker.workflow_step s ON s.run_id = r.id",
    );
    rows.into_iter().flatten().map(Option::unwrap_or_default).collect()
}

const FAILED: [&str; 3] = ["failed", "Run timed out (no progress for 45 minutes)", "failed"];

#[test]
fn a_stuck_run_is_failed_by_a_job_that_npm_adds() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[("STUCK_RUN_TIMEOUT_MINUTES", "45")]);
    add_stuck_run(&fleet);
    for (version, failed) in [(6, 1), (5, 0)] {
        let id = fleet.add(version, "stuck-run-recovery", json!({}), json!({}));
        let job = fleet.wait_state(version, &id, "completed", SOON);
        assert_eq!(job["returnvalue"], json!({"failed": failed, "woken": 0, "closedSteps": failed}), "{job:#}");
    }
    assert_eq!(run(&fleet), FAILED);
}

#[test]
fn a_checkpoint_without_a_key_signs_nothing_and_says_why() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let id = fleet.add(6, "audit-checkpoint", json!({}), json!({"attempts": 3}));
    let job = fleet.wait_state(6, &id, "completed", SOON);
    let why = "AUDIT_CHECKPOINT_KEY is not set on this worker: nothing was signed";
    assert_eq!(job["returnvalue"], json!({ "skipped": why }), "{job:#}");
    worker.wait_log(why);
}

#[test]
fn a_tick_that_comes_to_a_worker_without_a_key_is_left_to_one_with_it() {
    let mut fleet = Fleet::start();
    let keyless = fleet.worker("1", &[]);
    let tick = |fleet: &mut Fleet, scheduler: &str| {
        // The iteration of a scheduler with this due time, as a client of BullMQ stores it.
        let id = format!("repeat:{scheduler}:1700000000000");
        let (hash, wait, marker) = (fleet.key(&id), fleet.key("wait"), fleet.key("marker"));
        let fields = [("name", "audit-checkpoint"), ("data", "{}"), ("opts", "{}"), ("timestamp", "1700000000000")];
        for (field, value) in fields.into_iter().chain([("rjk", scheduler)]) {
            fleet.redis::<i64>("HSET", &[&hash, &field, &value]);
        }
        fleet.redis::<i64>("LPUSH", &[&wait, &id]);
        fleet.redis::<i64>("ZADD", &[&marker, &0, &"0"]);
        id
    };
    let first = tick(&mut fleet, "one");
    let job = fleet.wait_state(6, &first, "completed", SOON);
    assert!(job["returnvalue"]["skipped"].as_str().unwrap().contains("AUDIT_CHECKPOINT_KEY"), "{job:#}");
    drop(keyless);
    fleet.sql("INSERT INTO floh_worker.audit_log (entity, entity_id, action) VALUES ('user', '1', 'create')");
    let _worker = fleet.worker("2", &[KEY]);
    let second = tick(&mut fleet, "two");
    let job = fleet.wait_state(6, &second, "completed", SOON);
    assert_eq!(job["returnvalue"], json!({"checkpoints": 1, "rows": 1}), "{job:#}");
    let third = tick(&mut fleet, "three");
    let job = fleet.wait_state(6, &third, "completed", SOON);
    assert_eq!(job["returnvalue"]["skipped"], "another job has run this tick", "{job:#}");
}

/// Name, pattern and zone of the queue's schedulers, by name.
fn schedulers(fleet: &mut Fleet) -> Vec<[String; 3]> {
    let schedulers = fleet.call(6, "schedulers", json!({}));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let mut found: Vec<_> = schedulers
        .as_array()
        .unwrap()
        .iter()
        .map(|scheduler| ["name", "pattern", "tz"].map(|field| text(&scheduler[field])))
        .collect();
    found.sort();
    found
}

/// Makes the pending iteration of a scheduler due.
fn make_due(fleet: &mut Fleet, scheduler: &str) {
    let delayed = fleet.key("delayed");
    let ids: Vec<String> = fleet.redis("ZRANGE", &[&delayed, &"0", &"-1"]);
    let id = ids.into_iter().find(|id| id.contains(scheduler)).unwrap();
    fleet.redis::<()>("ZADD", &[&delayed, &"1", &id]);
}

#[test]
fn the_worker_schedules_its_own_jobs_and_runs_their_ticks() {
    let mut fleet = Fleet::start_with_periodic_jobs();
    let settings = [KEY, ("AUDIT_CHECKPOINT_SCHEDULE", "7 3 * * *"), ("STUCK_RUN_TIMEOUT_MINUTES", "45")];
    let _workers = [fleet.worker("1", &settings), fleet.worker("2", &settings)];
    let wanted = [["audit-checkpoint", "7 3 * * *", "UTC"], ["stuck-run-recovery", "*/15 * * * *", "UTC"]];
    wait_for("both schedulers", SOON, || (schedulers(&mut fleet) == wanted).then_some(()));
    add_stuck_run(&fleet);
    fleet.sql(
        "INSERT INTO floh_worker.audit_log (entity, entity_id, action) SELECT 'user', n::text, 'create'
            FROM generate_series(1, 3) n",
    );
    make_due(&mut fleet, "floh-worker:audit-checkpoint");
    make_due(&mut fleet, "floh-worker:stuck-run-recovery");
    wait_for("the run is failed", SOON, || (run(&fleet) == FAILED).then_some(()));
    let signed = "SELECT row_count FROM floh_worker.audit_checkpoint";
    wait_for("the checkpoint", SOON, || (fleet.sql(signed) == [[Some("3".to_string())]]).then_some(()));
    let verified = fleet.flohctl_with(&["audit", "verify"], &[KEY]);
    assert!(verified.status.success(), "{} {}", verified.stdout, verified.stderr);
    assert!(verified.stdout.contains("1 checkpoint, its signature is good; 0 rows since"), "{}", verified.stdout);
}

#[test]
fn without_a_key_no_checkpoint_is_scheduled() {
    let mut fleet = Fleet::start_with_periodic_jobs();
    let worker = fleet.worker("1", &[]);
    worker.wait_log("AUDIT_CHECKPOINT_KEY: not set, so no audit checkpoint is scheduled");
    // All schedulers are registered in one go: what is not there behind the first one that is, will not come.
    wait_for("a scheduler", SOON, || (!schedulers(&mut fleet).is_empty()).then_some(()));
    let id = fleet.add(6, "test.echo", json!({}), json!({}));
    fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(schedulers(&mut fleet), [["stuck-run-recovery", "*/15 * * * *", "UTC"]]);
}

#[test]
fn a_log_that_was_reset_behind_the_workers_back_is_not_signed_again() {
    let mut fleet = Fleet::start();
    let worker = fleet.worker("1", &[KEY]);
    let insert = "INSERT INTO floh_worker.audit_log (entity, entity_id, action) SELECT 'user', n::text, 'create'
        FROM generate_series(1, 3) n";
    fleet.sql(insert);
    let id = fleet.add(6, "audit-checkpoint", json!({}), json!({}));
    fleet.wait_state(6, &id, "completed", SOON);
    let rows = fleet.sql("SELECT encode(head_hash, 'hex'), encode(signature, 'hex') FROM floh_worker.audit_checkpoint");
    let [head, signature] = &rows[0].iter().map(|text| text.clone().unwrap()).collect::<Vec<_>>()[..] else { panic!() };
    // The worker's log and Redis tell what was signed, and both in a form that flohctl takes.
    worker.wait_log(&format!(
        "audit checkpoint 1={head} signed: positions 1 to 3, signature {signature} checkpoint=1 checkpoint_position=3 \
         checkpoint_hash={head} checkpoint_key_id=default checkpoint_signature={signature} "
    ));
    let memory = fleet.key("floh-worker:last-audit-checkpoint");
    let remembered = wait_for("the memory", SOON, || fleet.redis::<Option<String>>("GET", &[&memory]));
    assert_eq!(remembered, format!("1={head}"));
    let expect = ["audit", "verify", "--require-signatures", "--expect", &remembered];
    let verified = fleet.flohctl_with(&expect, &[KEY]);
    assert!(verified.status.success(), "{} {}", verified.stdout, verified.stderr);

    fleet.sql(
        "SET session_replication_role = replica;
        SET search_path = floh_worker;
        DELETE FROM audit_log;
        DELETE FROM audit_chain;
        DELETE FROM audit_checkpoint;
        UPDATE audit_checkpoint_head SET number = 0, to_position = 0",
    );
    fleet.sql(insert);
    let id = fleet.add(6, "audit-checkpoint", json!({}), json!({"attempts": 3}));
    let job = fleet.wait_state(6, &id, "failed", SOON);
    let reason = job["failedReason"].as_str().unwrap();
    assert!(
        reason.contains(&format!("checkpoint 1 is gone: it is known from outside with the head hash {head}")),
        "{job:#}"
    );
    assert!(reason.ends_with(&format!("delete the key {memory} in Redis")), "{job:#}");
    assert_eq!(job["attemptsMade"], 1, "{job:#}");
    let verified = fleet.flohctl_with(&expect, &[KEY]);
    assert_eq!(verified.status.code(), Some(1), "{} {}", verified.stdout, verified.stderr);

    // The way out after a restored backup.
    fleet.redis::<i64>("DEL", &[&memory]);
    let id = fleet.add(6, "audit-checkpoint", json!({}), json!({}));
    let job = fleet.wait_state(6, &id, "completed", SOON);
    assert_eq!(job["returnvalue"], json!({"checkpoints": 1, "rows": 3}), "{job:#}");
    let renewed: String = wait_for("the memory", SOON, || fleet.redis::<Option<String>>("GET", &[&memory]));
    assert!(renewed.starts_with("1=") && renewed != remembered, "{renewed}");
}
