//! Sessions: their settings, what is refused for good, what is waited for, and poolers.

use crate::support::{PostgresServer, RedisServer, eventually, free_port, pgbouncer::PgBouncer, within};
use floh_worker::{
    config::{DatabaseConfig, DatabaseHost},
    store::{self, Policy, Store, StoreError},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use secrecy::SecretString;
use std::time::{Duration, Instant};

fn open(config: &DatabaseConfig) -> Store {
    Store::open(config, 3, "floh-worker@7").unwrap()
}

/// The error of the first session.
async fn refused(config: &DatabaseConfig) -> StoreError {
    let store = open(config);
    let error = within("an answer", Duration::from_secs(20), async { store.client().await.err() }).await;
    error.expect("the session was opened")
}

async fn setting(store: &Store, name: &str) -> String {
    let client = store.client().await.unwrap();
    client.query_one("SELECT current_setting($1)", &[&name]).await.unwrap().get(0)
}

#[tokio::test]
async fn every_session_has_our_settings() {
    let server = PostgresServer::start();
    for config in [server.config(), server.socket_config()] {
        let store = open(&config);
        let (one, two) = (store.client().await.unwrap(), store.client().await.unwrap());
        for client in [&one, &two] {
            for (name, expected) in [
                ("search_path", "floh_worker"),
                ("statement_timeout", "10s"),
                ("idle_in_transaction_session_timeout", "10s"),
                ("client_connection_check_interval", "2s"),
                ("application_name", "floh-worker@7"),
            ] {
                let row = client.query_one("SELECT current_setting($1)", &[&name]).await.unwrap();
                assert_eq!(row.get::<_, String>(0), expected, "{name}");
            }
        }
    }
}

#[tokio::test]
async fn the_pool_opens_sessions_when_they_are_needed_and_no_more_than_allowed() {
    let server = PostgresServer::start();
    let admin = server.admin().await;
    let sessions = async || -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'floh-worker@7'";
        admin.query_one(sql, &[]).await.unwrap().get(0)
    };
    let store = open(&server.config());
    assert_eq!(sessions().await, 0);
    let held = [store.client().await.unwrap(), store.client().await.unwrap(), store.client().await.unwrap()];
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.client().await.map(drop) }
    });
    // The session that looked for a pooler has gone by itself.
    eventually("three sessions", Duration::from_secs(5), || async { (sessions().await == 3).then_some(()) }).await;
    assert!(!waiting.is_finished(), "a fourth session was opened");
    drop(held);
    within("a session that was given back", Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert_eq!(sessions().await, 3);
}

#[tokio::test]
async fn a_wrong_login_is_refused_for_good_and_the_message_says_where_but_never_the_password() {
    let server = PostgresServer::start();
    let good = server.config();
    let wrong = Some(SecretString::from("hunter2"));
    for (config, hint) in [
        (DatabaseConfig { password: wrong, ..good.clone() }, "DB_PASSWORD"),
        (DatabaseConfig { password: None, ..good.clone() }, "DB_PASSWORD"),
        (DatabaseConfig { user: "nobody".into(), ..good.clone() }, "DB_USER"),
        (DatabaseConfig { name: "nowhere".into(), ..good.clone() }, "DB_NAME"),
    ] {
        let error = refused(&config).await;
        assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
        assert_eq!(error.policy(), Policy::Fatal);
        let message = error.to_string();
        let place = format!("127.0.0.1:{} (database {}, user {})", server.port(), config.name, config.user);
        assert!(message.contains(&place) && message.contains(hint), "{message}");
        assert!(!message.contains("hunter2") && !message.contains('\n'), "{message}");
    }
}

