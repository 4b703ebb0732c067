//! Redis Sentinel: private sentinels on free ports, and a primary with a replica that they watch.

use super::{
    RedisServer, free_port,
    process::{Guarded, find_program},
    wait_for,
};
use floh_worker::config::{RedisConfig, RedisEndpoint};
use nix::sys::signal::Signal;
use redis::{Connection, FromRedisValue};
use std::{
    fs::{self, File},
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The name under which the primary is watched.
pub const MASTER: &str = "mymaster";

const SOON: Duration = Duration::from_secs(30);

/// A running sentinel; ended and its folder removed on drop.
pub struct Sentinel {
    process: Option<Guarded>,
    folder: TempDir,
    port: u16,
}

impl Sentinel {
    /// A sentinel that watches the server on this port of 127.0.0.1, which must answer, and needs `quorum` voices to
    /// replace it; `settings` are further lines of its configuration.
    pub fn watching(port: u16, quorum: usize, settings: &[&str]) -> Sentinel {
        Sentinel::watching_at("127.0.0.1", port, quorum, settings)
    }

    /// The same of a server on another address, or under a name.
    pub fn watching_at(host: &str, port: u16, quorum: usize, settings: &[&str]) -> Sentinel {
        let mut lines = vec![
            format!("sentinel monitor {MASTER} {host} {port} {quorum}"),
            format!("sentinel down-after-milliseconds {MASTER} 500"),
            format!("sentinel failover-timeout {MASTER} 3000"),
        ];
        lines.extend(settings.iter().map(ToString::to_string));
        Sentinel::start(&lines)
    }

    /// One that watches nothing.
    pub fn ignorant() -> Sentinel {
        Sentinel::start(&[])
    }

    fn start(lines: &[String]) -> Sentinel {
        let folder = tempfile::Builder::new().prefix("floh-it-sentinel-").tempdir().unwrap();
        let mut sentinel = Sentinel { process: None, folder, port: 0 };
        for _ in 0..10 {
            sentinel.port = free_port();
            if sentinel.try_up(lines) {
                return sentinel;
            }
        }
        panic!("the sentinel does not start:\n{}", sentinel.log());
    }

    /// False if it ended before it answered (somebody took the port).
    fn try_up(&mut self, lines: &[String]) -> bool {
        let path = self.folder.path().join("sentinel.conf");
        let common = [
            format!("port {}", self.port),
            "bind 127.0.0.1".to_string(),
            format!("dir {}", self.folder.path().display()),
        ];
        fs::write(&path, [&common, lines].concat().join("\n") + "\n").unwrap();
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let program = find_program("redis-server").expect("redis-server on PATH (apt install redis-server)");
        let mut process = Guarded::spawn(&program, None, Signal::SIGKILL, |command| {
            command.arg(&path).arg("--sentinel");
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        });
        let limit = Instant::now() + SOON;
        while Instant::now() < limit {
            if process.try_wait().is_some() {
                return false;
            }
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.process = Some(process);
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the sentinel did not answer within {SOON:?}:\n{}", self.log());
    }

    /// TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it as a crash would.
    pub fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.end(Signal::SIGKILL);
        }
    }

    /// Freezes it: connections are accepted and nothing answers.
    pub fn freeze(&self) {
        self.process.as_ref().expect("a running sentinel").signal(Signal::SIGSTOP);
    }

    /// Runs a command there.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        ask(&mut connection(self.port), words)
    }

    /// The port of the primary that it names.
    pub fn primary(&self) -> u16 {
        let (_, port): (String, u16) = self.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
        port
    }

    /// Makes it replace the primary although that is well.
    pub fn fail_over(&self) {
        let _: String = self.ask(&["SENTINEL", "FAILOVER", MASTER]);
    }
}

/// A primary, its replica, and sentinels that know of each other and of both.
pub struct Watched {
    pub primary: RedisServer,
    pub replica: RedisServer,
    pub sentinels: Vec<Sentinel>,
}

