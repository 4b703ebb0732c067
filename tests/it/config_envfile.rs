//! Environment files: our reading of them against systemd's own parser.
//!
//! The oracle is the generator that reads environment.d: it uses the parser of `EnvironmentFile=`. It differs in three
//! ways, which this test avoids: it fills in `$`, it skips most empty values, and it reads more folders.

use floh_worker::config::{Source, envfile};
use proptest::prelude::*;
use std::{collections::BTreeMap, fs, path::Path, process::Command};

const GENERATOR: &str = "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator";

/// Names that nobody else sets.
const NAMES: [&str; 3] = ["FLOH_TEST_A", "FLOH_TEST_B", "FLOH_TEST_C"];

/// What systemd reads out of a file with this content.
fn systemd(content: &str) -> BTreeMap<String, String> {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("environment.d");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("test.conf"), content).unwrap();
    let output = Command::new(GENERATOR)
        .env_clear()
        .env("HOME", home.path())
        .env("XDG_CONFIG_HOME", home.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let pairs = text.lines().map(|line| line.split_once('=').unwrap_or_else(|| panic!("{line}")));
    let ours = pairs.filter(|(name, _)| NAMES.contains(name)).map(|(name, value)| (name.to_string(), unquoted(value)));
    ours.filter(|(_, value)| !value.is_empty()).collect()
}

/// The generator's output: a bare word, or C escapes within double quotes.
fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else { return value.to_string() };
    let mut text = String::new();
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        text.push(match c {
            '\\' => match characters.next().unwrap() {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other @ ('\\' | '"' | '`' | '$') => other,
                other => panic!("\\{other} in {value}"),
            },
            other => other,
        });
    }
    text
}

fn ours(content: &str) -> BTreeMap<String, String> {
    let pairs = envfile::parse(content.as_bytes()).variables.variables();
    let text = |s: std::ffi::OsString| s.into_string().unwrap();
    let pairs = pairs.into_iter().map(|(name, value)| (text(name), text(value)));
    pairs.filter(|(name, value)| NAMES.contains(&name.as_str()) && !value.is_empty()).collect()
}

/// Lines made of what matters to the parser. A comment does not end with a backslash: systemd's versions differ there.
fn lines() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(" "),
        Just("\t"),
        Just("\""),
        Just("'"),
        Just("\\"),
        Just("\\\n"),
        Just("#"),
        Just(";"),
        Just("="),
        Just("\n"),
        Just("\r\n"),
        Just("a"),
        Just("word"),
        Just("é"),
        Just("`"),
        Just("export "),
    ];
    let value = proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    // Each name once: the generator would keep the earlier value where a later one is empty.
    (value.clone(), value.clone(), value, prop_oneof![Just(""), Just(" "), Just("export "), Just("# c\n")])
        .prop_map(|(a, b, c, before)| format!("{}={a}\n{before}{} = {b}\n{}={c}", NAMES[0], NAMES[1], NAMES[2]))
}

#[test]
fn files_are_read_as_systemd_reads_them() {
    assert!(Path::new(GENERATOR).exists(), "this needs {GENERATOR} (apt install systemd)");
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(content in lines())| {
        let comment_goes_on = content.lines().any(|l| l.trim_start().starts_with(['#', ';']) && l.ends_with('\\'));
        prop_assume!(!comment_goes_on);
        prop_assert_eq!(ours(&content), systemd(&content));
    });
}
