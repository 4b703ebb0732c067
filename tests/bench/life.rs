//! The daemon's memory, idle and after many jobs, and its start.

use crate::{
    Scale,
    field::{Database, Field, subject},
    report::{Report, Spread, Table, number},
    subject::Kind,
    support::{wait_for, worker::Worker},
};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Jobs that the daemon whose memory is measured runs, in portions that Redis holds easily.
const JOBS: u64 = 1_000_000;
const PORTIONS: u64 = 10;
/// At a time: as many sessions to PostgreSQL, with what each remembers.
const CONCURRENCY: &str = "8";
const STARTS: u64 = 20;
/// An idle daemon's memory is read when it has been so for a while: housekeeping has turned by then.
const IDLE: Duration = Duration::from_secs(3);

pub fn measure(scale: Scale, report: &mut Report) {
    let mut field = Field::start();
    let database = Database::start();
    start(scale, &field, &database, report);
    memory(scale, &mut field, &database, report);
}

fn start(scale: Scale, field: &Field, database: &Database, report: &mut Report) {
    let rounds = (STARTS / scale.divisor).max(3);
    let mut ours = Vec::new();
    let mut peers = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let began = Instant::now();
        let mut worker = Worker::spawn("start", &database.environment(field, "start", &[("LOG_LEVEL", "warn")]));
        worker.wait_ready();
        let ready = worker.notices().into_iter().find(|notice| notice.line == "READY=1").unwrap();
        ours.push((ready.at - began).as_secs_f64() * 1e3);
        worker.stop();
        for (kind, times) in [Kind::Official, Kind::Node6, Kind::Node5].into_iter().zip(&mut peers) {
            let began = Instant::now();
            subject(field, kind, 1, "start").wait_for("ready");
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    let mut table = Table::new(&["worker", "ms"]);
    table.row(["floh-worker, to READY=1".to_string(), Spread::of(&ours).text(1)]);
    for (kind, times) in [Kind::Official, Kind::Node6, Kind::Node5].into_iter().zip(&peers) {
        table.row([format!("{}, connected", kind.name()), Spread::of(times).text(1)]);
    }
    report.section(
        "Start",
        &format!(
            "{rounds} starts with everything it depends on up. Ours is the whole daemon: PostgreSQL and Redis reached, the \
             schema checked, the first fetch answered. Of the peers only the connection to Redis is waited for."
        ),
        table,
    );
    let ours = Spread::of(&ours);
    report.goal(
        "start",
        "start of the process to READY",
        "50 ms",
        &format!("{:.1} ms", ours.median),
        50.0 / ours.median,
    );
}

fn memory(scale: Scale, field: &mut Field, database: &Database, report: &mut Report) {
    let portion = (JOBS / scale.divisor).max(1000) / PORTIONS;
    field.clear();
    let settings = [("WORKER_CONCURRENCY", CONCURRENCY), ("LOG_LEVEL", "warn")];
    let mut worker = Worker::spawn("memory", &database.environment(field, "memory", &settings));
    worker.wait_ready();
    std::thread::sleep(IDLE);
    let mut table = Table::new(&["jobs done", "resident MB", "of these anonymous MB", "peak MB"]);
    let mut row = |done: u64| {
        let [resident, anonymous, peak] = ["VmRSS", "RssAnon", "VmHWM"].map(|field| megabytes(worker.pid(), field));
        table.row([number(done as f64, 0), number(resident, 1), number(anonymous, 1), number(peak, 1)]);
        resident
    };
    let idle = row(0);
    let mut after = idle;
    for turn in 1..=PORTIONS {
        field.fill(portion, "test.echo");
        wait_for("the jobs of a portion", Duration::from_secs(300), || (field.left().1 == 0).then_some(()));
        if [1, PORTIONS / 2, PORTIONS].contains(&turn) {
            std::thread::sleep(IDLE);
            after = row(turn * portion);
        }
    }
    let total = number((portion * PORTIONS) as f64, 0);
    report.section(
        "Memory of the daemon",
        &format!("{total} `test.echo` jobs with ledger, {CONCURRENCY} at a time; read when it is idle again."),
        table,
    );
    worker.stop();
    report.goal("memory", "resident memory, idle", "15 MB at most", &format!("{idle:.1} MB"), 15.0 / idle);
    let growth = (after - idle).max(0.0);
    report.goal(
        "growth",
        &format!("growth of it after {total} jobs"),
        "below 2 MB",
        &format!("{growth:.1} MB"),
        2.0 / growth.max(0.01),
    );
}

/// A field of a process's status, kB there.
pub fn megabytes(pid: i32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
