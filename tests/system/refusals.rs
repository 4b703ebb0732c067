//! Mistakes that waiting cannot heal: one clear message, the right exit code, no second start.

use crate::{
    floh::{configure, installed_machine, log_of, ready_machine},
    machine::Machine,
};
use std::time::Duration;

/// More than `RestartSec=` of the unit: who starts again does so within it.
const RESTART_WOULD_SHOW: Duration = Duration::from_secs(7);

/// Starts a worker that must end with `code` and stay down; returns its log.
fn refuses(machine: &Machine, unit: &str, code: &str) -> String {
    machine.fails(&format!("systemctl start '{unit}'"));
    std::thread::sleep(RESTART_WOULD_SHOW);
    assert_eq!(machine.show(unit, "ExecMainStatus"), code, "{}", log_of(machine, unit));
    assert_eq!(machine.show(unit, "ActiveState"), "failed");
    assert_eq!(machine.show(unit, "NRestarts"), "0");
    log_of(machine, &machine.show(unit, "Id"))
}

#[test]
fn five_mistakes_are_told_at_once() {
    let machine = installed_machine();
    machine.ok(
        "printf '%s\\n' WORKER_CONCURRENCY=many SHUTDOWN_TIMEOUT_SECONDS=3600 'AUDIT_CHECKPOINT_SCHEDULE=every day' \
         DB_PORT=99999 AUDIT_CHECKPOINT_KEY=secret-but-short >/etc/floh/env",
    );
    let log = refuses(&machine, "floh-worker@1", "78");
    for variable in [
        "WORKER_CONCURRENCY",
        "SHUTDOWN_TIMEOUT_SECONDS",
        "AUDIT_CHECKPOINT_SCHEDULE",
        "DB_PORT",
        "AUDIT_CHECKPOINT_KEY",
    ] {
        assert!(log.contains(variable), "{variable} is not named: {log}");
    }
    assert!(!log.contains("secret-but-short"), "{log}");
}

#[test]
fn a_missing_settings_file_is_a_failed_assertion_and_not_a_loop() {
    let machine = installed_machine();
    // Enabled, as on a real machine: of a unit that nothing refers to, systemd soon forgets even why it did not start.
    machine.ok("systemctl enable floh-worker@1; mv /etc/floh/env /root/");
    let (_, told) = machine.fails("systemctl start floh-worker@1");
    assert!(told.contains("Assertion failed"), "{told}");
    std::thread::sleep(RESTART_WOULD_SHOW);
    assert_eq!(machine.show("floh-worker@1", "NRestarts"), "0");
    assert_eq!(machine.show("floh-worker@1", "ActiveState"), "inactive");
    let status = String::from_utf8(machine.run("systemctl status floh-worker@1").stdout).unwrap();
    assert!(status.contains("AssertPathExists=/etc/floh/env"), "the status names the file: {status}");
}

#[test]
fn a_wrong_password_ends_the_worker_whichever_server_refuses_it() {
    let machine = ready_machine();
    machine.ok("echo DB_PASSWORD=wrong-horse >/etc/floh/worker-1.env");
    let log = refuses(&machine, "floh-worker@1", "78");
    assert!(log.contains("PostgreSQL") && log.contains("password"), "{log}");
    assert!(!log.contains("wrong-horse"), "{log}");

    machine.ok("redis-cli config set requirepass battery-staple; echo REDIS_PASSWORD=stapler >/etc/floh/worker-2.env");
    let log = refuses(&machine, "floh-worker@2", "78");
    assert!(log.contains("Redis") && log.to_lowercase().contains("password"), "{log}");
    assert!(!log.contains("stapler"), "{log}");
}

#[test]
fn a_schema_that_excludes_this_version_ends_the_worker() {
    let machine = ready_machine();
    machine.ok("cd /; runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 floh \
         -c \"INSERT INTO floh_worker.schema_version (version, compatible_from) VALUES (9001, '99.0.0')\"");
    let log = refuses(&machine, "floh-worker@1", "78");
    assert!(log.contains("99.0.0"), "{log}");
}

#[test]
fn quoted_braces_are_refused_with_what_to_type() {
    let machine = installed_machine();
    configure(&machine, "");
    let log = refuses(&machine, "floh-worker@{1..4}", "64");
    assert_eq!(log.matches("floh-worker@{1..4} in bash, without quotes").count(), 1, "said once: {log}");
}
