//! The connections of one process share their fate: what one of them learns of the server holds for all.

use crate::support::{
    RedisServer, eventually,
    sentinel::{ask, connection},
};
use floh_worker::{
    config::QueueConfig,
    queue::{
        Error, Queue,
        add::NewJob,
        connection::{COMMAND_DEADLINE, Fate, Link},
    },
};
use serde_json::json;
use std::{
    fs,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(10);

fn links(server: &RedisServer) -> [Link; 2] {
    let fate = Fate::default();
    [(); 2].map(|()| Link::new(&server.config(), fate.clone(), None).unwrap())
}

/// Which connection of the server's a link has now.
async fn id(link: &Link) -> u64 {
    link.query(redis::cmd("CLIENT").arg("ID"), "CLIENT ID", COMMAND_DEADLINE).await.unwrap()
}

async fn fails_with(link: &Link, answer: &str) -> Error {
    let mut command = redis::cmd("EVAL");
    command.arg("return redis.error_reply(ARGV[1])").arg(0).arg(answer);
    link.query::<()>(&command, "EVAL", COMMAND_DEADLINE).await.unwrap_err()
}

#[tokio::test]
async fn an_answer_that_denies_the_primary_condemns_every_connection_and_another_only_its_own() {
    let server = RedisServer::start();
    let [one, other] = links(&server);
    // The last is how a script of Redis 6 passes on what it met.
    for answer in [
        "READONLY You can't write against a read only replica.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "ERR Error running script (call to f_0): @user_script:3: @user_script: 3: -READONLY You can't write. ",
    ] {
        let before = (id(&one).await, id(&other).await);
        let error = fails_with(&one, answer).await;
        assert!(error.is_unavailable(), "{answer}: {error:?}");
        let after = (id(&one).await, id(&other).await);
        assert!(before.0 != after.0 && before.1 != after.1, "{answer}: {before:?}, {after:?}");
    }
    for (answer, unavailable) in [("NOREPLICAS Not enough good replicas to write.", true), ("ERR no", false)] {
        let before = (id(&one).await, id(&other).await);
        assert_eq!(fails_with(&one, answer).await.is_unavailable(), unavailable, "{answer}");
        let after = (id(&one).await, id(&other).await);
        assert_eq!((before.0 == after.0, before.1), (!unavailable, after.1), "{answer}");
    }
}

#[tokio::test]
async fn an_answer_inside_a_pipeline_denies_the_primary_as_well() {
    let (server, primary) = (RedisServer::start(), RedisServer::start());
    let fate = Fate::default();
    let names = QueueConfig { name: "q".into(), prefix: "bull".into(), max_job_bytes: 1024 * 1024 };
    let queue = Queue::new(&names, &server.config(), fate.clone()).unwrap();
    let other = Link::new(&server.config(), fate, None).unwrap();
    let job = |id: &str| [NewJob { id: Some(id.into()), ..NewJob::new("x", json!({})) }];
    queue.add_all(&job("a")).await.unwrap();
    let before = (id(&queue.link).await, id(&other).await);
    let port = primary.port().to_string();
    let mut control = connection(server.port());
    let _: String = ask(&mut control, &["REPLICAOF", "127.0.0.1", &port]);
    let error = queue.add_all(&job("b")).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let _: String = ask(&mut control, &["REPLICAOF", "NO", "ONE"]);
    assert!(id(&queue.link).await != before.0 && id(&other).await != before.1, "{before:?}");
}

#[tokio::test]
async fn a_server_that_becomes_a_replica_is_left_by_all_links_and_the_blocked_read_ends_at_once() {
    let (server, primary) = (RedisServer::start(), RedisServer::start());
    let [commands, blocking] = links(&server);
    let before = id(&commands).await;
    let mut control = connection(server.port());
    let started = Instant::now();
    let mut read = redis::cmd("BZPOPMIN");
    read.arg("marker").arg(30);
    let ended = tokio::spawn(async move {
        let error = blocking.wait::<redis::Value>(&read, "BZPOPMIN", Duration::from_secs(32)).await.unwrap_err();
        (error, blocking)
    });
    eventually("the read blocks", SOON, async || {
        let list: String = ask(&mut connection(server.port()), &["CLIENT", "LIST"]);
        list.contains("cmd=bzpopmin").then_some(())
    })
    .await;
    let port = primary.port().to_string();
    let _: String = ask(&mut control, &["REPLICAOF", "127.0.0.1", &port]);
    let (error, blocking) = ended.await.unwrap();
    assert!(error.is_unavailable() && error.to_string().contains("UNBLOCKED"), "{error:?}");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    let error = commands.query::<()>(redis::cmd("SET").arg("a").arg(1), "SET", COMMAND_DEADLINE).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("read only replica"), "{error}");
    let _: String = ask(&mut control, &["REPLICAOF", "NO", "ONE"]);
    assert_ne!(id(&commands).await, before);
    id(&blocking).await;
}

#[tokio::test]
async fn a_read_that_only_waits_is_given_up_when_another_link_finds_the_server_silent() {
    let server = RedisServer::start();
    let [commands, blocking] = links(&server);
    id(&commands).await;
    id(&blocking).await;
    let mut read = redis::cmd("BZPOPMIN");
    read.arg("marker").arg(60);
    let wait = blocking.wait::<redis::Value>(&read, "BZPOPMIN", Duration::from_secs(62));
    server.freeze();
    let ping = redis::cmd("PING");
    let silent = commands.query::<()>(&ping, "PING", Duration::from_millis(300));
    let started = Instant::now();
    let (waited, silent) = tokio::join!(wait, silent);
    server.thaw();
    assert!(waited.unwrap_err().is_unavailable() && silent.unwrap_err().is_unavailable());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// The kernel's timer of the established connection from us to this port: 2 is keep-alive.
fn timer(port: u16) -> Option<u8> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let to = format!("0100007F:{port:04X}");
    let mut ours = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    ours.find(|fields| fields[2] == to && fields[3] == "01").map(|fields| fields[5][..2].parse().unwrap())
}

#[tokio::test]
async fn the_kernel_watches_an_idle_connection() {
    let server = RedisServer::start();
    let [link, _] = links(&server);
    id(&link).await;
    // While data is on its way another timer runs.
    eventually("the keep-alive timer", SOON, async || (timer(server.port()) == Some(2)).then_some(())).await;
}
