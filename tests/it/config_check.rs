//! `flohctl config check` and the daemon's start, run as programs: what they print about settings, and how they exit.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

/// An environment file of this content, readable by its owner alone.
fn env_file(content: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("env");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    (folder, path)
}

fn flohctl(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flohctl"));
    command.env_clear().envs(environment.iter().copied()).args(arguments).output().unwrap()
}

/// The exit code and the lines on standard output.
fn check(path: &Path) -> (Option<i32>, Vec<String>) {
    let output = flohctl(&["config", "check", "--env-file", path.to_str().unwrap()], &[]);
    assert!(output.stderr.is_empty(), "{output:?}");
    (output.status.code(), lines(&output.stdout))
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_string).collect()
}

fn starting<'a>(lines: &'a [String], start: &str) -> Vec<&'a String> {
    lines.iter().filter(|line| line.starts_with(start)).collect()
}

const FIVE: &str = "DB_PORT=54x2\nREDIS_TLS=maybe\nWORKER_CONCURRENCY=0\nAUDIT_CHECKPOINT_KEY=guppytrout\n\
    DATABASE_URL=postgres://u:guppytrout@h/d?sslmode=perhaps\nAUDIT_CHECKPOINT_SCHEDULE=61 * * * *\n";

#[test]
fn five_mistakes_are_five_lines_and_no_secret() {
    // DB_PORT does not count: DATABASE_URL overrides it.
    let (_folder, path) = env_file(FIVE);
    let (code, lines) = check(&path);
    assert_eq!(code, Some(78), "{lines:#?}");
    let mistakes = starting(&lines, "mistake: ");
    assert_eq!(mistakes.len(), 5, "{lines:#?}");
    for name in ["REDIS_TLS", "WORKER_CONCURRENCY", "AUDIT_CHECKPOINT_KEY", "DATABASE_URL", "AUDIT_CHECKPOINT_SCHEDULE"]
    {
        assert_eq!(
            mistakes.iter().filter(|l| l.starts_with(&format!("mistake: {name}"))).count(),
            1,
            "{name}: {lines:#?}"
        );
    }
    assert!(lines.iter().all(|line| !line.contains("guppytrout")), "{lines:#?}");
    assert_eq!(lines.last().unwrap(), &format!("{}: 5 mistakes, no warnings", path.display()));
}

#[test]
fn good_settings_pass_with_their_warnings() {
    let (_folder, path) = env_file("DB_HOST=db\nREDIS_HSOT=cache\nWORKER_MODE=combined\nNODE_ENV=production\n");
    let (code, lines) = check(&path);
    assert_eq!(code, Some(0), "{lines:#?}");
    let warnings = starting(&lines, "warning: ");
    assert!(warnings[0].contains("REDIS_HSOT: not known, is REDIS_HOST meant?"), "{lines:#?}");
    assert!(warnings[1].contains("AUDIT_CHECKPOINT_KEY: not set"), "{lines:#?}");
    assert_eq!((warnings.len(), starting(&lines, "note: WORKER_MODE").len()), (2, 1), "{lines:#?}");
}

#[test]
fn shell_habits_are_caught() {
    let (_folder, path) = env_file(
        "export DB_HOST=db\nDB_PORT=5432 # the usual\nDB_NAME=\"floh\" # quoted\nREDIS_PASSWORD=\"never closed\nQUEUE_NAME=q\n",
    );
    let (code, lines) = check(&path);
    assert_eq!(code, Some(78), "{lines:#?}");
    for (line, what) in [
        (1, "systemd drops lines with export"),
        (3, "DB_NAME: what follows the closing quote"),
        (4, "REDIS_PASSWORD: the quote is never closed"),
    ] {
        let start = format!("mistake: {}: line {line}: ", path.display());
        assert!(lines.iter().any(|l| l.starts_with(&start) && l.contains(what)), "{what}: {lines:#?}");
    }
    let comment = "mistake: DB_PORT=\"5432 # the usual\": a comment after a value is part of the value";
    assert_eq!(starting(&lines, comment).len(), 1, "{lines:#?}");
    assert!(lines.iter().all(|line| !line.contains("never closed\nQ") && !line.contains("\"never")), "{lines:#?}");
}

#[test]
fn a_file_open_to_everybody_is_a_warning_and_an_absent_one_a_mistake() {
    let (folder, path) = env_file("DB_HOST=db\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, lines) = check(&path);
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines.iter().any(|l| l.starts_with("warning: ") && l.contains("chmod 0600")), "{lines:#?}");
    let (code, lines) = check(&folder.path().join("absent"));
    assert_eq!(code, Some(78), "{lines:#?}");
    assert!(lines[0].contains("absent: the file cannot be read"), "{lines:#?}");
}

#[test]
fn later_files_win_and_the_environment_stays_out() {
    let (_first, common) = env_file("DB_HOST=db\nWORKER_CONCURRENCY=x\n");
    let (_second, instance) = env_file("WORKER_CONCURRENCY=3\n");
    let both = [common.to_str().unwrap(), instance.to_str().unwrap()];
    let arguments = ["config", "check", "--env-file", both[0], "--env-file", both[1]];
    let output = flohctl(&arguments, &[("REDIS_PORT", "nonsense")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn an_environment_that_names_a_server_is_used_alone() {
    let output = flohctl(&["config", "check"], &[("REDIS_PORT", "nonsense")]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let lines = lines(&output.stdout);
    assert!(lines[0].starts_with("mistake: REDIS_PORT=\"nonsense\""), "{lines:#?}");
    assert!(lines.last().unwrap().starts_with("the environment: 1 mistake"), "{lines:#?}");
}

#[test]
fn other_commands_refuse_wrong_settings_with_every_line() {
    let (_folder, path) = env_file(FIVE);
    let output = flohctl(&["migrate", "--env-file", path.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let errors = lines(&output.stderr);
    assert_eq!(errors.iter().filter(|line| line.starts_with("flohctl: ")).count(), 5, "{errors:#?}");
    assert!(errors.iter().all(|line| !line.contains("guppytrout")), "{errors:#?}");
}

#[test]
fn the_daemon_refuses_wrong_settings_with_every_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_floh-worker"))
        .env_clear()
        .envs([("DB_PORT", "54x2"), ("REDIS_TLS", "maybe"), ("WORKER_CONCURRENCY", "0"), ("DB_SSL", "true")])
        .envs([("AUDIT_CHECKPOINT_KEY", "guppytrout"), ("REDIS_HSOT", "cache")])
        .arg("1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let errors = lines(&output.stderr);
    assert_eq!(errors.iter().filter(|line| line.contains(" ERROR ")).count(), 5, "{errors:#?}");
    assert_eq!(
        errors.iter().filter(|line| line.contains(" WARN ") && line.contains("REDIS_HOST")).count(),
        1,
        "{errors:#?}"
    );
    assert!(errors.iter().all(|line| !line.contains("guppytrout")), "{errors:#?}");
}
