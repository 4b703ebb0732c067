//! pgbouncer in front of a test's PostgreSQL.

use super::{
    PostgresServer, free_port, postgres,
    process::{Guarded, find_program, run},
    wait_for,
};
use nix::sys::signal::Signal;
use std::{
    fs,
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// A running pooler; ended on drop.
pub struct PgBouncer {
    _process: Guarded,
    _folder: TempDir,
    port: u16,
}

impl PgBouncer {
    /// In the given `pool_mode`, with more lines for its configuration.
    pub fn start(server: &PostgresServer, mode: &str, settings: &str) -> PgBouncer {
        let program = find_program("pgbouncer").expect("pgbouncer on PATH (apt install pgbouncer)");
        let folder = tempfile::Builder::new().prefix("floh-it-pgbouncer-").tempdir().unwrap();
        // Another process may take the port between finding and binding it.
        for _ in 0..10 {
            let port = free_port();
            let file = folder.path().join("pgbouncer.ini");
            let configuration = format!(
                "[databases]\n{database} = host={socket} port={server_port} dbname={database} user={user}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
                 pool_mode = {mode}\n{settings}\n",
                database = postgres::DATABASE,
                user = postgres::USER,
                socket = server.socket_folder().display(),
                server_port = server.port(),
            );
            fs::write(&file, configuration).unwrap();
            let user = postgres::server_user();
            if let Some(user) = user {
                run(Command::new("chown").args(["-R", &format!("{user}:")]).arg(folder.path()));
            }
            let mut process = Guarded::spawn(&program, user, Signal::SIGKILL, |command| {
                command.arg("-q").arg(&file).current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
            });
            let listens = wait_for("pgbouncer", Duration::from_secs(10), || {
                if process.try_wait().is_some() {
                    return Some(false);
                }
                TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true)
            });
            if listens {
                return PgBouncer { _process: process, _folder: folder, port };
            }
        }
        panic!("pgbouncer does not start");
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}
