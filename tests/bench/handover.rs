//! From the end of a worker in the middle of a job to that job running again.

use crate::{
    Scale,
    field::{Database, Field, PREFIX, subject},
    report::{Report, Spread, Table},
    subject::{Kind, Subject},
    support::{wait_for, worker::Worker},
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long an interrupted job is waited for.
const PATIENCE: Duration = Duration::from_secs(150);
const PEERS: [Kind; 3] = [Kind::Official, Kind::Node6, Kind::Node5];

pub fn measure(scale: Scale, report: &mut Report) {
    let mut field = Field::start();
    let database = Database::start();
    let mut handed = Vec::new();
    let mut killed = Vec::new();
    for _ in 0..scale.rounds {
        handed.push(ours_handed_over(&mut field, &database));
    }
    for _ in 0..scale.rounds {
        killed.push(ours_killed(&mut field, &database));
        // One that has to wait for the lock to expire says all that there is to say.
        if killed.iter().any(|seconds| *seconds > 10.0) {
            break;
        }
    }
    let (handed, killed) = (Spread::of(&handed), Spread::of(&killed));
    let mut table = Table::new(&["worker", "SIGTERM twice, another worker idle: s", "kill -9 and start again: s"]);
    table.row(["floh-worker".to_string(), handed.text(3), killed.text(3)]);
    // Peers need a minute or more, so a small run does not wait for them.
    if scale.divisor == 1 {
        let rounds: Vec<_> = (0..scale.rounds).map(|_| peers(&mut field)).collect();
        for (index, kind) in PEERS.into_iter().enumerate() {
            let [handed, killed] = [0, 1].map(|how| {
                let times: Vec<_> = rounds.iter().map(|round| round[index][how]).collect();
                match times.iter().copied().collect::<Option<Vec<f64>>>() {
                    Some(seconds) => Spread::of(&seconds).text(1),
                    None => format!("more than {}, at least once", PATIENCE.as_secs()),
                }
            });
            table.row([kind.name().to_string(), handed, killed]);
        }
    }
    report.section(
        "Hand-over",
        "From the second signal (SIGTERM twice: the first drains, the second says now) or from the kill to the job being \
         active again. All with the defaults of each library.",
        table,
    );
    let found = |spread: &Spread| format!("{:.3} s", spread.median);
    report.goal(
        "hand-over",
        "second signal to the job running elsewhere",
        "0.2 s",
        &found(&handed),
        0.2 / handed.median,
    );
    report.goal("reclaim", "kill -9 and restart to the job running again", "1 s", &found(&killed), 1.0 / killed.median);
}

/// Seconds since `from_ms` (Redis' clock) until the job became active for the second time; `None` if not in time.
fn again(field: &mut Field, prefix: &str, id: &str, from_ms: f64) -> Option<f64> {
    let starts = field.starts(prefix, id);
    starts.get(1).map(|at| ((at - from_ms) / 1e3).max(0.0))
}

fn daemon(field: &Field, database: &Database, instance: &str) -> Worker {
    let mut worker = Worker::spawn(instance, &database.environment(field, instance, &[]));
    worker.wait_ready();
    worker
}

fn long_job(field: &mut Field, prefix: &str) -> String {
    let id = field.add(prefix, "test.sleep", json!({"ms": 600_000}));
    wait_for("the job's start", Duration::from_secs(20), || (field.starts(prefix, &id).len() == 1).then_some(()));
    id
}

fn ours_handed_over(field: &mut Field, database: &Database) -> f64 {
    field.clear();
    let worker = daemon(field, database, "1");
    let id = long_job(field, PREFIX);
    let _other = daemon(field, database, "2");
    worker.signal(Signal::SIGTERM);
    wait_for("the drain", Duration::from_secs(10), || worker.said("STOPPING=1").then_some(()));
    let from_ms = field.now_us() / 1e3;
    worker.signal(Signal::SIGTERM);
    wait_for("the job elsewhere", PATIENCE, || again(field, PREFIX, &id, from_ms))
}

fn ours_killed(field: &mut Field, database: &Database) -> f64 {
    field.clear();
    let mut worker = daemon(field, database, "1");
    let id = long_job(field, PREFIX);
    let from_ms = field.now_us() / 1e3;
    worker.kill();
    let _next = Worker::spawn("1", &database.environment(field, "1", &[]));
    wait_for("the job again", PATIENCE, || again(field, PREFIX, &id, from_ms))
}

/// A peer whose worker was ended in the middle of a job.
struct Case {
    prefix: String,
    id: String,
    from_ms: f64,
    seconds: Option<f64>,
    _next: [Option<Subject>; 2],
}

/// For each of [`PEERS`] both times. They all wait at the same time, each under a prefix of its own.
fn peers(field: &mut Field) -> Vec<[Option<f64>; 2]> {
    field.clear();
    let mut cases = Vec::new();
    for kind in PEERS {
        for kills in [false, true] {
            let prefix = format!("{kind:?}-{kills}");
            let mut first = subject(field, kind, 1, &prefix);
            first.wait_for("ready");
            let id = long_job(field, &prefix);
            let other = || {
                let other = subject(field, kind, 1, &prefix);
                other.wait_for("ready");
                other
            };
            let case =
                |from_ms, next| Case { prefix: prefix.clone(), id: id.clone(), from_ms, seconds: None, _next: next };
            if kills {
                let from_ms = field.now_us() / 1e3;
                first.kill();
                let next = subject(field, kind, 1, &prefix);
                cases.push(case(from_ms, [Some(next), None]));
            } else {
                let other = other();
                first.signal(Signal::SIGTERM);
                first.wait_for("closing");
                let from_ms = field.now_us() / 1e3;
                first.signal(Signal::SIGTERM);
                cases.push(case(from_ms, [Some(other), Some(first)]));
            }
        }
    }
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && cases.iter().any(|case| case.seconds.is_none()) {
        for case in cases.iter_mut().filter(|case| case.seconds.is_none()) {
            case.seconds = again(field, &case.prefix, &case.id, case.from_ms);
        }
        thread::sleep(Duration::from_millis(50));
    }
    cases.chunks(2).map(|pair| [pair[0].seconds, pair[1].seconds]).collect()
}
