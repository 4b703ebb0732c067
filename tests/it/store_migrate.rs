//! `flohctl migrate`, and whether schema and worker fit.

use crate::{
    store_ledger::{fetch, identity, migrated, taken},
    support::{PostgresServer, postgres::SCHEMA, within},
};
use floh_worker::{
    config::DatabaseConfig,
    store::{self, Policy, SchemaState, Store, StoreError, Version},
};
use nix::sys::signal::Signal;
use std::{
    collections::BTreeSet,
    process::{Command, Output, Stdio},
    time::Duration,
};

/// `flohctl` with nothing in its environment but what is given.
fn flohctl(environment: &[(&'static str, String)], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flohctl"));
    command.env_clear().envs(environment.iter().cloned()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(environment: &[(&'static str, String)], arguments: &[&str]) -> (Option<i32>, String, String) {
    read(flohctl(environment, arguments).output().unwrap())
}

fn read(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn with(server: &PostgresServer, name: &'static str, value: &str) -> Vec<(&'static str, String)> {
    let mut environment = server.environment();
    environment.retain(|(key, _)| *key != name);
    environment.push((name, value.to_string()));
    environment
}

async fn refused(config: &DatabaseConfig) -> String {
    let error = store::migrate(config).await.expect_err("it was accepted");
    assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
    error.to_string()
}

async fn tables(server: &PostgresServer) -> BTreeSet<String> {
    let sql = "SELECT tablename::text FROM pg_tables WHERE schemaname = $1";
    let rows = server.admin().await.query(sql, &[&SCHEMA]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn the_command_migrates_once_and_says_how_far_it_is() {
    let server = PostgresServer::start();
    let environment = server.environment();
    let (code, out, err) = run(&environment, &["migrate", "--status"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("ledger") && out.contains("not applied"), "{out}");
    assert!(tables(&server).await.is_empty(), "--status changed something");

    let (code, out, err) = run(&environment, &["migrate"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("applied V1__ledger"), "{out}");
    assert!(tables(&server).await.contains("job_execution"));

    let (code, out, err) = run(&environment, &["migrate"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("nothing to do"), "{out}");

    let (code, out, err) = run(&environment, &["migrate", "--status"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(!out.contains("not applied"), "{out}");
    // Nothing of ours went anywhere else.
    let elsewhere = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', $1)";
    let count: i64 = server.admin().await.query_one(elsewhere, &[&SCHEMA]).await.unwrap().get(0);
    assert_eq!(count, 0);
}

#[tokio::test]
async fn migrations_at_the_same_time_do_it_once() {
    let server = PostgresServer::start();
    let config = server.config();
    let processes: Vec<_> = (0..3).map(|_| flohctl(&server.environment(), &["migrate"]).spawn().unwrap()).collect();
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let config = config.clone();
            tokio::spawn(async move { store::migrate(&config).await })
        })
        .collect();
    let mut applied = 0;
    for task in tasks {
        let done = within("a migration", Duration::from_secs(60), task).await.unwrap().unwrap();
        applied += done.applied.iter().filter(|name| *name == "V1__ledger").count();
    }
    for process in processes {
        let (code, out, err) = read(process.wait_with_output().unwrap());
        assert_eq!(code, Some(0), "{out}{err}");
        applied += out.matches("applied V1__ledger").count();
    }
    assert_eq!(applied, 1);
    let store = Store::open(&config, 1, "x").unwrap();
    assert!(matches!(store.check_schema(Version::ours()).await.unwrap(), SchemaState::Ready { .. }));
}

#[tokio::test]
async fn a_schema_with_tables_of_somebody_else_is_refused_and_left_alone() {
    let server = PostgresServer::start();
    let floh = server.session("floh").await;
    // One of them has a name of ours, which makes it no less somebody else's.
    let sql =
        "CREATE SCHEMA floh_worker; CREATE TABLE floh_worker.invoice (); CREATE TABLE floh_worker.job_execution ()";
    floh.batch_execute(sql).await.unwrap();
    let message = refused(&server.config()).await;
    assert!(message.contains("(invoice, job_execution)") && message.contains("DB_SCHEMA"), "{message}");
    let (code, _, err) = run(&server.environment(), &["migrate"]);
    assert_eq!(code, Some(78), "{err}");
    assert!(err.contains("invoice") && err.lines().count() == 1, "{err}");
    assert_eq!(tables(&server).await.len(), 2, "something was made there");
    floh.batch_execute("DROP TABLE floh_worker.invoice, floh_worker.job_execution").await.unwrap();
    store::migrate(&server.config()).await.unwrap();
    // A stranger that came later is refused as well; none of our own tables is a stranger.
    store::migrate(&server.config()).await.unwrap();
    floh.batch_execute("CREATE TABLE floh_worker.invoice ()").await.unwrap();
    let message = refused(&server.config()).await;
    assert!(message.contains("(invoice)"), "{message}");
}

#[tokio::test]
async fn a_role_that_may_not_create_the_schema_is_told_what_to_do() {
    let server = PostgresServer::start();
    let admin = server.admin().await;
    admin.batch_execute("CREATE ROLE limited LOGIN PASSWORD 'secret'").await.unwrap();
    let config = DatabaseConfig { user: "limited".into(), ..server.config() };
    let message = refused(&config).await;
    assert!(message.contains("CREATE SCHEMA floh_worker AUTHORIZATION"), "{message}");
    admin.batch_execute("CREATE SCHEMA floh_worker AUTHORIZATION limited").await.unwrap();
    store::migrate(&config).await.unwrap();
    // A third role has no business there.
    let store = Store::open(&server.config(), 1, "x").unwrap();
    let error = store.check_schema(Version::ours()).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }) && error.to_string().contains("grant"), "{error:?}");
}

/// A migration that fails leaves nothing half done, says why, and can be repeated when the cause is gone.
#[tokio::test]
async fn a_failed_migration_is_undone_and_can_be_repeated() {
    let server = PostgresServer::start();
    let floh = server.session("floh").await;
    floh.batch_execute("CREATE SCHEMA floh_worker; CREATE VIEW floh_worker.job_execution AS SELECT 1").await.unwrap();
    let error = store::migrate(&server.config()).await.unwrap_err();
    assert!(error.to_string().contains("V1__ledger") && error.to_string().contains("job_execution"), "{error}");
    assert_eq!(error.policy(), Policy::Fail);
    assert!(!tables(&server).await.contains("worker_instance"), "half of it is there");
    floh.batch_execute("DROP VIEW floh_worker.job_execution").await.unwrap();
    store::migrate(&server.config()).await.unwrap();
}

#[tokio::test]
async fn functions_with_their_owners_rights_find_temporary_tables_last() {
    let (server, _store) = migrated().await;
    let sql = "SELECT p.oid::regprocedure::text, coalesce(p.proconfig, '{}') FROM pg_proc p
        WHERE p.pronamespace = $1::text::regnamespace AND p.prosecdef";
    let rows = server.admin().await.query(sql, &[&SCHEMA]).await.unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let (name, settings): (String, Vec<String>) = (row.get(0), row.get(1));
        assert!(settings.contains(&format!("search_path={SCHEMA}, pg_temp")), "{name}: {settings:?}");
    }
}

/// What a session makes for itself under the name of one of our tables: with no more rights than its own it is of no use.
#[tokio::test]
async fn a_callers_temporary_view_is_not_read_with_the_owners_rights() {
    let (server, _store) = migrated().await;
    server.admin().await.batch_execute("CREATE ROLE api LOGIN").await.unwrap();
    let sql = "SET search_path = floh_worker;
        INSERT INTO workflow_definition (name, status, definition) VALUES ('x', 'active', '{}');
        INSERT INTO workflow_schedule (name, definition, cron, overlap) VALUES ('s', 'x', '0 7 * * *', 'skip');
        INSERT INTO workflow_run (definition_id, schedule_id, status)
            SELECT d.id, s.id, 'failed' FROM workflow_definition d, workflow_schedule s;
        GRANT USAGE ON SCHEMA floh_worker TO api;
        GRANT SELECT, INSERT, UPDATE ON workflow_run TO api";
    server.session("floh").await.batch_execute(sql).await.unwrap();

    let api = server.session("api").await;
    let sql = "CREATE TEMP TABLE seen (who text);
        CREATE FUNCTION pg_temp.note() RETURNS text LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO pg_temp.seen VALUES (current_user);
            RETURN 'skip';
        END $$;
        CREATE TEMP VIEW workflow_schedule AS
            SELECT r.schedule_id AS id, pg_temp.note() AS overlap FROM floh_worker.workflow_run r;
        GRANT ALL ON seen, workflow_schedule TO PUBLIC;
        SELECT overlap FROM workflow_schedule";
    api.batch_execute(sql).await.unwrap();
    let again = "UPDATE floh_worker.workflow_run SET status = 'pending' WHERE status = 'failed'";
    assert_eq!(api.execute(again, &[]).await.unwrap(), 1);
    let rows = api.query("SELECT DISTINCT who FROM seen ORDER BY who", &[]).await.unwrap();
    let who: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(who, ["api"], "it was read by others");
}

#[tokio::test]
async fn a_history_that_is_not_ours_is_refused_and_a_newer_one_left_alone() {
    let (server, _) = migrated().await;
    let admin = server.admin().await;
    let insert = "INSERT INTO floh_worker.schema_migration SELECT 1000, 'future', applied_on, '1'
        FROM floh_worker.schema_migration LIMIT 1";
    admin.batch_execute(insert).await.unwrap();
    admin.batch_execute("CREATE TABLE floh_worker.of_the_future ()").await.unwrap();
    let done = store::migrate(&server.config()).await.unwrap();
    assert!(done.newer_than_known && done.version == 1000 && done.applied.is_empty(), "{done:?}");
    let (code, out, err) = run(&server.environment(), &["migrate", "--status"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("1000") && out.contains("newer than this flohctl"), "{out}");
    let sql = "DROP TABLE floh_worker.of_the_future; DELETE FROM floh_worker.schema_migration WHERE version = 1000;
        UPDATE floh_worker.schema_migration SET checksum = '1' WHERE version = 1";
    admin.batch_execute(sql).await.unwrap();
    let message = refused(&server.config()).await;
    assert!(message.contains("V1__ledger"), "{message}");
}

#[tokio::test]
async fn what_cannot_heal_exits_with_78_what_may_with_69_and_misuse_with_64() {
    let mut server = PostgresServer::start();
    let cases: [(Vec<_>, &[&str], i32, &str); 5] = [
        (with(&server, "DB_PASSWORD", "hunter2"), &["migrate"], 78, "DB_PASSWORD"),
        (with(&server, "DB_NAME", "nowhere"), &["migrate", "--status"], 78, "DB_NAME"),
        (with(&server, "DB_PORT", "many"), &["migrate"], 78, "DB_PORT"),
        (server.environment(), &["migrate", "--sideways"], 64, "--sideways"),
        (server.environment(), &[], 64, "Usage"),
    ];
    for (environment, arguments, expected, word) in cases {
        let (code, out, err) = run(&environment, arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {out}{err}");
        assert!(err.contains(word) && !err.contains("hunter2") && out.is_empty(), "{arguments:?}: {out}{err}");
    }
    let (code, out, err) = run(&server.environment(), &["--help"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    server.down(Signal::SIGINT);
    let (code, _, err) = run(&server.environment(), &["migrate"]);
    assert_eq!(code, Some(69), "{err}");
}

#[tokio::test]
async fn a_worker_waits_for_the_schema_it_needs() {
    let server = PostgresServer::start();
    let store = Store::open(&server.config(), 2, "floh-worker@1").unwrap();
    assert_eq!(store.check_schema(Version::ours()).await.unwrap(), SchemaState::NotMigrated);
    let error = store.require_schema(Version::ours()).await.unwrap_err();
    assert_eq!(error.policy(), Policy::Wait);
    assert!(error.to_string().contains("flohctl migrate"), "{error}");
    let done = store::migrate(&server.config()).await.unwrap();
    // The very same store, with sessions from before, sees and uses it.
    assert_eq!(store.require_schema(Version::ours()).await.unwrap(), done.version);
    taken(&store, &identity("a"), &fetch(1, 100)).await;
    let admin = server.admin().await;
    let sql = "DELETE FROM floh_worker.schema_version WHERE version = $1";
    admin.execute(sql, &[&done.version]).await.unwrap();
    let state = store.check_schema(Version::ours()).await.unwrap();
    assert!(
        matches!(state, SchemaState::OlderThanNeeded { found, needed } if found < needed && needed == done.version),
        "{state:?}"
    );
    assert_eq!(store.require_schema(Version::ours()).await.unwrap_err().policy(), Policy::Wait);
}

#[tokio::test]
async fn a_newer_schema_is_used_if_it_allows_it_and_ends_the_worker_if_not() {
    let (server, store) = migrated().await;
    let admin = server.admin().await;
    let insert = "INSERT INTO floh_worker.schema_version (version, compatible_from) VALUES ($1, $2)";
    let Version(major, minor, patch) = Version::ours();
    admin.execute(insert, &[&1000, &format!("{major}.{minor}.{patch}")]).await.unwrap();
    assert_eq!(store.check_schema(Version::ours()).await.unwrap(), SchemaState::Ready { version: 1000 });
    taken(&store, &identity("a"), &fetch(1, 100)).await;
    admin.execute(insert, &[&1001, &format!("{major}.{minor}.{}", patch + 1)]).await.unwrap();
    // Every version counts, not only the newest.
    admin.execute(insert, &[&1002, &"0.0.1"]).await.unwrap();
    let needs = Version(major, minor, patch + 1);
    assert_eq!(store.check_schema(Version::ours()).await.unwrap(), SchemaState::TooNew { compatible_from: needs });
    let error = store.require_schema(Version::ours()).await.unwrap_err();
    assert_eq!(error.policy(), Policy::Fatal);
    assert!(error.to_string().contains(&format!("needs floh-worker {needs} or newer")), "{error}");
    // And a worker of that version uses it.
    assert_eq!(store.check_schema(needs).await.unwrap(), SchemaState::Ready { version: 1002 });
}
