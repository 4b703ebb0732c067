//! The take's decision table, and what a lease's end looks like in the ledger.

use crate::support::{PostgresServer, within};
use floh_worker::store::{self, Epoch, Identity, Lease, Release, Start, Store, Take};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

/// A server with our schema, and a store on it.
pub async fn migrated() -> (PostgresServer, Store) {
    let server = PostgresServer::start_migrated("");
    let store = Store::open(&server.config(), 4, "floh-worker@test").unwrap();
    (server, store)
}

pub fn identity(job_id: &str) -> Identity {
    Identity { queue: "bull:test".into(), job_id: job_id.into(), timestamp_ms: 1_700_000_000_000, attempts_made: 0 }
}

/// A fetch by an invocation of its own.
pub fn fetch(attempts_started: i32, processed_on_ms: i64) -> Start<'static> {
    Start {
        name: "test.sleep",
        attempts_started,
        processed_on_ms,
        instance: "1",
        invocation: Uuid::new_v4(),
        acknowledged: None,
    }
}

pub async fn taken(store: &Store, identity: &Identity, start: &Start<'_>) -> Lease {
    match store.take(identity, start).await.unwrap() {
        Take::Taken(lease) => lease,
        other => panic!("expected a lease, got {other:?}"),
    }
}

/// Takes the job and commits a result.
async fn committed(store: &Store, identity: &Identity, start: &Start<'_>) -> Lease {
    let lease = taken(store, identity, start).await;
    store.begin(&lease).await.unwrap().commit_result(&json!({"done": 1})).await.unwrap();
    lease
}

#[tokio::test]
async fn a_fresh_job_is_taken_and_each_attempt_is_another_row() {
    let (_server, store) = migrated().await;
    let first = taken(&store, &identity("a"), &fetch(1, 100)).await;
    let retry = Identity { attempts_made: 1, ..identity("a") };
    let second = taken(&store, &retry, &fetch(2, 200)).await;
    assert!(second.epoch > first.epoch);
    // The id used again by another job (another timestamp) is another row, too.
    let reused = Identity { timestamp_ms: 1_800_000_000_000, ..identity("a") };
    taken(&store, &reused, &fetch(1, 50)).await;
    let rows = store.client().await.unwrap().query("SELECT state FROM job_execution", &[]).await.unwrap();
    assert_eq!(rows.len(), 3);
}

#[tokio::test]
async fn a_stalled_job_is_taken_again_and_the_stale_fetch_is_outranked() {
    let (_server, store) = migrated().await;
    let stale = fetch(1, 100);
    let first = taken(&store, &identity("a"), &stale).await;
    let second = taken(&store, &identity("a"), &fetch(2, 200)).await;
    assert!(second.epoch > first.epoch);
    assert_eq!(store.take(&identity("a"), &stale).await.unwrap(), Take::Outranked);
}

/// Frozen between fetch and take: by then the successor has taken the job, and perhaps committed it.
#[tokio::test]
async fn a_taker_that_was_frozen_before_its_take_is_outranked() {
    let (_server, store) = migrated().await;
    let frozen = fetch(1, 100);
    taken(&store, &identity("a"), &fetch(2, 200)).await;
    assert_eq!(store.take(&identity("a"), &frozen).await.unwrap(), Take::Outranked);
    committed(&store, &identity("b"), &fetch(2, 200)).await;
    assert_eq!(store.take(&identity("b"), &frozen).await.unwrap(), Take::Outranked);
    // Another process with the very same numbers did not fetch later, either.
    assert_eq!(store.take(&identity("b"), &fetch(2, 200)).await.unwrap(), Take::Outranked);
}

#[tokio::test]
async fn the_same_take_asked_twice_gives_the_same_lease() {
    let (_server, store) = migrated().await;
    let start = fetch(1, 100);
    let (first, second) = (taken(&store, &identity("a"), &start).await, taken(&store, &identity("a"), &start).await);
    assert_eq!(first, second);
    store.begin(&first).await.unwrap().commit().await.unwrap();
}

