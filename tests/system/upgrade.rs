//! Upgrades of the package while workers run.

use crate::{
    floh::{Jobs, apt_install, install, log_of, ready_machine, start},
    machine::Machine,
    support::wait_for,
};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(15);
/// The longest time in which nothing may be consumed while instances restart one after another.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

fn pids(machine: &Machine, instances: &[&str]) -> Vec<String> {
    instances.iter().map(|instance| machine.show(&format!("floh-worker@{instance}"), "MainPID")).collect()
}

#[test]
fn an_upgrade_restarts_one_worker_after_another_and_the_others_consume_meanwhile() {
    let machine = ready_machine();
    let instances = ["1", "2", "3"];
    machine.ok("systemctl enable --now floh-worker@{1..2}");
    start(&machine, "3");
    let before = pids(&machine, &instances);
    let mut jobs = Jobs::of(&machine);
    let long = jobs.sleep(20_000);
    jobs.wait_until(&long, "active", SOON);
    let envelope = machine.ok("cat /etc/floh/env; stat -c %a:%U /etc/floh/env");

    // One short job after the other, so that a pause in consuming shows.
    let (mut worst, mut done) = (Duration::ZERO, 0);
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| install(&machine, "~test2"));
        while !upgrade.is_finished() {
            let begin = Instant::now();
            let id = jobs.sleep(10);
            jobs.wait_until(&id, "completed", Duration::from_secs(30));
            worst = worst.max(begin.elapsed());
            done += 1;
            std::thread::sleep(Duration::from_millis(50));
        }
        upgrade.join().unwrap();
    });
    assert!(done > 20, "only {done} jobs ran beside the upgrade");
    assert!(worst < LONGEST_PAUSE, "a job of 10 ms took {worst:?} while the package was upgraded");

    jobs.wait_until(&long, "completed", Duration::from_secs(30));
    let long = jobs.look(&long);
    assert_eq!((&long["attemptsMade"], &long["returnvalue"]["slept"]), (&1.into(), &20_000.into()), "{long}");
    assert_eq!(jobs.count("failed"), 0);
    assert_eq!(jobs.count("completed"), done + 1);
    for (instance, (old, new)) in instances.iter().zip(before.iter().zip(pids(&machine, &instances))) {
        assert_ne!(*old, new, "instance {instance} was not restarted");
        assert_eq!(machine.show(&format!("floh-worker@{instance}"), "ActiveState"), "active");
        assert_eq!(machine.ok(&format!("readlink /proc/{new}/exe")), "/usr/bin/floh-worker");
        let stops = log_of(&machine, &format!("floh-worker@{instance}")).matches("Stopping floh-worker@").count();
        assert_eq!(stops, 1, "instance {instance} was stopped {stops} times");
    }
    assert!(machine.ok("floh-worker --version").ends_with("~test2"));
    assert_eq!(machine.ok("cat /etc/floh/env; stat -c %a:%U /etc/floh/env"), envelope, "the settings were touched");
}

#[test]
fn an_upgrade_ends_at_the_first_worker_that_does_not_come_back() {
    let machine = ready_machine();
    start(&machine, "{1..3}");
    let before = pids(&machine, &["1", "2", "3"]);
    // As if the new version refused what the old one took.
    machine.ok("echo SHUTDOWN_TIMEOUT_SECONDS=soon >>/etc/floh/env");
    let told = machine.ok(&format!("{} 2>&1", apt_install("~test2")));
    let after = pids(&machine, &["1", "2", "3"]);
    let kept = before.iter().zip(&after).filter(|(old, new)| old == new).count();
    assert_eq!(kept, 2, "two of three go on as they were: {before:?}, {after:?}");
    assert!(told.contains("was restarted with the new version and is not active"), "{told}");
    let mut jobs = Jobs::of(&machine);
    let id = jobs.sleep(10);
    jobs.wait_until(&id, "completed", SOON);
}

#[test]
fn an_upgrade_while_redis_is_down_does_not_wait_for_it() {
    let machine = ready_machine();
    machine.ok("systemctl stop redis-server");
    machine.ok("systemctl enable floh-worker@1; systemctl start --no-block floh-worker@{1..2}");
    wait_for("both wait", SOON, || {
        let waiting = |i| machine.show(&format!("floh-worker@{i}"), "StatusText").starts_with("waiting");
        (waiting(1) && waiting(2)).then_some(())
    });
    let before = pids(&machine, &["1", "2"]);
    let took = machine.timed(&apt_install("~test2"));
    assert!(took < Duration::from_secs(20), "apt took {took:?}");
    let after = pids(&machine, &["1", "2"]);
    assert!(before.iter().zip(&after).all(|(old, new)| old != new), "{before:?}, {after:?}");
    machine.ok("systemctl start redis-server");
    wait_for("both are active", SOON, || {
        let active = |i| machine.show(&format!("floh-worker@{i}"), "ActiveState") == "active";
        (active(1) && active(2)).then_some(())
    });
}
