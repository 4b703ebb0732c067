//! An answer of Redis is lost on its way, although the script ran: that of a fetch, and that of a finish that fetches the
//! next job. The job that was taken without anybody knowing runs within 5 s all the same.

use crate::{
    half_open::{fetch_of, finish_of},
    stage::{PICK_UP_WITHIN, Plan, Stage},
    story::Story,
    support::{fleet::Fleet, proxy::Fault, proxy::Proxy, wait_for},
    table::{Kind, Row, Verdict},
};
use serde_json::json;
use std::{thread::sleep, time::Duration};

row!(10, answer_of_fetch_lost, off "orphans" => Undone Lost RanAgainLate, of_a_fetch);
row!(11, answer_of_finish_lost, off "orphans" => Undone Lost RanAgainLate, of_a_finish);

fn of_a_fetch(row: &Row) -> Verdict {
    lost(row, "a fetch", fetch_of)
}

fn of_a_finish(row: &Row) -> Verdict {
    lost(row, "a finish that fetches", finish_of)
}

/// Cut off, left half-open with the script run, left half-open without, in turn.
fn lost(row: &Row, what: &str, pattern: impl Fn(&Fleet) -> String) -> Verdict {
    let times = row.choose(3, 12);
    let mut proxy = None;
    let mut stage = Stage::start(row, format!("the answer of {what} is lost, {times} times"), |fleet| {
        let port = proxy.insert(fleet.proxy()).port();
        Plan::usual().with("REDIS_PORT", port)
    });
    let proxy: Proxy = proxy.unwrap();
    for turn in 0..times {
        // Jobs have to wait, or the answer brings none.
        stage.fleet.call(6, "pause", json!({}));
        let wait = stage.fleet.key("wait");
        wait_for("a backlog", Duration::from_secs(10), || {
            (stage.fleet.redis::<u64>("LLEN", &[&wait]) >= 20).then_some(())
        });
        let fault = [Fault::CutAfter, Fault::Deafen, Fault::Swallow][turn % 3];
        proxy.arm(&pattern(&stage.fleet), fault);
        stage.fleet.call(6, "resume", json!({}));
        wait_for("the fault", Duration::from_secs(10), || (proxy.sprung() > turn).then_some(()));
        stage.pick_up(proxy.last_sprung().unwrap());
        sleep(Duration::from_secs(row.choose(1, 4)));
    }
    let key = stage.fleet.key("completed");
    let done: u64 = stage.fleet.redis("ZCARD", &[&key]);
    wait_for("the jobs that were under way", Duration::from_secs(20), || {
        (stage.fleet.redis::<u64>("ZCARD", &[&key]) > done + 50).then_some(())
    });
    let story = Story::read(&stage.fleet.stream());
    let again = story.0.values().filter(|job| job.starts.len() > 1).count();
    // Two of three faults let the script run.
    stage.complain_if(row.off.is_none() && again * 3 < times * 2, Kind::Setup, || {
        format!("only {again} of the lost answers had brought a job")
    });
    if let Some((waited, id)) = story.longest_wait_for_restart() {
        stage.note(Kind::RanAgainLate, &format!("{id} ran again"), Duration::from_millis(waited), PICK_UP_WITHIN);
    }
    stage.end()
}
