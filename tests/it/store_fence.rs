//! The fence: effects are committed only by the holder of the newest epoch, and a frozen holder blocks nobody.

use crate::{
    store_ledger::{fetch, identity, migrated, taken},
    support::{
        PostgresServer, eventually,
        proxy::{Fault, Proxy},
        within,
    },
};
use floh_worker::{
    config::DatabaseConfig,
    store::{self, Outcome, Policy, Release, Store, StoreError},
};
use serde_json::json;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

const EFFECT: &str = "INSERT INTO effect (what) VALUES ($1)";

/// A migrated database with a table for effects.
async fn with_effects() -> (PostgresServer, Store) {
    let (server, store) = migrated().await;
    store.client().await.unwrap().batch_execute("CREATE TABLE effect (what text)").await.unwrap();
    (server, store)
}

async fn effects(server: &PostgresServer) -> Vec<String> {
    let rows = server.admin().await.query("SELECT what FROM floh_worker.effect ORDER BY what", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// How many sessions are inside a transaction under any epoch.
async fn fenced_sessions(server: &PostgresServer) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'floh-worker epoch %'";
    server.admin().await.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn the_holder_commits_and_a_stale_holder_does_not() {
    let (server, store) = with_effects().await;
    let first = taken(&store, &identity("a"), &fetch(1, 100)).await;
    let work = store.begin(&first).await.unwrap();
    work.execute(EFFECT, &[&"first"]).await.unwrap();
    work.commit().await.unwrap();
    let second = taken(&store, &identity("a"), &fetch(2, 200)).await;
    let late = store.begin(&first).await.err().expect("an outranked lease opens no transaction");
    assert!(matches!(late, StoreError::LeaseLost { epoch } if epoch == first.epoch.0), "{late:?}");
    assert_eq!(late.policy(), Policy::Yield);
    let work = store.begin(&second).await.unwrap();
    work.execute(EFFECT, &[&"second"]).await.unwrap();
    work.commit().await.unwrap();
    assert_eq!(effects(&server).await, ["first", "second"]);
}

#[tokio::test]
async fn a_pause_that_ended_the_session_is_no_outage_and_leaves_no_doubt_about_the_commit() {
    let (server, store) = with_effects().await;
    let lease = taken(&store, &identity("a"), &fetch(1, 100)).await;
    let (one, other) = (store.begin(&lease).await.unwrap(), store.begin(&lease).await.unwrap());
    one.execute(EFFECT, &[&"never"]).await.unwrap();
    other.execute(EFFECT, &[&"never"]).await.unwrap();
    eventually("PostgreSQL to end the sessions", Duration::from_secs(15), || async {
        (fenced_sessions(&server).await == 0).then_some(())
    })
    .await;
    let first = one.execute(EFFECT, &[&"late"]).await.unwrap_err();
    let again = one.execute(EFFECT, &[&"later"]).await.unwrap_err();
    let committed = other.commit().await.unwrap_err();
    for error in [first, again, committed] {
        assert_eq!(error.policy(), Policy::Retry, "{error:?}");
        assert!(error.to_string().contains("inside a transaction; PostgreSQL ended the session"), "{error}");
    }
    drop(one);
    assert!(effects(&server).await.is_empty());
    // The same lease goes on with another session.
    let work = store.begin(&lease).await.unwrap();
    work.execute(EFFECT, &[&"well"]).await.unwrap();
    work.commit().await.unwrap();
    assert_eq!(effects(&server).await, ["well"]);
}

/// The epoch passes on while the stale transaction is open, and its session survives that (here by hiding its name):
/// the fence alone has to stop it.
#[tokio::test]
async fn the_fence_stops_a_stale_committer_that_was_not_ended() {
    let (server, store) = with_effects().await;
    for with_result in [false, true] {
        let job = identity(&format!("job {with_result}"));
        let first = taken(&store, &job, &fetch(1, 100)).await;
        let stale = store.begin(&first).await.unwrap();
        stale.batch_execute("SET LOCAL application_name = 'hidden'").await.unwrap();
        stale.execute(EFFECT, &[&"stale"]).await.unwrap();
        let second = taken(&store, &job, &fetch(2, 200)).await;
        let refused = match with_result {
            false => stale.commit().await,
            true => stale.commit_result(&json!(1)).await,
        };
        assert!(matches!(refused, Err(StoreError::LeaseLost { .. })), "{refused:?}");
        store.begin(&second).await.unwrap().commit_result(&json!(2)).await.unwrap();
    }
    assert!(effects(&server).await.is_empty());
}

#[tokio::test]
async fn a_lease_whose_result_is_committed_is_over() {
    let (server, store) = with_effects().await;
    let lease = taken(&store, &identity("a"), &fetch(1, 100)).await;
    let other = store.begin(&lease).await.unwrap();
    other.execute(EFFECT, &[&"too late"]).await.unwrap();
    let work = store.begin(&lease).await.unwrap();
    work.execute(EFFECT, &[&"done"]).await.unwrap();
    work.commit_result(&json!(null)).await.unwrap();
    assert!(matches!(other.commit().await, Err(StoreError::LeaseLost { .. })));
    assert!(!store.release(&lease, Release::Failed).await.unwrap());
    assert_eq!(effects(&server).await, ["done"]);
}

/// The predecessor froze in the middle of a transaction, its locks on other rows in its hands.
#[tokio::test]
async fn a_frozen_holder_inside_a_transaction_is_ended_by_its_successor() {
    let (server, store) = with_effects().await;
    store.client().await.unwrap().execute(EFFECT, &[&"shared"]).await.unwrap();
    let first = taken(&store, &identity("a"), &fetch(1, 100)).await;
    let frozen = store.begin(&first).await.unwrap();
    frozen.execute("UPDATE effect SET what = 'frozen'", &[]).await.unwrap();
    assert_eq!(fenced_sessions(&server).await, 1);
    let begun = Instant::now();
    let second = taken(&store, &identity("a"), &fetch(2, 200)).await;
    let work = store.begin(&second).await.unwrap();
    work.execute("UPDATE effect SET what = 'successor'", &[]).await.unwrap();
    work.commit().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    let thawed = frozen.commit().await.unwrap_err();
    assert!(matches!(thawed.policy(), Policy::Ask | Policy::Yield), "{thawed:?}");
    assert_eq!(effects(&server).await, ["successor"]);
    assert_eq!(store.outcome(&first).await.unwrap(), Outcome::Lost);
}

/// It froze even later, between the fence and COMMIT: then it holds the ledger row itself.
#[tokio::test]
async fn a_holder_frozen_between_fence_and_commit_is_ended_by_its_successor() {
    let (server, store) = with_effects().await;
    let first = taken(&store, &identity("a"), &fetch(1, 100)).await;
    let frozen = store.begin(&first).await.unwrap();
    frozen.execute(EFFECT, &[&"frozen"]).await.unwrap();
    let row = "SELECT fence(id, epoch) FROM job_execution";
    frozen.query(row, &[]).await.unwrap();
    let begun = Instant::now();
    let second = taken(&store, &identity("a"), &fetch(2, 200)).await;
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(900), "it did not hold the row at all: {waited:?}");
    assert!(waited < Duration::from_secs(2), "it took {waited:?}");
    let work = store.begin(&second).await.unwrap();
    work.execute(EFFECT, &[&"successor"]).await.unwrap();
    work.commit().await.unwrap();
    assert_eq!(effects(&server).await, ["successor"]);
}

/// The sessions that are ended are those of one epoch in one schema: a second schema counts its own epochs.
#[tokio::test]
async fn a_take_in_another_schema_of_the_database_ends_nobody_here() {
    let (server, here) = with_effects().await;
    let config = DatabaseConfig { schema: "other".into(), ..server.config() };
    store::migrate(&config).await.unwrap();
    let there = Store::open(&config, 2, "floh-worker@other").unwrap();
    let (mine, theirs) =
        (taken(&here, &identity("a"), &fetch(1, 100)).await, taken(&there, &identity("a"), &fetch(1, 100)).await);
    assert_eq!(mine.epoch, theirs.epoch, "the test needs equal numbers");
    let work = here.begin(&mine).await.unwrap();
    work.execute(EFFECT, &[&"here"]).await.unwrap();
    taken(&there, &identity("a"), &fetch(2, 200)).await;
    work.commit().await.unwrap();
    assert_eq!(effects(&server).await, ["here"]);
}

#[tokio::test]
async fn a_dropped_transaction_leaves_no_session_in_a_transaction() {
    let (server, _) = with_effects().await;
    // One session at most, so that a session given back dirty would be the next one used.
    let store = Store::open(&server.config(), 1, "floh-worker@one").unwrap();
    let lease = taken(&store, &identity("a"), &fetch(1, 100)).await;
    let work = store.begin(&lease).await.unwrap();
    work.execute(EFFECT, &[&"dropped"]).await.unwrap();
    drop(work);
    let work = store.begin(&lease).await.unwrap();
    work.execute(EFFECT, &[&"kept"]).await.unwrap();
    work.commit().await.unwrap();
    let work = store.begin(&lease).await.unwrap();
    work.execute(EFFECT, &[&"rolled back"]).await.unwrap();
    work.rollback().await;
    assert_eq!(effects(&server).await, ["kept"]);
    eventually("no fenced session is left", Duration::from_secs(5), || async {
        (fenced_sessions(&server).await == 0).then_some(())
    })
    .await;
}

/// A handler that is cancelled in the middle of a statement.
#[tokio::test]
async fn a_statement_that_nobody_waits_for_any_more_does_not_hold_up_the_next() {
    let (server, _) = with_effects().await;
    let store = Store::open(&server.config(), 1, "floh-worker@one").unwrap();
    let lease = taken(&store, &identity("a"), &fetch(1, 100)).await;
    let work = store.begin(&lease).await.unwrap();
    let cancelled = tokio::time::timeout(Duration::from_millis(100), work.query("SELECT pg_sleep(8)", &[])).await;
    assert!(cancelled.is_err());
    drop(work);
    let plain = store.client().await.unwrap();
    let cancelled = tokio::time::timeout(Duration::from_millis(100), plain.query("SELECT pg_sleep(8)", &[])).await;
    assert!(cancelled.is_err());
    drop(plain);
    let begun = Instant::now();
    store.begin(&lease).await.unwrap().commit().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
}

/// A statement fails, the handler does not notice: COMMIT must not pretend.
#[tokio::test]
async fn a_transaction_that_failed_inside_cannot_be_committed() {
    let (server, store) = with_effects().await;
    let lease = taken(&store, &identity("a"), &fetch(1, 100)).await;
    for with_result in [false, true] {
        let work = store.begin(&lease).await.unwrap();
        work.execute(EFFECT, &[&"half"]).await.unwrap();
        assert!(work.execute("INSERT INTO nowhere VALUES (1)", &[]).await.is_err());
        let refused = match with_result {
            false => work.commit().await,
            true => work.commit_result(&json!(1)).await,
        };
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, StoreError::Query { code, .. } if code == "25P02"), "{refused:?}");
    }
    assert_eq!(store.outcome(&lease).await.unwrap(), Outcome::NotCommitted);
    assert!(effects(&server).await.is_empty());
}

