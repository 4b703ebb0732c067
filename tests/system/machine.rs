//! One booted Debian: an overlay of the tree that `tests/system/tree` made, as a container with its own systemd, network,
//! Redis and PostgreSQL. Nothing of it is left when the test ends, however it ends: the mounts are in a namespace of the
//! container's own, and the kernel ends its processes with the first one.

use crate::support::{
    process::{Guarded, find_program},
    wait_for,
};
use nix::sys::signal::Signal;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// From power-on to a settled system, on a busy machine.
const BOOTS_WITHIN: Duration = Duration::from_secs(120);
/// What one command inside may take. An upgrade that drains three workers is the longest.
const COMMAND_LIMIT: &str = "300";

/// Runs in a mount namespace of its own, so that nobody has to unmount anything. The cgroup of its own keeps the systemds
/// of containers that run side by side out of each other's way.
const BOOT: &str = r#"
set -e
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ -e "$hierarchy/cgroup.procs" ] || continue
    mkdir "$hierarchy/$NAME"
    echo $$ >"$hierarchy/$NAME/cgroup.procs"
done
mount -t tmpfs -o mode=755 floh-test "$FOLDER"
mkdir "$FOLDER/upper" "$FOLDER/work" "$FOLDER/root"
mount -t overlay -o "lowerdir=$TREE,upperdir=$FOLDER/upper,workdir=$FOLDER/work" floh-test "$FOLDER/root"
exec systemd-nspawn --quiet --register=no --keep-unit --private-network --console=pipe --machine="$NAME" \
    --bind-ro="$PACKAGES:/packages" --directory="$FOLDER/root" --boot
"#;

/// A running container; gone when dropped. A failing test prints the end of its journal first.
pub struct Machine {
    name: String,
    leader: i32,
    container: Option<Guarded>,
    _folder: TempDir,
}

impl Machine {
    /// Boots one and waits until it has settled, with Redis and PostgreSQL up.
    ///
    /// # Panics
    /// It does not boot, or the variables that `tests/run` sets are missing.
    pub fn boot() -> Machine {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("floh-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix("floh-system-").tempdir().unwrap();
        let console = fs::File::create(folder.path().join("console")).unwrap();
        let console_path = folder.path().join("console");
        let unshare = find_program("unshare").expect("unshare (util-linux)");
        // The container's tmpfs hides the folder itself inside its own mount namespace only.
        let container = Guarded::spawn(&unshare, None, Signal::SIGKILL, |command| {
            // nspawn ended by force leaves its container running; as the first process of a namespace it takes it along.
            command.args([
                "--pid",
                "--fork",
                "--kill-child=KILL",
                "--mount",
                "--propagation",
                "private",
                "--mount-proc",
            ]);
            command.args(["--", "sh", "-c", BOOT]);
            command.env("NAME", &name).env("FOLDER", folder.path());
            command.env("TREE", path_from("FLOH_SYSTEM_TREE")).env("PACKAGES", packages());
            command.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console);
        });
        let mut machine = Machine { name, leader: 0, container: Some(container), _folder: folder };
        machine.leader = machine.wait_for_leader(&console_path);
        wait_for("the container settles", BOOTS_WITHIN, || {
            let state = machine.run("systemctl is-system-running --wait");
            let state = String::from_utf8_lossy(&state.stdout).trim().to_string();
            assert_ne!(state, "degraded", "{}", machine.ok("systemctl --failed --no-pager"));
            (state == "running").then_some(())
        });
        machine
    }

    /// The container's first process, as the host numbers it.
    fn wait_for_leader(&mut self, console: &Path) -> i32 {
        let container = self.container.as_mut().unwrap();
        wait_for("the container's systemd starts", BOOTS_WITHIN, || {
            if let Some(status) = container.try_wait() {
                panic!("the container did not boot: {status}\n{}", fs::read_to_string(console).unwrap_or_default());
            }
            // unshare, nspawn, the container's first process.
            let nspawn = children(container.pid()).first().copied()?;
            children(nspawn).into_iter().find(|pid| is_first_of_its_namespace(*pid))
        })
    }

    /// The leader's process id, for `nsenter`.
    pub fn leader(&self) -> i32 {
        self.leader
    }

