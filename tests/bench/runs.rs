//! Runs of ten steps, transforms and conditions, beside what PostgreSQL alone commits; and what waiting runs cost.

use crate::{
    Scale,
    field::{Database, Field},
    report::{Report, Spread, Table, number},
    support::{
        child,
        postgres::{self, DATABASE, PASSWORD, SCHEMA, USER},
        runs::{chain, points_passed, quote},
        wait_for,
        worker::Worker,
    },
};
use serde_json::{Value, json};
use std::{fs, process::Command, time::Duration};

/// Runs at a time, and how many in a full round.
const LOADS: [(usize, u64); 3] = [(1, 200), (8, 600), (64, 800)];
/// Steps of a run that are committed: ten, and its start and its end.
const STEPS: u64 = 12;
const LIMIT: Duration = Duration::from_secs(300);

/// What one commit costs at the least: a row of the size of a step's.
const SCRIPT: &str = "INSERT INTO bench_commit (text) VALUES ('0123456789012345678901234567890123456789');\n";

pub fn measure(scale: Scale, report: &mut Report) {
    let mut field = Field::start();
    let database = Database::start();
    database.sql(
        &field,
        "CREATE TABLE floh_worker.bench_commit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text)",
    );
    let grant = format!("GRANT INSERT ON {SCHEMA}.bench_commit TO {USER}");
    database.sql(&field, &grant);
    define(&database, &field, &ten_steps());
    for (concurrency, runs) in LOADS {
        // Fewer than that are over before the others are looked at.
        let runs = (runs / scale.divisor).max(20);
        let (mut rates, mut commits) = (Vec::new(), Vec::new());
        for _ in 0..scale.rounds {
            empty(&database, &mut field);
            commits.push(pgbench(&database, concurrency, runs * STEPS));
            empty(&database, &mut field);
            rates.push(steps_per_second(&database, &field, concurrency, runs));
        }
        tell(report, concurrency, runs, &rates, &commits);
    }
    trips(&database, &mut field, report);
    waiting(scale, &database, &mut field, report);
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
            "TRUNCATE {SCHEMA}.workflow_run, {SCHEMA}.job_outbox, {SCHEMA}.job_execution, {SCHEMA}.bench_commit CASCADE"
        ),
    );
    database.sql(field, "CHECKPOINT");
}

/// One number out of the database.
fn ask(database: &Database, field: &Field, query: &str) -> f64 {
    field.wait(async {
        let row = database.postgres.admin().await.query_one(query, &[]).await.unwrap();
        row.get::<_, Option<f64>>(0).unwrap_or_default()
    })
}

/// Between the first tenth and the last tenth of all steps, by the times of their commits.
fn steps_per_second(database: &Database, field: &Field, concurrency: usize, runs: u64) -> f64 {
    start(database, field, "ten", runs);
    let daemon = database.daemon(field, concurrency);
    let open = format!("SELECT count(*)::float8 FROM {SCHEMA}.workflow_run WHERE status <> 'completed'");
    wait_for("the runs", LIMIT, || {
        std::thread::sleep(Duration::from_millis(100));
        (ask(database, field, &open) == 0.0).then_some(())
    });
    drop(daemon);
    let at =
        |part: f64| format!("percentile_disc({part}) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at)::float8)");
    let seconds = format!("SELECT {} - {} FROM {SCHEMA}.workflow_step", at(0.9), at(0.1));
    0.8 * (runs * STEPS) as f64 / ask(database, field, &seconds)
}

fn pgbench(database: &Database, clients: usize, transactions: u64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("commit.sql");
    fs::write(&script, SCRIPT).unwrap();
    let each = (transactions / clients as u64).max(20).to_string();
    let prepare = |command: &mut Command| {
        command.args(["-n", "-M", "prepared", "-j", "2", "-c", &clients.to_string(), "-t", &each, "-f"]).arg(&script);
        command.args(["-h", "127.0.0.1", "-p", &database.postgres.port().to_string(), "-U", USER, DATABASE]);
        command.env("PGPASSWORD", PASSWORD).env("PGOPTIONS", format!("-c search_path={SCHEMA}"));
    };
    let done = child::run(&postgres::binaries().join("pgbench"), prepare, b"", LIMIT);
    let rate = done.stdout.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("pgbench: {}\n{}{}", done.status, done.stdout, done.stderr))
}

fn tell(report: &mut Report, concurrency: usize, runs: u64, steps: &[f64], commits: &[f64]) {
    let share = Spread::of_ratios(steps, commits);
    let per_run: Vec<f64> = steps.iter().map(|rate| rate / STEPS as f64).collect();
    let mut table = Table::new(&["", "per second"]);
    table.row(["pgbench, commits of one row".into(), Spread::of(commits).text(0)]);
    table.row(["floh-worker, steps".into(), Spread::of(steps).text(0)]);
    table.row(["floh-worker, runs".into(), Spread::of(&per_run).text(1)]);
    report.section(
        &format!("Runs of ten steps, {concurrency} at a time"),
        &format!(
            "{} runs of five transforms and five conditions, whose start and end are steps, too; as many transactions \
             of {concurrency} clients of pgbench, each of which inserts one row.",
            number(runs as f64, 0)
        ),
        table,
    );
    report.goal(
        "runs-rate",
        &format!("steps/s of runs, {concurrency} at a time"),
        "50 % of what PostgreSQL commits",
        &format!("{:.0} %", share.median * 100.0),
        share.median / 0.5,
    );
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
        start(database, field, "waiting", share - ask(database, field, &count) as u64);
        wait_for("the runs wait", LIMIT, || {
            std::thread::sleep(Duration::from_millis(100));
            (ask(database, field, &count) >= share as f64).then_some(())
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
