//! Half-open connections: at a chosen moment everything that both workers have open goes deaf; on the renewal first that
//! connection alone. What they send is taken, nothing is answered and nobody is told; new connections are fine. Counted
//! from the fault's start.

use crate::{
    stage::{Plan, Stage},
    story::Story,
    support::{fleet::Fleet, proxy::Fault, proxy::Proxy, wait_for},
    table::{Kind, Row, Verdict},
};
use serde_json::json;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

row!(6, half_open_fetch, off "deadlines" => PickedUpLate Undone, on_the_fetch);
row!(7, half_open_blocked_read, off "deadlines" => PickedUpLate Undone, on_the_blocked_read);
row!(8, half_open_finish, off "deadlines" => PickedUpLate Undone, on_the_finish);
row!(9, half_open_renewal, off "renewal-deadline" => NotRenewed, on_the_renewal);

/// The moment comes by itself within this: a renewal is made every 10 s.
const COMES_WITHIN: Duration = Duration::from_secs(20);
/// A job ends by itself when its time is over; a machine that is busy may need this more.
const LATE_BY: Duration = Duration::from_secs(5);

fn on_the_fetch(row: &Row) -> Verdict {
    half_open(row, "fetch", fetch_of)
}

fn on_the_blocked_read(row: &Row) -> Verdict {
    half_open(row, "blocked read", |_| "BZPOPMIN".into())
}

fn on_the_finish(row: &Row) -> Verdict {
    half_open(row, "finish", finish_of)
}

fn half_open(row: &Row, what: &str, pattern: impl Fn(&Fleet) -> String) -> Verdict {
    let times = row.choose(2, 6);
    let fault = format!("half-open on the {what}, {times} times, counted from its start");
    let mut proxy = None;
    let mut stage = Stage::start(row, fault, |fleet| {
        let port = proxy.insert(fleet.proxy()).port();
        Plan::usual().with("REDIS_PORT", port)
    });
    let proxy: Proxy = proxy.unwrap();
    for turn in 0..times {
        if stage.is_seen() {
            break;
        }
        // Whether the command itself has still been done makes a difference: the first time it has.
        let fault = if turn % 2 == 0 { Fault::DeafenAll } else { Fault::SwallowAll };
        proxy.arm(&pattern(&stage.fleet), fault);
        wait_for("the moment of the fault", COMES_WITHIN, || (proxy.sprung() > turn).then_some(()));
        stage.pick_up(proxy.last_sprung().unwrap());
        sleep(Duration::from_secs(row.choose(0, 5)));
    }
    stage.end()
}

/// With jobs that take longer than a lock lives: each is done in the one start that it had, so its lock was renewed all
/// the time. Each worker has a proxy of its own, so that both renewals are hit.
fn on_the_renewal(row: &Row) -> Verdict {
    let takes = row.choose(Duration::from_secs(36), Duration::from_secs(45));
    let alone = [Fault::Swallow, Fault::Deafen];
    let with_the_others = [Fault::SwallowAll, Fault::DeafenAll];
    let rounds = row.choose(vec![alone], vec![alone, with_the_others]);
    let fault = format!(
        "half-open on the renewal{}, {} times, with jobs of {} s, counted from its start",
        row.choose(" alone", ", alone and with all others"),
        rounds.len() * alone.len(),
        takes.as_secs()
    );
    let mut proxies = Vec::new();
    let mut stage = Stage::start(row, fault, |fleet| {
        let mut plan = Plan::workers(&[8, 8]);
        for settings in &mut plan.workers {
            proxies.push(fleet.proxy());
            settings.insert("REDIS_PORT", proxies.last().unwrap().port().to_string());
        }
        plan
    });
    for (round, faults) in rounds.into_iter().enumerate() {
        let ids = begin_long(&mut stage, round, takes);
        let begun = Instant::now();
        for fault in faults {
            if !hit_the_renewals(&mut stage, &proxies, fault) {
                break;
            }
        }
        expect_one_start(&mut stage, &ids, begun + takes + LATE_BY);
        if stage.is_seen() {
            break;
        }
    }
    stage.end()
}