    /// Runs a bash script inside, as root, and returns how it ended and what it printed.
    pub fn run(&self, script: &str) -> Output {
        Command::new("nsenter")
            .args(["--target", &self.leader.to_string(), "--all", "--", "timeout", COMMAND_LIMIT, "bash", "-c", script])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .envs([("HOME", "/root"), ("LANG", "C.UTF-8"), ("DEBIAN_FRONTEND", "noninteractive"), ("PAGER", "cat")])
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .expect("nsenter (util-linux)")
    }

    /// The same, for what must succeed; returns what it printed to standard output, trimmed.
    ///
    /// # Panics
    /// It failed.
    pub fn ok(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{script}\n{}: {}", output.status, said(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    }

    /// The same, for what must fail; returns the exit code and everything it printed.
    ///
    /// # Panics
    /// It succeeded.
    pub fn fails(&self, script: &str) -> (i32, String) {
        let output = self.run(script);
        assert!(!output.status.success(), "this was to fail, and did not: {script}\n{}", said(&output));
        (output.status.code().unwrap_or(-1), said(&output))
    }

    /// Runs a script that must succeed, and says how long it took.
    pub fn timed(&self, script: &str) -> Duration {
        let start = Instant::now();
        self.ok(script);
        start.elapsed()
    }

    /// One property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.ok(&format!("systemctl show --value -p {property} '{unit}'"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.leader != 0 {
            let journal = self.run(
                "journalctl --no-pager -b -n 150 -o short-precise; systemctl status --no-pager -n0 'floh-worker@*'",
            );
            eprintln!("--- the container's journal\n{}---", said(&journal));
        }
        drop(self.container.take());
        let end = Instant::now() + Duration::from_secs(2);
        for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"] {
            let cgroup = Path::new(hierarchy).join(&self.name);
            // Busy until the kernel has cleared up the last process; one that stays costs nothing.
            while cgroup.is_dir() && Instant::now() < end {
                let _ = Command::new("find")
                    .arg(&cgroup)
                    .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
                    .output();
            }
        }
    }
}

/// Both streams of a command, for messages.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a shell script, as root, in an overlay of the tree in which no systemd runs. The packages are in /packages, our
/// own folder of that name in /packaging.
pub fn run_unbooted(script: &str) -> Output {
    let enter = r#"
        set -e
        folder=$(mktemp -d)
        mount -t tmpfs floh-test "$folder"
        mkdir "$folder/upper" "$folder/work" "$folder/root"
        mount -t overlay -o "lowerdir=$TREE,upperdir=$folder/upper,workdir=$folder/work" floh-test "$folder/root"
        mkdir "$folder/root/packages" "$folder/root/packaging"
        mount --bind "$PACKAGES" "$folder/root/packages"
        mount --bind "$PACKAGING" "$folder/root/packaging"
        mount -t proc proc "$folder/root/proc"
        chroot "$folder/root" bash -ec "$SCRIPT"
    "#;
    Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--propagation", "private", "--"])
        .args(["timeout", COMMAND_LIMIT, "bash", "-c", enter])
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs([("HOME", "/root"), ("LANG", "C.UTF-8"), ("DEBIAN_FRONTEND", "noninteractive")])
        .env("SCRIPT", script)
        .env("TREE", path_from("FLOH_SYSTEM_TREE"))
        .env("PACKAGES", packages())
        .env("PACKAGING", concat!(env!("CARGO_MANIFEST_DIR"), "/packaging"))
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .expect("unshare (util-linux)")
}

/// The folder with the packages, built from the same sources: floh-worker 0.x~test1; ~test2, with another /etc/floh/env;
/// and ~test3, with one migration more.
pub fn packages() -> PathBuf {
    path_from("FLOH_SYSTEM_PACKAGES")
}

/// The path in a variable that `tests/run` sets.
pub fn path_from(variable: &str) -> PathBuf {
    let value = env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: run ./tests/run system"));
    PathBuf::from(value)
}

fn children(pid: i32) -> Vec<i32> {
    let listed = Command::new("ps").args(["-o", "pid=", "--ppid", &pid.to_string()]).output().expect("ps (procps)");
    String::from_utf8_lossy(&listed.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether the process is number 1 of a namespace two levels below ours: unshare's and the container's.
fn is_first_of_its_namespace(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    numbers.len() >= 3 && numbers.last() == Some(&"1")
}