#[tokio::test]
async fn a_hand_back_is_taken_again_by_the_next_fetch() {
    let (_server, store) = migrated().await;
    let first = taken(&store, &identity("a"), &fetch(1, 100)).await;
    assert!(store.release(&first, Release::HandedBack).await.unwrap());
    assert!(!store.release(&first, Release::Lost).await.unwrap(), "it was released before");
    let lost = store.begin(&first).await.err().expect("a released lease opens no transaction");
    assert!(lost.to_string().contains("is lost"), "{lost}");
    let second = taken(&store, &identity("a"), &fetch(2, 200)).await;
    assert!(second.epoch > first.epoch);
    assert!(!store.release(&first, Release::Failed).await.unwrap(), "an outranked lease releases nothing");
}

/// A Redis that went back in time (a failover, an old copy) hands out an attempt that was over long ago.
#[tokio::test]
async fn an_earlier_attempt_is_not_run_where_a_later_one_has_committed_and_was_not_acknowledged() {
    let (_server, store) = migrated().await;
    let first = taken(&store, &identity("a"), &fetch(1, 100)).await;
    assert!(store.release(&first, Release::Retried).await.unwrap());
    let retry = Identity { attempts_made: 1, ..identity("a") };
    let done = committed(&store, &retry, &fetch(2, 200)).await;
    let expected = Take::Committed { epoch: done.epoch, value: json!({"done": 1}) };
    assert_eq!(store.take(&identity("a"), &fetch(1, 300)).await.unwrap(), expected);
    // Nor where even the first attempt is not known any more, or one further on is handed out.
    let others = [Identity { attempts_made: 2, ..identity("a") }, Identity { attempts_made: 3, ..identity("a") }];
    for other in &others {
        assert_eq!(store.take(other, &fetch(3, 400)).await.unwrap(), expected);
    }
    // Acknowledged, it was retried by hand with its counters reset: it runs.
    let by_hand = Start { acknowledged: Some(done.epoch), ..fetch(1, 500) };
    taken(&store, &identity("a"), &by_hand).await;
}

#[tokio::test]
async fn an_earlier_attempt_ends_a_later_one_that_still_runs_unless_it_was_fetched_before_it() {
    let (_server, store) = migrated().await;
    let first = taken(&store, &identity("a"), &fetch(1, 100)).await;
    assert!(store.release(&first, Release::Retried).await.unwrap());
    let retry = Identity { attempts_made: 1, ..identity("a") };
    let later = taken(&store, &retry, &fetch(2, 200)).await;
    let open = store.begin(&later).await.unwrap();
    // Frozen since before the later attempt was fetched.
    let frozen = Identity { attempts_made: 2, ..identity("a") };
    assert_eq!(store.take(&frozen, &fetch(1, 150)).await.unwrap(), Take::Outranked);
    taken(&store, &identity("a"), &fetch(1, 300)).await;
    assert!(open.commit().await.is_err(), "the later attempt commits nothing any more");
    assert!(store.begin(&later).await.is_err());
}

/// Its counters are higher than those of the live attempt, because a retry by hand has reset them meanwhile.
#[tokio::test]
async fn a_taker_that_was_frozen_before_the_counters_were_reset_ends_nothing() {
    let (_server, store) = migrated().await;
    let last = Identity { attempts_made: 4, ..identity("a") };
    let failed = taken(&store, &last, &fetch(6, 200)).await;
    assert!(store.release(&failed, Release::Failed).await.unwrap());
    let live = taken(&store, &identity("a"), &fetch(1, 300)).await;
    for frozen in [&last, &Identity { attempts_made: 5, ..identity("a") }] {
        assert_eq!(store.take(frozen, &fetch(5, 100)).await.unwrap(), Take::Outranked);
        assert_eq!(store.take(frozen, &fetch(7, 300)).await.unwrap(), Take::Outranked);
    }
    store.begin(&live).await.unwrap().commit_result(&json!(1)).await.unwrap();
}

