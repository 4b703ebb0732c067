//! The harness itself: servers start, answer, stop, come back, and do not outlive the process that started them.

use crate::support::{PostgresServer, RedisServer, wait_for};
use nix::sys::signal::Signal;
use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::Duration,
};

#[tokio::test]
async fn postgres_starts_answers_and_comes_back() {
    let mut server = PostgresServer::start();
    let row = server.session("floh").await.query_one("SELECT current_user::text", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "floh");
    server.admin().await.batch_execute("CREATE TABLE kept (id int)").await.unwrap();
    server.down(Signal::SIGINT);
    assert!(TcpStream::connect(("127.0.0.1", server.port())).is_err());
    server.up();
    server.admin().await.query("SELECT * FROM kept", &[]).await.unwrap();
}

#[tokio::test]
async fn redis_starts_answers_freezes_and_comes_back() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes"]);
    let mut connection = server.connection().await;
    let _: () = redis::cmd("SET").arg("kept").arg(1).query_async(&mut connection).await.unwrap();
    server.freeze();
    let ping = redis::cmd("PING");
    let frozen = tokio::time::timeout(Duration::from_millis(200), ping.query_async::<String>(&mut connection)).await;
    assert!(frozen.is_err(), "a frozen server answered");
    server.thaw();
    server.restart();
    let mut connection = server.connection().await;
    let kept: i64 = redis::cmd("GET").arg("kept").query_async(&mut connection).await.unwrap();
    assert_eq!(kept, 1);
}

/// Not a test of its own: [`servers_die_with_the_process_that_started_them`] runs it in a child and kills that.
#[test]
#[ignore = "run in every ./tests/run, by servers_die_with_the_process_that_started_them"]
fn starts_servers_and_waits_to_be_killed() {
    if env::var_os("FLOH_IT_WAIT_TO_BE_KILLED").is_none() {
        return;
    }
    let (postgres, redis) = (PostgresServer::start(), RedisServer::start());
    println!("ports {} {}", postgres.port(), redis.port());
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn servers_die_with_the_process_that_started_them() {
    // A killed process removes no folder: its own go where this one cleans up (and the server's user may pass).
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "harness::starts_servers_and_waits_to_be_killed", "--ignored", "--nocapture"])
        .env("FLOH_IT_WAIT_TO_BE_KILLED", "1")
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("ports ")?.1.to_string()))
        .expect("the child says its ports");
    let ports: Vec<u16> = line.split(' ').map(|port| port.parse().unwrap()).collect();
    assert_eq!(ports.len(), 2);
    for port in &ports {
        TcpStream::connect(("127.0.0.1", *port)).expect("the server listens while its test lives");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for port in ports {
        wait_for("the server ends with its test", Duration::from_secs(10), || {
            TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
        });
    }
}
