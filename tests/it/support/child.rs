//! Child processes that never outlive the test, however the test ends.
//!
//! Linux ties the parent-death signal to the *thread* that forked. A test's thread, or one of a runtime's pool, may end
//! long before the test does, so all children are forked by one thread that lives as long as the process.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

type Request = (Command, mpsc::Sender<io::Result<Child>>);

fn forker() -> &'static Mutex<mpsc::Sender<Request>> {
    static FORKER: OnceLock<Mutex<mpsc::Sender<Request>>> = OnceLock::new();
    FORKER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::Builder::new()
            .name("forker".into())
            .spawn(move || {
                for (mut command, reply) in requests {
                    // The asker may have panicked meanwhile; its child then ends with this process.
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("the thread that forks the tests' children");
        Mutex::new(sender)
    })
}

/// A command that is killed by the kernel when the test process ends (`setpriv` execs it, so the pid is its own).
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Starts a command made by [`command`] from the thread that lives as long as the tests.
pub fn spawn(command: Command) -> io::Result<Child> {
    let (sender, reply) = mpsc::channel();
    forker().lock().expect("the forker's channel").send((command, sender)).expect("the forker lives");
    reply.recv().expect("the forker answers")
}

/// Runs a command made by [`command`] to its end, feeding `stdin`; kills it at the deadline.
///
/// # Errors
/// The command cannot be started, or did not end in time (`TimedOut`, with what it had printed so far).
pub fn run(mut command: Command, stdin: &[u8], deadline: Duration) -> io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let what = format!("{command:?}");
    let mut child = spawn(command)?;
    let mut input = child.stdin.take().expect("stdin is piped");
    let fed = stdin.to_vec();
    // A command that ends without reading everything is no error here: its exit status tells.
    let feeder = thread::spawn(move || drop(input.write_all(&fed)));
    let stdout = drain(child.stdout.take().expect("stdout is piped"));
    let stderr = drain(child.stderr.take().expect("stderr is piped"));
    let end = Instant::now() + deadline;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let (stdout, stderr) = (stdout.join().expect("reads stdout"), stderr.join().expect("reads stderr"));
    feeder.join().expect("feeds stdin");
    match status {
        Some(status) => Ok(Output { status, stdout, stderr }),
        None => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{what} did not end within {deadline:?}; it printed: {}", String::from_utf8_lossy(&stderr)),
        )),
    }
}

fn drain(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        // What was read before an error is kept: it is what a failing test shows.
        let _ = from.read_to_end(&mut all);
        all
    })
}
