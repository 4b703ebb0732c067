//! Half-open connections: at a chosen moment everything that both workers have open goes deaf. What they send is taken,
//! nothing is answered and nobody is told; new connections are fine. Counted from the fault's start.

use crate::{
    stage::{Plan, Stage},
    support::{fleet::Fleet, proxy::Fault, proxy::Proxy, wait_for},
    table::{Row, Verdict},
};
use serde_json::json;
use std::{thread::sleep, time::Duration};

row!(6, half_open_fetch, off "deadlines", on_the_fetch);
row!(7, half_open_blocked_read, off "deadlines", on_the_blocked_read);
row!(8, half_open_finish, off "deadlines", on_the_finish);
row!(9, half_open_renewal, off "deadlines", on_the_renewal);

/// The moment comes by itself within this: a renewal is made every 10 s.
const COMES_WITHIN: Duration = Duration::from_secs(30);

fn on_the_fetch(row: &Row) -> Verdict {
    half_open(row, "fetch", fetch_of, Plan::usual())
}

fn on_the_blocked_read(row: &Row) -> Verdict {
    half_open(row, "blocked read", |_| "BZPOPMIN".into(), Plan::usual())
}

fn on_the_finish(row: &Row) -> Verdict {
    half_open(row, "finish", finish_of, Plan::usual())
}

fn on_the_renewal(row: &Row) -> Verdict {
    half_open(row, "renewal", renewal_of, Plan::workers(&[8, 8]))
}

fn half_open(row: &Row, what: &str, pattern: impl Fn(&Fleet) -> String, plan: Plan) -> Verdict {
    let times = row.choose(2, 6);
    let fault = format!("half-open on the {what}, {times} times, counted from its start");
    let mut proxy = None;
    let mut stage = Stage::start(row, fault, |fleet| {
        let port = proxy.insert(fleet.proxy()).port();
        plan.with("REDIS_PORT", port)
    });
    let proxy: Proxy = proxy.unwrap();
    for turn in 0..times {
        if stage.is_seen() {
            break;
        }
        if what == "renewal" {
            // There has to be something to renew; and a worker that is full of such jobs would pick up no other.
            for number in 0..3 {
                let key = format!("long-{turn}-{number}");
                let opts = json!({"attempts": 1, "removeOnComplete": false, "jobId": key});
                stage.fleet.add(6, "test.effect", json!({"key": key, "ms": 9_000}), opts);
                stage.keys.insert(key);
            }
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
