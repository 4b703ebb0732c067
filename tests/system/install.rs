//! Installing, removing and purging.

use crate::{
    floh::{Jobs, install, installed_machine, ready_machine, start},
    machine::{Machine, run_unbooted},
    support::wait_for,
};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(15);

/// Everything on the machine that is named after us, but for the journal, the processes and the test's own packages.
const TRACES: &str =
    "find / \\( -path /proc -o -path /sys -o -path /packages -o -path /dev \\) -prune -o -iname '*floh*' -print";

#[test]
fn a_fresh_install_enables_the_target_and_breaks_nothing() {
    let machine = installed_machine();
    assert_eq!(machine.ok("systemctl is-enabled floh-worker.target"), "enabled");
    assert_eq!(machine.ok("systemctl is-active floh-worker.target"), "active");
    assert_eq!(machine.ok("systemctl --failed --no-legend"), "");
    assert_eq!(machine.ok("stat -c '%a %U:%G' /etc/floh/env"), "600 root:root");
    assert_eq!(machine.ok("dpkg-query -W -f '${Conffiles}' floh-worker | awk 'NF { print $1 }'"), "/etc/floh/env");
    assert_eq!(machine.ok("getent passwd _floh | cut -d: -f 6-"), "/:/usr/sbin/nologin");
    assert_eq!(machine.ok("dpkg --audit"), "");
    for page in ["8 floh-worker", "1 flohctl", "5 floh-env"] {
        machine.ok(&format!("man -w {page}"));
    }
    assert!(machine.ok("journalctl --list-catalog").contains("floh"), "the catalogue has no entry of ours");
    // Whose code is in the binaries, as the licences want it told.
    machine.ok("grep -q '2018 BullForce Labs AB and contributors' /usr/share/doc/floh-worker/copyright");
    for linked in ["ring", "subtle", "refinery", "tokio"] {
        machine.ok(&format!("zgrep -q '^{linked} [0-9.]* (' /usr/share/doc/floh-worker/third-party-notices.gz"));
    }
    // Documents as they are, so that README's links lead to them and the examples can be used.
    machine.ok("test -f /usr/share/doc/floh-worker/README.md -a -f /usr/share/doc/floh-worker/docs/workflows.md");
    machine.ok("flohctl workflow validate /usr/share/doc/floh-worker/examples/employee-onboarding.json");
    for program in ["floh-worker", "flohctl"] {
        assert!(machine.ok(&format!("{program} --version")).ends_with("~test1"));
    }
}

#[test]
fn removal_waits_for_the_workers_keeps_the_settings_and_a_new_install_brings_the_workers_back() {
    let machine = ready_machine();
    machine.ok("systemctl enable --now floh-worker@{1..2}");
    start(&machine, "hand");
    machine.ok("echo LOG_LEVEL=warn >/etc/floh/worker-2.env");
    let mut jobs = Jobs::of(&machine);
    let id = jobs.sleep(12_000);
    jobs.wait_until(&id, "active", SOON);
    let begin = Instant::now();
    machine.ok("apt-get remove --yes floh-worker");
    let took = begin.elapsed();
    assert_eq!(machine.fails("pgrep -x floh-worker").0, 1, "no worker outlives the package");
    assert!(took > Duration::from_secs(6), "the removal took only {took:?}");
    assert_eq!(jobs.state(&id), "completed", "the removal waited for the job");
    assert_eq!(jobs.look(&id)["attemptsMade"], 1);
    // What enabled the instances stays, so systemd knows the target's name; nothing of it runs or has failed.
    assert_eq!(
        machine.ok("systemctl list-units --state=active,activating,failed --no-legend --plain 'floh-worker*'"),
        ""
    );
    machine.ok("test -s /etc/floh/env -a -s /etc/floh/worker-2.env");

    install(&machine, "~test1");
    wait_for("the enabled instances are back", SOON, || {
        let up = (1..=2).all(|i| machine.show(&format!("floh-worker@{i}"), "ActiveState") == "active");
        up.then_some(())
    });
    assert_eq!(machine.show("floh-worker@hand", "ActiveState"), "inactive");
}

#[test]
fn purging_leaves_nothing_but_the_user() {
    let machine = Machine::boot();
    let before = machine.ok(TRACES);
    drop(machine);
    let machine = ready_machine();
    machine.ok("systemctl enable --now floh-worker@{1..2}");
    start(&machine, "hand");
    machine.ok("echo LOG_LEVEL=warn >/etc/floh/worker-2.env; systemctl set-property floh.slice CPUWeight=50");
    machine.ok("mkdir -p /etc/systemd/system/floh-worker@.service.d; echo >/etc/systemd/system/floh-worker@.service.d/own.conf");
    // One that failed, and one that waits for its next start.
    machine.run("systemctl start floh-worker@{bad:name}");
    machine.ok("apt-get purge --yes floh-worker");
    assert_eq!(machine.fails("pgrep -x floh-worker").0, 1);
    assert_eq!(machine.ok("systemctl list-units --all --no-legend --plain 'floh-worker*'"), "");
    let left = machine.ok(TRACES);
    let known = |path: &&str| before.lines().any(|old| old == *path) || path.starts_with("/run/systemd/units/");
    let left: Vec<&str> = left.lines().filter(|path| !known(path)).collect();
    // Redis' and PostgreSQL's own data is not named after us; the slice is systemd's until it restarts.
    assert_eq!(left, Vec::<&str>::new());
    machine.ok("getent passwd _floh");
    install(&machine, "~test1");
    assert_eq!(machine.ok("dpkg --audit"), "");
    assert_eq!(machine.ok("systemctl is-enabled floh-worker.target"), "enabled");
}

#[test]
fn a_policy_against_starting_services_is_honoured() {
    let machine = Machine::boot();
    machine.ok("printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d");
    install(&machine, "~test1");
    assert_eq!(machine.ok("systemctl is-enabled floh-worker.target"), "enabled");
    assert_eq!(machine.show("floh-worker.target", "ActiveState"), "inactive");
    install(&machine, "~test2");
    machine.ok("apt-get purge --yes floh-worker");
}

#[test]
fn the_package_installs_upgrades_and_purges_where_no_systemd_runs() {
    let output = run_unbooted(
        "test ! -d /run/systemd/system
        dpkg -i /packages/floh-worker_*~test1_*.deb
        test -L /etc/systemd/system/multi-user.target.wants/floh-worker.target
        getent passwd _floh
        dpkg -i /packages/floh-worker_*~test2_*.deb
        dpkg --purge floh-worker
        test ! -e /etc/floh
        test ! -e /etc/systemd/system/multi-user.target.wants/floh-worker.target",
    );
    assert!(output.status.success(), "{}", crate::machine::said(&output));
}
