//! What an instance knows of its previous lives, so that it can give back at once what they held.
//!
//! In the unit's state folder each instance keeps three files: a lock that the running process holds, its lives (one line
//! each, written before the first fetch and removed after a clean end), and how systemd saw lives end (written by
//! `floh-worker --record-end`, the unit's `ExecStopPost=`).
//!
//! A life is over when its lock is free. Whether it was a life of this very instance, and not of one whose disk this is a
//! copy of, is told by what no copy has: the kernel's boot id and the lock file's own number. Of other lives only what
//! nobody holds any more is given back.

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// Ends that systemd blames on the process, by `SERVICE_RESULT` (systemd.exec(5)).
const EVIDENCE: [&str; 4] = ["signal", "core-dump", "watchdog", "oom-kill"];
/// Lives that are remembered at most: a worker that cannot reach Redis over many starts must not fill the disk.
const MOST_LIVES: usize = 100;

/// One life as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Life {
    invocation: Uuid,
    /// systemd's `INVOCATION_ID`, which the record of the end has too.
    unit_invocation: Option<String>,
    boot: String,
    /// Device and inode of the lock file.
    lock: (u64, u64),
}

/// An end as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    unit_invocation: String,
    boot: String,
    result: String,
    status: String,
}

/// A life of this instance that ended without giving back what it held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predecessor {
    /// The process life.
    pub invocation: Uuid,
    /// It was this very instance's on this boot, so it is certainly over.
    pub certainly_ours: bool,
    /// What systemd said of its end, if that is evidence against what it ran: `oom-kill (KILL)`.
    pub evidence: Option<String>,
}

/// The state of an instance on this machine, held for as long as the process lives.
#[derive(Debug)]
pub struct State {
    files: Files,
    own: Life,
    _lock: Flock<File>,
}

#[derive(Debug)]
struct Files {
    folder: PathBuf,
    instance: String,
}

impl Files {
    /// In the folder that systemd made for the unit; `None` where there is none, as on a terminal.
    fn of(instance: &str) -> Option<Files> {
        let folders = std::env::var("STATE_DIRECTORY").ok()?;
        let folder = folders.split(':').next().filter(|folder| !folder.is_empty())?;
        Some(Files { folder: folder.into(), instance: instance.into() })
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.instance))
    }

    fn read<T: for<'a> Deserialize<'a>>(&self, kind: &str) -> io::Result<Vec<T>> {
        match fs::read_to_string(self.path(kind)) {
            // A line that was cut by a crash, or written by another version, says nothing.
            Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Writes a file anew, whole or not at all.
    fn write<T: Serialize>(&self, kind: &str, entries: &[T]) -> io::Result<()> {
        let (path, new) = (self.path(kind), self.path(&format!("{kind}.new")));
        if entries.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let mut file = File::create(&new)?;
        for entry in entries {
            writeln!(file, "{}", serde_json::to_string(entry)?)?;
        }
        file.sync_all()?;
        fs::rename(&new, &path)
    }
}

impl State {
    /// Takes the instance's state, notes this life, and says which earlier ones are to be cleared up.
    ///
    /// `None`, after a log line, where there is no state folder or it cannot be used: then what a crash leaves behind
    /// waits until its locks have expired.
    pub fn open(instance: &str, invocation: Uuid) -> Option<(State, Vec<Predecessor>)> {
        let Some(files) = Files::of(instance) else {
            tracing::debug!("no STATE_DIRECTORY: previous lives of this instance are not known");
            return None;
        };
        match open(files, invocation) {
            Ok(opened) => Some(opened),
            Err(error) => {
                tracing::warn!("the instance's state is not used: {error}");
                None
            }
        }
    }

    /// The lives with these ids are cleared up.
    pub fn forget(&self, invocations: &[Uuid]) -> io::Result<()> {
        let mut lives: Vec<Life> = self.files.read("lives")?;
        lives.retain(|life| !invocations.contains(&life.invocation));
        // What is left to be cleared up beside this life still needs its end.
        if lives.iter().all(|life| life.invocation == self.own.invocation) {
            self.files.write::<End>("ends", &[])?;
        }
        self.files.write("lives", &lives)
    }

    /// This life ends in order and holds nothing.
    pub fn end(self) {
        if let Err(error) = self.forget(&[self.own.invocation]) {
            tracing::warn!("the instance's state still names this life: {error}");
        }
    }
}

fn open(files: Files, invocation: Uuid) -> io::Result<(State, Vec<Predecessor>)> {
    let path = files.path("lock");
    let place = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(place)?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        io::Error::other(format!("{} is held by another process of this instance ({error})", path.display()))
    })?;
    let numbers = lock.metadata()?;
    let own = Life {
        invocation,
        unit_invocation: std::env::var("INVOCATION_ID").ok(),
        boot: boot_id()?,
        lock: (numbers.dev(), numbers.ino()),
    };
    let mut lives: Vec<Life> = files.read("lives")?;
    let ends: Vec<End> = files.read("ends")?;
    let predecessors = lives.iter().map(|life| predecessor(life, &own, &ends)).collect();
    lives.push(own.clone());
    let surplus = lives.len().saturating_sub(MOST_LIVES);
    lives.drain(..surplus);
    files.write("lives", &lives)?;
    Ok((State { files, own, _lock: lock }, predecessors))
}