#[tokio::test]
async fn a_schema_that_is_no_plain_name_is_refused_before_it_meets_sql() {
    let server = PostgresServer::start();
    let config = DatabaseConfig { schema: "a\"; DROP SCHEMA public; --".into(), ..server.config() };
    let error = Store::open(&config, 1, "x").err().expect("it was accepted");
    assert!(error.to_string().contains("DB_SCHEMA"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_down_is_waited_for_and_sessions_that_died_are_replaced() {
    let mut server = PostgresServer::start();
    let store = open(&server.config());
    server.down(Signal::SIGINT);
    let error = store.client().await.err().unwrap();
    assert!(error.is_unavailable() && error.policy() == Policy::Wait, "{error:?}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", server.port())), "{error}");
    server.up();
    assert_eq!(setting(&store, "search_path").await, "floh_worker");
    // The pool now holds a session; it dies with the server, and the next user gets another one.
    for how in [Signal::SIGINT, Signal::SIGQUIT] {
        let held = store.client().await.unwrap();
        server.down(how);
        let error = held.query("SELECT 1", &[]).await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        drop(held);
        server.up();
        assert_eq!(setting(&store, "search_path").await, "floh_worker");
    }
    // By socket, too: there is no file to connect to.
    let socket = open(&server.socket_config());
    server.down(Signal::SIGINT);
    let error = socket.client().await.err().unwrap();
    assert!(error.is_unavailable() && error.to_string().contains(".s.PGSQL."), "{error}");
}

#[tokio::test]
async fn what_may_come_is_waited_for() {
    let server = PostgresServer::start();
    let redis = RedisServer::start();
    let good = server.config();
    for config in [
        DatabaseConfig { host: DatabaseHost::Tcp("no-such-host.invalid".into()), ..good.clone() },
        DatabaseConfig { port: free_port(), ..good.clone() },
        // Something else listens there.
        DatabaseConfig { port: redis.port(), ..good.clone() },
    ] {
        let error = refused(&config).await;
        assert!(error.is_unavailable(), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_shuts_down_or_is_full_is_waited_for() {
    let server = PostgresServer::start_with("max_connections = 5\nsuperuser_reserved_connections = 0", |_| ());
    let mut crowd = Vec::new();
    for _ in 0..5 {
        crowd.push(server.session("floh").await);
    }
    let error = refused(&server.config()).await;
    assert!(error.is_unavailable() && error.to_string().contains("53300"), "{error:?}");
    crowd.truncate(1);
    // A smart shutdown waits for that session and refuses new ones meanwhile.
    server.signal(Signal::SIGTERM);
    eventually("the server refuses new sessions", Duration::from_secs(5), || async {
        let error = refused(&server.config()).await;
        assert!(error.is_unavailable(), "{error:?}");
        error.to_string().contains("57P03").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up_within_ten_seconds() {
    let server = PostgresServer::start();
    let store = open(&server.config());
    server.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    let error = within("the time limit", Duration::from_secs(14), async { store.client().await.err() }).await.unwrap();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(begun.elapsed() > Duration::from_secs(9), "{:?}", begun.elapsed());
    server.signal(Signal::SIGCONT);
    assert_eq!(setting(&store, "search_path").await, "floh_worker");
}

/// A session whose server process hangs: its statement is given up, and nobody gets that session again.
#[tokio::test]
async fn a_statement_without_an_answer_is_given_up_and_its_session_closed() {
    let server = PostgresServer::start();
    let store = Store::open(&server.config(), 1, "floh-worker@one").unwrap();
    let client = store.client().await.unwrap();
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    kill(Pid::from_raw(backend), Signal::SIGSTOP).unwrap();
    let asked = within("the time limit", Duration::from_secs(20), client.query("SELECT 1", &[])).await;
    let error = asked.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("no answer"), "{error:?}");
    drop(client);
    let begun = Instant::now();
    let other: i32 = store.client().await.unwrap().query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    assert_ne!(other, backend);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    kill(Pid::from_raw(backend), Signal::SIGCONT).unwrap();
}

/// A session that hangs while it rests in the pool (a half-open connection is the same) is noticed before it is used.
#[tokio::test]
async fn a_resting_session_that_hangs_is_replaced_within_seconds() {
    let server = PostgresServer::start();
    let store = Store::open(&server.config(), 1, "floh-worker@one").unwrap();
    let pid = async || -> i32 {
        store.client().await.unwrap().query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
    };
    let resting = pid().await;
    assert_eq!(pid().await, resting);
    kill(Pid::from_raw(resting), Signal::SIGSTOP).unwrap();
    // One that was used just now is not asked; this one has to have rested for longer than that.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let other = within("another session", Duration::from_secs(10), pid()).await;
    kill(Pid::from_raw(resting), Signal::SIGCONT).unwrap();
    assert_ne!(other, resting);
}

/// A migration changes a table under a worker that runs.
#[tokio::test]
async fn statements_prepared_before_a_table_changed_work_again_at_the_second_try() {
    let server = PostgresServer::start();
    let store = Store::open(&server.config(), 1, "floh-worker@one").unwrap();
    let floh = server.session("floh").await;
    floh.batch_execute("CREATE SCHEMA floh_worker; CREATE TABLE floh_worker.t AS SELECT 1 AS a").await.unwrap();
    let read = async || store.client().await.unwrap().query_one("SELECT * FROM t", &[]).await;
    read().await.unwrap();
    floh.batch_execute("ALTER TABLE floh_worker.t ADD COLUMN b int").await.unwrap();
    let error = read().await.unwrap_err();
    assert_eq!(error.policy(), Policy::Retry, "{error:?}");
    assert_eq!(read().await.unwrap().len(), 2);
}

/// After a failover the old address may answer as a standby for a while.
#[tokio::test]
async fn a_database_that_is_read_only_for_now_is_waited_for() {
    let server = PostgresServer::start();
    server.admin().await.batch_execute("ALTER DATABASE floh SET default_transaction_read_only = on").await.unwrap();
    let error = open(&server.config()).client().await.unwrap().execute("CREATE TABLE x ()", &[]).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("25006"), "{error:?}");
}

#[tokio::test]
async fn statements_that_cannot_succeed_are_told_from_those_that_may() {
    let server = PostgresServer::start();
    let store = open(&server.config());
    let client = store.client().await.unwrap();
    let error = client.query("SELECT nothing FROM nowhere", &[]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Query { code, transient: false, .. } if code == "42P01"), "{error:?}");
    assert_eq!(error.policy(), Policy::Fail);
    let error = client.batch_execute("SET statement_timeout = 50; SELECT pg_sleep(5)").await.unwrap_err();
    assert_eq!(error.policy(), Policy::Retry, "{error:?}");
    // Errors of the driver's own methods, reached by Deref, come with `?`.
    let error = StoreError::from(client.simple_query("SELECT 1/0").await.unwrap_err());
    assert!(matches!(&error, StoreError::Query { code, .. } if code == "22012"), "{error:?}");
}

/// Makes the pooler open several sessions, so that it has a choice.
async fn fill(server: &PostgresServer, pooler: &PgBouncer) {
    let mut crowd = Vec::new();
    for _ in 0..4 {
        let stranger = server.stranger(pooler.port()).await;
        stranger.batch_execute("BEGIN").await.unwrap();
        crowd.push(stranger);
    }
    for stranger in crowd {
        stranger.batch_execute("COMMIT").await.unwrap();
    }
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused_and_one_in_session_mode_is_not() {
    let server = PostgresServer::start();
    for settings in ["", "server_round_robin = 1", "default_pool_size = 1\nreserve_pool_size = 0"] {
        let pooler = PgBouncer::start(&server, "transaction", settings);
        if settings.contains("round_robin") {
            fill(&server, &pooler).await;
        }
        let config = DatabaseConfig { port: pooler.port(), ..server.config() };
        let error = refused(&config).await;
        assert!(matches!(error, StoreError::Pooler { .. }), "{settings}: {error:?}");
        assert_eq!(error.policy(), Policy::Fatal);
        assert!(error.to_string().contains("transaction mode"), "{error}");
        let error = store::migrate(&config).await.unwrap_err();
        assert!(matches!(error, StoreError::Pooler { .. }), "{settings}: {error:?}");
        // What others see there is not changed by our having looked.
        let stranger = server.stranger(pooler.port()).await;
        let row = stranger.simple_query("SHOW search_path").await.unwrap();
        assert!(format!("{row:?}").contains("public"), "{row:?}");
    }
    let pooler = PgBouncer::start(&server, "session", "");
    let store = open(&DatabaseConfig { port: pooler.port(), ..server.config() });
    assert_eq!(setting(&store, "search_path").await, "floh_worker");
    assert_eq!(setting(&store, "statement_timeout").await, "10s");
}