/// An error that only COMMIT finds (a deferred constraint) is an error, and no unknown.
#[tokio::test]
async fn a_deferred_constraint_fails_the_commit() {
    let (server, store) = with_effects().await;
    let sql = "CREATE TABLE once (what text UNIQUE DEFERRABLE INITIALLY DEFERRED)";
    store.client().await.unwrap().batch_execute(sql).await.unwrap();
    let lease = taken(&store, &identity("a"), &fetch(1, 100)).await;
    for with_result in [false, true] {
        let work = store.begin(&lease).await.unwrap();
        work.execute(EFFECT, &[&"half"]).await.unwrap();
        work.batch_execute("INSERT INTO once VALUES ('x'), ('x')").await.unwrap();
        let refused = match with_result {
            false => work.commit().await,
            true => work.commit_result(&json!(1)).await,
        };
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, StoreError::Query { code, .. } if code == "23505"), "{refused:?}");
    }
    assert_eq!(store.outcome(&lease).await.unwrap(), Outcome::NotCommitted);
    assert!(effects(&server).await.is_empty());
}

/// The connection dies while COMMIT is under way, before or after the server has done it.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_unknown_until_asked() {
    let (server, direct) = with_effects().await;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], server.port()))).await;
    let store =
        Store::open(&DatabaseConfig { port: proxy.port(), ..server.config() }, 4, "floh-worker@proxied").unwrap();
    let cases = [(Fault::CutBefore, false), (Fault::CutAfter, true), (Fault::Swallow, false)];
    let mut expected = Vec::new();
    for (round, (fault, committed)) in cases.into_iter().enumerate() {
        let what = format!("result {fault:?}");
        let lease = taken(&store, &identity(&what), &fetch(1, 100)).await;
        let work = store.begin(&lease).await.unwrap();
        work.execute(EFFECT, &[&what]).await.unwrap();
        proxy.arm("COMMIT", fault);
        let unknown = within("COMMIT", Duration::from_secs(20), work.commit_result(&json!(7))).await.unwrap_err();
        assert_eq!(proxy.sprung(), 2 * round + 1);
        assert!(matches!(unknown, StoreError::CommitUnknown { .. }), "{fault:?}: {unknown:?}");
        let outcome = store.outcome(&lease).await.unwrap();
        assert_eq!(outcome, if committed { Outcome::Committed(json!(7)) } else { Outcome::NotCommitted }, "{fault:?}");

        let part = format!("part {fault:?}");
        let lease = taken(&store, &identity(&part), &fetch(1, 100)).await;
        let work = store.begin(&lease).await.unwrap();
        work.execute(EFFECT, &[&part]).await.unwrap();
        proxy.arm("COMMIT", fault);
        let unknown = within("COMMIT", Duration::from_secs(20), work.commit()).await.unwrap_err();
        assert_eq!(proxy.sprung(), 2 * round + 2);
        let StoreError::CommitUnknown { transaction, .. } = unknown else { panic!("{fault:?}: {unknown:?}") };
        assert_eq!(store.transaction_committed(&lease, &transaction).await.unwrap(), committed, "{fault:?}");
        if committed {
            expected.extend([part, what]);
        }
    }
    assert_eq!(effects(&server).await, expected);
    drop(direct);
}

