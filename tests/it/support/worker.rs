//! The daemon under test: the real binary, with the part of systemd that it talks to played by the test.

use super::process::Guarded;
use nix::sys::signal::Signal;
use std::{
    env,
    io::{self, Read, Write},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// What a daemon may take to say READY on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// One line of a notification, and when it came.
#[derive(Clone, Debug)]
pub struct Notice {
    pub at: Instant,
    pub line: String,
}

/// A running `floh-worker INSTANCE`; killed when dropped.
pub struct Worker {
    instance: String,
    process: Guarded,
    notices: Arc<Mutex<Vec<Notice>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    reader: Option<thread::JoinHandle<()>>,
    _folder: TempDir,
}

impl Worker {
    /// Starts an instance with exactly the variables of `environment` (and `NOTIFY_SOCKET`); does not wait.
    pub fn spawn(instance: &str, environment: &[(String, String)]) -> Worker {
        let folder = tempfile::Builder::new().prefix("floh-it-worker-").tempdir().unwrap();
        let socket = folder.path().join("notify");
        let notices = collect_notices(UnixDatagram::bind(&socket).unwrap());
        let (output, child_output) = io::pipe().unwrap();
        let process = Guarded::spawn(&binary("floh-worker"), None, Signal::SIGKILL, |command| {
            command.arg(instance).env_clear().env("NOTIFY_SOCKET", &socket);
            command.envs(environment.iter().map(|(name, value)| (name, value)));
            command.stdin(std::process::Stdio::null()).stdout(child_output.try_clone().unwrap()).stderr(child_output);
        });
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let reader = Some(collect_output(output, stderr.clone()));
        Worker { instance: instance.into(), process, notices, stderr, reader, _folder: folder }
    }

    /// Waits for READY=1.
    ///
    /// # Panics
    /// It ended, or was not ready within 30 s; the message holds what it logged.
    pub fn wait_ready(&mut self) {
        let end = Instant::now() + READY_WITHIN;
        while !self.said("READY=1") {
            let ended = self.process.try_wait();
            assert!(
                ended.is_none() && Instant::now() < end,
                "{} is not ready ({ended:?}, {:?}):\n{}",
                self.instance,
                self.status(),
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// True if a notification with exactly this line has come.
    pub fn said(&self, line: &str) -> bool {
        self.notices.lock().unwrap().iter().any(|notice| notice.line == line)
    }

    /// Every line of every notification so far.
    pub fn notices(&self) -> Vec<Notice> {
        self.notices.lock().unwrap().clone()
    }

    /// The last `STATUS=` sentence.
    pub fn status(&self) -> Option<String> {
        let notices = self.notices.lock().unwrap();
        notices.iter().rev().find_map(|notice| notice.line.strip_prefix("STATUS=").map(ToString::to_string))
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    /// Waits until it has logged these words: what it does is seen elsewhere before its line arrives here.
    ///
    /// # Panics
    /// Not within 10 s; the message holds what it logged.
    pub fn wait_log(&self, words: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.log().contains(words) {
            assert!(Instant::now() < end, "{} has not logged {words:?}:\n{}", self.instance, self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// It still runs after `limit`; the message holds what it logged.
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_end() {
                return status;
            }
            assert!(Instant::now() < end, "{} did not end within {limit:?}:\n{}", self.instance, self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// How it ended, if it did.
    pub fn try_end(&mut self) -> Option<ExitStatus> {
        let status = self.process.try_wait()?;
        // Everything it logged is to be there when the caller looks.
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Some(status)
    }

    /// Stops it as systemd does and checks that it drained well.
    ///
    /// # Panics
    /// It did not end within 40 s, or not with 0.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait_end(Duration::from_secs(40));
        assert_eq!(status.code(), Some(0), "{} after SIGTERM: {status}\n{}", self.instance, self.log());
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.end(Signal::SIGKILL);
    }
}

impl Drop for Worker {
    /// A failing test shows what its workers logged; where nobody reads that any more (the runner was terminated), a panic
    /// here would abort the test before it has ended its servers.
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = writeln!(io::stderr(), "--- floh-worker {} ---\n{}", self.instance, String::from_utf8_lossy(&log));
        }
    }
}

/// A binary of this package; from the folder `FLOH_IT_BINARIES` where that is set (an installed package's, say).
pub fn binary(name: &str) -> PathBuf {
    if let Some(folder) = env::var_os("FLOH_IT_BINARIES") {
        return PathBuf::from(folder).join(name);
    }
    match name {
        "floh-worker" => env!("CARGO_BIN_EXE_floh-worker").into(),
        "flohctl" => env!("CARGO_BIN_EXE_flohctl").into(),
        other => panic!("this package has no binary {other}"),
    }
}

fn collect_notices(socket: UnixDatagram) -> Arc<Mutex<Vec<Notice>>> {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::downgrade(&notices);
    // The thread ends with the worker it listens to: a notice that comes after that has nobody to read it.
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        loop {
            let received = socket.recv(&mut buffer);
            let Some(list) = list.upgrade() else { return };
            let Ok(length) = received else { continue };
            let text = String::from_utf8_lossy(&buffer[..length]);
            let at = Instant::now();
            list.lock().unwrap().extend(text.lines().map(|line| Notice { at, line: line.to_string() }));
        }
    });
    notices
}

fn collect_output(mut from: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length) = from.read(&mut buffer) {
            if length == 0 {
                return;
            }
            into.lock().unwrap().extend_from_slice(&buffer[..length]);
        }
    })
}
