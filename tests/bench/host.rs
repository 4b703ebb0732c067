//! The machine that was measured on.

use crate::support::{node, postgres, process::find_program};
use std::{env, fs, path::Path, process::Command, thread, time::Duration};

/// Names and values for the results.
pub fn facts() -> Vec<(&'static str, String)> {
    let memory = first_line("/proc/meminfo").split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok());
    let mut facts = vec![
        ("date (UTC)", chrono::Utc::now().format("%Y-%m-%d %H:%M").to_string()),
        ("commit", commit()),
        ("processor", processor()),
        ("cores", thread::available_parallelism().map_or_else(|e| e.to_string(), |n| n.to_string())),
        ("memory", memory.map_or_else(String::new, |kb| format!("{:.1} GB", kb / 1024.0 / 1024.0))),
        ("kernel", first_line("/proc/sys/kernel/osrelease")),
        ("Redis", said(Command::new(find_program("redis-server").expect("redis-server")).arg("--version"))),
        ("PostgreSQL", said(Command::new(postgres::binaries().join("postgres")).arg("--version"))),
        ("Node", said(Command::new(node::program()).arg("--version"))),
        ("Rust", said(Command::new("rustc").arg("--version"))),
    ];
    let versions = node::run("versions.mjs", &[], "", Duration::from_secs(30));
    let version =
        |name: &str| versions.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_string();
    facts.push(("npm bullmq", format!("{} and {}", version("bullmq6 "), version("bullmq5 "))));
    facts.push(("crate bullmq-official", locked("bullmq-official")));
    facts
}

/// Processes that ran or wanted to, on average over the last one, five and fifteen minutes.
pub fn load() -> String {
    first_line("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_string()
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| env::consts::ARCH.to_string(), |(_, name)| name.to_string())
}

fn commit() -> String {
    said(Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]))
}

fn said(command: &mut Command) -> String {
    match command.output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_string(),
        Err(error) => format!("unknown ({error})"),
    }
}

/// The version of a crate in `Cargo.lock`.
fn locked(name: &str) -> String {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap_or_default();
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{name}\""));
    lines.nth(1).unwrap_or_default().trim_start_matches("version = ").trim_matches('"').to_string()
}