/// COMMIT is still on its way when the outcome is asked for: the answer has to be final all the same.
#[tokio::test]
async fn a_commit_that_arrives_after_the_outcome_was_asked_for_does_nothing() {
    let (server, _direct) = with_effects().await;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], server.port()))).await;
    let store =
        Store::open(&DatabaseConfig { port: proxy.port(), ..server.config() }, 4, "floh-worker@proxied").unwrap();
    for (round, with_result) in [false, true].into_iter().enumerate() {
        let lease = taken(&store, &identity(&format!("job {with_result}")), &fetch(1, 100)).await;
        let work = store.begin(&lease).await.unwrap();
        work.execute(EFFECT, &[&"late"]).await.unwrap();
        let number = work.number().to_string();
        proxy.arm("COMMIT", Fault::Late);
        let unknown = match with_result {
            false => work.commit().await,
            true => work.commit_result(&json!(1)).await,
        };
        assert!(matches!(unknown, Err(StoreError::CommitUnknown { .. })), "{unknown:?}");
        match with_result {
            false => assert!(!store.transaction_committed(&lease, &number).await.unwrap()),
            true => assert_eq!(store.outcome(&lease).await.unwrap(), Outcome::NotCommitted),
        }
        let late = || async { (proxy.delivered_late() == round + 1).then_some(()) };
        eventually("the late COMMIT", Duration::from_secs(10), late).await;
        assert!(effects(&server).await.is_empty());
    }
}

