//! Runs of ten steps, transforms and conditions, beside what PostgreSQL alone commits; and what waiting runs cost.

use crate::{
    Scale,
    field::{Database, Field},
    report::{Report, Spread, Table, number},
    support::{
        postgres::{SCHEMA, USER},
        runs::{chain, points_passed, quote},
        wait_for,
        worker::Worker,
    },
};
use serde_json::{Value, json};
use std::time::Duration;

/// Runs at a time, and how many in a full round.
const LOADS: [(usize, u64); 3] = [(1, 200), (8, 600), (64, 832)];
/// Steps of a run that are committed: ten, and its start and its end.
const STEPS: u64 = 12;
const LIMIT: Duration = Duration::from_secs(300);

/// What one commit costs at the least: a row of the size of a step's.
const ONE_ROW: &str = "INSERT INTO bench_commit (text) VALUES ('0123456789012345678901234567890123456789');\n";

/// What pgbench's scripts need.
const TABLES: &str = "\
CREATE TABLE bench_commit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text);
CREATE TABLE bench_lease (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run uuid NOT NULL, execution bigint NOT NULL, epoch bigint NOT NULL
);
";

/// Takes all runs that have been started, as a worker would.
const TAKE_ALL: &str = "\
INSERT INTO bench_lease (run, execution, epoch)
    SELECT r.id, t.id, t.epoch FROM workflow_run r JOIN job_outbox o ON o.job_id = 'resume-' || r.id || '-' || r.wake_seq
        CROSS JOIN LATERAL take_job(o.queue, o.job_id, 1, 0, o.name, 1, 1, 'bench', gen_random_uuid(), NULL) t;
SELECT take_run(l.run, 1, l.execution, l.epoch) FROM bench_lease l;
";

/// What a run that has ended was committed with, change by change.
const CHANGES: &str = "\
SELECT jsonb_build_object(
    'step', jsonb_build_object('id', s.step_id, 'type', s.type, 'visit', s.visit, 'attempt', s.attempt, 'status', s.status,
        'outcome', s.outcome, 'result', s.result, 'reason', s.failure_reason, 'assignment', s.assignment_state,
        'due', s.due_at),
    'set', s.variables_set,
    'run', jsonb_build_object('status', CASE WHEN n.id IS NULL THEN r.status ELSE 'running' END, 'reason', r.failure_reason),
    'next', CASE WHEN n.id IS NOT NULL THEN jsonb_build_object('id', n.step_id, 'type', n.type) END,
    'seen', r.wake_seq)::text
    FROM workflow_run r JOIN workflow_step s ON s.run_id = r.id
        LEFT JOIN workflow_step n ON n.run_id = r.id AND n.position = s.position + 1
    ORDER BY s.position";

pub fn measure(scale: Scale, report: &mut Report) {
    let mut field = Field::start();
    let database = Database::start();
    let path = format!("SET search_path = {SCHEMA};");
    database.sql(
        &field,
        &format!("{path}{TABLES} GRANT INSERT ON bench_commit TO {USER}; GRANT SELECT ON bench_lease TO {USER}"),
    );
    define(&database, &field, &ten_steps());
    let changes = changes(&database, &mut field);
    for (concurrency, runs) in LOADS {
        // Fewer than that are over before the others are looked at; and each client of pgbench has as many as the others.
        let runs = (runs / scale.divisor).max(20).next_multiple_of(concurrency as u64);
        let mut rates = Rates::default();
        for _ in 0..scale.rounds {
            empty(&database, &mut field);
            rates.one_row.push(database.pgbench(ONE_ROW, concurrency, runs * STEPS));
            empty(&database, &mut field);
            rates.same.push(commits_per_second(&database, &field, &changes, concurrency, runs));
            empty(&database, &mut field);
            rates.steps.push(steps_per_second(&database, &field, concurrency, runs));
        }
        tell(report, concurrency, runs, &rates);
    }
    trips(&database, &mut field, report);
    waiting(scale, &database, &mut field, report);
}

/// Per second, in each round.
#[derive(Default)]
struct Rates {
    /// Commits of one row, by pgbench.
    one_row: Vec<f64>,
    /// Commits of steps, by pgbench.
    same: Vec<f64>,
    /// Steps, by the daemon.
    steps: Vec<f64>,
}