#[tokio::test]
async fn committed_but_not_acknowledged_suppresses_the_run_and_returns_the_value() {
    let (_server, store) = migrated().await;
    let lease = committed(&store, &identity("a"), &fetch(1, 100)).await;
    let expected = Take::Committed { epoch: lease.epoch, value: json!({"done": 1}) };
    let again = fetch(2, 200);
    assert_eq!(store.take(&identity("a"), &again).await.unwrap(), expected);
    // As often as it is asked, by the same fetch and by later ones.
    assert_eq!(store.take(&identity("a"), &again).await.unwrap(), expected);
    assert_eq!(store.take(&identity("a"), &fetch(3, 300)).await.unwrap(), expected);
    assert_eq!(store.take(&identity("a"), &again).await.unwrap(), Take::Outranked);
    // An acknowledgement of an earlier epoch is none of this one.
    let earlier = Start { acknowledged: Some(Epoch(lease.epoch.0 - 1)), ..fetch(4, 400) };
    assert_eq!(store.take(&identity("a"), &earlier).await.unwrap(), expected);
    // Failed by somebody else's stalled check and retried by hand with its counters reset: still done.
    assert_eq!(store.take(&identity("a"), &fetch(1, 500)).await.unwrap(), expected);
}

#[tokio::test]
async fn the_committer_asking_again_learns_that_it_committed() {
    let (_server, store) = migrated().await;
    let start = fetch(1, 100);
    let lease = committed(&store, &identity("a"), &start).await;
    let expected = Take::Committed { epoch: lease.epoch, value: json!({"done": 1}) };
    assert_eq!(store.take(&identity("a"), &start).await.unwrap(), expected);
}

#[tokio::test]
async fn a_retry_by_hand_of_an_acknowledged_job_runs() {
    let (_server, store) = migrated().await;
    // With the counters as they were ...
    let first = committed(&store, &identity("a"), &fetch(1, 100)).await;
    let by_hand = Start { acknowledged: Some(first.epoch), ..fetch(2, 200) };
    let second = committed(&store, &identity("a"), &by_hand).await;
    assert!(second.epoch > first.epoch);
    // ... and reset. The hash holds the last acknowledgement, which may belong to a later attempt than this row.
    let by_hand = Start { acknowledged: Some(Epoch(second.epoch.0 + 1)), ..fetch(1, 300) };
    let third = taken(&store, &identity("a"), &by_hand).await;
    assert!(third.epoch > second.epoch);
    let row = store.client().await.unwrap();
    let row = row.query_one("SELECT state, value::text FROM job_execution", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, Option<&str>>(1)), ("taken", None));
    // Its own stall is a re-run again: the old acknowledgement says nothing about the new epoch.
    store.begin(&third).await.unwrap().commit_result(&json!(3)).await.unwrap();
    let refetched = Start { acknowledged: Some(second.epoch), ..fetch(2, 400) };
    let expected = Take::Committed { epoch: third.epoch, value: json!(3) };
    assert_eq!(store.take(&identity("a"), &refetched).await.unwrap(), expected);
}

#[tokio::test]
async fn a_failed_attempt_retried_by_hand_with_reset_counters_runs() {
    let (_server, store) = migrated().await;
    let first = taken(&store, &identity("a"), &fetch(3, 100)).await;
    store.release(&first, Release::Failed).await.unwrap();
    taken(&store, &identity("a"), &fetch(1, 200)).await;
}

#[tokio::test]
async fn return_values_come_back_as_they_were() {
    let (_server, store) = migrated().await;
    for (job, value) in [
        ("null", json!(null)),
        ("nul", json!("a\u{0}b")),
        ("text", json!("it's \"quoted\" \\ ünïcode")),
        ("deep", json!({"b": [1, 2.5, -0.0, 1e300], "a": {"": null}})),
    ] {
        let lease = taken(&store, &identity(job), &fetch(1, 100)).await;
        store.begin(&lease).await.unwrap().commit_result(&value).await.unwrap();
        let again = store.take(&identity(job), &fetch(2, 200)).await.unwrap();
        assert_eq!(again, Take::Committed { epoch: lease.epoch, value });
    }
}

#[tokio::test]
async fn two_takers_at_once_get_one_valid_lease() {
    let (_server, store) = migrated().await;
    for round in 0..20 {
        let job = identity(&format!("job-{round}"));
        let (older, newer) = (fetch(1, 100), fetch(2, 200));
        let (first, second) = tokio::join!(store.take(&job, &older), store.take(&job, &newer));
        let Take::Taken(winner) = second.unwrap() else { panic!("the later fetch did not get the job") };
        if let Take::Taken(loser) = first.unwrap() {
            assert!(store.begin(&loser).await.is_err(), "both leases are valid");
        }
        store.begin(&winner).await.unwrap().commit().await.unwrap();
    }
}

