//! The other system that connectors call: `tests/peers/http.mjs`, which counts what it is asked to do.

use super::{node, process::Guarded};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

/// A running server on 127.0.0.1; ended on drop.
pub struct HttpServer {
    process: Guarded,
    port: u16,
    scheme: &'static str,
}

impl HttpServer {
    /// An HTTP server.
    pub fn start() -> HttpServer {
        HttpServer::spawn("http", &[])
    }

    /// An HTTPS server with the certificate and the key in these files.
    pub fn start_tls(certificate: &Path, key: &Path) -> HttpServer {
        HttpServer::spawn("https", &[("CERT", certificate), ("KEY", key)])
    }

    fn spawn(scheme: &'static str, environment: &[(&str, &Path)]) -> HttpServer {
        let (output, child_output) = io::pipe().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/http.mjs");
        let process = Guarded::spawn(&node::program(), None, Signal::SIGKILL, |command| {
            command.arg(script).envs(environment.iter().copied()).stdout(child_output);
        });
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the HTTP server printed {line:?}"));
        HttpServer { process, port, scheme }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a path, by the host's name.
    pub fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.port)
    }

    /// What it was asked so far, and what it has done (HTTP only).
    pub fn seen(&self) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(b"GET /calls HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let body = text.split("\r\n\r\n").nth(1).unwrap_or_else(|| panic!("no answer: {text}"));
        serde_json::from_str(body).unwrap()
    }

    /// How many calls it has got.
    pub fn calls(&self) -> usize {
        self.seen()["calls"].as_array().unwrap().len()
    }

    /// What it has done, by idempotency key.
    pub fn effects(&self) -> Value {
        self.seen()["effects"].clone()
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.end(Signal::SIGKILL);
    }
}
