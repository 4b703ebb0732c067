//! A worker that freezes longer than its locks live, at the worst moments, and then goes on as if nothing had been:
//!
//! * `take`: between the fetch and the take, whose statement is on its way to PostgreSQL;
//! * `race`: the same, and its successor has fetched the job and not taken it yet;
//! * `handler`: in the handler, before its transaction;
//! * `open`: inside the transaction, its effect written;
//! * `commit`: between the fence, which locks the ledger's row, and COMMIT.
//!
//! The frozen worker's statements are kept by a proxy in front of PostgreSQL and delivered when it goes on.

use crate::{
    stage::{Plan, Stage, now_ms},
    story::Story,
    support::{
        proxy::{Fault, Proxy},
        wait_for,
    },
    table::{Kind, Row, Verdict},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

row!(17, worker_frozen, off "fence" => Stale Doubled | "confirm" => Stale, frozen);

/// What the successor may take longer than the handler itself does.
const HELD_UP_WITHIN: Duration = Duration::from_secs(2);
/// How long the jobs take that have to be caught in the middle.
const LONG: u64 = 4000;
/// The lock has to expire, and two checks have to find it so.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(100);
const SOON: Duration = Duration::from_secs(30);

/// One moment: the job that is at it, and how long its handler takes.
struct Victim {
    moment: &'static str,
    id: String,
    takes: Duration,
}

fn frozen(row: &Row) -> Verdict {
    let fault = if row.is_full() { "SIGSTOP past the lock" } else { "SIGSTOP, the locks taken away" };
    let (mut proxies, mut redis) = (Vec::new(), None);
    let mut stage = Stage::start(row, format!("a worker frozen ({fault}) at five moments at once"), |fleet| {
        let mut plan = Plan::workers(&[10, 10]);
        for settings in &mut plan.workers {
            proxies.push(fleet.postgres_proxy());
            settings.insert("DB_PORT", proxies.last().unwrap().port().to_string());
        }
        if row.off == Some("confirm") {
            let port = redis.insert(fleet.proxy()).port();
            plan.workers[0].insert("REDIS_PORT", port.to_string());
        }
        plan
    });
    let victims = catch(&mut stage, &proxies);
    stage.crew.signal(0, Signal::SIGSTOP);
    let locks = if row.is_full() { Vec::new() } else { let_locks_expire(&mut stage) };
    wait_for_successor(&mut stage, &victims, &proxies[1]);
    if row.off == Some("fence") {
        // Only the fence is to stand between the stale worker and a commit: Redis does not tell it that it lost its jobs.
        for (lock, token) in locks {
            stage.fleet.redis::<redis::Value>("SET", &[&lock, &token, &"PX", &30_000, &"NX"]);
        }
    }
    let race = &victims.iter().find(|victim| victim.moment == "race").unwrap().id;
    // Only the question after the take is to stand between the stale worker and its handler: the renewal, by which it hears
    // that it lost its jobs, comes too late.
    redis.iter().for_each(|redis| redis.arm(race, Fault::Hold));
    stage.crew.signal(0, Signal::SIGCONT);
    proxies[0].release();
    let thawed = now_ms();
    let_the_stale_one_take(&mut stage, race);
    proxies[1].release();
    redis.iter().for_each(Proxy::release);
    stage.pick_up(thawed);
    judge(&mut stage, &victims);
    stage.end()
}

/// Brings the first worker to each of the moments. The long ones come last, so that all are at theirs together.
fn catch(stage: &mut Stage, proxies: &[Proxy]) -> Vec<Victim> {
    let mut victims = Vec::new();
    for moment in ["take", "race", "commit", "open", "handler"] {
        let end = Instant::now() + SOON;
        for number in 0.. {
            assert!(Instant::now() < end, "the first worker did not get a job at the moment {moment}");
            let id = format!("victim-{moment}-{number}");
            let key = format!("effect-{moment}-{number}");
            let (data, takes) = match moment {
                "handler" => (json!({"key": key, "before": LONG}), LONG),
                "open" => (json!({"key": key, "ms": LONG}), LONG),
                _ => (json!({"key": key}), 0),
            };
            if try_one(stage, proxies, moment, &id, &key, data) {
                victims.push(Victim { moment, id, takes: Duration::from_millis(takes) });
                break;
            }
        }
    }
    victims
}

/// Adds a job for a moment; whether the first worker is at it. If the second got it, it is a job like any other.
fn try_one(stage: &mut Stage, proxies: &[Proxy], moment: &str, id: &str, key: &str, data: Value) -> bool {
    // What goes to PostgreSQL: the take has the job's id, and nothing before it has; the fence has the returned value.
    let sprung = proxies[0].sprung();
    match moment {
        "take" | "race" => proxies[0].arm(id, Fault::Hold),
        "commit" => proxies[0].arm(&format!("\"{key}\"}}"), Fault::HoldNext),
        _ => {}
    }
    stage.keys.insert(key.to_string());
    let opts = json!({"attempts": 1, "removeOnComplete": false, "jobId": id, "lifo": true});
    stage.fleet.add(6, "test.effect", data, opts);
    let hash = stage.fleet.key(id);
    let by = wait_for("a worker for the victim", SOON, || stage.fleet.redis::<Option<String>>("HGET", &[&hash, &"pb"]));
    if !by.ends_with("@1") {
        proxies[0].disarm();
        return false;
    }
    match moment {
        "take" | "race" | "commit" => {
            wait_for("the statement of the victim", SOON, || (proxies[0].sprung() > sprung).then_some(()));
        }
        _ => wait_for("the take of the victim", SOON, || {
            let query = format!("SELECT 1 FROM floh_worker.job_execution WHERE job_id = '{id}' AND state = 'taken'");
            (!stage.fleet.sql(&query).is_empty()).then_some(())
        }),
    }
    if moment == "open" {
        // The load's transactions are shorter.
        let query = "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction'
            AND query LIKE 'INSERT INTO test_effect%' AND now() - state_change > '100 ms'";
        wait_for("its transaction", SOON, || (!stage.fleet.sql(query).is_empty()).then_some(()));
    }
    if moment == "race" {
        proxies[1].arm(id, Fault::Hold);
    }
    true
}

/// Time passes faster: the locks of the frozen worker are gone, and two checks find it so. Returns them with their tokens.
fn let_locks_expire(stage: &mut Stage) -> Vec<(String, String)> {
    let mut locks = Vec::new();
    let active = stage.fleet.key("active");
    let ids: Vec<String> = stage.fleet.redis("LRANGE", &[&active, &0, &-1]);
    for id in ids {
        let (hash, lock) = (stage.fleet.key(&id), stage.fleet.key(&format!("{id}:lock")));
        let by: Option<String> = stage.fleet.redis("HGET", &[&hash, &"pb"]);
        if by.is_some_and(|by| by.ends_with("@1")) {
            let token: Option<String> = stage.fleet.redis("GET", &[&lock]);
            stage.fleet.redis::<()>("DEL", &[&lock]);
            locks.extend(token.map(|token| (lock, token)));
        }
    }
    stage.fleet.check_stalled();
    stage.fleet.check_stalled();
    locks
}

/// The second worker does the jobs of all moments; the take of `race` is kept.
fn wait_for_successor(stage: &mut Stage, victims: &[Victim], proxy: &Proxy) {
    let end = Instant::now() + TAKEN_OVER_WITHIN;
    loop {
        let story = Story::read(&stage.fleet.stream());
        let done = |victim: &&Victim| {
            let told = story.0.get(&victim.id);
            told.is_some_and(|told| told.starts.len() > 1 && (told.completed.is_some() || victim.moment == "race"))
        };
        let missing: Vec<_> = victims
            .iter()
            .filter(|victim| !done(victim))
            .map(|victim| (victim.moment, story.0.get(&victim.id)))
            .collect();
        if missing.is_empty() && proxy.sprung() > 0 {
            return;
        }
        assert!(Instant::now() < end, "no successor within {TAKEN_OVER_WITHIN:?}: {missing:?}");
        sleep(Duration::from_millis(100));
    }
}

/// The stale worker's take of `race` arrives first. Nothing may come of it.
fn let_the_stale_one_take(stage: &mut Stage, race: &str) {
    let query =
        format!("SELECT 1 FROM floh_worker.job_execution WHERE job_id = '{race}' AND state IN ('lost', 'committed')");
    let end = Instant::now() + Duration::from_secs(8);
    while stage.fleet.sql(&query).is_empty() && Instant::now() < end {
        sleep(Duration::from_millis(20));
    }
}

fn judge(stage: &mut Stage, victims: &[Victim]) {
    let race = stage.fleet.key(&victims.iter().find(|victim| victim.moment == "race").unwrap().id);
    wait_for("the end of the last victim", SOON, || {
        stage.fleet.redis::<Option<String>>("HGET", &[&race, &"finishedOn"]).map(|_| ())
    });
    let story = Story::read(&stage.fleet.stream());
    for victim in victims {
        let told = &story.0[&victim.id];
        if victim.moment != "race" {
            let took = Duration::from_millis(told.completed.unwrap() - told.starts.last().unwrap());
            let held_up = took.saturating_sub(victim.takes);
            let what = format!("the successor at the moment {}", victim.moment);
            stage.note(Kind::HeldUp, &what, held_up, HELD_UP_WITHIN);
        }
    }
    for victim in victims {
        let query =
            format!("SELECT instance FROM floh_worker.test_effect WHERE job_id = '{}' AND instance = '1'", victim.id);
        let wrong = !stage.fleet.sql(&query).is_empty();
        stage.complain_if(wrong, Kind::Stale, || {
            format!("the stale worker committed its effect at the moment {}", victim.moment)
        });
    }
}
