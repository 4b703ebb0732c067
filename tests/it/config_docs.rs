//! The example file, the man pages and the unit say what the code does: the table of variables is the measure.

use clap::CommandFactory;
use floh_worker::{
    config::{LONGEST_SHUTDOWN_TIMEOUT, UNIT_STOP_TIMEOUT, VARIABLES, Variable},
    service::exit::Exit,
};
use std::{fs, os::unix::fs::PermissionsExt, process::Command};

const EXAMPLE: &str = include_str!("../../packaging/env.example");
const FLOH_ENV: &str = include_str!("../../packaging/man/floh-env.5");
const FLOHCTL: &str = include_str!("../../packaging/man/flohctl.1");
const README: &str = include_str!("../../README.md");
const FLOH_WORKER: &str = include_str!("../../packaging/man/floh-worker.8");
const UNIT: &str = include_str!("../../systemd/floh-worker@.service");

/// The assignments in the example, with the line above each.
fn assignments() -> Vec<(&'static str, &'static str, &'static str)> {
    let lines: Vec<_> = EXAMPLE.lines().collect();
    let pairs = lines.windows(2).filter_map(|pair| {
        let (name, value) = pair[1].strip_prefix('#')?.split_once('=')?;
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        plain.then_some((pair[0], name, value))
    });
    pairs.collect()
}

/// The text of a variable's entry in floh-env(5), without the escapes of roff.
fn entry(variable: &Variable) -> String {
    let start = format!("\n.TP\n.B {}\n", variable.name);
    let mut entries = FLOH_ENV.split(start.as_str()).skip(1);
    let text = entries.next().unwrap_or_else(|| panic!("{} has no entry", variable.name));
    assert!(entries.next().is_none(), "{} has two entries", variable.name);
    let end = [".TP", ".SH"].iter().filter_map(|mark| text.find(&format!("\n{mark}"))).min().unwrap_or(text.len());
    text[..end].replace("\\-", "-")
}

#[test]
fn the_example_names_every_variable_with_its_default() {
    let found = assignments();
    let names: Vec<_> = found.iter().map(|(_, name, _)| *name).collect();
    let known: Vec<_> = VARIABLES.iter().map(|v| v.name).collect();
    assert_eq!(names, known);
    for ((comment, name, value), variable) in found.iter().zip(VARIABLES) {
        assert_eq!(*value, variable.default.unwrap_or_default(), "{name}");
        assert!(comment.starts_with("# ") && comment.len() > 5, "{name} is not explained: {comment:?}");
    }
}

#[test]
fn the_man_page_names_every_variable_with_its_default() {
    for variable in VARIABLES {
        let text = entry(variable);
        match variable.default {
            Some(default) => assert!(text.contains(&format!("Default: {default}.")), "{}: {text}", variable.name),
            None => assert!(!text.contains("Default:"), "{}: {text}", variable.name),
        }
        if variable.secret {
            assert!(FLOH_ENV.replace("\\-", "-").contains(&variable.credential()), "{}", variable.credential());
        }
    }
    let entries = FLOH_ENV.lines().zip(FLOH_ENV.lines().skip(1)).filter(|(mark, _)| *mark == ".TP");
    let names = entries.filter_map(|(_, line)| line.strip_prefix(".B "));
    for name in names {
        assert!(VARIABLES.iter().any(|v| v.name == name), "{name} is explained, but not known");
    }
}

#[test]
fn readme_s_table_names_every_variable_with_its_default() {
    let settings = README.split("\n## Settings\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut found = Vec::new();
    for row in settings.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let names: Vec<&str> = cells[1].split(' ').map(|name| name.trim_matches('`')).collect();
        // One per name; a dash for none, and an expression with blanks between backquotes.
        let defaults: Vec<&str> = match cells[2].strip_prefix('`') {
            Some(one) => vec![one.trim_end_matches('`')],
            None => cells[2].split_whitespace().collect(),
        };
        assert_eq!(names.len(), defaults.len(), "{row}");
        found.extend(names.into_iter().zip(defaults));
    }
    found.sort_unstable();
    let mut known: Vec<_> = VARIABLES.iter().map(|v| (v.name, v.default.unwrap_or("–"))).collect();
    known.sort_unstable();
    assert_eq!(found, known);
}

