//! A private Redis: a free port on 127.0.0.1 and a Unix socket in a temporary folder.

use super::{
    free_port,
    process::{Guarded, find_program},
};
use floh_worker::config::{RedisConfig, RedisEndpoint};
use nix::sys::signal::Signal;
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A running server; ended and its folder removed on drop.
pub struct RedisServer {
    process: Option<Guarded>,
    folder: TempDir,
    port: u16,
    options: Vec<String>,
}

impl RedisServer {
    /// A fresh, empty server without persistence.
    pub fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// The same with more options, such as `["--appendonly", "yes"]` for a server that keeps its data over a restart.
    pub fn start_with(options: &[&str]) -> RedisServer {
        let folder = tempfile::Builder::new().prefix("floh-it-redis-").tempdir().unwrap();
        let options = options.iter().map(ToString::to_string).collect();
        let mut server = RedisServer { process: None, folder, port: 0, options };
        for _ in 0..10 {
            server.port = free_port();
            if server.try_up() {
                return server;
            }
        }
        panic!("Redis does not start:\n{}", server.log());
    }

    /// Starts a stopped server again, on the same port. Without persistence it comes back empty.
    pub fn up(&mut self) {
        assert!(self.try_up(), "Redis does not start again:\n{}", self.log());
    }

    /// False if it ended before it answered (somebody took the port).
    fn try_up(&mut self) -> bool {
        let program = find_program("redis-server").expect("redis-server on PATH (apt install redis-server)");
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let port = self.port.to_string();
        let mut process = Guarded::spawn(&program, None, Signal::SIGKILL, |command| {
            command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
            command.arg("--dir").arg(self.folder.path()).arg("--unixsocket").arg(self.socket()).args(&self.options);
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        });
        let limit = Instant::now() + Duration::from_secs(30);
        while Instant::now() < limit {
            if process.try_wait().is_some() {
                return false;
            }
            if self.answers() {
                self.process = Some(process);
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("Redis did not answer within 30 s:\n{}", self.log());
    }

    /// True once commands are answered (an error such as NOAUTH is an answer; LOADING is not yet one).
    fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(self.socket()) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
        let mut answer = [0; 64];
        let Ok(()) = stream.write_all(b"PING\r\n") else { return false };
        match stream.read(&mut answer) {
            Ok(length) => length > 0 && !answer[..length].starts_with(b"-LOADING"),
            Err(_) => false,
        }
    }

    /// Ends the server as a crash would (`kill -9`).
    pub fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.end(Signal::SIGKILL);
        }
    }

    /// Ends it in order (`SIGTERM`: it saves where persistence is on).
    pub fn shut_down(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.end(Signal::SIGTERM);
        }
    }

    /// Shuts down and starts again on the same port.
    pub fn restart(&mut self) {
        self.shut_down();
        self.up();
    }

    /// Freezes the server: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.process.as_ref().expect("a running server").signal(Signal::SIGSTOP);
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.process.as_ref().expect("a running server").signal(Signal::SIGCONT);
    }

    /// TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path of the Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// The temporary folder (certificates and the like may go there).
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `redis://127.0.0.1:PORT/0`, for the `redis` crate and for Node.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// What the server wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// How the worker reaches it: TCP, no password, no TLS, database 0.
    pub fn config(&self) -> RedisConfig {
        RedisConfig {
            endpoint: RedisEndpoint::Tcp { host: "127.0.0.1".into(), port: self.port },
            username: None,
            password: None,
            database: 0,
            sentinel_username: None,
            sentinel_password: None,
            tls: false,
            tls_ca: None,
        }
    }

    /// A connection of the `redis` crate.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }
}
