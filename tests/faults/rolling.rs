//! Rolling restarts: three workers are told to stop, one after the other, again and again, with jobs in flight that last
//! longer than a drain may.

use crate::{
    stage::{PICK_UP_WITHIN, Plan, Stage},
    story::Story,
    table::{Row, Verdict},
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;

row!(18, rolling_restarts, off "hand-back", rolling);

fn rolling(row: &Row) -> Verdict {
    let times = row.choose(6, 30);
    let fault = format!("SIGTERM with jobs in flight {times} times in a row, 3 workers");
    let mut stage = Stage::start(row, fault, |_| Plan::workers(&[2, 4, 4]).with("SHUTDOWN_TIMEOUT_SECONDS", 1));
    stage.deaths_expected = true;
    for turn in 0..times {
        if turn % 3 == 0 {
            for number in 0..4 {
                let key = format!("long-{turn}-{number}");
                let opts = json!({"attempts": 1, "removeOnComplete": false, "jobId": key});
                stage.fleet.add(6, "test.effect", json!({"key": key, "ms": 2500}), opts);
                stage.keys.insert(key);
            }
        }
        let worker = turn % 3;
        let life = stage.crew.lives(worker).len();
        stage.crew.signal(worker, Signal::SIGTERM);
        if stage.crew.wait_life(worker, life + 1, Duration::from_secs(40)).is_none() {
            stage.complain(format!("worker {} did not come back", worker + 1));
        }
    }
    let lives: Vec<_> = (0..stage.crew.len()).flat_map(|worker| stage.crew.lives(worker)).collect();
    for life in &lives {
        if let Some((_, status)) = life.ended
            && status.code() != Some(0)
            && row.off.is_none()
        {
            stage.complain(format!("instance {} ended with {status}", life.instance));
        }
    }
    let handed_back: usize = lives.iter().map(|life| life.log.matches("handed back, no attempt").count()).sum();
    stage.complain_if(handed_back == 0 && row.off.is_none(), || "no job was in flight at any deadline".into());
    let story = Story::read(&stage.fleet.stream());
    if let Some((waited, id)) = story.longest_wait_after_hand_back() {
        stage.note(&format!("{id} ran again after its hand-back"), Duration::from_millis(waited), PICK_UP_WITHIN);
    }
    stage.end()
}
