//! One child, as the worker sees it.

use super::{
    Kind, ScriptError, child,
    wire::{self, Answer, Message},
};
use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, timeout},
};

/// How long a child may take to be ready, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long after its time a script may still answer by itself, before its process is killed.
const GRACE: Duration = Duration::from_millis(500);

/// After so many scripts a child is replaced, in case the engine loses a little with each.
const MOST_SCRIPTS: u32 = 500;

/// A child that had more than this at any time is replaced, KiB. Scripts have 16 MiB.
const MOST_KIB: u64 = 96 * 1024;

/// A process for scripts. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    scripts: u32,
}

impl Process {
    /// Starts one, and waits until it is ready.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub async fn start(executable: &Path) -> Result<Process, String> {
        let cannot = |error: io::Error| {
            format!("a process for scripts cannot be started from {}: {error}", executable.display())
        };
        let mut child = Command::new(executable)
            .arg0("floh-sandbox")
            .arg(child::ARGUMENT)
            .env_clear()
            // Dates without a zone, as on every machine; no file is read for it.
            .env("TZ", "UTC0")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A Ctrl-C in a terminal is for the worker, which lets running scripts finish.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot)?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(cannot(io::Error::other("it has no pipes")));
        };
        let mut process = Process { child, to, from, scripts: 0 };
        match timeout(PATIENCE, process.read()).await {
            Ok(Ok(Message::Ready(_))) => Ok(process),
            Ok(Ok(Message::Unfit(why))) => Err(why),
            Ok(Ok(Message::Begun | Message::Answer(_))) => {
                Err(cannot(io::Error::other("it answers before it was asked")))
            }
            Ok(Err(error)) => Err(format!("{}; it {}", cannot(error), process.end().await)),
            Err(_) => Err(cannot(io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Hands it a script, and waits until it begins. An error means that it has not.
    pub async fn send(&mut self, frame: &[u8], patience: Duration) -> io::Result<()> {
        self.scripts += 1;
        let sent = async {
            self.to.write_all(frame).await?;
            self.to.flush().await?;
            self.read().await
        };
        match timeout(patience, sent).await?? {
            Message::Begun => Ok(()),
            other => Err(io::Error::other(format!("it says {other:?}"))),
        }
    }

    /// Waits until the script is over, or its time is.
    pub async fn answer(&mut self, limit: Duration) -> Result<Answer, ScriptError> {
        match timeout(limit + GRACE, self.read()).await {
            Ok(Ok(Message::Answer(answer))) => Ok(answer),
            Ok(Ok(_)) => Err(ScriptError::new(Kind::Machine, "the process for scripts lost its place")),
            Ok(Err(_)) => Err(self.died().await),
            Err(_) => {
                let late = super::script::timed_out(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
                Err(ScriptError::new(late.kind, late.message))
            }
        }
    }

    /// Whether it can take another script; waits until it has cleared up after the last one.
    pub async fn is_ready(&mut self) -> bool {
        let ready = timeout(PATIENCE, self.read()).await;
        matches!(ready, Ok(Ok(Message::Ready(kib))) if kib <= MOST_KIB) && self.scripts < MOST_SCRIPTS
    }

    /// Kills it, and waits for its end so that none is left behind. One that the kernel holds on to is left to `Drop`.
    pub async fn kill(mut self) {
        let _ = timeout(Duration::from_secs(1), self.child.kill()).await;
    }

    /// Why a child gave no answer: a script that brings the engine down must not be tried again and again, a child that
    /// somebody killed is no fault of the script's.
    async fn died(&mut self) -> ScriptError {
        let status = timeout(Duration::from_secs(1), self.child.wait()).await;
        let signal = status.ok().and_then(Result::ok).and_then(|status: ExitStatus| status.signal());
        let signal = signal.and_then(|number| nix::sys::signal::Signal::try_from(number).ok());
        use nix::sys::signal::Signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP, SIGXCPU};
        match signal {
            Some(SIGXCPU) => ScriptError::new(Kind::TimedOut, "the script used up its processor time and was stopped"),
            Some(fault @ (SIGABRT | SIGBUS | SIGFPE | SIGILL | SIGSEGV | SIGTRAP)) => ScriptError::new(
                Kind::Refused,
                format!("the script brought its JavaScript engine down ({fault}), or needed more memory than there is"),
            ),
            Some(other) => {
                ScriptError::new(Kind::Machine, format!("the script's process was killed from outside ({other})"))
            }
            None => ScriptError::new(Kind::Machine, "the script's process ended before it answered"),
        }
    }

    /// How it ended, for messages.
    async fn end(&mut self) -> String {
        match timeout(Duration::from_secs(1), self.child.wait()).await {
            Ok(Ok(status)) => format!("ended with {status}"),
            _ => "did not end".to_string(),
        }
    }

    async fn read(&mut self) -> io::Result<Message> {
        let mut prefix = [0; 4];
        self.from.read_exact(&mut prefix).await?;
        let mut body = vec![0; wire::length(prefix)?];
        self.from.read_exact(&mut body).await?;
        Ok(serde_json::from_slice(&body)?)
    }
}

/// When a script's time is up, from now on.
pub fn time_for(deadline: Option<std::time::Instant>) -> Duration {
    let left = deadline.map(|deadline| Instant::from_std(deadline).saturating_duration_since(Instant::now()));
    left.map_or(super::LONGEST_RUN, |left| left.min(super::LONGEST_RUN))
}
