//! No-op jobs without a ledger: how many a second, and what they cost.

use crate::{
    Scale,
    field::{Field, PREFIX, Stretch, subject},
    report::{Report, Spread, Table, number},
    subject::Kind,
};

/// Jobs at a time, and how many jobs a full run gives each worker.
const LOADS: [(usize, u64); 3] = [(1, 6000), (8, 16_000), (64, 30_000)];

pub fn measure(scale: Scale, report: &mut Report) {
    let mut field = Field::start();
    for (concurrency, jobs) in LOADS {
        let jobs = scale.jobs(jobs);
        let mut stretches: [Vec<Stretch>; 4] = Default::default();
        for _ in 0..scale.rounds {
            for (kind, stretches) in Kind::ALL.into_iter().zip(&mut stretches) {
                field.clear();
                field.fill(jobs, "test.echo");
                let worker = subject(&field, kind, concurrency, PREFIX);
                stretches.push(field.watch(worker.pid(), jobs));
            }
        }
        tell(report, concurrency, jobs, &stretches);
    }
}

fn tell(report: &mut Report, concurrency: usize, jobs: u64, stretches: &[Vec<Stretch>; 4]) {
    let all = |of: fn(&Stretch) -> f64, kind: usize| stretches[kind].iter().map(of).collect::<Vec<_>>();
    let ratio = |of: fn(&Stretch) -> f64, kind: usize| Spread::of_ratios(&all(of, 0), &all(of, kind));
    let cost: fn(&Stretch) -> f64 = |stretch| stretch.worker / stretch.jobs * 1e4;
    let mut table = Table::new(&[
        "worker",
        "jobs/s",
        "floh-worker is",
        "CPU s per 10,000 jobs",
        "Redis CPU µs per job",
        "Redis, cores",
        "others, cores",
    ]);
    for (index, kind) in Kind::ALL.into_iter().enumerate() {
        let faster = if index == 0 { String::new() } else { ratio(Stretch::rate, index).times() };
        table.row([
            kind.name().to_string(),
            Spread::of(&all(Stretch::rate, index)).text(0),
            faster,
            Spread::of(&all(cost, index)).text(3),
            Spread::of(&all(|stretch| stretch.redis / stretch.jobs * 1e6, index)).text(1),
            Spread::of(&all(|stretch| stretch.redis / stretch.seconds, index)).text(2),
            Spread::of(&all(Stretch::others, index)).text(2),
        ]);
    }
    report.section(
        &format!("No-op jobs without a ledger, {concurrency} at a time"),
        &format!("{} jobs each.", number(jobs as f64, 0)),
        table,
    );
    let speed = ratio(Stretch::rate, 1);
    report.goal(
        "plain-rate",
        &format!("no-op jobs/s without ledger, {concurrency} at a time"),
        "at least the official crate's",
        &format!("{} of it", speed.times()),
        speed.median,
    );
    if concurrency < 64 {
        return;
    }
    let redis = Spread::of(&all(|stretch| stretch.redis / stretch.seconds, 0));
    report.goal(
        "redis-busy",
        "Redis at 64 at a time",
        "95 % of one core or more",
        &format!("{:.0} %", redis.median * 100.0),
        redis.median / 0.95,
    );
    let own = Spread::of(&all(cost, 0));
    for (index, part, wanted) in
        [(1, 1.0, "at most the official crate's"), (2, 3.0, "at most a third of Node's, BullMQ 6")]
    {
        let theirs = Spread::of(&all(cost, index));
        report.goal(
            "plain-cpu",
            "CPU seconds of the worker per 10,000 no-op jobs, 64 at a time",
            wanted,
            &format!("{:.3} beside {:.3}", own.median, theirs.median),
            1.0 / (ratio(cost, index).median * part),
        );
    }
}
