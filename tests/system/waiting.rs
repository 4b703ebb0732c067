//! What a worker waits for when it starts, and that it looks names up anew while it runs.

use crate::{
    floh::{Jobs, configure, installed_machine, log_of, ready_machine, start},
    machine::Machine,
    support::wait_for,
};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// Moves the name of the Redis server from one that does not answer any more to Debian's, where a job waits, and returns how
/// long it then takes until the worker has the job. `end` is the signal that silences the old server.
fn pick_up_after_the_name_moved(end: &str) -> Duration {
    let machine = ready_machine();
    machine.ok("mkdir /run/old-redis; systemd-run --quiet --unit=old-redis \
         redis-server --bind 127.0.0.2 --port 6379 --dir /run/old-redis --save '' --daemonize no");
    wait_for("the old server answers", SOON, || {
        machine.run("redis-cli -h 127.0.0.2 ping").status.success().then_some(())
    });
    machine.ok("echo '127.0.0.2 redis.floh.test' >>/etc/hosts");
    configure(&machine, "REDIS_HOST=redis.floh.test");
    start(&machine, "1");
    let pid = machine.show("floh-worker@1", "MainPID");
    let clients = machine.ok("redis-cli -h 127.0.0.2 client list");
    assert!(clients.contains("floh-worker"), "the worker is at the old server: {clients}");
    let mut jobs = Jobs::of(&machine);
    let id = jobs.sleep(1);

    machine.ok(&format!("systemctl kill --signal={end} old-redis"));
    let moved = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    machine.ok("sed 's/^127.0.0.2 redis/127.0.0.1 redis/' /etc/hosts >/etc/hosts.new; cp /etc/hosts.new /etc/hosts");
    jobs.wait_until(&id, "completed", SOON);
    assert_eq!(machine.show("floh-worker@1", "MainPID"), pid, "it found the new server without being started again");
    machine.ok("systemctl kill --signal=SIGKILL old-redis || true");
    Duration::from_millis(jobs.look(&id)["processedOn"].as_u64().unwrap()).saturating_sub(moved)
}

#[test]
fn a_worker_follows_the_name_of_a_server_that_has_ended_to_another_one() {
    let took = pick_up_after_the_name_moved("SIGKILL");
    assert!(took < Duration::from_secs(5), "the job at the new server was picked up {took:?} after the name had moved");
}

#[test]
fn a_worker_follows_the_name_of_a_server_that_is_silent_to_another_one() {
    let took = pick_up_after_the_name_moved("SIGSTOP");
    assert!(took < Duration::from_secs(5), "the job at the new server was picked up {took:?} after the name had moved");
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
