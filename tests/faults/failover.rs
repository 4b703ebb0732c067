//! Failover under Sentinel: the primary is killed, three sentinels promote its replica. What Redis itself had not copied
//! yet is nobody's else loss.

use crate::{
    stage::{Plan, Stage, now_ms},
    support::{
        fleet::Fleet,
        free_port,
        process::{Guarded, find_program},
        redis::RedisServer,
        wait_for,
    },
    table::{Row, Verdict},
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;

row!(12, redis_failover, off "reconnect", failover);

const MASTER: &str = "floh";
const SOON: Duration = Duration::from_secs(40);

struct Sentinel {
    port: u16,
    _process: Guarded,
    _folder: TempDir,
}

fn failover(row: &Row) -> Verdict {
    let times = row.choose(1, 3);
    let fleet = Fleet::start_durable();
    let mut replica = RedisServer::start_with(&["--appendonly", "yes"]);
    follow(&replica, &fleet.redis);
    let sentinels: Vec<Sentinel> = (0..3).map(|_| sentinel(fleet.redis.port())).collect();
    wait_for_watch(&sentinels);
    let addresses: Vec<String> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    let hosts: Vec<_> = sentinels.iter().map(|sentinel| json!({"host": "127.0.0.1", "port": sentinel.port})).collect();
    let mut stage = Stage::start_on(fleet, row, format!("failover under Sentinel, {times} times"), |_| {
        let mut plan = Plan::usual().with("REDIS_SENTINELS", addresses.join(",")).with("REDIS_SENTINEL_MASTER", MASTER);
        plan.producer = Some(json!({"sentinels": hosts, "name": MASTER}));
        plan
    });
    for turn in 0..times {
        if turn > 0 {
            // The old primary comes back, believes that it still is one, and is told otherwise.
            replica.up();
            wait_for("the old primary follows", SOON, || (role(&replica)? == "slave").then_some(()));
            wait_for_watch(&sentinels);
        }
        stage.fleet.redis.down();
        let port = replica.port();
        let end = Instant::now() + SOON;
        while sentinels.iter().filter(|sentinel| primary(sentinel) == Some(port)).count() < 2
            || role(&replica).as_deref() != Some("master")
        {
            assert!(Instant::now() < end, "no failover within {SOON:?}");
        }
        let promoted = now_ms();
        std::mem::swap(&mut stage.fleet.redis, &mut replica);
        excuse(&mut stage);
        stage.pick_up(promoted);
        if stage.is_seen() {
            break;
        }
    }
    let lost = stage.excused.len();
    stage.tell(&format!(" ({lost} jobs lost by Redis itself)"));
    stage.end()
}

/// What was added to the old primary and is not in the new one.
fn excuse(stage: &mut Stage) {
    stage.fleet.reconnect();
    for key in stage.loaded() {
        let hash = stage.fleet.key(&key);
        if !stage.fleet.redis::<bool>("EXISTS", &[&hash]) {
            stage.excused.insert(key);
        }
    }
}

fn ask<T: redis::FromRedisValue>(port: u16, words: &[&str]) -> Option<T> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
    redis::cmd(words[0]).arg(&words[1..]).query(&mut connection).ok()
}

fn follow(replica: &RedisServer, primary: &RedisServer) {
    let port = primary.port().to_string();
    ask::<String>(replica.port(), &["REPLICAOF", "127.0.0.1", &port]).unwrap();
    wait_for("the replica is in step", SOON, || {
        ask::<String>(replica.port(), &["INFO", "replication"])?.contains("master_link_status:up").then_some(())
    });
}

fn role(server: &RedisServer) -> Option<String> {
    let answer: Vec<redis::Value> = ask(server.port(), &["ROLE"])?;
    redis::from_redis_value(answer.into_iter().next()?).ok()
}

/// The primary's port, as a sentinel says it.
fn primary(sentinel: &Sentinel) -> Option<u16> {
    let answer: Vec<String> = ask(sentinel.port, &["SENTINEL", "get-master-addr-by-name", MASTER])?;
    answer.get(1)?.parse().ok()
}

/// Every sentinel knows the two others and a replica.
fn wait_for_watch(sentinels: &[Sentinel]) {
    for sentinel in sentinels {
        wait_for("the sentinels know each other and the replica", SOON, || {
            let facts: Vec<String> = ask(sentinel.port, &["SENTINEL", "MASTER", MASTER])?;
            let fact = |name: &str| facts.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
            let well = fact("flags") == Some("master");
            (well && fact("num-other-sentinels") == Some("2") && fact("num-slaves") == Some("1")).then_some(())
        });
    }
}

fn sentinel(watched: u16) -> Sentinel {
    for _ in 0..10 {
        let port = free_port();
        let folder = tempfile::Builder::new().prefix("floh-it-sentinel-").tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        fs::write(&file, settings(port, folder.path(), watched)).unwrap();
        let program = find_program("redis-server").expect("redis-server on PATH (apt install redis-server)");
        let mut process = Guarded::spawn(&program, None, Signal::SIGKILL, |command| {
            command.arg(&file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null());
        });
        let answered = || ask::<String>(port, &["PING"]).is_some();
        let end = Instant::now() + SOON;
        while process.try_wait().is_none() && Instant::now() < end {
            if answered() {
                return Sentinel { port, _process: process, _folder: folder };
            }
        }
    }
    panic!("no sentinel starts");
}

fn settings(port: u16, folder: &Path, watched: u16) -> String {
    format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER} 127.0.0.1 {watched} 2\n\
         sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n",
        folder.display()
    )
}
