//! Programs run to their end, under a deadline, with what they print.

use super::process::Guarded;
use nix::sys::signal::Signal;
use std::{
    io::{self, Read, Write},
    path::Path,
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

/// How a program ended and what it printed.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `program`, which `prepare` gives its arguments and environment, feeds it `stdin`, and returns how it ended.
///
/// # Panics
/// It cannot be started, or did not end within `deadline`; the message holds what it had printed.
pub fn run(program: &Path, prepare: impl FnOnce(&mut Command), stdin: &[u8], deadline: Duration) -> Finished {
    let (child_input, mut input) = io::pipe().unwrap();
    let (output, child_output) = io::pipe().unwrap();
    let (errors, child_errors) = io::pipe().unwrap();
    let mut process = Guarded::spawn(program, None, Signal::SIGKILL, |command| {
        prepare(command);
        command.stdin(child_input).stdout(child_output).stderr(child_errors);
    });
    let fed = stdin.to_vec();
    // A program that ends without reading everything is no error here: its exit status tells.
    let feeder = thread::spawn(move || drop(input.write_all(&fed)));
    let (stdout, stderr) = (drain(output), drain(errors));
    let end = Instant::now() + deadline;
    let status = loop {
        match process.try_wait() {
            Some(status) => break Some(status),
            None if Instant::now() >= end => break None,
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    process.end(Signal::SIGKILL);
    feeder.join().unwrap();
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let Some(status) = status else {
        panic!("{} did not end within {deadline:?}; it printed:\n{stdout}{stderr}", program.display());
    };
    Finished { status, stdout, stderr }
}

fn drain(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut all = Vec::new();
        // What was read before an error is kept: it is what a failing test shows.
        let _ = from.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    })
}
