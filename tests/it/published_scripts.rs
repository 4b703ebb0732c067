//! The scripts that the worker runs are those that npm's BullMQ of the tested version runs, byte for byte.

use crate::support::node;
use std::{collections::BTreeMap, fs, path::Path, time::Duration};

/// Scripts of ours that npm's version has newer: it adds the option `reschedule` to deduplication, which no job that we
/// add has. The list is exact, so that an upgrade of either side is looked at.
const NEWER_AT_NPM: [&str; 3] = ["addDelayedJob-6", "addPrioritizedJob-9", "addStandardJob-9"];

#[test]
fn the_scripts_that_we_run_are_npm_s() {
    let printed = node::run("scripts.mjs", &[], "", Duration::from_secs(30));
    let npm: BTreeMap<String, String> = serde_json::from_str(&printed).unwrap();
    let ours = floh_worker::queue::scripts::all();
    let mut newer = Vec::new();
    for script in &ours {
        let of_npm = npm.iter().find(|(key, _)| key.rsplit_once('-').is_some_and(|(name, _)| name == script.name));
        let (key, theirs) = of_npm.unwrap_or_else(|| panic!("{} is no script of npm's", script.name));
        let path = Path::new(env!("BULLMQ_COMMANDS")).join(format!("{key}.lua"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{key}, another number of keys? {e}"));
        if text != *theirs {
            newer.push(key.as_str());
        }
    }
    newer.sort_unstable();
    assert_eq!(newer, NEWER_AT_NPM, "of {} scripts", ours.len());
}
