//! Redis goes away, freezes, pauses, or cuts connections.

use crate::{
    stage::{Plan, Stage, now_ms},
    table::{Row, Verdict},
};
use std::{thread::sleep, time::Duration};

row!(1, redis_restarted, off "reconnect" => PickedUpLate Undone, restarted);
row!(2, redis_stopped, off "reconnect" => PickedUpLate Undone, stopped);
row!(3, redis_frozen, off "fetch-again" => PickedUpLate Undone, frozen);
row!(4, redis_paused, off "fetch-again" => PickedUpLate Undone, paused);
row!(5, redis_connections_killed, off "reconnect" => PickedUpLate Undone, killed);

/// In order and as in a crash, in turn.
fn restarted(row: &Row) -> Verdict {
    let times = row.choose(2, 10);
    let mut stage = Stage::start(row, format!("Redis restarted {times} times (AOF on)"), |_| Plan::usual());
    for turn in 0..times {
        if stage.is_seen() {
            break;
        }
        if turn % 2 == 0 {
            stage.fleet.redis.shut_down();
        } else {
            stage.fleet.redis.down();
        }
        stage.fleet.redis.up();
        stage.pick_up(now_ms());
    }
    stage.end()
}

fn stopped(row: &Row) -> Verdict {
    let seconds = row.choose(5, 20);
    let mut stage = Stage::start(row, format!("Redis stopped {seconds} s"), |_| Plan::usual());
    stage.fleet.redis.shut_down();
    sleep(Duration::from_secs(seconds));
    stage.fleet.redis.up();
    stage.pick_up(now_ms());
    stage.end()
}

fn frozen(row: &Row) -> Verdict {
    let seconds = row.choose(7, 20);
    let mut stage = Stage::start(row, format!("Redis frozen {seconds} s (SIGSTOP)"), |_| Plan::usual());
    stage.fleet.redis.freeze();
    sleep(Duration::from_secs(seconds));
    stage.fleet.redis.thaw();
    stage.pick_up(now_ms());
    stage.end()
}

fn paused(row: &Row) -> Verdict {
    let seconds = row.choose(6, 10);
    let mut stage = Stage::start(row, format!("CLIENT PAUSE {seconds} s"), |_| Plan::usual());
    let _: String = stage.fleet.redis("CLIENT", &[&"PAUSE", &(seconds * 1000), &"ALL"]);
    sleep(Duration::from_secs(seconds));
    stage.pick_up(now_ms());
    stage.end()
}

fn killed(row: &Row) -> Verdict {
    let times = row.choose(5, 20);
    let fault = format!("CLIENT KILL of everything every second for {times} s");
    let mut stage = Stage::start(row, fault, |_| Plan::usual());
    for turn in 0..times {
        let _: u64 = stage.fleet.redis("CLIENT", &[&"KILL", &"TYPE", &"normal", &"SKIPME", &"yes"]);
        let killed = now_ms();
        // The next one falls into what comes after the first, so only some are measured.
        if turn % 5 == 4 {
            stage.pick_up(killed);
        } else {
            sleep(Duration::from_secs(1));
        }
    }
    stage.end()
}