#[test]
fn the_shipped_example_passes_as_it_is_and_uncommented() {
    let uncommented = assignments().iter().fold(EXAMPLE.to_string(), |text, (_, name, value)| {
        text.replace(&format!("\n#{name}={value}\n"), &format!("\n{name}={value}\n"))
    });
    assert_ne!(uncommented, EXAMPLE);
    for content in [EXAMPLE, &uncommented] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let mut flohctl = Command::new(env!("CARGO_BIN_EXE_flohctl"));
        let output = flohctl.env_clear().args(["config", "check", "--env-file"]).arg(&path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.len() == 2 && lines[0].starts_with("warning: AUDIT_CHECKPOINT_KEY: not set"), "{text}");
    }
}

#[test]
fn the_man_page_names_every_command_and_option() {
    fn visit(command: &clap::Command, path: &str, text: &str) {
        for argument in command.get_arguments().filter_map(|a| a.get_long()) {
            assert!(text.contains(&format!("--{argument}")), "{path} --{argument}");
        }
        for inner in command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
            let path = format!("{path} {}", inner.get_name());
            let path = path.trim_start();
            // An entry of its own, or one of several with one text.
            let has_entry = ["TP", "TQ"].iter().any(|tag| text.contains(&format!("\n.{tag}\n.B {path}\n")));
            assert!(inner.has_subcommands() || has_entry, "{path} has no entry");
            visit(inner, path, text);
        }
    }
    visit(&floh_worker::cli::Cli::command(), "", &FLOHCTL.replace("\\-", "-"));
}

#[test]
fn the_man_pages_are_in_order() {
    for page in ["floh-worker.8", "flohctl.1", "floh-env.5"] {
        let path = format!("packaging/man/{page}");
        let output = |command: &mut Command| command.output().expect("this needs man and lexgrog (apt install man-db)");
        let man = output(Command::new("man").args(["--warnings", "-E", "UTF-8", "-l", &path]).env("MANPAGER", "cat"));
        let lexgrog = output(Command::new("lexgrog").arg(&path));
        assert!(man.status.success() && man.stderr.is_empty() && !man.stdout.is_empty(), "{page}: {man:?}");
        assert!(lexgrog.status.success(), "{page}: {lexgrog:?}");
    }
}

#[test]
fn the_unit_waits_as_long_as_the_settings_assume() {
    let line = format!("\nTimeoutStopSec={}\n", UNIT_STOP_TIMEOUT.as_secs());
    assert!(UNIT.contains(&line), "the unit's TimeoutStopSec is another than the code's");
}

#[test]
fn every_document_names_the_longest_drain_that_the_code_allows() {
    let longest = format!("at most {}", LONGEST_SHUTDOWN_TIMEOUT.as_secs());
    let name = "SHUTDOWN_TIMEOUT_SECONDS";
    let (comment, ..) = assignments().into_iter().find(|(_, variable, _)| *variable == name).unwrap();
    assert!(comment.contains(&longest), "env.example: {comment}");
    assert!(UNIT.contains(&format!("{name} (30, {longest})")), "the unit lacks {longest}");
    let text = entry(VARIABLES.iter().find(|variable| variable.name == name).unwrap());
    assert!(text.to_lowercase().contains(&longest), "floh-env(5): {text}");
    let row = README.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
    assert!(row.contains(&longest), "README: {row}");
}

#[test]
fn the_unit_and_the_man_page_know_the_exit_codes() {
    let codes = [Exit::Clean, Exit::Usage, Exit::Internal, Exit::Restart, Exit::Config].map(Exit::code);
    for code in codes {
        assert!(FLOH_WORKER.contains(&format!("\n.TP\n.B {code}\n")), "{code} is not explained");
    }
    let restart = Exit::Restart.code();
    let never = format!("\nRestartPreventExitStatus={} {}\n", Exit::Usage.code(), Exit::Config.code());
    let lines = [format!("\nSuccessExitStatus={restart}\n"), format!("\nRestartForceExitStatus={restart}\n"), never];
    for line in lines {
        assert!(UNIT.contains(&line), "the unit has no line {line:?}");
    }
}
