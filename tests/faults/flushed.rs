//! FLUSHALL under load. What PostgreSQL knows comes back within a minute: the wake-ups of its outbox, and the schedulers
//! of the built-in jobs. Jobs that only the API server knew are lost by nature.

use crate::{
    stage::{Plan, Stage},
    support::fleet::Fleet,
    table::{Kind, Row, Verdict},
    wake_ups::{self, RESTORED_WITHIN, WakeUp},
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

row!(23, redis_flushed, off "reconciler" => NotRestored, flushed);

const SCHEDULER: &str = "floh-worker:stuck-run-recovery";

fn flushed(row: &Row) -> Verdict {
    // The first of them wants no wake-up, the second one, and so on.
    let jobs = row.choose(20, 60);
    let delay = row.choose(12_000, 45_000);
    let fault = format!("FLUSHALL with {} wake-ups pending", jobs * (jobs - 1) / 2);
    let mut stage = Stage::start_on(Fleet::start_with_periodic_jobs(), row, fault, |_| Plan::usual());
    let Some(pending) = wake_ups::pending(&mut stage, "outbox", jobs, delay) else {
        return stage.end();
    };
    let before = stage.loaded();
    stage.fleet.redis::<()>("FLUSHALL", &[]);
    let start = Instant::now();
    // An answer from just before it may be read just after it.
    sleep(Duration::from_millis(300));
    stage.excused = stage.loaded();
    stage.excused.extend(before);
    wait_restored(&mut stage, &pending, start);
    // The last of them is due.
    sleep((start + Duration::from_millis(delay)).saturating_duration_since(Instant::now()));
    stage.end()
}

/// Each pending wake-up is in Redis again, or has run already; and the scheduler is back.
fn wait_restored(stage: &mut Stage, pending: &[WakeUp], start: Instant) {
    let end = start + if stage.row.off.is_some() { RESTORED_WITHIN } else { RESTORED_WITHIN * 2 };
    loop {
        let effects = stage.fleet.effects();
        let mut missing = Vec::new();
        for WakeUp { id, key } in pending {
            let hash = stage.fleet.key(id);
            if !effects.contains_key(key) && !stage.fleet.redis::<bool>("EXISTS", &[&hash]) {
                missing.push(id.as_str());
            }
        }
        let schedulers = stage.fleet.key("repeat");
        if stage.fleet.redis::<Option<f64>>("ZSCORE", &[&schedulers, &SCHEDULER]).is_none() {
            missing.push(SCHEDULER);
        }
        if missing.is_empty() {
            stage.note(
                Kind::NotRestored,
                "everything that PostgreSQL knows is restored",
                start.elapsed(),
                RESTORED_WITHIN,
            );
            return;
        }
        if Instant::now() > end {
            let what = format!("{} were not restored, such as {}", missing.len(), missing[0]);
            stage.note(Kind::NotRestored, &what, start.elapsed(), Duration::ZERO);
            return;
        }
        sleep(Duration::from_millis(100));
    }
}