#[tokio::test]
async fn pruning_removes_old_rows_only_and_in_batches() {
    let (server, store) = migrated().await;
    let admin = server.admin().await;
    admin
        .batch_execute(
            "SET search_path = floh_worker;
             INSERT INTO job_execution (queue, job_id, job_timestamp, attempts_made, name, attempts_started,
                 processed_on, epoch, instance, invocation, updated_at)
             SELECT 'q', n::text, 0, 0, 'x', 1, 1, n, '1', gen_random_uuid(), now() - interval '8 days'
             FROM generate_series(1, 2500) n",
        )
        .await
        .unwrap();
    let fresh = taken(&store, &identity("fresh"), &fetch(1, 100)).await;
    let removed = store.prune_ledger(Duration::from_secs(7 * 86_400)).await.unwrap();
    assert_eq!(removed, 2500);
    store.begin(&fresh).await.unwrap().commit().await.unwrap();
    assert_eq!(store.prune_ledger(Duration::from_secs(7 * 86_400)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_job_in_quarantine_is_listed_for_as_long_as_it_is_suspected() {
    let (server, store) = migrated().await;
    let admin = server.admin().await;
    admin
        .batch_execute(
            "SET search_path = floh_worker;
             INSERT INTO job_execution (queue, job_id, job_timestamp, attempts_made, name, attempts_started,
                 processed_on, epoch, instance, invocation, state, updated_at)
             SELECT 'q', id, 7, 0, 'x', 1, 1, 1, '1', gen_random_uuid(), 'quarantined', now() - interval '8 days'
             FROM unnest(ARRAY['suspected', 'of-another-time', 'forgotten']) id;
             INSERT INTO job_suspicion (queue, job_id, job_timestamp, invocation, name, instance, host, evidence, suspected_at)
             VALUES ('q', 'suspected', 7, gen_random_uuid(), 'x', '1', 'vm-1', 'oom-kill (KILL)', now() - interval '8 days'),
                 ('q', 'of-another-time', 6, gen_random_uuid(), 'x', '1', 'vm-1', 'oom-kill (KILL)', now())",
        )
        .await
        .unwrap();
    let (week, month) = (Duration::from_secs(7 * 86_400), Duration::from_secs(30 * 86_400));
    assert_eq!(store.prune_ledger(week).await.unwrap(), 2);
    assert_eq!(store.prune_suspicions(month).await.unwrap(), 0);
    let listed = store.quarantined("q", 10).await.unwrap();
    let ids: Vec<&str> = listed.iter().map(|job| job.job_id.as_str()).collect();
    assert_eq!((ids, listed[0].suspicions.len()), (vec!["suspected"], 1));
    assert_eq!(store.prune_suspicions(week).await.unwrap(), 1);
    assert_eq!(store.prune_ledger(week).await.unwrap(), 1);
    assert_eq!(store.quarantined("q", 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_worker_is_seen_while_its_heart_beats() {
    let (server, store) = migrated().await;
    let worker = store::WorkerInstance {
        invocation: Uuid::new_v4(),
        instance: "3".into(),
        host: "vm-1".into(),
        pid: 42,
        version: "0.1.0".into(),
    };
    store.heartbeat(&worker).await.unwrap();
    let admin = server.admin().await;
    admin.batch_execute("UPDATE floh_worker.worker_instance SET last_seen = now() - interval '1 day'").await.unwrap();
    assert_eq!(store.prune_instances(Duration::from_secs(2 * 86_400)).await.unwrap(), 0);
    store.heartbeat(&worker).await.unwrap();
    assert_eq!(store.prune_instances(Duration::from_secs(60)).await.unwrap(), 0, "the second beat was not noted");
    let row = admin.query_one("SELECT instance, pid, started_at < now() FROM floh_worker.worker_instance", &[]);
    let row = within("the row", Duration::from_secs(5), row).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1), row.get::<_, bool>(2)), ("3", 42, true));
    store.unregister(worker.invocation).await.unwrap();
    let rows = admin.query("SELECT FROM floh_worker.worker_instance", &[]).await.unwrap();
    assert!(rows.is_empty());
    // Forgotten while it lives (pruned after a long pause): the next beat brings it back.
    store.heartbeat(&worker).await.unwrap();
    assert_eq!(admin.query("SELECT FROM floh_worker.worker_instance", &[]).await.unwrap().len(), 1);
}
