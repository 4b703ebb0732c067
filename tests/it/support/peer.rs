//! A Node process that speaks BullMQ 5 and 6 for a test: `tests/peers/peer.mjs`, asked by JSON lines.

use super::{
    RedisServer, node,
    process::{Guarded, find_program},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    io::{self, BufRead, BufReader, PipeWriter, Write},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

/// The queue that a call means when it names none.
pub const QUEUE: &str = "workflow-scheduler";
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// One Node process, started by the first call, because half a second of a core is too much for a test that asks nothing;
/// killed when dropped.
pub struct Peer {
    command: Vec<String>,
    redis_url: String,
    running: Option<Running>,
    calls: u64,
}

struct Running {
    process: Guarded,
    input: PipeWriter,
    answers: mpsc::Receiver<Value>,
}

impl Peer {
    /// A client of `redis`. What it prints to stderr appears in the test's own output.
    pub fn of(redis: &RedisServer) -> Peer {
        Peer::new(vec![node::program().display().to_string()], redis.url())
    }

    /// A client of the Redis that listens on the usual port in the network of process `pid`, a container's.
    pub fn in_network_of(pid: i32) -> Peer {
        let nsenter = find_program("nsenter").expect("nsenter (util-linux)").display().to_string();
        let arguments = ["--target", &pid.to_string(), "--net", "--"].map(String::from);
        let node = node::program().display().to_string();
        let command = [nsenter].into_iter().chain(arguments).chain([node]).collect();
        Peer::new(command, "redis://127.0.0.1:6379".into())
    }

    fn new(command: Vec<String>, redis_url: String) -> Peer {
        Peer { command, redis_url, running: None, calls: 0 }
    }

    /// Asks BullMQ `version` (5 or 6) for `op` with `arguments` (an object) and returns the answer.
    ///
    /// # Errors
    /// What BullMQ threw, as its text.
    ///
    /// # Panics
    /// No answer within a minute.
    pub fn ask(&mut self, version: u8, op: &str, arguments: Value) -> Result<Value, String> {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "v": version, "op": op});
        let Value::Object(arguments) = arguments else { panic!("{op}: the arguments are an object") };
        call.as_object_mut().unwrap().extend(arguments);
        let Peer { command, redis_url, running, .. } = self;
        let running = running.get_or_insert_with(|| Running::start(command, redis_url));
        writeln!(running.input, "{call}").unwrap_or_else(|e| panic!("the peer ended before {op}: {e}"));
        let answer = running.answers.recv_timeout(ANSWERS_WITHIN).unwrap_or_else(|e| panic!("{op}: no answer: {e}"));
        assert_eq!(answer["id"], self.calls, "{op}: an answer to another call: {answer}");
        match answer.get("error") {
            Some(error) => Err(error.as_str().unwrap_or_default().to_string()),
            None => Ok(answer["ok"].clone()),
        }
    }

    /// The same, for what must succeed.
    ///
    /// # Panics
    /// BullMQ threw.
    pub fn call(&mut self, version: u8, op: &str, arguments: Value) -> Value {
        self.ask(version, op, arguments).unwrap_or_else(|error| panic!("BullMQ {version}, {op}: {error}"))
    }

    /// Ends the process as a crash would.
    pub fn kill(&mut self) {
        if let Some(running) = &mut self.running {
            running.process.end(Signal::SIGKILL);
        }
    }
}

impl Running {
    fn start(command: &[String], redis_url: &str) -> Running {
        let (child_input, input) = io::pipe().unwrap();
        let (output, child_output) = io::pipe().unwrap();
        let process = Guarded::spawn(Path::new(&command[0]), None, Signal::SIGKILL, |process| {
            process.args(&command[1..]).arg("peer.mjs").current_dir(node::peers()).env("REDIS_URL", redis_url);
            process.stdin(child_input).stdout(child_output);
        });
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let answer = serde_json::from_str(&line).unwrap_or_else(|e| panic!("the peer printed {line}: {e}"));
                if sender.send(answer).is_err() {
                    return;
                }
            }
        });
        Running { process, input, answers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::wait_for;

    #[test]
    fn both_versions_answer_and_understand_each_other() {
        let redis = RedisServer::start();
        let mut peer = Peer::of(&redis);
        peer.call(5, "eventsStart", json!({}));
        peer.call(6, "workerStart", json!({"concurrency": 2}));
        let job = peer.call(5, "add", json!({"name": "test.echo", "data": {"n": 1}, "opts": {}}));
        let id = job["id"].as_str().unwrap();
        let returned = peer.call(5, "waitUntilFinished", json!({"job": id}));
        assert_eq!(returned, json!({"n": 1}));
        wait_for("the events of the job", Duration::from_secs(10), || {
            let events = peer.call(5, "events", json!({}));
            events.as_array().unwrap().iter().any(|e| e["event"] == "completed" && e["jobId"] == *id).then_some(())
        });
        let error = peer.ask(6, "add", json!({"name": "x", "data": {}, "opts": {"jobId": "12"}})).unwrap_err();
        assert!(error.contains("Custom Id cannot be integers"), "{error}");
        assert!(peer.ask(6, "nonsense", json!({})).unwrap_err().contains("unknown operation nonsense"));
    }
}
