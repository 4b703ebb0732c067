//! A private PostgreSQL from Debian's binaries: a socket in a temporary folder, and a free port on 127.0.0.1.
//!
//! Roles: `postgres` (superuser, by socket, no password) and `floh` (owner of the database `floh`, password `secret`
//! over TCP). PostgreSQL refuses root, so under root it runs as the user `postgres`.

use super::{
    free_port,
    process::{Guarded, find_program, run},
    worker::binary,
};
use floh_worker::config::{DatabaseConfig, DatabaseHost, SslMode};
use nix::sys::signal::Signal;
use secrecy::SecretString;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, UNIX_EPOCH},
};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// Role, database and password that [`PostgresServer::config`] uses.
pub const USER: &str = "floh";
/// See [`USER`].
pub const DATABASE: &str = "floh";
/// See [`USER`].
pub const PASSWORD: &str = "secret";
/// The schema that [`PostgresServer::config`] names; it does not exist before `migrate`.
pub const SCHEMA: &str = "floh_worker";

/// Settings every test server has: no durability, small, and the socket where the test can find it.
const SETTINGS: &str = "\
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 16MB
max_connections = 60
listen_addresses = '127.0.0.1'
log_min_messages = warning
logging_collector = off
autovacuum_naptime = 1d
";
/// The superuser comes by socket only; TCP needs the password, as in production.
const ACCESS: &str = "\
local all all trust
host all all 127.0.0.1/32 scram-sha-256
";

/// A running server; ended and its folder removed on drop.
pub struct PostgresServer {
    process: Option<Guarded>,
    folder: TempDir,
    port: u16,
}

impl PostgresServer {
    /// A fresh server with an empty database `floh`.
    pub fn start() -> PostgresServer {
        PostgresServer::start_with("", |_| ())
    }

    /// The same with lines for `postgresql.conf`; `prepare` gets the data folder before the first start (certificates
    /// go there; it is handed to the server's user afterwards).
    pub fn start_with(settings: &str, prepare: impl FnOnce(&Path)) -> PostgresServer {
        PostgresServer::copy_of(&template(), settings, prepare)
    }

    /// A fresh server whose database `floh` was migrated by `flohctl migrate`, with lines for `postgresql.conf`.
    pub fn start_migrated(settings: &str) -> PostgresServer {
        PostgresServer::copy_of(&migrated_template(), settings, |_| ())
    }

    fn copy_of(template: &Path, settings: &str, prepare: impl FnOnce(&Path)) -> PostgresServer {
        let folder = tempfile::Builder::new().prefix("floh-it-pg-").tempdir().unwrap();
        let data = folder.path().join("data");
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(template).arg(&data));
        let mut file = File::options().append(true).open(data.join("postgresql.conf")).unwrap();
        write!(file, "\nunix_socket_directories = '{}'\n{settings}\n", folder.path().display()).unwrap();
        prepare(&data);
        give_to_server_user(folder.path());
        let mut server = PostgresServer { process: None, folder, port: 0 };
        server.first_start();
        server
    }

    fn first_start(&mut self) {
        for _ in 0..10 {
            self.port = free_port();
            if self.try_up() {
                return;
            }
        }
        panic!("PostgreSQL does not start:\n{}", self.log());
    }

    /// Starts a stopped server again, on the same port.
    pub fn up(&mut self) {
        assert!(self.try_up(), "PostgreSQL does not start again:\n{}", self.log());
    }

    /// False if it ended before it was ready (somebody took the port).
    fn try_up(&mut self) -> bool {
        let data = self.data();
        let _ = fs::remove_file(data.join("postmaster.pid"));
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let port = self.port.to_string();
        let mut process = Guarded::spawn(&binaries().join("postgres"), server_user(), Signal::SIGQUIT, |command| {
            command.arg("-D").arg(&data).args(["-p", &port]);
            command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        });
        let limit = Instant::now() + Duration::from_secs(60);
        while Instant::now() < limit {
            // The eighth line of the pid file is how pg_ctl itself learns that connections are accepted.
            let state = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            if state.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                self.process = Some(process);
                return true;
            }
            if process.try_wait().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("PostgreSQL was not ready within 60 s:\n{}", self.log());
    }

    /// Stops the server: `SIGINT` ends sessions and shuts down, `SIGQUIT` at once (as a crash would).
    pub fn down(&mut self, how: Signal) {
        if let Some(mut process) = self.process.take() {
            process.end(how);
        }
    }

    /// Stop and start again: every session dies.
    pub fn restart(&mut self) {
        self.down(Signal::SIGINT);
        self.up();
    }

    /// Sends a signal to the server's main process: `SIGSTOP` lets connections hang, `SIGTERM` refuses new ones.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("a running server").signal(signal);
    }

    /// TCP port on 127.0.0.1, also the suffix of the socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder with the socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// How the worker reaches it: TCP, role `floh`, password, no TLS, schema [`SCHEMA`].
    pub fn config(&self) -> DatabaseConfig {
        DatabaseConfig {
            host: DatabaseHost::Tcp("127.0.0.1".into()),
            port: self.port,
            name: DATABASE.into(),
            user: USER.into(),
            password: Some(SecretString::from(PASSWORD)),
            ssl: SslMode::Disable,
            ssl_ca: None,
            schema: SCHEMA.into(),
        }
    }

    /// The same by the socket's folder, without a password.
    pub fn socket_config(&self) -> DatabaseConfig {
        DatabaseConfig { host: DatabaseHost::Socket(self.folder.path().into()), password: None, ..self.config() }
    }

    /// The environment variables that say the same as [`PostgresServer::config`], for tests that run our binaries.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DB_HOST", "127.0.0.1".into()),
            ("DB_PORT", self.port.to_string()),
            ("DB_NAME", DATABASE.into()),
            ("DB_USER", USER.into()),
            ("DB_PASSWORD", PASSWORD.into()),
            ("DB_SSL", "disable".into()),
            ("DB_SCHEMA", SCHEMA.into()),
        ]
    }

    /// A superuser's session in the database `floh`, by socket.
    pub async fn admin(&self) -> Client {
        self.session("postgres").await
    }

    /// A session of the given role in the database `floh`, by socket: what another program, the API server, would have.
    pub async fn session(&self, role: &str) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.folder.path()).port(self.port).user(role).dbname(DATABASE);
        connect(&config).await
    }

    /// A session through something that listens on `port` of 127.0.0.1 in front of this server.
    pub async fn stranger(&self, port: u16) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user(USER).password(PASSWORD).dbname(DATABASE);
        connect(&config).await
    }
}