fn ten_steps() -> Value {
    let steps = (0..10).map(|number| {
        let id = format!("s{number}");
        if number % 2 == 0 {
            let code = format!("return {{{id}: (floh.variables.n || 0) + {number}}}");
            return json!({"id": id, "type": "transform", "config": {"code": code, "outputs": [id]}});
        }
        let next = if number == 9 { "end".into() } else { format!("s{}", number + 1) };
        json!({"id": id, "type": "condition", "config": {"if": {"variable": "run.id", "exists": true}},
            "transitions": [{"on": "true", "to": next}, {"on": "false", "to": "end"}]})
    });
    chain("ten", steps.collect())
}

fn define(database: &Database, field: &Field, document: &Value) {
    let (name, document) = (quote(document["name"].as_str().unwrap()), quote(&document.to_string()));
    database.sql(
        field,
        &format!(
            "INSERT INTO {SCHEMA}.workflow_definition (name, status, definition, published_at)
                VALUES ({name}, 'active', {document}, now())"
        ),
    );
}

fn start(database: &Database, field: &Field, definition: &str, count: u64) {
    database.sql(
        field,
        &format!(
            "INSERT INTO {SCHEMA}.workflow_run (definition_id)
                SELECT id FROM {SCHEMA}.workflow_definition, generate_series(1, {count}) WHERE name = '{definition}'"
        ),
    );
}

fn empty(database: &Database, field: &mut Field) {
    field.clear();
    database.sql(
        field,
        &format!(
            "SET search_path = {SCHEMA};
            TRUNCATE workflow_run, job_outbox, job_execution, bench_commit, bench_lease RESTART IDENTITY CASCADE"
        ),
    );
    database.sql(field, "CHECKPOINT");
}

/// Steps per second, by the times of their commits.
fn steps_per_second(database: &Database, field: &Field, concurrency: usize, runs: u64) -> f64 {
    start(database, field, "ten", runs);
    let daemon = database.daemon(field, concurrency);
    let open = format!("SELECT count(*)::float8 FROM {SCHEMA}.workflow_run WHERE status <> 'completed'");
    wait_for("the runs", LIMIT, || {
        std::thread::sleep(Duration::from_millis(100));
        (database.ask(field, &open) == 0.0).then_some(())
    });
    drop(daemon);
    database.rate(field, "workflow_step", "finished_at")
}

