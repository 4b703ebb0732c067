//! No-op jobs with ledger and epoch, as the daemon runs them, beside what PostgreSQL alone commits for the same rows.

use crate::{
    Scale,
    field::{Database, Field, Stretch},
    report::{Report, Spread, Table, number},
    support::postgres::SCHEMA,
};

/// Jobs at a time, and how many in a full run.
const LOADS: [(usize, u64); 3] = [(1, 1500), (8, 6000), (64, 12_000)];

/// What the daemon asks of PostgreSQL for a `test.echo` job: one take, which commits one row. The job commits nothing of
/// its own, so its end is not written.
const SCRIPT: &str = "\
\\set id random(1, 1000000000000)
SELECT outcome, id, epoch, value FROM take_job('workflow-scheduler', :id, 1700000000000, 0, 'test.echo', 1, \
1700000000000, 'bench', '8d3f0f5c-3c0b-4c57-a5ad-6b4d2a4f6d10', NULL);
";

pub fn measure(scale: Scale, report: &mut Report) {
    let mut field = Field::start();
    let database = Database::start();
    for (concurrency, jobs) in LOADS {
        let jobs = scale.jobs(jobs);
        let (mut stretches, mut commits) = (Vec::new(), Vec::new());
        for _ in 0..scale.rounds {
            empty(&database, &field);
            database.pgbench(SCRIPT, concurrency, jobs);
            commits.push(database.rate(&field, "job_execution", "taken_at"));
            empty(&database, &field);
            field.clear();
            field.fill(jobs, "test.echo");
            let daemon = database.daemon(&field, concurrency);
            stretches.push(field.watch(daemon.pid(), jobs));
        }
        tell(report, concurrency, jobs, &stretches, &commits);
    }
}

/// Both begin with an empty ledger and nothing to be written by the checkpointer.
fn empty(database: &Database, field: &Field) {
    database.sql(field, &format!("TRUNCATE {SCHEMA}.job_execution"));
    database.sql(field, "CHECKPOINT");
}

fn tell(report: &mut Report, concurrency: usize, jobs: u64, stretches: &[Stretch], commits: &[f64]) {
    let all = |of: fn(&Stretch) -> f64| stretches.iter().map(of).collect::<Vec<_>>();
    let rates = all(Stretch::rate);
    let share = Spread::of_ratios(&rates, commits);
    let mut table = Table::new(&[
        "",
        "per second",
        "worker CPU s per 10,000",
        "Redis CPU µs per job",
        "worker, cores",
        "Redis, cores",
        "PostgreSQL and others, cores",
    ]);
    let none = String::new;
    table.row(["pgbench".into(), Spread::of(commits).text(0), none(), none(), none(), none(), none()]);
    table.row([
        "floh-worker".into(),
        Spread::of(&rates).text(0),
        Spread::of(&all(|stretch| stretch.worker / stretch.jobs * 1e4)).text(3),
        Spread::of(&all(|stretch| stretch.redis / stretch.jobs * 1e6)).text(1),
        Spread::of(&all(|stretch| stretch.worker / stretch.seconds)).text(2),
        Spread::of(&all(|stretch| stretch.redis / stretch.seconds)).text(2),
        Spread::of(&all(Stretch::others)).text(2),
    ]);
    report.section(
        &format!("No-op jobs with ledger and epoch, {concurrency} at a time"),
        &format!("{} jobs, and as many transactions of {concurrency} clients of pgbench.", number(jobs as f64, 0)),
        table,
    );
    report.goal(
        "ledger-rate",
        &format!("no-op jobs/s with ledger and epoch, {concurrency} at a time"),
        "60 % of what PostgreSQL commits by the same statement",
        &format!("{:.0} %", share.median * 100.0),
        share.median / 0.6,
    );
}
