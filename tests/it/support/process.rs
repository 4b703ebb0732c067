//! A server process that cannot outlive the test: ended on drop, and by the kernel when the test process dies.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// A running child. The kernel's parent-death signal follows the *thread* that forked, so a thread of its own forks
/// the child and stays until the child is gone.
pub struct Guarded {
    child: Child,
    on_end: Signal,
    _keeper: mpsc::Sender<()>,
}

impl Guarded {
    /// Runs `program` under `setpriv`, which arms the parent-death signal, as `user` where one is given.
    pub fn spawn(program: &Path, user: Option<&str>, on_end: Signal, prepare: impl FnOnce(&mut Command)) -> Guarded {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg(on_end.as_str().trim_start_matches("SIG"));
        if let Some(user) = user {
            command.args([format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".to_string()]);
        }
        command.arg("--").arg(program);
        prepare(&mut command);
        let (hand_over, handed) = mpsc::channel();
        let (keeper, end) = mpsc::channel::<()>();
        thread::Builder::new()
            .name("server-keeper".into())
            .spawn(move || {
                let child = command.spawn();
                // The command holds our copies of pipes that were given to the child: open, they would hide its end.
                drop(command);
                let _ = hand_over.send(child);
                let _ = end.recv();
            })
            .unwrap();
        let child = handed.recv().unwrap().expect("setpriv (util-linux) starts the server");
        Guarded { child, on_end, _keeper: keeper }
    }

    /// The server's process id (setpriv replaces itself).
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Sends a signal: `SIGSTOP` freezes, `SIGCONT` thaws.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// How it ended, if it did.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Ends the process with `signal`, and waits for that; after 20 s by force.
    pub fn end(&mut self, signal: Signal) {
        if self.child.try_wait().ok().flatten().is_some() {
            return;
        }
        let pid = Pid::from_raw(self.pid());
        let _ = kill(pid, signal);
        let _ = kill(pid, Signal::SIGCONT);
        let limit = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().ok().flatten().is_none() {
            if Instant::now() > limit {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end(self.on_end);
    }
}

/// The path of a program on PATH, or in the folders where Debian puts daemons.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/usr/local/bin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// Runs a command to its end and fails with its output if it did not succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
