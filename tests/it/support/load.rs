//! A steady load by a real BullMQ producer, `tests/peers/load.mjs`, which goes on over every fault.

use super::{node, process::Guarded};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::{self, BufRead, BufReader, PipeWriter, Write},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// What the jobs under way may take to be answered when the load ends; the script itself waits for 30 s.
const ENDS_WITHIN: Duration = Duration::from_secs(45);

/// The producer; killed when dropped.
pub struct Load {
    process: Guarded,
    input: PipeWriter,
    said: Arc<Mutex<Said>>,
    reader: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Said {
    added: BTreeSet<String>,
    refused: Vec<String>,
}

/// What became of a load.
#[derive(Debug, Default)]
pub struct Added {
    /// Keys of the jobs that Redis said it has.
    pub keys: BTreeSet<String>,
    /// The jobs whose answer was an error: they may be there or not.
    pub refused: Vec<String>,
}

impl Load {
    /// `rate` jobs a second of `test.effect` with the keys `PREFIX-0`, `PREFIX-1` and so on, which are their ids too; each
    /// takes up to `spread` milliseconds. `connection` is what ioredis takes; `environment` is added to the process's.
    pub fn start(connection: &Value, rate: u32, prefix: &str, spread: u32, environment: &[(&str, &str)]) -> Load {
        let settings =
            json!({"connection": connection, "rate": rate, "name": "test.effect", "prefix": prefix, "spread": spread});
        let (child_input, input) = io::pipe().unwrap();
        let (output, child_output) = io::pipe().unwrap();
        let process = Guarded::spawn(&node::program(), None, Signal::SIGKILL, |command| {
            command.arg("load.mjs").arg(settings.to_string()).current_dir(node::peers());
            command.envs(environment.iter().copied()).stdin(child_input).stdout(child_output);
        });
        let said = Arc::new(Mutex::new(Said::default()));
        let list = Arc::clone(&said);
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let mut said = list.lock().unwrap();
                match line.split_once(' ') {
                    Some(("+", key)) => _ = said.added.insert(key.to_string()),
                    Some(("-", refusal)) => said.refused.push(refusal.to_string()),
                    Some(("=", _)) => return,
                    _ => panic!("the load printed {line}"),
                }
            }
        });
        Load { process, input, said, reader: Some(reader) }
    }

    /// How many jobs Redis has taken so far.
    pub fn count(&self) -> usize {
        self.said.lock().unwrap().added.len()
    }

    /// The keys of the jobs that Redis has taken so far.
    pub fn keys(&self) -> BTreeSet<String> {
        self.said.lock().unwrap().added.clone()
    }

    /// Adds one job more, with this key, to the front of the queue: the same producer does it, as soon as it can.
    pub fn probe(&mut self, key: &str) {
        writeln!(self.input, "probe {key}").unwrap();
    }

    /// Ends the load; what is under way is awaited.
    ///
    /// # Panics
    /// The producer did not come to its end.
    pub fn stop(mut self) -> Added {
        writeln!(self.input, "stop").unwrap();
        let end = Instant::now() + ENDS_WITHIN;
        while self.process.try_wait().is_none() {
            assert!(Instant::now() < end, "the load did not end within {ENDS_WITHIN:?}");
            thread::sleep(Duration::from_millis(5));
        }
        self.reader.take().unwrap().join().unwrap();
        let said = std::mem::take(&mut *self.said.lock().unwrap());
        Added { keys: said.added, refused: said.refused }
    }
}
