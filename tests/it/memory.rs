//! Too little memory, played with files that look like a cgroup's: this machine's own need not be of the second version.

use crate::support::{fleet::Fleet, wait_for, worker::Worker};
use serde_json::json;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(15);

/// What the slice uses, in percent of its limit.
pub(crate) fn set(root: &Path, percent: u64) {
    let folder = root.join("floh.slice");
    // The kernel's files change at once; these do so by a rename.
    fs::write(folder.join("new"), format!("{}\n", percent * 1_000_000)).unwrap();
    fs::rename(folder.join("new"), folder.join("memory.current")).unwrap();
}

/// The slice has a limit, the unit in it has none.
pub(crate) fn start(fleet: &Fleet, percent: u64) -> (TempDir, Worker) {
    let root = tempfile::tempdir().unwrap();
    let (slice, unit) = ("floh.slice", "floh.slice/floh-worker@1.service");
    fs::create_dir_all(root.path().join(unit)).unwrap();
    for (group, limit) in [(slice, "100000000\n"), (unit, "max\n")] {
        fs::write(root.path().join(group).join("memory.max"), limit).unwrap();
        fs::write(root.path().join(group).join("memory.high"), "max\n").unwrap();
    }
    fs::write(root.path().join(unit).join("memory.current"), "5000000\n").unwrap();
    set(root.path(), percent);
    let folder = root.path().to_str().unwrap();
    let settings = [("FLOH_CGROUP_ROOT", folder), ("FLOH_CGROUP_PATH", "/floh.slice/floh-worker@1.service")];
    let worker = fleet.worker("1", &settings);
    (root, worker)
}

fn wait_status(worker: &Worker, words: &str) {
    wait_for(words, SOON, || worker.status().filter(|status| status.contains(words)).map(drop));
}

#[test]
fn above_80_percent_nothing_is_fetched_and_below_75_or_without_a_limit_it_is_again() {
    let mut fleet = Fleet::start();
    let (root, worker) = start(&fleet, 50);
    let running = fleet.add(6, "test.sleep", json!({"ms": 3000}), json!({}));
    fleet.wait_state(6, &running, "active", SOON);
    let next = fleet.add(6, "test.echo", json!({}), json!({}));
    set(root.path(), 82);
    worker.wait_log("no job is taken: memory at 82 % of memory.max of floh.slice");
    fleet.wait_state(6, &running, "completed", SOON);
    wait_status(&worker, "not fetching: memory at 82 % of memory.max of floh.slice");
    set(root.path(), 78);
    wait_status(&worker, "not fetching: memory at 78 %");
    assert_eq!(fleet.job(6, &next)["state"], "waiting", "{}", worker.log());
    set(root.path(), 70);
    fleet.wait_state(6, &next, "completed", SOON);
    // As systemctl set-property MemoryMax=infinity does.
    set(root.path(), 90);
    wait_status(&worker, "not fetching: memory at 90 %");
    let last = fleet.add(6, "test.echo", json!({}), json!({}));
    fs::write(root.path().join("floh.slice/memory.max"), "max\n").unwrap();
    fleet.wait_state(6, &last, "completed", SOON);
    assert_eq!(worker.log().matches("no job is taken: memory").count(), 2, "{}", worker.log());
    worker.wait_log("jobs are taken again: memory at 70 %");
    worker.wait_log("jobs are taken again: the memory has no limit any more");
}

#[test]
fn above_95_percent_the_worker_lets_its_jobs_finish_and_is_started_anew() {
    let mut fleet = Fleet::start();
    let (root, mut worker) = start(&fleet, 50);
    let running = fleet.add(6, "test.sleep", json!({"ms": 4000}), json!({}));
    fleet.wait_state(6, &running, "active", SOON);
    set(root.path(), 96);
    assert_eq!(worker.wait_end(SOON).code(), Some(75), "{}", worker.log());
    assert!(worker.said("STOPPING=1"));
    assert!(worker.log().contains("memory at 96 % of memory.max of floh.slice"), "{}", worker.log());
    assert_eq!(fleet.job(6, &running)["state"], "completed");
}

#[test]
fn a_worker_that_begins_without_room_waits_for_it_instead_of_restarting_for_ever() {
    let mut fleet = Fleet::start();
    let (root, mut worker) = start(&fleet, 97);
    wait_status(&worker, "not fetching: memory at 97 %");
    let id = fleet.add(6, "test.echo", json!({}), json!({}));
    let begun = Instant::now();
    set(root.path(), 96);
    wait_status(&worker, "not fetching: memory at 96 %");
    assert!(begun.elapsed() < SOON && fleet.job(6, &id)["state"] == "waiting");
    set(root.path(), 40);
    fleet.wait_state(6, &id, "completed", SOON);
    worker.stop();
}
