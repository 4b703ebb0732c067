//! Failover under Sentinel: the primary is killed, three sentinels promote its replica. What Redis itself had not copied
//! yet is nobody else's loss.

use crate::{
    stage::{Plan, Stage, now_ms},
    support::{
        fleet::Fleet,
        redis::RedisServer,
        sentinel::{self, MASTER, Sentinel, ask, connection},
        wait_for,
    },
    table::{Row, Verdict},
};
use serde_json::json;
use std::time::Duration;

row!(12, redis_failover, off "reconnect", failover);

const SOON: Duration = Duration::from_secs(40);

fn failover(row: &Row) -> Verdict {
    let times = row.choose(1, 3);
    let fleet = Fleet::start_durable();
    let mut replica = sentinel::replica_of(fleet.redis.port(), &["--appendonly", "yes"]);
    let sentinels = sentinel::three_around(fleet.redis.port());
    let mut stage =
        Stage::start_on(fleet, row, format!("failover under Sentinel, {times} times"), |_| plan(&sentinels));
    for turn in 0..times {
        if turn > 0 {
            // The old primary comes back, believes that it still is one, and is told otherwise.
            replica.up();
            wait_for("the old primary follows", SOON, || (!is_primary(&replica)).then_some(()));
            sentinel::wait_watched(&sentinels);
        }
        stage.fleet.redis.down();
        sentinel::wait_promoted(&sentinels, replica.port());
        wait_for("the promoted replica takes writes", SOON, || is_primary(&replica).then_some(()));
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
