//! Node and the npm packages of `tests/peers`.

use super::child;
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
    PEERS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
        install(&folder);
        folder
    })
}

fn install(folder: &Path) {
    let lock_file = folder.join("package-lock.json");
    let wanted = fs::read(&lock_file).expect("tests/peers/package-lock.json");
    let stamp = folder.join("node_modules/.installed-from");
    // The lock file itself is what the tests' processes queue at: it is there before anything else is.
    let file = File::open(&lock_file).expect("tests/peers/package-lock.json");
    let _only_one = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("flock on package-lock.json");
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return;
    }
    let mut npm = child::command("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(folder);
    let output = child::run(npm, b"", Duration::from_secs(300)).expect("npm (Debian: apt install npm)");
    assert!(
        output.status.success(),
        "npm ci in {} failed: {}{}",
        folder.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    fs::write(&stamp, wanted).expect("the stamp in node_modules");
}

/// `node SCRIPT` in the peers' folder, to which arguments may be added; ends with the test.
pub fn command(script: &str) -> Command {
    let mut node = child::command("node");
    node.arg(script).current_dir(peers());
    node
}

/// Runs `node SCRIPT ARGS` in the peers' folder with `stdin` and returns what it printed.
///
/// # Panics
/// The script failed or did not end within `deadline`; the message holds what it printed to stderr.
pub fn run(script: &str, args: &[&str], stdin: &str, deadline: Duration) -> String {
    let mut node = command(script);
    node.args(args);
    let output = child::run(node, stdin.as_bytes(), deadline).expect("node (Debian: apt install nodejs)");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "node {script} {args:?}: {}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("node prints UTF-8")
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
