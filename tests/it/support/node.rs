//! Node and the npm packages of `tests/peers` and `tests/board`.

use super::{child, process::find_program};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

/// The folder with the peers' scripts, with `node_modules` as its lock file says: installed by `npm ci` when missing
/// or older than the lock file, by one process at a time.
///
/// # Panics
/// Node or npm is not installed, or npm cannot install: a test that needs the peers fails rather than passes unseen.
pub fn peers() -> &'static Path {
    static PEERS: OnceLock<PathBuf> = OnceLock::new();
    PEERS.get_or_init(|| installed("tests/peers"))
}

/// The folder with Bull Board, in the same way.
///
/// # Panics
/// As [`peers`].
pub fn board() -> &'static Path {
    static BOARD: OnceLock<PathBuf> = OnceLock::new();
    BOARD.get_or_init(|| installed("tests/board"))
}

fn installed(folder: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    install(&folder);
    folder
}

fn install(folder: &Path) {
    let lock_file = folder.join("package-lock.json");
    let wanted = fs::read(&lock_file).expect("package-lock.json beside the scripts");
    let stamp = folder.join("node_modules/.installed-from");
    // The lock file itself is what the tests' processes queue at: it is there before anything else is.
    let file = File::open(&lock_file).expect("package-lock.json beside the scripts");
    let _only_one = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("flock on package-lock.json");
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return;
    }
    let npm = find_program("npm").expect("npm on PATH (apt install npm)");
    let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    let done = child::run(&npm, |c| _ = c.args(arguments).current_dir(folder), b"", Duration::from_secs(300));
    let (status, folder) = (done.status, folder.display());
    assert!(status.success(), "npm ci in {folder}: {status}\n{}{}", done.stdout, done.stderr);
    fs::write(&stamp, wanted).expect("the stamp in node_modules");
}

/// The program `node`.
///
/// # Panics
/// It is not installed.
pub fn program() -> PathBuf {
    find_program("node").expect("node on PATH (apt install nodejs)")
}

/// Runs `node SCRIPT ARGS` in the peers' folder with `stdin` and returns what it printed.
///
/// # Panics
/// The script failed or did not end within `deadline`; the message holds what it printed to stderr.
pub fn run(script: &str, args: &[&str], stdin: &str, deadline: Duration) -> String {
    let prepare = |command: &mut Command| _ = command.arg(script).args(args).current_dir(peers());
    let done = child::run(&program(), prepare, stdin.as_bytes(), deadline);
    assert!(done.status.success(), "node {script} {args:?}: {}\n{}", done.status, done.stderr);
    done.stdout
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn the_pinned_packages_are_installed() {
        let script = "versions.mjs";
        let printed = super::run(script, &[], "", Duration::from_secs(30));
        assert_eq!(printed, "bullmq5 5.81.5\nbullmq6 6.7.0\ncron-parser 5.10.3\n");
    }
}
