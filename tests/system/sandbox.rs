//! What the unit files say, and what a running worker can and cannot do.

use crate::{
    floh::{Jobs, PASSWORD, journal, ready_machine, sql, start},
    machine::Machine,
    support::{runs::quote, wait_for},
};
use serde_json::json;
use std::time::Duration;

#[test]
fn the_unit_files_are_valid_and_well_locked() {
    let machine = ready_machine();
    let units = "floh-worker@1.service floh-worker.target";
    let verified = machine.run(&format!("systemd-analyze verify {units}"));
    assert_eq!((verified.status.code(), crate::machine::said(&verified).as_str()), (Some(0), ""));
    machine.ok("systemd-analyze security --offline=true --threshold=15 /lib/systemd/system/floh-worker@.service");
    start(&machine, "1");
    machine.ok("systemd-analyze security --threshold=15 floh-worker@1.service");
    for (property, value) in [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("TimeoutStopUSec", "35s"),
        ("WatchdogUSec", "30s"),
        ("KillMode", "mixed"),
        ("Slice", "floh.slice"),
        ("User", "_floh"),
        ("EnvironmentFiles", "/etc/floh/env (ignore_errors=no)\n/etc/floh/worker-1.env (ignore_errors=yes)"),
    ] {
        assert_eq!(machine.show("floh-worker@1", property), value, "{property}");
    }
    machine.ok("systemctl enable floh-worker@1");
    assert!(machine.show("floh-worker.target", "Wants").contains("floh-worker@1.service"));
    assert!(!machine.show("floh-worker.target", "Requires").contains("floh-worker@"));
    assert!(machine.show("floh-worker.target", "Before").contains("floh-worker@1.service"));
}

/// Runs a command with the worker's own view of the file system and its own user.
fn as_worker(machine: &Machine, pid: &str, command: &str) -> std::process::Output {
    machine.run(&format!(
        "nsenter --target {pid} --mount -- setpriv --reuid=_floh --regid=_floh --clear-groups -- sh -c '{command}'"
    ))
}

#[test]
fn a_worker_has_no_privileges_and_sees_little() {
    let machine = ready_machine();
    machine.ok("echo private >/root/file; mkdir -p /home/somebody");
    start(&machine, "1");
    let pid = machine.show("floh-worker@1", "MainPID");
    let status = machine.ok(&format!("cat /proc/{pid}/status"));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} {status}"));
        line.trim_start_matches(':').split_whitespace().next().unwrap().to_string()
    };
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("Uid"), machine.ok("id -u _floh"));

    for forbidden in
        ["touch /usr/x", "touch /etc/x", "touch /var/lib/x", "cat /etc/floh/env", "ls /home/somebody", "cat /root/file"]
    {
        let output = as_worker(&machine, &pid, forbidden);
        assert!(!output.status.success(), "{forbidden} worked: {}", crate::machine::said(&output));
    }
    for allowed in ["touch /var/lib/floh/x", "touch /tmp/x", "test -r /proc/sys/kernel/random/boot_id"] {
        let output = as_worker(&machine, &pid, allowed);
        assert!(output.status.success(), "{allowed}: {}", crate::machine::said(&output));
    }
    assert_eq!(machine.ok("stat -c '%a %U' /var/lib/floh"), "750 _floh");
}

#[test]
fn passwords_stay_where_they_are() {
    let machine = ready_machine();
    start(&machine, "1");
    let mut jobs = Jobs::of(&machine);
    let id = jobs.sleep(10);
    jobs.wait_until(&id, "completed", Duration::from_secs(10));
    let pid = machine.show("floh-worker@1", "MainPID");
    for path in ["/etc/floh/env".to_string(), format!("/proc/{pid}/environ")] {
        machine.ok(&format!("grep -q . {path}"));
        machine.fails(&format!("setpriv --reuid=nobody --regid=nogroup --clear-groups -- cat {path}"));
    }
    assert_eq!(machine.show("floh-worker@1", "Environment"), "MALLOC_ARENA_MAX=1");
    machine.ok("systemctl stop floh-worker@1");
    let all = machine.ok("journalctl --sync; journalctl --no-pager -o json -u 'floh-worker@*'");
    assert!(!all.contains(PASSWORD), "the password is in the journal");
    for entry in journal(&machine, "_SYSTEMD_UNIT=floh-worker@1.service _TRANSPORT=journal") {
        let priority: u8 = entry["PRIORITY"].as_str().unwrap().parse().unwrap();
        assert!((3..=6).contains(&priority), "{entry}");
    }

    // The same as a credential: nothing in the environment at all.
    machine.ok(&format!(
        "umask 077; sed -i /^DB_PASSWORD=/d /etc/floh/env; printf %s {PASSWORD} >/etc/floh/db-password; \
         mkdir -p /etc/systemd/system/floh-worker@.service.d; \
         printf '[Service]\\nLoadCredential=db-password:/etc/floh/db-password\\n' \
         >/etc/systemd/system/floh-worker@.service.d/credentials.conf; systemctl daemon-reload"
    ));
    start(&machine, "1");
    let environment = machine.ok("tr '\\0' '\\n' </proc/$(systemctl show --value -p MainPID floh-worker@1)/environ");
    assert!(!environment.contains(PASSWORD), "{environment}");
}

#[test]
fn scripts_run_under_the_same_locks() {
    let machine = ready_machine();
    start(&machine, "1");
    // Without a character that the shell would take for its own.
    let definition = json!({"name": "script", "steps": [
        {"id": "start", "type": "start", "transitions": [{"on": "success", "to": "compute"}]},
        {"id": "compute", "type": "transform", "config": {"code": "return {six: 2 * 3}", "outputs": ["six"]},
         "transitions": [{"on": "success", "to": "end"}]},
        {"id": "end", "type": "end"}]});
    let definition = quote(&definition.to_string()).replace('"', "\\\"");
    let id = sql(
        &machine,
        &format!(
            "INSERT INTO workflow_definition (name, version, status, definition, published_at) \
             VALUES ('script', 1, 'active', {definition}, now()) RETURNING id"
        ),
    );
    // psql says how many rows it has inserted, too.
    let id = id.lines().next().unwrap();
    sql(&machine, &format!("INSERT INTO workflow_run (definition_id, variables) VALUES ('{id}', '{{}}')"));
    let ask = "SELECT status || ' ' || coalesce(variables ->> 'six', failure_reason, '') FROM workflow_run";
    let ended = wait_for("the run has ended", Duration::from_secs(30), || {
        Some(sql(&machine, ask)).filter(|said| !said.starts_with("pending") && !said.starts_with("running"))
    });
    assert_eq!(ended, "completed 6");

    let pid = machine.ok("pgrep -x floh-sandbox");
    let status = machine.ok(&format!("cat /proc/{pid}/status"));
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    machine.ok("systemctl kill --signal=KILL --kill-who=main floh-worker@1");
    wait_for("no process for scripts outlives its worker", Duration::from_secs(5), || {
        machine.run(&format!("test -e /proc/{pid}")).status.code().filter(|code| *code != 0)
    });
}