/// The changes with which the daemon commits a run's steps, read from the rows that they have left.
fn changes(database: &Database, field: &mut Field) -> Vec<String> {
    empty(database, field);
    start(database, field, "ten", 1);
    let daemon = database.daemon(field, 1);
    let open = format!("SELECT count(*)::float8 FROM {SCHEMA}.job_outbox WHERE ended_at IS NULL");
    wait_for("the run that is looked at", LIMIT, || (database.ask(field, &open) == 0.0).then_some(()));
    drop(daemon);
    let changes: Vec<String> = field.wait(async {
        let admin = database.postgres.admin().await;
        admin.batch_execute(&format!("SET search_path = {SCHEMA}")).await.unwrap();
        admin.query(CHANGES, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    });
    assert_eq!(changes.len() as u64, STEPS, "each step is a commit");
    changes
}

/// How many such changes PostgreSQL alone commits per second, by the worker's own statement. Of everything else that a worker
/// asks there is one short question for each run: its lease.
fn commits_per_second(database: &Database, field: &Field, changes: &[String], clients: usize, runs: u64) -> f64 {
    let mut script = format!(
        "\\set number :client_id + {clients} * :n + 1\n\\set n :n + 1\n\
         SELECT run, execution, epoch FROM bench_lease WHERE number = :number \\gset\n"
    );
    for change in changes {
        script += &format!("SELECT * FROM commit_step(:run, :execution, :epoch, {});\n", quote(change));
    }
    start(database, field, "ten", runs);
    database.sql(field, &format!("SET search_path = {SCHEMA}; {TAKE_ALL}"));
    database.pgbench(&script, clients, runs);
    let completed = format!(
        "SELECT count(*)::float8 FROM {SCHEMA}.workflow_step s JOIN {SCHEMA}.workflow_run r ON r.id = s.run_id
            WHERE s.status = 'completed' AND r.status = 'completed'"
    );
    assert_eq!(database.ask(field, &completed), (runs * STEPS) as f64, "pgbench commits each step of each run");
    database.rate(field, "workflow_step", "finished_at")
}

fn tell(report: &mut Report, concurrency: usize, runs: u64, rates: &Rates) {
    let per_run: Vec<f64> = rates.steps.iter().map(|rate| rate / STEPS as f64).collect();
    let mut table = Table::new(&["", "per second"]);
    table.row(["pgbench, commits of one row".into(), Spread::of(&rates.one_row).text(0)]);
    table.row(["pgbench, commits of steps".into(), Spread::of(&rates.same).text(0)]);
    table.row(["floh-worker, steps".into(), Spread::of(&rates.steps).text(0)]);
    table.row(["floh-worker, runs".into(), Spread::of(&per_run).text(1)]);
    report.section(
        &format!("Runs of ten steps, {concurrency} at a time"),
        &format!(
            "{} runs of five transforms and five conditions, whose start and end are steps, too. Beside them {concurrency} \
             clients of pgbench make as many commits: of one row with one index; and of the same steps, by the worker's own \
             statement, which writes the step's row, the next one's with its three indexes, and the run's, and asks the \
             fence. For these nothing is fetched, taken, executed or finished.",
            number(runs as f64, 0)
        ),
        table,
    );
    for (key, of, commits) in [
        ("runs-rate", "50 % of what PostgreSQL commits by the same statement", &rates.same),
        ("runs-rows", "50 % of what PostgreSQL commits of one row", &rates.one_row),
    ] {
        let share = Spread::of_ratios(&rates.steps, commits);
        report.goal(
            key,
            &format!("steps/s of runs, {concurrency} at a time"),
            of,
            &format!("{:.0} %", share.median * 100.0),
            share.median / 0.5,
        );
    }
}

/// Round trips of a run's job to PostgreSQL, as the worker counts them: two points for each statement.
fn trips(database: &Database, field: &mut Field, report: &mut Report) {
    empty(database, field);
    let mut worker = Worker::spawn("trips", &database.environment(field, "trips", &[]));
    worker.wait_ready();
    let mut passed = Vec::new();
    for number in 1..=2 {
        start(database, field, "ten", 1);
        passed = wait_for("the run's points", LIMIT, || {
            let said = points_passed(&worker.log());
            (said.len() >= number).then_some(said)
        });
    }
    worker.stop();
    // The first run prepares the statements.
    let found = (passed[1] - passed[0]) as f64 / 2.0 / STEPS as f64;
    report.goal(
        "runs-trips",
        "round trips to PostgreSQL per step of a run",
        "2 at most",
        &format!("{found:.2}"),
        2.0 / found,
    );
}

/// The daemon's memory while more and more runs wait. The first ones are its warm-up: that is over when as many more cost nothing.
fn waiting(scale: Scale, database: &Database, field: &mut Field, report: &mut Report) {
    const RUNS: u64 = 30_000;
    empty(database, field);
    let wait = json!({"id": "wait", "type": "connector",
        "config": {"connectorId": "delay", "command": "wait", "params": {"duration": "30d"}}});
    define(database, field, &chain("waiting", vec![wait]));
    let settings = [("WORKER_CONCURRENCY", "8"), ("LOG_LEVEL", "warn")];
    let mut worker = Worker::spawn("waiting", &database.environment(field, "waiting", &settings));
    worker.wait_ready();
    let total = (RUNS / scale.divisor).max(300);
    let mut table = Table::new(&["runs that wait", "resident MB"]);
    let mut resident = Vec::new();
    for share in [total / 3, total * 2 / 3, total] {
        let count = format!("SELECT count(*)::float8 FROM {SCHEMA}.workflow_run WHERE status = 'waiting'");
        start(database, field, "waiting", share - database.ask(field, &count) as u64);
        wait_for("the runs wait", LIMIT, || {
            std::thread::sleep(Duration::from_millis(100));
            (database.ask(field, &count) >= share as f64).then_some(())
        });
        std::thread::sleep(Duration::from_secs(3));
        let megabytes = crate::life::megabytes(worker.pid(), "VmRSS");
        table.row([number(share as f64, 0), number(megabytes, 1)]);
        resident.push(megabytes);
    }
    worker.stop();
    report.section("Runs that wait", "Each waits for 30 days; eight at a time are carried there.", table);
    let growth = (resident[2] - resident[0]).max(0.0);
    report.goal(
        "waiting",
        &format!("growth of memory from {} to {} waiting runs", number((total / 3) as f64, 0), number(total as f64, 0)),
        "below 2 MB",
        &format!("{growth:.1} MB"),
        2.0 / growth.max(0.01),
    );
}
