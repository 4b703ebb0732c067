//! PostgreSQL goes away, or cuts sessions. Nothing is charged to the jobs for it.

use crate::{
    stage::{Plan, Stage, now_ms},
    table::{Row, Verdict},
};
use nix::sys::signal::Signal;
use std::{thread::sleep, time::Duration};

row!(13, postgres_restarted, off "interruptions" => Charged Lost, restarted);
row!(14, postgres_stopped, off "interruptions" => Charged Lost, stopped);
row!(15, postgres_sessions_killed, off "interruptions" => Charged Lost, killed);

/// In order and as in a crash, in turn.
fn restarted(row: &Row) -> Verdict {
    let times = row.choose(2, 10);
    let mut stage = Stage::start(row, format!("PostgreSQL restarted {times} times"), |_| Plan::usual());
    for turn in 0..times {
        stage.fleet.postgres.down(if turn % 2 == 0 { Signal::SIGQUIT } else { Signal::SIGINT });
        stage.fleet.postgres.up();
        stage.pick_up(now_ms());
    }
    stage.end()
}

fn stopped(row: &Row) -> Verdict {
    let seconds = row.choose(5, 20);
    let mut stage = Stage::start(row, format!("PostgreSQL stopped {seconds} s"), |_| Plan::usual());
    stage.fleet.postgres.down(Signal::SIGINT);
    sleep(Duration::from_secs(seconds));
    stage.fleet.postgres.up();
    stage.pick_up(now_ms());
    stage.end()
}

fn killed(row: &Row) -> Verdict {
    let times = row.choose(5, 20);
    let fault = format!("every session of PostgreSQL ended every second for {times} s");
    let mut stage = Stage::start(row, fault, |_| Plan::usual());
    for turn in 0..times {
        stage.fleet.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'floh'");
        let killed = now_ms();
        if turn % 5 == 4 {
            stage.pick_up(killed);
        } else {
            sleep(Duration::from_secs(1));
        }
    }
    stage.end()
}