/// The server's limits: one statement, and one pause in a transaction, may take 10 s.
#[tokio::test]
async fn long_statements_and_long_pauses_are_ended_by_the_server() {
    let (server, store) = with_effects().await;
    let lease = taken(&store, &identity("a"), &fetch(1, 100)).await;
    let idle = store.begin(&lease).await.unwrap();
    idle.execute(EFFECT, &[&"idle"]).await.unwrap();
    let busy = store.begin(&lease).await.unwrap();
    let begun = Instant::now();
    let error = within("the statement", Duration::from_secs(14), busy.query("SELECT pg_sleep(60)", &[])).await;
    let error = error.unwrap_err();
    assert!(begun.elapsed() > Duration::from_secs(9), "{:?}", begun.elapsed());
    assert!(matches!(&error, StoreError::Query { code, transient: true, .. } if code == "57014"), "{error:?}");
    busy.rollback().await;
    // The pause was as long: its session is gone, and its effect with it.
    eventually("the idle session is ended", Duration::from_secs(5), || async {
        (fenced_sessions(&server).await == 0).then_some(())
    })
    .await;
    let gone = idle.commit().await.unwrap_err();
    assert!(matches!(&gone, StoreError::Query { code, transient: true, .. } if code == "25P03"), "{gone:?}");
    assert_eq!(store.outcome(&lease).await.unwrap(), Outcome::NotCommitted);
    assert!(effects(&server).await.is_empty());
}
