//! Handlers that do what no handler should: they panic, hang without yielding, abort the process, corrupt memory. Their
//! neighbours are not harmed, and a job that kills its worker again and again is put aside with the evidence.

use crate::{
    stage::{Plan, Stage},
    support::{crew::Life, worker::binary},
    table::{Kind, Row, Verdict},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    os::unix::process::ExitStatusExt,
    process::Command,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

// Without evidence a death is an interruption: the job that kills is never put aside. Without the catch a panic is no
// failure of its job. And without a limit of its time a job that hangs does so for as long as it likes.
row!(20, handlers_fail, off "evidence" => Killer | "panics" => Panic | "timeouts" => Hang, fail);

const TIMEOUT: u64 = 3;
/// A job that kills its worker is started this many times at most, however often it is tried.
const DEATHS: usize = 3;
/// A job that hangs does so longer than its end is waited for.
const HANGS: u64 = 60_000;
const FAILS_WITHIN: Duration = Duration::from_secs(30);

/// Whether the job of this id must have failed with this reason.
type IsReason<'a> = &'a dyn Fn(&str, &str) -> bool;

fn fail(row: &Row) -> Verdict {
    let times = row.choose(1, 5);
    let fault = format!("handlers panic, hang, abort and segfault, {times} of each");
    let mut stage = Stage::start(row, fault, |_| {
        let mut plan = Plan::workers(&[4, 4]).with("JOB_TIMEOUT_SECONDS", TIMEOUT);
        if row.off != Some("evidence") {
            plan.after_end = Some(Arc::new(record_end));
        }
        plan
    });
    stage.deaths_expected = true;
    for turn in 0..times {
        expect_failures(&mut stage, turn);
        if stage.is_seen() {
            break;
        }
    }
    stage.end()
}

/// One job of each kind, each with the reason that it must have.
fn expect_failures(stage: &mut Stage, turn: usize) {
    let hung = format!("timed out after {TIMEOUT} s and did not react: its thread was given up");
    let kinds: [(Kind, &str, Value, IsReason); 4] = [
        (Kind::Panic, "test.panic", json!({"message": "on purpose"}), &|_, reason| reason == "panic: on purpose"),
        (Kind::Hang, "test.hang", json!({"ms": HANGS}), &|_, reason| reason == hung),
        (Kind::Killer, "test.abort", json!({}), &|id, reason| is_quarantine(id, "ABRT", reason)),
        (Kind::Killer, "test.segfault", json!({}), &|id, reason| is_quarantine(id, "SEGV", reason)),
    ];
    for (kind, name, data, is_right) in kinds {
        expect_failure(stage, turn, kind, name, data, is_right);
        if stage.is_seen() {
            return;
        }
    }
}

/// Whether the reason is the quarantine of this job, with the evidence of three deaths, and says what one can do.
fn is_quarantine(id: &str, signal: &str, reason: &str) -> bool {
    let evidence = reason
        .strip_prefix(&format!("quarantined, because {DEATHS} workers died while it ran: "))
        .and_then(|rest| rest.strip_suffix(&format!(". To run it again: flohctl job quarantine release {id}")));
    evidence.is_some_and(|evidence| {
        let deaths: Vec<&str> = evidence.split("; ").collect();
        let told = |death: &&str| death.contains(&format!("({signal}) on floh-worker@"));
        deaths.len() == DEATHS && deaths.iter().all(told)
    })
}

/// The job fails, with the reason that it must have, and the worker goes on.
fn expect_failure(stage: &mut Stage, turn: usize, kind: Kind, name: &str, data: Value, is_right: IsReason) {
    let id = format!("{}-{turn}", name.replace('.', "-"));
    let opts = json!({"attempts": 1, "removeOnComplete": false, "removeOnFail": false, "jobId": id});
    stage.fleet.add(6, name, data, opts);
    let end = Instant::now() + FAILS_WITHIN;
    loop {
        let job = stage.fleet.job(6, &id);
        if job["state"] == "failed" {
            let said = job["failedReason"].as_str().unwrap_or_default();
            stage.complain_if(!is_right(&id, said), kind, || {
                format!("{name} failed with {said:?}, which is not its reason")
            });
            break;
        }
        if Instant::now() > end {
            stage.complain(kind, format!("{name} has not failed, but is {}", job["state"]));
            stage.fleet.redis::<()>("DEL", &[&stage.fleet.key(&format!("{id}:lock"))]);
            stage.fleet.call(6, "remove", json!({"job": id}));
            break;
        }
        sleep(Duration::from_millis(50));
    }
    let starts = stage.fleet.starts(&id).len();
    stage.complain_if(starts > DEATHS + 1, kind, || format!("{name} was started {starts} times"));
}

/// What the unit's `ExecStopPost=` does, with what systemd tells it.
fn record_end(life: &Life) {
    let Some((_, status)) = life.ended else { return };
    let (result, code, what) = match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = Signal::try_from(signal).map(|signal| signal.as_str().trim_start_matches("SIG").to_string());
            let dumped = status.core_dumped();
            let (result, code) = if dumped { ("core-dump", "dumped") } else { ("signal", "killed") };
            (result, code, name.unwrap_or_else(|_| signal.to_string()))
        }
        (None, Some(0)) => ("success", "exited", "0".to_string()),
        (None, code) => ("exit-code", "exited", code.unwrap_or(255).to_string()),
    };
    let mut command = Command::new(binary("floh-worker"));
    command.args(["--record-end", &life.instance]).env_clear().envs(life.environment.iter().cloned());
    command.env("SERVICE_RESULT", result).env("EXIT_CODE", code).env("EXIT_STATUS", what);
    let _ = command.output();
}
