//! A worker under test that needs no PostgreSQL, as a process of its own: see `worker.rs` for what it does.

use crate::support::{node, process::Guarded};
use nix::sys::signal::Signal;
use std::{
    env,
    io::{self, BufRead, BufReader, PipeWriter},
    sync::mpsc,
    thread,
    time::Duration,
};

/// How long a worker may take to say something that it was asked for.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// Whose worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// This library's consumer.
    Ours,
    /// The official crate's.
    Official,
    /// Node's, BullMQ 6.
    Node6,
    /// Node's, BullMQ 5.
    Node5,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Ours, Kind::Official, Kind::Node6, Kind::Node5];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Ours => "floh-worker",
            Kind::Official => "official crate",
            Kind::Node6 => "Node, BullMQ 6",
            Kind::Node5 => "Node, BullMQ 5",
        }
    }
}

/// A running worker; killed when dropped.
pub struct Subject {
    process: Guarded,
    input: Option<PipeWriter>,
    lines: mpsc::Receiver<String>,
}

impl Subject {
    pub fn spawn(kind: Kind, redis_url: &str, concurrency: usize, prefix: &str) -> Subject {
        let (child_input, input) = io::pipe().unwrap();
        let (output, child_output) = io::pipe().unwrap();
        let program = match kind {
            Kind::Ours | Kind::Official => env::current_exe().unwrap(),
            Kind::Node6 | Kind::Node5 => node::program(),
        };
        let process = Guarded::spawn(&program, None, Signal::SIGKILL, |command| {
            match kind {
                Kind::Ours => command.args(["worker", "ours"]),
                Kind::Official => command.args(["worker", "official"]),
                Kind::Node6 => command.args(["bench-worker.mjs", "6"]).current_dir(node::peers()),
                Kind::Node5 => command.args(["bench-worker.mjs", "5"]).current_dir(node::peers()),
            };
            command.arg(concurrency.to_string()).arg(prefix).env("REDIS_URL", redis_url);
            command.stdin(child_input).stdout(child_output);
        });
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Subject { process, input: Some(input), lines }
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub fn kill(&mut self) {
        self.process.end(Signal::SIGKILL);
    }

    /// Waits until it has said this word.
    pub fn wait_for(&self, word: &str) {
        while self.line() != word {}
    }

    /// Ends it; the waiting times that it noted, microseconds.
    pub fn finish(mut self) -> Vec<f64> {
        drop(self.input.take());
        loop {
            if let Ok(notes) = serde_json::from_str(&self.line()) {
                return notes;
            }
        }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(ANSWERS_WITHIN).expect("the worker answers")
    }
}