/// Adds jobs until each worker has one.
fn begin_long(stage: &mut Stage, round: usize, takes: Duration) -> Vec<String> {
    let (mut ids, mut of) = (Vec::new(), [0; 2]);
    while of.contains(&0) {
        // A worker whose places are all taken would pick up nothing later.
        assert!(of.iter().all(|jobs| *jobs < 7), "one worker gets none of the jobs: {of:?}");
        // Not in step with the load, or the same worker would be the next one each time.
        sleep(Duration::from_millis(rand::random_range(0..60)));
        let id = format!("long-{round}-{}", ids.len());
        let opts = json!({"attempts": 1, "removeOnComplete": false, "jobId": id, "lifo": true});
        // A transaction may not be open for as long as that.
        let before = u64::try_from(takes.as_millis()).unwrap();
        stage.fleet.add(6, "test.effect", json!({"key": id, "before": before}), opts);
        let hash = stage.fleet.key(&id);
        let by = wait_for("a worker for the long job", COMES_WITHIN, || {
            stage.fleet.redis::<Option<String>>("HGET", &[&hash, &"pb"])
        });
        of[usize::from(by.ends_with("@2"))] += 1;
        stage.keys.insert(id.clone());
        ids.push(id);
    }
    ids
}

/// The next renewal of each worker meets the fault; false if there was none.
fn hit_the_renewals(stage: &mut Stage, proxies: &[Proxy], fault: Fault) -> bool {
    let before: Vec<usize> = proxies.iter().map(Proxy::sprung).collect();
    proxies.iter().for_each(|proxy| proxy.arm(&renewal_of(&stage.fleet), fault));
    let end = Instant::now() + COMES_WITHIN;
    while proxies.iter().zip(&before).any(|(proxy, before)| proxy.sprung() == *before) {
        if Instant::now() > end {
            stage.complain(Kind::NotRenewed, "a worker renews nothing any more");
            return false;
        }
        sleep(Duration::from_millis(10));
    }
    // From the later one on, both are faced with it.
    stage.pick_up(proxies.iter().filter_map(Proxy::last_sprung).max().unwrap());
    true
}

/// Each of the jobs is done by then, and was started once.
fn expect_one_start(stage: &mut Stage, ids: &[String], end: Instant) {
    loop {
        let story = Story::read(&stage.fleet.stream());
        let done = ids.iter().all(|id| story.0.get(id).is_some_and(|told| told.completed.is_some()));
        if done || Instant::now() > end {
            for id in ids {
                let told = story.0.get(id).cloned().unwrap_or_default();
                let wrong = told.completed.is_none() || told.starts.len() != 1;
                stage.complain_if(wrong, Kind::NotRenewed, || {
                    let state = told.completed.map_or("not done in time", |_| "done");
                    format!("{id} started {} times and is {state}", told.starts.len())
                });
            }
            return;
        }
        sleep(Duration::from_millis(100));
    }
}

/// What only a fetch sends: two of its keys, one behind the other.
pub fn fetch_of(fleet: &Fleet) -> String {
    arguments(fleet, &["pc", "marker"])
}

/// The same of a finish.
pub fn finish_of(fleet: &Fleet) -> String {
    arguments(fleet, &["pc", "completed"])
}

/// The same of a renewal.
fn renewal_of(fleet: &Fleet) -> String {
    format!("\r\n$1\r\n1\r\n{}", arguments(fleet, &["stalled", ""]))
}

fn arguments(fleet: &Fleet, endings: &[&str]) -> String {
    let argument = |ending: &&str| fleet.key(ending);
    endings.iter().map(argument).map(|key| format!("${}\r\n{key}\r\n", key.len())).collect()
}
