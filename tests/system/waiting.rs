//! What a worker waits for when it starts.

use crate::{
    floh::{configure, installed_machine, log_of, ready_machine},
    machine::Machine,
    support::wait_for,
};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(15);
/// Longer than `TimeoutStartSec=` of the unit: who waits longer has asked for more time.
const PATIENCE: Duration = Duration::from_secs(40);

/// Waits until the status of a starting worker holds all of `words`; fails if it starts or fails instead.
fn says_it_waits_for(machine: &Machine, unit: &str, words: &[&str]) {
    wait_for(&format!("{unit} says that it waits for {words:?}"), SOON, || {
        assert_eq!(machine.show(unit, "ActiveState"), "activating", "{}", log_of(machine, unit));
        let status = machine.show(unit, "StatusText");
        words.iter().all(|word| status.contains(word)).then_some(())
    });
}

fn becomes_active(machine: &Machine, unit: &str, pid: &str) {
    wait_for(&format!("{unit} is active"), SOON, || (machine.show(unit, "ActiveState") == "active").then_some(()));
    assert_eq!(machine.show(unit, "MainPID"), pid, "it waited, it was not started again");
    assert_eq!(machine.show(unit, "NRestarts"), "0");
}

#[test]
fn a_worker_waits_for_redis_longer_than_its_start_may_take_and_says_so() {
    let machine = ready_machine();
    machine.ok("systemctl stop redis-server; systemctl start --no-block floh-worker@1");
    says_it_waits_for(&machine, "floh-worker@1", &["waiting", "Redis", "6379"]);
    let pid = machine.show("floh-worker@1", "MainPID");
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        assert_eq!(machine.show("floh-worker@1", "ActiveState"), "activating");
        std::thread::sleep(Duration::from_secs(1));
    }
    machine.ok("systemctl start redis-server");
    becomes_active(&machine, "floh-worker@1", &pid);
}

#[test]
fn a_worker_waits_for_postgresql_and_says_so() {
    let machine = ready_machine();
    let cluster = machine.ok("pg_lsclusters --no-header | awk '{ print \"postgresql@\" $1 \"-\" $2 }'");
    machine.ok(&format!("systemctl stop {cluster}; systemctl start --no-block floh-worker@1"));
    says_it_waits_for(&machine, "floh-worker@1", &["waiting", "PostgreSQL", "5432"]);
    let pid = machine.show("floh-worker@1", "MainPID");
    machine.ok(&format!("systemctl start {cluster}"));
    becomes_active(&machine, "floh-worker@1", &pid);
}

#[test]
fn a_worker_waits_for_a_name_that_does_not_resolve_and_says_so() {
    let machine = ready_machine();
    machine.ok(
        "echo REDIS_HOST=redis.floh.test >/etc/floh/worker-1.env; echo DB_HOST=db.floh.test >/etc/floh/worker-2.env",
    );
    machine.ok("systemctl start --no-block floh-worker@{1..2}");
    says_it_waits_for(&machine, "floh-worker@1", &["waiting", "redis.floh.test"]);
    says_it_waits_for(&machine, "floh-worker@2", &["waiting", "db.floh.test"]);
    let pids = [1, 2].map(|i| machine.show(&format!("floh-worker@{i}"), "MainPID"));
    machine.ok("echo '127.0.0.1 redis.floh.test db.floh.test' >>/etc/hosts");
    becomes_active(&machine, "floh-worker@1", &pids[0]);
    becomes_active(&machine, "floh-worker@2", &pids[1]);
}

#[test]
fn a_worker_waits_for_the_migration_and_says_how_to_run_it() {
    let machine = installed_machine();
    configure(&machine, "");
    machine.ok("systemctl start --no-block floh-worker@1");
    says_it_waits_for(&machine, "floh-worker@1", &["waiting", "floh_worker", "flohctl migrate"]);
    let pid = machine.show("floh-worker@1", "MainPID");
    machine.ok("flohctl migrate");
    becomes_active(&machine, "floh-worker@1", &pid);
}
