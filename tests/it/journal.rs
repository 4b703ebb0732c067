//! Logging into a real journald: a private one, in a mount namespace with its own /run and /var/log.

use floh_worker::{
    config::{Config, LogLevel, Variables},
    events, job_span,
    service::journal,
};
use std::{collections::BTreeMap, path::Path, process::Command};

/// Starts journald, runs the writer test of this binary with stderr connected to it, and prints what was stored.
/// Auditing and the kernel's messages stay as the machine has them.
const SCRIPT: &str = r#"
set -eu
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\n' >/run/systemd/journald.conf.d/test.conf
"$JOURNALD" >/run/journald.log 2>&1 &
journald=$!
trap 'kill $journald; wait $journald || true' EXIT
for _ in $(seq 100); do [ -S /run/systemd/journal/stdout ] && break; sleep 0.1; done
systemd-cat -t stream sh -c 'JOURNAL_STREAM=$(stat -Lc %d:%i /proc/$$/fd/2); export JOURNAL_STREAM; exec "$WRITER" --ignored --exact journal::writer'
for _ in $(seq 100); do
    journalctl --directory /run/log/journal --no-pager --all -o json >/run/entries
    ! grep -q "last words" /run/entries || break
    sleep 0.1
done
cat /run/entries
"#;

/// Lines of other targets are logged from warnings on only.
const OURS: &str = "floh_worker";

const JOURNALD: &str = "/usr/lib/systemd/systemd-journald";

#[test]
#[ignore = "run in every ./tests/run, by entries_reach_journald_with_their_fields, whose inner half it is"]
fn writer() {
    let log = journal::init(LogLevel::Info, Some("3"));
    tracing::debug!(target: OURS, "too quiet");
    log.set_level(LogLevel::Debug);
    tracing::info!(target: OURS, message_id = events::WORKER_READY, "ready");
    let span = job_span!(id = "42", name = "stuck-run-recovery", attempt = 2);
    span.in_scope(|| {
        span.record("floh_run_id", "r1");
        span.record("floh_step_id", "s1");
        tracing::info!(target: OURS, message_id = events::JOB_STARTED, "started");
        tracing::warn!(target: OURS, message_id = events::JOB_RETRIED, "two\nlines");
        tracing::error!(target: OURS, message_id = events::JOB_FAILED, stack = "x".repeat(1 << 20), "too big for a datagram");
        tracing::debug!(target: OURS, "quiet");
    });
    let wrong: Variables = [("DB_PORT", "x"), ("REDIS_PASSWORD", "guppytrout\n")].into_iter().collect();
    journal::tell_mistakes(&Config::load(&wrong).unwrap_err());
    tracing::info!(target: OURS, "last words");
}

type Entry = BTreeMap<String, serde_json::Value>;

fn field<'a>(entry: &'a Entry, name: &str) -> &'a str {
    entry.get(name).and_then(serde_json::Value::as_str).unwrap_or_default()
}

#[test]
fn entries_reach_journald_with_their_fields() {
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.arg(if nix::unistd::geteuid().is_root() { "-m" } else { "-mr" }).args(arguments);
        command
    };
    let possible = unshare(&["mount", "-t", "tmpfs", "tmpfs", "/run"]).output();
    let possible = Path::new(JOURNALD).exists() && possible.is_ok_and(|output| output.status.success());
    assert!(possible, "this needs {JOURNALD} (apt install systemd) and the right to mount in a namespace of its own");
    let output = unshare(&["sh", "-c", SCRIPT])
        .env("WRITER", std::env::current_exe().unwrap())
        .env("JOURNALD", JOURNALD)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let entries: Vec<Entry> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let entry = |message: &str| {
        let mut found = entries.iter().filter(|e| field(e, "MESSAGE") == message);
        let one =
            found.next().unwrap_or_else(|| panic!("{message}: {text} {}", String::from_utf8_lossy(&output.stderr)));
        assert!(found.next().is_none(), "{message} twice");
        one
    };

    for (message, id, priority) in [
        ("ready", events::WORKER_READY, "6"),
        ("started", events::JOB_STARTED, "6"),
        ("two\nlines", events::JOB_RETRIED, "4"),
        ("too big for a datagram", events::JOB_FAILED, "3"),
        ("quiet", "", "7"),
        ("DB_PORT=\"x\": a port from 1 to 65535 is expected", events::CONFIG_MISTAKE, "3"),
    ] {
        let entry = entry(message);
        assert_eq!(field(entry, "MESSAGE_ID"), id, "{message}");
        assert_eq!(field(entry, "PRIORITY"), priority, "{message}");
        assert_eq!(field(entry, "SYSLOG_IDENTIFIER"), "floh-worker");
        assert_eq!(field(entry, "FLOH_INSTANCE"), "3");
        assert_eq!(field(entry, "_TRANSPORT"), "journal", "native, not a line of a stream");
        assert!(!entry.keys().any(|name| name.starts_with("F_")), "{entry:?}");
    }
    for message in ["started", "two\nlines", "too big for a datagram", "quiet"] {
        let entry = entry(message);
        let fields = ["FLOH_JOB_ID", "FLOH_JOB_NAME", "FLOH_ATTEMPT", "FLOH_RUN_ID", "FLOH_STEP_ID"];
        assert_eq!(fields.map(|name| field(entry, name)), ["42", "stuck-run-recovery", "2", "r1", "s1"], "{message}");
    }
    assert_eq!(field(entry("too big for a datagram"), "STACK").len(), 1 << 20);
    assert_eq!(field(entry("ready"), "FLOH_JOB_ID"), "");
    assert!(!text.contains("too quiet") && !text.contains("guppytrout"));
}

#[test]
fn journalctl_accepts_the_catalogue() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("usr/lib/systemd/catalog");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(root.path().join("var/lib/systemd/catalog")).unwrap();
    std::fs::copy("systemd/floh-worker.catalog", folder.join("floh-worker.catalog")).unwrap();
    let journalctl = |what: &str| Command::new("journalctl").arg(what).arg("--root").arg(root.path()).output();
    let updated = journalctl("--update-catalog").expect("this needs journalctl (apt install systemd)");
    assert!(updated.status.success() && updated.stderr.is_empty(), "{updated:?}");
    let listed = String::from_utf8(journalctl("--list-catalog").unwrap().stdout).unwrap();
    assert_eq!(listed.lines().count(), events::ALL.len(), "{listed}");
    for (name, id) in events::ALL {
        assert!(listed.contains(id), "{name}");
    }
}
