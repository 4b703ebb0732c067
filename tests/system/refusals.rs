//! Mistakes that waiting cannot heal: one clear message, the right exit code, no second start.

use crate::{
    floh::{configure, installed_machine, journal, log_of, message, ready_machine},
    machine::Machine,
};
use std::time::Duration;

/// More than `RestartSec=` of the unit: who starts again does so within it.
const RESTART_WOULD_SHOW: Duration = Duration::from_secs(7);

/// Every failed start is told to who asked for it with this one.
const START_FAILED: i32 = 1;

/// Starts a worker that must end with `code` and stay down; returns the errors that it told, and its whole log.
fn refuses(machine: &Machine, unit: &str, code: &str) -> (Vec<String>, String) {
    let (exit, told) = machine.fails(&format!("systemctl start '{unit}'"));
    assert_eq!(exit, START_FAILED, "{told}");
    std::thread::sleep(RESTART_WOULD_SHOW);
    let id = machine.show(unit, "Id");
    let log = log_of(machine, &id);
    assert_eq!(machine.show(unit, "ExecMainStatus"), code, "{log}");
    assert_eq!(machine.show(unit, "ActiveState"), "failed");
    assert_eq!(machine.show(unit, "NRestarts"), "0");
    (errors(machine, &id), log)
}

/// The same for one mistake: its message, which must be the only one.
fn refuses_one(machine: &Machine, unit: &str, code: &str) -> (String, String) {
    let (mut errors, log) = refuses(machine, unit, code);
    assert_eq!(errors.len(), 1, "one clear message: {errors:#?}\n{log}");
    (errors.remove(0), log)
}

/// What the worker itself told as an error, an entry each; systemd has its own words for the end of a unit.
fn errors(machine: &Machine, unit: &str) -> Vec<String> {
    let mut entries = journal(machine, &format!("-q -p err -u '{unit}'"));
    entries.retain(|entry| entry["SYSLOG_IDENTIFIER"] == "floh-worker");
    entries.iter().map(|entry| message(entry).to_string()).collect()
}

#[test]
fn five_mistakes_are_told_at_once() {
    let machine = installed_machine();
    machine.ok(
        "printf '%s\\n' WORKER_CONCURRENCY=many SHUTDOWN_TIMEOUT_SECONDS=3600 'AUDIT_CHECKPOINT_SCHEDULE=every day' \
         DB_PORT=99999 AUDIT_CHECKPOINT_KEY=secret-but-short >/etc/floh/env",
    );
    let (errors, log) = refuses(&machine, "floh-worker@1", "78");
    assert_eq!(errors.len(), 5, "{errors:#?}");
    for beginning in [
        "WORKER_CONCURRENCY=\"many\": ",
        "SHUTDOWN_TIMEOUT_SECONDS=\"3600\": ",
        "AUDIT_CHECKPOINT_SCHEDULE=\"every day\": ",
        "DB_PORT=\"99999\": ",
        "AUDIT_CHECKPOINT_KEY: ",
    ] {
        let count = errors.iter().filter(|error| error.starts_with(beginning)).count();
        assert_eq!(count, 1, "{beginning}: {errors:#?}");
    }
    assert!(!log.contains("secret-but-short"), "{log}");
}

#[test]
fn a_missing_settings_file_is_a_failed_assertion_and_not_a_loop() {
    let machine = installed_machine();
    // Enabled, as on a real machine: of a unit that nothing refers to, systemd soon forgets even why it did not start.
    machine.ok("systemctl enable floh-worker@1; mv /etc/floh/env /root/");
    let (exit, told) = machine.fails("systemctl start floh-worker@1");
    assert_eq!((exit, told.matches("Assertion failed").count()), (START_FAILED, 1), "{told}");
    std::thread::sleep(RESTART_WOULD_SHOW);
    assert_eq!(machine.show("floh-worker@1", "NRestarts"), "0");
    assert_eq!(machine.show("floh-worker@1", "ActiveState"), "inactive");
    assert_eq!(machine.show("floh-worker@1", "ExecMainStartTimestampMonotonic"), "0", "no worker was started");
    assert_eq!(errors(&machine, "floh-worker@1"), [""; 0]);
    let status = String::from_utf8(machine.run("systemctl status floh-worker@1").stdout).unwrap();
    assert!(status.contains("AssertPathExists=/etc/floh/env"), "the status names the file: {status}");
}

#[test]
fn a_wrong_password_ends_the_worker_whichever_server_refuses_it() {
    let machine = ready_machine();
    machine.ok("echo DB_PASSWORD=wrong-horse >/etc/floh/worker-1.env");
    let (error, log) = refuses_one(&machine, "floh-worker@1", "78");
    assert!(error.contains("PostgreSQL") && error.contains("password"), "{error}");
    assert!(!log.contains("wrong-horse"), "{log}");

    machine.ok("redis-cli config set requirepass battery-staple; echo REDIS_PASSWORD=stapler >/etc/floh/worker-2.env");
    let (error, log) = refuses_one(&machine, "floh-worker@2", "78");
    assert!(error.contains("Redis") && error.to_lowercase().contains("password"), "{error}");
    assert!(!log.contains("stapler"), "{log}");
}

#[test]
fn a_schema_that_excludes_this_version_ends_the_worker() {
    let machine = ready_machine();
    machine.ok("cd /; runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 floh \
         -c \"INSERT INTO floh_worker.schema_version (version, compatible_from) VALUES (9001, '99.0.0')\"");
    let (error, _) = refuses_one(&machine, "floh-worker@1", "78");
    assert!(error.contains("99.0.0"), "{error}");
}

#[test]
fn quoted_braces_are_refused_with_what_to_type() {
    let machine = installed_machine();
    configure(&machine, "");
    let (error, log) = refuses_one(&machine, "floh-worker@{1..4}", "64");
    let hint = "floh-worker@{1..4} in bash, without quotes";
    assert!(error.contains(hint), "{error}");
    assert_eq!(log.matches(hint).count(), 1, "said once: {log}");
}
