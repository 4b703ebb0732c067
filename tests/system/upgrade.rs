//! Upgrades of the package while workers run.

use crate::{
    floh::{Jobs, PASSWORD, apt_install, install, log_of, ready_machine, start},
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
}

#[test]
fn an_upgrade_keeps_edited_settings_where_the_package_has_others_now() {
    let machine = ready_machine();
    machine.ok("printf '%s\\n' '# by hand' LOG_LEVEL=debug >>/etc/floh/env; cp -p /etc/floh/env /root/before");
    start(&machine, "1");
    install(&machine, "~test2");
    machine.ok("cmp /etc/floh/env /root/before");
    assert_eq!(machine.ok("stat -c %a:%U:%G /etc/floh/env"), "600:root:root");
    // The package's own lies beside it, so dpkg had to choose; it has the line that the package before had not.
    machine.ok("grep -q '^# The package before had no such line' /etc/floh/env.dpkg-dist");
    assert_eq!(machine.ok("stat -c %a:%U:%G /etc/floh/env.dpkg-dist"), "600:root:root");
    assert_eq!(machine.show("floh-worker@1", "ActiveState"), "active");
}

/// The command of the two lines by which an upgrade says that migrations are missing.
fn what_to_type(told: &str) -> &str {
    let mut lines = told.lines().skip_while(|line| !line.contains("the database lacks migrations of this version"));
    let first = lines.next().unwrap_or_else(|| panic!("the upgrade does not say that migrations are missing: {told}"));
    assert!(first.starts_with("floh-worker: ") && first.contains("No worker was restarted"), "{first}");
    lines.next().unwrap().strip_prefix("floh-worker:   ").unwrap()
}

/// Upgrades to the release with a migration more; returns what it said. None of the instances may be touched.
fn upgrade_over_a_migration(machine: &Machine, instances: &[&str]) -> String {
    let before = pids(machine, instances);
    let begin = Instant::now();
    let told = machine.ok(&format!("{} 2>&1", apt_install("~test3")));
    assert!(begin.elapsed() < Duration::from_secs(30), "apt took {:?}", begin.elapsed());
    assert!(machine.ok("flohctl --version").ends_with("~test3"));
    assert_eq!(pids(machine, instances), before, "{told}");
    told
}

#[test]
fn an_upgrade_over_a_missing_migration_restarts_nothing_and_says_what_to_type() {
    let machine = ready_machine();
    let instances = ["1", "2", "hand"];
    machine.ok("systemctl enable --now floh-worker@{1..2}");
    start(&machine, "hand");
    let before = pids(&machine, &instances);
    let told = upgrade_over_a_migration(&machine, &instances);
    let command = what_to_type(&told);
    assert_eq!(
        command, "flohctl migrate && for i in 1 2 hand; do systemctl restart floh-worker@$i || break; done",
        "{told}"
    );

    // The old version consumes, before the migration and after it.
    let mut jobs = Jobs::of(&machine);
    let mut consumes = || {
        let id = jobs.sleep(10);
        jobs.wait_until(&id, "completed", SOON);
    };
    consumes();
    let (migrate, restart) = command.split_once(" && ").unwrap();
    assert!(machine.ok(migrate).contains("applied V"));
    consumes();
    assert_eq!(pids(&machine, &instances), before);

    machine.ok(restart);
    for (instance, (old, new)) in instances.iter().zip(before.iter().zip(pids(&machine, &instances))) {
        assert_ne!(*old, new, "instance {instance} was not restarted");
        assert_eq!(machine.show(&format!("floh-worker@{instance}"), "ActiveState"), "active");
        assert_eq!(machine.ok(&format!("readlink /proc/{new}/exe")), "/usr/bin/floh-worker");
    }
    consumes();
}

#[test]
fn missing_migrations_are_found_with_credentials_and_in_an_instance_s_own_schema() {
    let machine = ready_machine();
    // The common schema has everything that the next release wants; the second instance's own has not.
    machine.ok("echo DB_SCHEMA=floh_second >/etc/floh/worker-2.env");
    let second = "--env-file /etc/floh/env --env-file /etc/floh/worker-2.env";
    machine.ok(&format!("flohctl {second} migrate"));
    machine.ok("dpkg-deb -x /packages/floh-worker_*~test3_*.deb /root/next; /root/next/usr/bin/flohctl migrate");
    machine.ok(&format!(
        "umask 077; sed -i /^DB_PASSWORD=/d /etc/floh/env; printf %s {PASSWORD} >/etc/floh/db-password; \
         mkdir -p /etc/systemd/system/floh-worker@.service.d; \
         printf '[Service]\\nLoadCredential=db-password:/etc/floh/db-password\\n' \
         >/etc/systemd/system/floh-worker@.service.d/credentials.conf; systemctl daemon-reload"
    ));
    start(&machine, "{1..2}");
    let told = upgrade_over_a_migration(&machine, &["1", "2"]);
    assert_eq!(
        what_to_type(&told),
        format!("flohctl {second} migrate && for i in 1 2; do systemctl restart floh-worker@$i || break; done"),
        "{told}"
    );
}

#[test]
fn an_upgrade_that_cannot_ask_for_migrations_gives_up_at_the_first_worker_that_waits_for_one() {
    let machine = ready_machine();
    // Over the socket PostgreSQL knows the worker by its user, and nobody else: apt's flohctl is refused.
    machine
        .ok("cd /; runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 floh -c 'CREATE ROLE _floh LOGIN IN ROLE floh'; \
         printf '%s\\n' DB_HOST=/run/postgresql DB_USER=_floh DB_NAME=floh >/etc/floh/env");
    let (code, _) = machine.fails("flohctl migrate --status");
    assert_eq!(code, 78);
    start(&machine, "{1..3}");
    let before = pids(&machine, &["1", "2", "3"]);
    let begin = Instant::now();
    let told = machine.ok(&format!("{} 2>&1", apt_install("~test3")));
    assert!(begin.elapsed() < Duration::from_secs(30), "apt took {:?}", begin.elapsed());
    let after = pids(&machine, &["1", "2", "3"]);
    let kept = before.iter().zip(&after).filter(|(old, new)| old == new).count();
    assert_eq!(kept, 2, "two of three go on as they were: {before:?}, {after:?}");
    assert!(told.contains("was restarted with the new version and is not active"), "{told}");
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