fn predecessor(life: &Life, own: &Life, ends: &[End]) -> Predecessor {
    let certainly_ours = life.boot == own.boot && life.lock == own.lock;
    let end = ends.iter().rev().find(|end| {
        certainly_ours && end.boot == life.boot && Some(&end.unit_invocation) == life.unit_invocation.as_ref()
    });
    let evidence =
        end.filter(|end| EVIDENCE.contains(&end.result.as_str())).map(|end| format!("{} ({})", end.result, end.status));
    Predecessor { invocation: life.invocation, certainly_ours, evidence }
}

/// Writes down how systemd saw this instance end, from the environment of `ExecStopPost=` (systemd.exec(5)).
pub fn record_end(instance: &str) -> io::Result<()> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let end = End {
        unit_invocation: variable("INVOCATION_ID"),
        boot: boot_id()?,
        result: variable("SERVICE_RESULT"),
        status: variable("EXIT_STATUS"),
    };
    let Some(files) = Files::of(instance) else {
        return Err(io::Error::other("STATE_DIRECTORY is not set: this is for the unit's ExecStopPost="));
    };
    if end.result == "success" || end.unit_invocation.is_empty() {
        return Ok(());
    }
    // One write of one line: a reader sees all of it or nothing.
    let line = format!("{}\n", serde_json::to_string(&end)?);
    File::options().create(true).append(true).open(files.path("ends"))?.write_all(line.as_bytes())
}

/// What the kernel calls its present life.
fn boot_id() -> io::Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(text.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(boot: &str, lock: u64, unit: &str) -> Life {
        Life { invocation: Uuid::new_v4(), unit_invocation: Some(unit.into()), boot: boot.into(), lock: (1, lock) }
    }

    fn end(boot: &str, unit: &str, result: &str) -> End {
        End { unit_invocation: unit.into(), boot: boot.into(), result: result.into(), status: "KILL".into() }
    }

    #[test]
    fn only_an_end_with_evidence_of_the_same_life_blames_anybody() {
        let own = life("b", 7, "now");
        let before = life("b", 7, "then");
        let evidence = |ends: &[End]| predecessor(&before, &own, ends).evidence;
        assert_eq!(evidence(&[end("b", "then", "oom-kill")]).as_deref(), Some("oom-kill (KILL)"));
        for result in ["timeout", "exit-code", "success", "resources"] {
            assert_eq!(evidence(&[end("b", "then", result)]), None, "{result}");
        }
        assert_eq!(evidence(&[end("b", "another", "signal")]), None);
        assert_eq!(evidence(&[end("earlier", "then", "signal")]), None, "a boot lies between");
        assert_eq!(evidence(&[]), None);
    }

    #[test]
    fn a_life_of_a_copied_disk_or_of_another_boot_is_not_certainly_over() {
        let own = life("b", 7, "now");
        assert!(predecessor(&life("b", 7, "then"), &own, &[]).certainly_ours);
        assert!(!predecessor(&life("c", 7, "then"), &own, &[]).certainly_ours);
        assert!(!predecessor(&life("b", 8, "then"), &own, &[]).certainly_ours);
    }

    #[test]
    fn one_process_at_a_time_holds_the_state_and_a_clean_end_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let files = || Files { folder: folder.path().into(), instance: "1".into() };
        let first = Uuid::new_v4();
        let (state, before) = open(files(), first).unwrap();
        assert_eq!(before, []);
        assert!(open(files(), Uuid::new_v4()).unwrap_err().to_string().contains("held by another process"));
        drop(state);
        let (state, before) = open(files(), Uuid::new_v4()).unwrap();
        assert_eq!(before.iter().map(|life| life.invocation).collect::<Vec<_>>(), [first]);
        state.forget(&[first]).unwrap();
        state.end();
        let (_, before) = open(files(), Uuid::new_v4()).unwrap();
        assert_eq!(before, []);
    }

    #[test]
    fn a_line_that_a_crash_cut_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { folder: folder.path().into(), instance: "1".into() };
        let known = life("b", 7, "then");
        fs::write(files.path("lives"), format!("{}\n{{\"invoc", serde_json::to_string(&known).unwrap())).unwrap();
        assert_eq!(files.read::<Life>("lives").unwrap(), [known]);
    }
}
