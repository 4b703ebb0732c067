//! Memory: before the kernel kills for want of it, the worker takes no new job, and in the end is started anew.
//!
//! What counts is the cgroup that this process is in and every one above it, because the limit of all workers is that of
//! `floh.slice`: the one that is nearest to its `memory.high` or `memory.max`. File cache that the kernel can drop at
//! once is not counted, as nobody is killed for it.

use crate::{
    events,
    jobs::{
        Runner,
        holds::{Cause, Holds},
    },
    queue::pulse::Pulse,
};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(1);
/// Above this no job is taken.
const HOLD: f64 = 0.80;
/// Below this jobs are taken again.
const OPEN: f64 = 0.75;
/// Above this the worker is to be started anew.
const RESTART: f64 = 0.95;

/// The cgroup nearest to one of its limits.
#[derive(Debug, Clone, PartialEq)]
struct Pressure {
    ratio: f64,
    limit: &'static str,
    group: String,
}

impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory at {:.0} % of {} of {}", self.ratio * 100.0, self.limit, self.group)
    }
}

/// Watches the memory; returns when the worker should be started anew, with the reason. Without cgroup v2 it never does.
///
/// It begins after the first fetch, because a worker is ready only then, and a start must not wait for memory.
pub async fn run(runner: &Runner, pulse: &Pulse) -> String {
    let Some(groups) = groups() else {
        tracing::debug!("no cgroup v2: the memory's limits are not watched");
        return std::future::pending().await;
    };
    pulse.first_round_trip().await;
    let mut watch = Watch::default();
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match pressure(&groups) {
            Some(pressure) if watch.see(&pressure, runner.holds()) => return pressure.to_string(),
            Some(_) => {}
            None => watch.unlimited(runner.holds()),
        }
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Watch {
    holding: bool,
    /// There was room once. A worker that begins where there is none would gain nothing by another start: it waits.
    had_room: bool,
}

impl Watch {
    /// Holds or opens; true if the worker should be started anew.
    fn see(&mut self, pressure: &Pressure, holds: &Holds) -> bool {
        if pressure.ratio > HOLD && !self.holding {
            self.holding = true;
            tracing::warn!(message_id = events::MEMORY_PRESSURE, "no job is taken: {pressure}");
        } else if pressure.ratio < OPEN && self.holding {
            self.holding = false;
            tracing::info!("jobs are taken again: {pressure}");
        }
        holds.set(Cause::Memory, self.holding.then(|| pressure.to_string()));
        self.had_room |= !self.holding;
        let restart = self.had_room && pressure.ratio > RESTART;
        if restart {
            tracing::error!(message_id = events::MEMORY_PRESSURE, "the worker is started anew: {pressure}");
        }
        restart
    }

    /// There is no limit, or none any more.
    fn unlimited(&mut self, holds: &Holds) {
        if self.holding {
            tracing::info!("jobs are taken again: the memory has no limit any more");
        }
        (self.holding, self.had_room) = (false, true);
        holds.set(Cause::Memory, None);
    }
}

/// The nearest to its limit, if any has one.
fn pressure(groups: &[PathBuf]) -> Option<Pressure> {
    let all = groups.iter().flat_map(|group| {
        let used = used(group);
        ["memory.high", "memory.max"].into_iter().filter_map(move |limit| {
            // "max", which means none, is no number.
            let most = number(&group.join(limit)).filter(|most| *most > 0)?;
            let group = group.file_name()?.to_string_lossy().into_owned();
            Some(Pressure { ratio: used? as f64 / most as f64, limit, group })
        })
    });
    all.max_by(|one, other| one.ratio.total_cmp(&other.ratio))
}

/// What the kernel could not simply drop.
fn used(group: &Path) -> Option<u64> {
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok()).unwrap_or(0);
    Some(number(&group.join("memory.current"))?.saturating_sub(cache))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The folders of this process's cgroup and of all above it but the root, which has no limits.
fn groups() -> Option<Vec<PathBuf>> {
    let (root, path) = place()?;
    let own = root.join(path.trim_start_matches('/'));
    let groups: Vec<PathBuf> = own.ancestors().take_while(|folder| *folder != root).map(Path::to_path_buf).collect();
    groups.iter().any(|group| group.join("memory.current").is_file()).then_some(groups)
}

/// Where cgroups are, and which is ours.
fn place() -> Option<(PathBuf, String)> {
    #[cfg(feature = "test-jobs")]
    if let (Some(root), Ok(path)) = (std::env::var_os("FLOH_CGROUP_ROOT"), std::env::var("FLOH_CGROUP_PATH")) {
        return Some((root.into(), path));
    }
    let list = fs::read_to_string("/proc/self/cgroup").ok()?;
    Some(("/sys/fs/cgroup".into(), own_path(&list)?.to_string()))
}

/// The line of cgroup v2 has the number 0 and no controllers.
fn own_path(list: &str) -> Option<&str> {
    list.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(root: &Path, path: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = root.join(path);
        fs::create_dir_all(&folder).unwrap();
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn the_limit_that_is_nearest_counts_whoever_has_it() {
        let root = tempfile::tempdir().unwrap();
        let slice = [("memory.current", "900\n"), ("memory.high", "max\n"), ("memory.max", "1000\n")];
        let own = [("memory.current", "300\n"), ("memory.high", "400\n"), ("memory.max", "max\n")];
        let groups = [group(root.path(), "floh.slice/w", &own), group(root.path(), "floh.slice", &slice)];
        assert_eq!(pressure(&groups).unwrap().to_string(), "memory at 90 % of memory.max of floh.slice");
        group(root.path(), "floh.slice", &[("memory.stat", "anon 600\ninactive_file 300\nfile 300\n")]);
        assert_eq!(pressure(&groups).unwrap().to_string(), "memory at 75 % of memory.high of w");
        assert_eq!(pressure(&[group(root.path(), "none", &[("memory.current", "5"), ("memory.max", "max")])]), None);
        assert_eq!(pressure(&[group(root.path(), "half-written", &[("memory.current", "")])]), None);
    }

    #[test]
    fn it_holds_above_80_opens_below_75_and_restarts_above_95_if_there_was_room() {
        let holds = Holds::default();
        let mut watch = Watch::default();
        let mut see = |percent: f64| {
            let pressure = Pressure { ratio: percent / 100.0, limit: "memory.max", group: "floh.slice".into() };
            (watch.see(&pressure, &holds), holds.why().is_some())
        };
        assert_eq!([99.0, 80.5, 76.0].map(&mut see), [(false, true); 3], "it began without room");
        assert_eq!([74.0, 79.0, 80.0].map(&mut see), [(false, false); 3]);
        assert_eq!([81.0, 94.0, 75.5].map(&mut see), [(false, true); 3]);
        assert_eq!(see(96.0), (true, true));
        watch.unlimited(&holds);
        assert_eq!((holds.why(), watch.holding), (None, false), "a limit that is taken away holds nobody");
    }

    #[test]
    fn only_the_line_of_cgroup_v2_is_ours() {
        assert_eq!(own_path("0::/floh.slice/floh-worker@1.service\n"), Some("/floh.slice/floh-worker@1.service"));
        assert_eq!(own_path("5:memory:/a\n1:name=systemd:/b\n0::/c\n"), Some("/c"));
        assert_eq!(own_path("5:memory:/a\n1:name=systemd:/b\n"), None);
    }
}
