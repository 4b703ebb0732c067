//! Failover under Sentinel: the primary is killed, three sentinels promote its replica, which has not copied the last
//! seconds. Jobs that only Redis knew are lost with them, and nothing else is: wake-ups come back from PostgreSQL.

use crate::{
    stage::{Plan, Stage, now_ms},
    support::{
        fleet::Fleet,
        redis::RedisServer,
        sentinel::{self, MASTER, Sentinel, ask, connection},
        wait_for,
    },
    table::{Kind, Row, Verdict},
    wake_ups::{self, RESTORED_WITHIN, WakeUp},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant},
};

row!(12, redis_failover, off "reconnect" => PickedUpLate Undone Lost | "reconciler" => NotRestored, failover);

const SOON: Duration = Duration::from_secs(40);
/// The wake-ups are due this many milliseconds after they were written: still pending when the primary is killed.
const DELAY: u64 = 20_000;

fn failover(row: &Row) -> Verdict {
    let times = row.choose(1, 3);
    let fleet = Fleet::start_durable();
    let mut replica = sentinel::replica_of(fleet.redis.port(), &["--appendonly", "yes"]);
    let sentinels = sentinel::three_around(fleet.redis.port());
    let mut stage =
        Stage::start_on(fleet, row, format!("failover under Sentinel, {times} times"), |_| plan(&sentinels));
    let mut restored = 0;
    for turn in 0..times {
        if turn > 0 {
            // The old primary comes back, believes that it still is one, and is told otherwise.
            replica.up();
            wait_for("the old primary follows", SOON, || (!is_primary(&replica)).then_some(()));
            sentinel::wait_watched(&sentinels);
        }
        let Some(pending) = kill_primary(&mut stage, &replica, turn) else { break };
        sentinel::wait_promoted(&sentinels, replica.port());
        wait_for("the promoted replica takes writes", SOON, || is_primary(&replica).then_some(()));
        let promoted = now_ms();
        std::mem::swap(&mut stage.fleet.redis, &mut replica);
        stage.fleet.follow();
        excuse(&mut stage, &pending.copied);
        stage.pick_up(promoted);
        if stage.is_seen() {
            break;
        }
        restored += pending.lost;
        wait_run(&mut stage, &pending.wake_ups);
    }
    let lost = stage.excused.len();
    stage.tell(&format!(" ({lost} jobs lost by Redis itself, and {restored} wake-ups, which are restored)"));
    stage.end()
}

fn plan(sentinels: &[Sentinel]) -> Plan {
    let mut plan = Plan::usual();
    for (name, value) in sentinel::settings(sentinels) {
        plan = plan.with(name, value);
    }
    let hosts: Vec<_> = sentinels.iter().map(|one| json!({"host": "127.0.0.1", "port": one.port()})).collect();
    plan.producer = Some(json!({"sentinels": hosts, "name": MASTER}));
    plan
}

fn is_primary(server: &RedisServer) -> bool {
    let role: redis::Value = ask(&mut connection(server.port()), &["ROLE"]);
    format!("{role:?}").contains("master")
}

/// What was pending when the primary was killed.
struct Pending {
    wake_ups: Vec<WakeUp>,
    /// How many of them the replica does not have.
    lost: usize,
    /// Keys of the load's jobs that the replica has for certain.
    copied: BTreeSet<String>,
}

/// Kills the primary when it has taken wake-ups, and run jobs, of which its replica knows nothing. `None` if the workers do
/// not write the wake-ups.
fn kill_primary(stage: &mut Stage, replica: &RedisServer, turn: usize) -> Option<Pending> {
    let jobs = stage.row.choose(5, 12);
    stage.fleet.reconnect();
    let mut wake_ups = wake_ups::pending(stage, &format!("copied-{turn}"), jobs, DELAY)?;
    let copied = stage.loaded();
    // What was written before this is on the replica when that says so.
    stage.fleet.redis::<()>("SET", &[&"tests:mark", &"1"]);
    let replicas: i64 = stage.fleet.redis("WAIT", &[&1, &5000]);
    assert_eq!(replicas, 1, "the replica does not follow");
    // Frozen it cannot connect anew, and without a connection nothing waits for it.
    replica.freeze();
    let cut: i64 = stage.fleet.redis("CLIENT", &[&"KILL", &"TYPE", &"replica"]);
    assert_eq!(cut, 1, "the connection of the replica");
    let later = wake_ups::pending(stage, &format!("lost-{turn}"), jobs, DELAY);
    stage.fleet.redis.down();
    replica.thaw();
    wake_ups.extend(later?);
    let mut copy = connection(replica.port());
    let mut is_copied = |wake_up: &WakeUp| ask::<bool>(&mut copy, &["EXISTS", &stage.fleet.key(&wake_up.id)]);
    let lost: Vec<&str> = wake_ups.iter().filter(|one| !is_copied(one)).map(|one| one.id.as_str()).collect();
    let as_meant = lost.len() * 2 == wake_ups.len() && lost.iter().all(|id| id.starts_with("wake-lost-"));
    assert!(as_meant, "of {} wake-ups the replica has not {lost:?}", wake_ups.len());
    Some(Pending { lost: lost.len(), wake_ups, copied })
}

/// Each of them writes its effect, whether Redis had lost it or not.
fn wait_run(stage: &mut Stage, wake_ups: &[WakeUp]) {
    let end = Instant::now() + RESTORED_WITHIN;
    loop {
        let effects = stage.fleet.effects();
        let missing: Vec<&str> =
            wake_ups.iter().filter(|one| !effects.contains_key(&one.key)).map(|one| one.id.as_str()).collect();
        if missing.is_empty() {
            return;
        }
        if Instant::now() > end {
            let (seconds, number) = (RESTORED_WITHIN.as_secs(), missing.len());
            stage.complain(
                Kind::NotRestored,
                format!("{number} wake-ups did not run within {seconds} s, such as {}", missing[0]),
            );
            return;
        }
        sleep(Duration::from_millis(100));
    }
}

/// Jobs of the load that the old primary had and the new one has not, except those of which it had a copy.
fn excuse(stage: &mut Stage, copied: &BTreeSet<String>) {
    for key in stage.loaded().difference(copied) {
        let hash = stage.fleet.key(key);
        if !stage.fleet.redis::<bool>("EXISTS", &[&hash]) {
            stage.excused.insert(key.clone());
        }
    }
}