impl Watched {
    /// Puts a replica and three sentinels beside a running server.
    pub fn around(primary: RedisServer) -> Watched {
        let replica = replica_of(primary.port(), &[]);
        let sentinels = three_around(primary.port());
        Watched { primary, replica, sentinels }
    }

    /// The worker's settings for it.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        settings(&self.sentinels)
    }

    /// Waits until every sentinel names the former replica.
    pub fn wait_promoted(&self) {
        wait_promoted(&self.sentinels, self.replica.port());
    }
}

/// The worker's settings for these sentinels.
pub fn settings(sentinels: &[Sentinel]) -> Vec<(&'static str, String)> {
    let list: Vec<_> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
    vec![("REDIS_SENTINELS", list.join(",")), ("REDIS_SENTINEL_MASTER", MASTER.to_string())]
}

/// Three sentinels that watch the server on this port, and know its replica and each other.
pub fn three_around(port: u16) -> Vec<Sentinel> {
    let sentinels: Vec<_> = (0..3).map(|_| Sentinel::watching(port, 2, &[])).collect();
    wait_watched(&sentinels);
    sentinels
}

/// Waits until each of three sentinels knows the others and sees the one replica well.
pub fn wait_watched(sentinels: &[Sentinel]) {
    for sentinel in sentinels {
        wait_for("the sentinels know each other", SOON, || {
            let facts: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", MASTER]);
            let fact = |name: &str| facts.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
            let known = (fact("num-slaves"), fact("num-other-sentinels"));
            (known == (Some("1".into()), Some("2".into()))).then_some(())
        });
    }
    // A replica of which a sentinel has not heard that it follows could not be promoted.
    for sentinel in sentinels {
        wait_for("the sentinels see the replica well", SOON, || {
            let replicas: Vec<Vec<String>> = sentinel.ask(&["SENTINEL", "REPLICAS", MASTER]);
            let well = |pair: &[&str]| replicas[0].chunks(2).any(|found| found == pair);
            (well(&["master-link-status", "ok"]) && well(&["flags", "slave"])).then_some(())
        });
    }
}

/// Waits until every sentinel names the server on this port.
pub fn wait_promoted(sentinels: &[Sentinel], port: u16) {
    for sentinel in sentinels {
        wait_for("the replica is promoted", SOON, || (sentinel.primary() == port).then_some(()));
    }
}

/// A server that follows the one on this port of 127.0.0.1, and has all that that one has.
pub fn replica_of(port: u16, options: &[&str]) -> RedisServer {
    replica_at("127.0.0.1", port, options)
}

/// The same of a server that is found there.
pub fn replica_at(host: &str, port: u16, options: &[&str]) -> RedisServer {
    // A primary waits for more replicas before it begins to copy, by default.
    let _: String = ask(&mut connection(port), &["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    let port = port.to_string();
    let replica = RedisServer::start_with(&[&["--replicaof", host, &port], options].concat());
    let mut connection = connection(replica.port());
    wait_for("the replica has copied", SOON, || {
        let role: redis::Value = ask(&mut connection, &["ROLE"]);
        format!("{role:?}").contains("connected").then_some(())
    });
    replica
}

/// The settings of a link that asks the sentinels on these ports of 127.0.0.1.
pub fn asking(ports: &[u16]) -> RedisConfig {
    RedisConfig {
        endpoint: RedisEndpoint::Sentinels {
            sentinels: ports.iter().map(|port| ("127.0.0.1".to_string(), *port)).collect(),
            master: MASTER.into(),
        },
        username: None,
        password: None,
        database: 0,
        sentinel_username: None,
        sentinel_password: None,
        tls: false,
        tls_ca: None,
    }
}

/// A blocking connection to a server on this port of 127.0.0.1.
pub fn connection(port: u16) -> Connection {
    redis::Client::open(format!("redis://127.0.0.1:{port}/0")).unwrap().get_connection().unwrap()
}

/// Runs a command.
pub fn ask<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).query(connection).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}
