//! Rolling restarts: three workers are told to stop, one after the other, again and again, each when it has a job that lasts
//! longer than its drain may.

use crate::{
    stage::{PICK_UP_WITHIN, Plan, Stage},
    story::Story,
    support::wait_for,
    table::{Kind, Row, Verdict},
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::{Duration, Instant};

row!(18, rolling_restarts, off "hand-back" => Undone Lost, rolling);

/// How long a job takes that is to be in flight when the drain's second is over.
const LONG: u64 = 2500;
const SOON: Duration = Duration::from_secs(20);

fn rolling(row: &Row) -> Verdict {
    let times = row.choose(6, 30);
    let fault = format!("SIGTERM with jobs in flight {times} times in a row, 3 workers");
    let mut stage = Stage::start(row, fault, |_| Plan::workers(&[2, 4, 4]).with("SHUTDOWN_TIMEOUT_SECONDS", 1));
    stage.deaths_expected = true;
    for turn in 0..times {
        let worker = turn % 3;
        let life = stage.crew.lives(worker).len();
        occupy(&mut stage, worker, turn);
        stage.crew.signal(worker, Signal::SIGTERM);
        if stage.crew.wait_life(worker, life + 1, Duration::from_secs(40)).is_none() {
            stage.complain(Kind::Process, format!("worker {} did not come back", worker + 1));
        }
    }
    let lives: Vec<_> = (0..stage.crew.len()).flat_map(|worker| stage.crew.lives(worker)).collect();
    for life in &lives {
        if let Some((_, status)) = life.ended
            && status.code() != Some(0)
            && row.off.is_none()
        {
            stage.complain(Kind::Process, format!("instance {} ended with {status}", life.instance));
        }
        stage.complain_if(life.ended.is_some() && running(&life.log).is_none_or(|jobs| jobs == 0), Kind::Setup, || {
            format!("instance {} was stopped with {:?} jobs in flight", life.instance, running(&life.log))
        });
    }
    let stopped = lives.iter().filter(|life| life.ended.is_some()).count();
    stage.complain_if(stopped != times, Kind::Setup, || format!("{stopped} drains instead of {times}"));
    let handed_back: usize = lives.iter().map(|life| life.log.matches("handed back, no attempt").count()).sum();
    // On a busy machine one of them may be told so late that its job ends in time.
    stage.complain_if(handed_back * 2 < times && row.off.is_none(), Kind::Setup, || {
        format!("{handed_back} jobs were in flight at {times} deadlines")
    });
    let story = Story::read(&stage.fleet.stream());
    if let Some((waited, id)) = story.longest_wait_after_hand_back() {
        let what = format!("{id} ran again after its hand-back");
        stage.note(Kind::RanAgainLate, &what, Duration::from_millis(waited), PICK_UP_WITHIN);
    }
    stage.end()
}

/// Adds long jobs until the worker runs one. What the others get meanwhile is in flight there.
fn occupy(stage: &mut Stage, worker: usize, turn: usize) {
    let instance = (worker + 1).to_string();
    let end = Instant::now() + SOON;
    for number in 0.. {
        assert!(Instant::now() < end, "worker {instance} did not get one of {number} long jobs");
        let key = format!("long-{turn}-{number}");
        let opts = json!({"attempts": 1, "removeOnComplete": false, "jobId": key});
        stage.fleet.add(6, "test.effect", json!({"key": key, "ms": LONG}), opts);
        let query = format!("SELECT instance FROM floh_worker.job_execution WHERE job_id = '{key}'");
        stage.keys.insert(key);
        let row = wait_for("a worker for the long job", SOON, || stage.fleet.sql(&query).pop());
        if row[0].as_deref() == Some(instance.as_str()) {
            return;
        }
    }
}

/// How many jobs a life had in flight when it was told to stop, by its own word.
fn running(log: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains(" running may finish for "))?;
    line.split(" running may finish for ").next()?.rsplit(' ').next()?.parse().ok()
}
