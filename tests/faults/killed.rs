//! Workers killed at random, without anything that says why: each is started again at once under its name and with its
//! state folder, and gives back first what it had before.

use crate::{
    stage::{Plan, Stage, now_ms},
    story::Story,
    support::crew::Life,
    table::{Kind, Row, Verdict},
};
use nix::sys::signal::Signal;
use rand::RngExt;
use std::{
    collections::BTreeSet,
    fs,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

// Without its state folder a worker does not know what it had.
row!(16, worker_killed, off "state-folder" => RanAgainLate, killed);

/// From the start of the next life to the start of what the last one had. The short form is also run on machines that are
/// busy with other things: there it is three seconds, where others take more than sixty.
const AGAIN_WITHIN: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(1));
/// No longer is it looked for.
const GIVE_UP: Duration = Duration::from_secs(5);

fn killed(row: &Row) -> Verdict {
    let times = row.choose(8, 30);
    let seconds = times * 2;
    let fault = format!("a worker killed at random {times} times in {seconds} s");
    let mut stage = Stage::start(row, fault, |_| {
        let mut plan = Plan::workers(&[4, 4]);
        plan.spread = 120;
        if row.off.is_some() {
            plan.after_end = Some(Arc::new(forget));
        }
        plan
    });
    stage.deaths_expected = true;
    let mut orphans = BTreeSet::new();
    for _ in 0..times {
        let next = Instant::now() + Duration::from_secs(2);
        let victim = rand::rng().random_range(0..stage.crew.len());
        sleep(Duration::from_millis(rand::rng().random_range(0..400)));
        kill_one(&mut stage, victim, &mut orphans);
        if stage.is_seen() {
            break;
        }
        sleep(next.saturating_duration_since(Instant::now()));
    }
    stage.complain_if(orphans.is_empty(), Kind::Setup, || "no worker had a job when it was killed".into());
    stage.end()
}

/// Kills a worker and measures when each of the jobs that it had runs again. `seen` are those of earlier ones.
fn kill_one(stage: &mut Stage, victim: usize, seen: &mut BTreeSet<String>) {
    let within = stage.row.choose(AGAIN_WITHIN.0, AGAIN_WITHIN.1);
    let life = stage.crew.lives(victim).len();
    stage.crew.signal(victim, Signal::SIGKILL);
    let killed = now_ms();
    let mut orphans = active_of(stage, victim);
    orphans.retain(|id| seen.insert(id.clone()));
    let Some(started) = stage.crew.wait_life(victim, life + 1, Duration::from_secs(20)) else {
        stage.complain(Kind::Process, "a killed worker did not come back");
        return;
    };
    let restarted = now_ms() - u64::try_from(started.elapsed().as_millis()).unwrap();
    let end = Instant::now() + GIVE_UP;
    for id in &orphans {
        loop {
            let story = Story::read(&stage.fleet.stream_since(killed));
            let told = story.0.get(id).cloned().unwrap_or_default();
            if let Some(start) = told.starts.first() {
                let took = Duration::from_millis(start.saturating_sub(restarted));
                stage.note(Kind::RanAgainLate, &format!("{id}, which a killed worker had, ran again"), took, within);
                break;
            }
            // What the worker sent last may have arrived after its death.
            if told.completed.is_some() {
                break;
            }
            if Instant::now() > end {
                let what = format!("{id}, which a killed worker had, did not run again");
                stage.note(Kind::RanAgainLate, &what, GIVE_UP, within);
                break;
            }
            sleep(Duration::from_millis(20));
        }
    }
}

/// The jobs that are active in the hands of a worker.
fn active_of(stage: &mut Stage, index: usize) -> Vec<String> {
    let active = stage.fleet.key("active");
    let mut ids: Vec<String> = stage.fleet.redis("LRANGE", &[&active, &0, &-1]);
    let name = format!(":floh-worker@{}", index + 1);
    ids.retain(|id| {
        let hash = stage.fleet.key(id);
        let by: Option<String> = stage.fleet.redis("HGET", &[&hash, &"pb"]);
        by.is_some_and(|by| by.ends_with(&name))
    });
    ids
}

fn forget(life: &Life) {
    let folder = life.variable("STATE_DIRECTORY").unwrap();
    fs::remove_dir_all(folder).unwrap();
    fs::create_dir(folder).unwrap();
}