async fn connect(config: &tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.down(Signal::SIGQUIT);
    }
}

/// The folder with Debian's newest server binaries, else the one `initdb` has on PATH.
pub fn binaries() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            bin.join("initdb").is_file().then_some((version, bin))
        })
        .collect();
    found.sort();
    found
        .pop()
        .map(|(_, bin)| bin)
        .or_else(|| Some(find_program("initdb")?.parent()?.to_path_buf()))
        .expect("PostgreSQL's server binaries (apt install postgresql)")
}

/// `postgres` under root, which PostgreSQL refuses; otherwise whoever runs the tests.
pub fn server_user() -> Option<&'static str> {
    nix::unistd::geteuid().is_root().then_some("postgres")
}

fn give_to_server_user(path: &Path) {
    if let Some(user) = server_user() {
        run(Command::new("chown").args(["-R", &format!("{user}:")]).arg(path));
    }
}

/// An initialised data folder under cargo's target folder: `initdb` takes seconds, a copy of it does not.
fn template() -> PathBuf {
    let version = run(Command::new(binaries().join("postgres")).arg("--version"));
    let version: String = version.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    made_once("postgres-template", &format!("2-{version}"), make_template)
}

/// The same with our schema in it, as the `flohctl` of this build makes it.
fn migrated_template() -> PathBuf {
    let flohctl = fs::metadata(binary("flohctl")).unwrap();
    let built = flohctl.modified().unwrap().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    made_once("postgres-migrated", &built.to_string(), make_migrated)
}

/// The folder `NAME-KEY` under cargo's target folder, made unless it is there; folders of other keys are removed. nextest
/// runs each test in its own process, so a file lock keeps all but the first from making it.
fn made_once(name: &str, key: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(cache).unwrap();
    let ready = cache.join(format!("{name}-{key}"));
    let lock = File::create(cache.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if !ready.is_dir() {
        for old in fs::read_dir(cache).unwrap().map(|entry| entry.unwrap()) {
            if old.file_type().unwrap().is_dir() && old.file_name().to_string_lossy().starts_with(&format!("{name}-")) {
                fs::remove_dir_all(old.path()).unwrap();
            }
        }
        let half = cache.join(format!("{name}.half"));
        let _ = fs::remove_dir_all(&half);
        make(&half);
        fs::rename(&half, &ready).unwrap();
    }
    ready
}

/// Nobody needs them, and they are half of the files that every test copies.
const DROP_OTHERS: &str = "\
DROP DATABASE postgres
UPDATE pg_database SET datistemplate = false WHERE datname = 'template0'
DROP DATABASE template0
";

fn make_template(ready: &Path) {
    // Made where the server's user may go, then copied to where perhaps only we may.
    let work = tempfile::Builder::new().prefix("floh-it-initdb-").tempdir().unwrap();
    let data = work.path().join("data");
    give_to_server_user(work.path());
    run(as_server_user("initdb").arg("-D").arg(&data).args([
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--wal-segsize=1",
        "--no-sync",
    ]));
    let mut single = as_server_user("postgres");
    single.args(["--single", "-D"]).arg(&data).arg("template1");
    let mut single = single.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let statements = format!(
        "CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'\nCREATE DATABASE {DATABASE} OWNER {USER}\n{DROP_OTHERS}"
    );
    single.stdin.take().unwrap().write_all(statements.as_bytes()).unwrap();
    assert!(single.wait().unwrap().success(), "the single-user server did not make role and database");
    fs::write(data.join("pg_hba.conf"), ACCESS).unwrap();
    let mut file = File::options().append(true).open(data.join("postgresql.conf")).unwrap();
    write!(file, "\n{SETTINGS}").unwrap();
    run(Command::new("cp").arg("-a").arg(&data).arg(ready));
}

fn make_migrated(ready: &Path) {
    let mut server = PostgresServer::start();
    let mut flohctl = Command::new(binary("flohctl"));
    run(flohctl.arg("migrate").env_clear().envs(server.environment()));
    server.down(Signal::SIGINT);
    run(Command::new("cp").arg("-a").arg(server.data()).arg(ready));
}

/// One of PostgreSQL's programs, run as the server's user.
fn as_server_user(program: &str) -> Command {
    let program = binaries().join(program);
    let mut command = match server_user() {
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--init-groups", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.current_dir("/");
    command
}
