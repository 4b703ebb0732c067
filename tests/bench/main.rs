//! What floh-worker costs, and how fast it is, beside its peers: Node's BullMQ 6 and 5, and the official Rust crate.
//!
//! `./tests/run bench` measures and writes `RESULTS.md`; with `FLOH_BENCH=quick` it only tries itself: one round, few jobs,
//! and a file in `target/tmp`. All workers are processes of their own against the same private servers. What is compared
//! is measured in turns (A B C D A B C D …), so that what else happens on the machine meets all of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot measure ends with a panic, as a test does"
)]

mod field;
mod handover;
mod host;
mod latency;
mod ledger;
mod life;
mod limits;
mod plain;
mod report;
mod runs;
mod subject;
#[path = "../it/support/mod.rs"]
#[allow(unused_imports, reason = "the tests of the support modules themselves are compiled without a test harness")]
mod support;
mod worker;

use report::Report;
use std::{env, fs, path::Path, time::Instant};

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Scale {
    rounds: usize,
    /// Everything that is counted is divided by this.
    divisor: u64,
}

impl Scale {
    /// As many jobs of a full run's `jobs` as this run makes.
    fn jobs(&self, jobs: u64) -> u64 {
        (jobs / self.divisor).max(100)
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "worker") {
        // This program is also two of the workers that it measures.
        return worker::main(&arguments[1..]);
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("nothing to test here: `./tests/run bench` measures");
        return;
    }
    let quick = env::var("FLOH_BENCH").is_ok_and(|how| how == "quick");
    let scale = if quick { Scale { rounds: 1, divisor: 50 } } else { Scale { rounds: 5, divisor: 1 } };
    let only = env::var("FLOH_BENCH_ONLY").ok();
    let mut report = Report::begin(scale);
    let began = Instant::now();
    for (name, measure) in GROUPS {
        if only.as_deref().is_some_and(|only| !only.split(',').any(|wanted| wanted == name)) {
            continue;
        }
        println!("--- {name} ({} s)", began.elapsed().as_secs());
        measure(scale, &mut report);
    }
    let text = report.finish();
    println!("{text}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = if quick || only.is_some() {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench.md")
    } else {
        folder.join("tests/bench/RESULTS.md")
    };
    fs::write(&file, text).unwrap();
    println!("written to {}, {} s", file.display(), began.elapsed().as_secs());
}

type Group = (&'static str, fn(Scale, &mut Report));

/// The groups of figures; `FLOH_BENCH_ONLY=plain,latency` measures some of them.
const GROUPS: [Group; 6] = [
    ("plain", plain::measure),
    ("latency", latency::measure),
    ("ledger", ledger::measure),
    ("life", life::measure),
    ("handover", handover::measure),
    ("runs", runs::measure),
];
