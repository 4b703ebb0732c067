//! Checkpoints, and that verification finds and names whatever somebody with every right did behind the triggers' back.

mod flohctl;
mod outside;

use crate::{
    audit_chain::{insert, intact, session},
    store_ledger::{fetch, identity, migrated, taken},
    stuck_run::Surroundings,
    support::{PostgresServer, within},
};
use floh_worker::{
    audit::{Evidence, Flaw, KeyRing, SigningKey, Summary, Witness, verify},
    jobs::{JobError, Memory, audit_checkpoint::checkpoint},
    store::{Release, Store, audit::checkpoint_page},
};
use serde_json::{Value, json};
use std::{sync::Mutex, time::Duration};
use tokio_postgres::{Client, error::SqlState};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn key(id: &str) -> SigningKey {
    SigningKey::new(id, KEY).unwrap()
}

fn keys(ids: &[&str]) -> Evidence {
    let mut ring = KeyRing::default();
    for id in ids {
        ring.add(key(id));
    }
    ring.into()
}

/// What a job remembers outside the database. A new one is what Redis is after it was wiped.
#[derive(Default)]
struct Remembered(Mutex<Option<String>>);

impl Remembered {
    fn now(&self) -> Option<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Memory for Remembered {
    fn place(&self, name: &str) -> String {
        format!("the place of {name}")
    }

    async fn recall(&self, _: &str) -> Result<Option<String>, JobError> {
        Ok(self.now())
    }

    async fn remember(&self, _: &str, text: &str) {
        *self.0.lock().unwrap() = Some(text.to_string());
    }
}

/// A server with `rows` audit rows (ids and positions 1 to `rows`), and the API server's session in it.
async fn bench(rows: i32) -> (PostgresServer, Store, Client) {
    let (server, store) = migrated().await;
    let api = session(&server, "floh").await;
    add(&api, rows).await;
    (server, store, api)
}

async fn add(api: &Client, rows: i32) {
    let sql = "INSERT INTO audit_log (entity, entity_id, action, new_state)
        SELECT 'user', n::text, 'create', jsonb_build_object('n', n) FROM generate_series(1, $1) n";
    api.execute(sql, &[&rows]).await.unwrap();
}

async fn sign(store: &Store, job_id: &str) -> Result<Value, JobError> {
    sign_remembering(store, &Remembered::default(), job_id).await
}

async fn sign_remembering(store: &Store, memory: &Remembered, job_id: &str) -> Result<Value, JobError> {
    let surroundings = Surroundings::of(store, job_id).await;
    within("a checkpoint", Duration::from_secs(60), checkpoint(&surroundings, memory, &key("k1"))).await
}

/// Does something as superuser with all triggers off.
async fn tamper(server: &PostgresServer, sql: &str) {
    let admin = session(server, "postgres").await;
    admin.batch_execute(&format!("SET session_replication_role = replica; {sql}")).await.unwrap();
}

async fn flaw(store: &Store, evidence: &Evidence) -> Flaw {
    match verify(store, evidence, |_| ()).await.unwrap() {
        Err(flaw) => flaw,
        Ok(summary) => panic!("nothing was found: {summary:?}"),
    }
}

#[tokio::test]
async fn a_checkpoint_signs_what_was_added_since_the_last() {
    let (_server, store, api) = bench(0).await;
    assert_eq!(sign(&store, "empty").await.unwrap(), json!({ "checkpoints": 0, "rows": 0 }));
    add(&api, 3).await;
    assert_eq!(sign(&store, "first").await.unwrap(), json!({ "checkpoints": 1, "rows": 3 }));
    assert_eq!(sign(&store, "nothing new").await.unwrap(), json!({ "checkpoints": 0, "rows": 0 }));
    add(&api, 2).await;
    assert_eq!(sign(&store, "second").await.unwrap(), json!({ "checkpoints": 1, "rows": 2 }));
    add(&api, 4).await;
    let Summary { rows, checkpoints, unsigned_rows, signatures_checked, head, last } =
        verify(&store, &keys(&["k1"]), |_| ()).await.unwrap().unwrap();
    assert_eq!((rows, checkpoints, unsigned_rows, signatures_checked, head.len()), (9, 2, 4, true, 32));
    assert_eq!(last.map(|last| (last.number, last.to_position)), Some((2, 5)));
    assert!(!intact(&store).await.signatures_checked);
    let ranges: Vec<_> = checkpoint_page(&store.client().await.unwrap(), 0, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|(c, _)| (c.number, c.from_position, c.to_position, c.row_count, c.key_id))
        .collect();
    assert_eq!(ranges, [(1, 1, 3, 3, "k1".to_string()), (2, 4, 5, 2, "k1".to_string())]);
}

#[tokio::test]
async fn a_big_log_takes_several_checkpoints_and_goes_on_after_an_interruption() {
    let (_server, store, _api) = bench(60_000).await;
    let mut first = Surroundings::of(&store, "job").await;
    first.stop_after = Some(1);
    let memory = Remembered::default();
    let error = checkpoint(&first, &memory, &key("k1")).await.unwrap_err();
    assert!(matches!(error, JobError::Interrupted(_)), "{error}");
    assert_eq!(*first.shown.lock().unwrap(), [json!({ "checkpoints": 1, "rows": 50_000 })]);
    assert!(store.release(&first.lease, Release::HandedBack).await.unwrap());
    let lease = taken(&store, &identity("job"), &fetch(2, 200)).await;
    let second = Surroundings { lease, shown: Mutex::default(), stop_after: None, store: store.clone() };
    assert_eq!(checkpoint(&second, &memory, &key("k1")).await.unwrap(), json!({ "checkpoints": 1, "rows": 10_000 }));
    let mut pages = 0;
    let summary = verify(&store, &keys(&["k1"]), |_| pages += 1).await.unwrap().unwrap();
    assert_eq!((summary.rows, summary.checkpoints, summary.unsigned_rows), (60_000, 2, 0));
    assert_eq!(memory.now(), summary.last.map(|last| format!("2={}", hex::encode(last.head_hash))));
    assert!(pages >= 60, "the chain was read in {pages} pages");
}

#[tokio::test]
async fn two_checkpoints_at_once_do_not_overlap() {
    let (_server, store, api) = bench(2_000).await;
    for round in 0..5 {
        let (one, two) = (format!("one {round}"), format!("two {round}"));
        let (one, two) = tokio::join!(sign(&store, &one), sign(&store, &two));
        let (one, two) = (one.unwrap(), two.unwrap());
        let sum = |field: &str| one[field].as_i64().unwrap() + two[field].as_i64().unwrap();
        assert_eq!((sum("checkpoints"), sum("rows")), (1, 2_000));
        add(&api, 2_000).await;
    }
    assert_eq!(verify(&store, &keys(&["k1"]), |_| ()).await.unwrap().unwrap().checkpoints, 5);
}

#[tokio::test]
async fn a_broken_range_is_not_signed() {
    let (server, store, api) = bench(5).await;
    assert_eq!(sign(&store, "good").await.unwrap()["rows"], 5);
    add(&api, 5).await;
    tamper(&server, "UPDATE audit_log SET action = 'delete' WHERE id = 8").await;
    let error = sign(&store, "bad").await.unwrap_err();
    assert!(matches!(error, JobError::Fail(_)), "{error}");
    assert!(error.to_string().contains("audit row 8 (position 8) was changed"), "{error}");
    tamper(&server, "UPDATE audit_log SET action = 'create' WHERE id = 8; DELETE FROM audit_checkpoint").await;
    let error = sign(&store, "worse").await.unwrap_err();
    assert!(error.to_string().contains("checkpoint 1 was removed"), "{error}");
}

/// Each tampering, on a log of 12 rows with checkpoints over 1–4 and 5–8, and what has to be found.
fn tamperings() -> Vec<(&'static str, Flaw)> {
    let changed = |n| Flaw::Changed { position: n, audit_id: n };
    let gap = |n| Flaw::Gap { position: n, after: (n > 1).then_some(n - 1), before: n + 1 };
    let bad = |number| Flaw::BadSignature { number, key_id: "k1".into() };
    vec![
        ("UPDATE audit_log SET action = 'delete' WHERE id = 3", changed(3)),
        ("UPDATE audit_log SET actor = '' WHERE id = 1", changed(1)),
        ("UPDATE audit_log SET timestamp = timestamp + interval '1 us' WHERE id = 12", changed(12)),
        ("UPDATE audit_log SET new_state = '{\"n\": 5.0}' WHERE id = 5", changed(5)),
        // Only the hash of the row itself is adapted: the next one does not fit.
        (
            "UPDATE audit_log SET action = 'delete' WHERE id = 3;
            UPDATE audit_chain SET hash = sha256(previous_hash || (SELECT audit_canonical(l) FROM audit_log l WHERE id = 3))
                WHERE position = 3",
            Flaw::Detached { position: 4, audit_id: 4, follower: None },
        ),
        ("DELETE FROM audit_log WHERE id = 6", Flaw::Removed { position: 6, audit_id: 6 }),
        ("DELETE FROM audit_log WHERE id = 6; DELETE FROM audit_chain WHERE position = 6", gap(6)),
        ("DELETE FROM audit_chain WHERE position = 6", gap(6)),
        ("DELETE FROM audit_log WHERE id = 1; DELETE FROM audit_chain WHERE position = 1", gap(1)),
        ("DELETE FROM audit_chain WHERE position = 12", Flaw::Unchained { audit_id: 12 }),
        (
            "INSERT INTO audit_log (entity, entity_id, action) VALUES ('user', 'x', 'create')",
            Flaw::Unchained { audit_id: 13 },
        ),
        // Two rows of the log change places; two rows of the chain do; two links point at each other's rows.
        (
            "UPDATE audit_log a SET entity_id = b.entity_id, new_state = b.new_state, timestamp = b.timestamp
            FROM audit_log b WHERE (a.id, b.id) IN ((9, 10), (10, 9))",
            changed(9),
        ),
        (
            "UPDATE audit_chain SET position = CASE position WHEN 9 THEN 1010 ELSE 1009 END WHERE position IN (9, 10);
            UPDATE audit_chain SET position = position - 1000 WHERE position > 1000",
            Flaw::Detached { position: 9, audit_id: 10, follower: Some((10, 9)) },
        ),
        (
            "UPDATE audit_chain SET audit_id = CASE audit_id WHEN 9 THEN 1010 ELSE 1009 END WHERE position IN (9, 10);
            UPDATE audit_chain SET audit_id = audit_id - 1000 WHERE audit_id > 1000",
            Flaw::Changed { position: 9, audit_id: 10 },
        ),
        // The end of the log is cut off, and its checkpoint left.
        (
            "DELETE FROM audit_log WHERE id > 6; DELETE FROM audit_chain WHERE position > 6",
            Flaw::BeyondChain { number: 2, to_position: 8 },
        ),
        ("DELETE FROM audit_checkpoint WHERE number = 1", Flaw::CheckpointRemoved { number: 1 }),
        ("DELETE FROM audit_checkpoint WHERE number = 2", Flaw::CheckpointRemoved { number: 2 }),
        ("DELETE FROM audit_checkpoint", Flaw::CheckpointRemoved { number: 1 }),
        ("DELETE FROM audit_checkpoint_head", Flaw::CheckpointHead { number: 2 }),
        ("UPDATE audit_checkpoint_head SET number = 1, to_position = 4", Flaw::CheckpointHead { number: 2 }),
        ("UPDATE audit_checkpoint SET created_at = created_at - interval '1 us' WHERE number = 2", bad(2)),
        ("UPDATE audit_checkpoint SET signature = sha256('') WHERE number = 1", bad(1)),
        (
            "UPDATE audit_checkpoint SET to_position = 9, row_count = 5,
                head_hash = (SELECT hash FROM audit_chain WHERE position = 9) WHERE number = 2",
            bad(2),
        ),
        (
            "UPDATE audit_checkpoint SET key_id = 'k0' WHERE number = 2",
            Flaw::UnknownKey { number: 2, key_id: "k0".into() },
        ),
    ]
}

/// Recomputes the whole chain from the rows, as somebody would who has the database but not the key.
const RECHAIN: &str = "
    DO $$
    DECLARE
        r record;
        h bytea := decode(repeat('00', 32), 'hex');
    BEGIN
        UPDATE audit_chain SET previous_hash = sha256(previous_hash || 'x');
        FOR r IN SELECT c.position, audit_canonical(l) AS bytes FROM audit_chain c JOIN audit_log l ON l.id = c.audit_id
                ORDER BY c.position LOOP
            UPDATE audit_chain SET previous_hash = h, hash = sha256(h || r.bytes) WHERE position = r.position;
            h := sha256(h || r.bytes);
        END LOOP;
    END $$";

/// A log of 12 rows with checkpoints over 1–4 and 5–8.
async fn signed_bench() -> (PostgresServer, Store, Client) {
    let (server, store, api) = bench(4).await;
    sign(&store, "one").await.unwrap();
    add(&api, 4).await;
    sign(&store, "two").await.unwrap();
    add(&api, 4).await;
    (server, store, api)
}

/// Copies the log of [`signed_bench`]; returns the statements that undo what is done to it afterwards.
async fn copied(server: &PostgresServer) -> String {
    let tables = ["audit_log", "audit_chain", "audit_checkpoint", "audit_checkpoint_head"];
    let copy: String = tables.iter().map(|t| format!("CREATE TABLE public.{t} AS TABLE {t};")).collect();
    tamper(server, &copy).await;
    tables
        .iter()
        .map(|t| format!("DELETE FROM {t}; INSERT INTO {t} OVERRIDING SYSTEM VALUE TABLE public.{t};"))
        .chain(["ALTER TABLE audit_log ALTER COLUMN id RESTART WITH 13;".to_string()])
        .collect()
}

/// The checkpoints as somebody outside the database keeps them.
async fn witnesses(store: &Store) -> Vec<Witness> {
    let page = checkpoint_page(&store.client().await.unwrap(), 0, 10).await.unwrap();
    page.iter().map(|(checkpoint, _)| Witness::from(checkpoint)).collect()
}

#[tokio::test]
async fn every_tampering_is_found_and_named() {
    let (server, store, _api) = signed_bench().await;
    let ring = keys(&["k1"]);
    verify(&store, &ring, |_| ()).await.unwrap().unwrap();
    let restore = copied(&server).await;
    for (sql, expected) in tamperings() {
        tamper(&server, sql).await;
        let found = flaw(&store, &ring).await;
        assert_eq!(found, expected, "{sql}");
        tamper(&server, &restore).await;
        verify(&store, &ring, |_| ()).await.unwrap().unwrap();
    }
    // With a new chain over the changed rows, only the checkpoint tells.
    tamper(&server, &format!("UPDATE audit_log SET action = 'delete' WHERE id = 3; {RECHAIN}")).await;
    let rewritten = Flaw::Rewritten { number: 1, from_position: 1, to_position: 4 };
    assert_eq!(flaw(&store, &ring).await, rewritten);
    assert_eq!(flaw(&store, &Evidence::default()).await, rewritten);
    // And with a new head in the checkpoints, too, only its signature does.
    tamper(
        &server,
        "UPDATE audit_checkpoint p SET head_hash = (SELECT hash FROM audit_chain c WHERE c.position = p.to_position)",
    )
    .await;
    assert_eq!(flaw(&store, &ring).await, Flaw::BadSignature { number: 1, key_id: "k1".into() });
    assert!(!intact(&store).await.signatures_checked);
}

#[tokio::test]
async fn without_a_key_ranges_and_heads_are_still_checked() {
    let (server, store, _api) = signed_bench().await;
    tamper(&server, "UPDATE audit_checkpoint SET from_position = 6, row_count = 3 WHERE number = 2").await;
    assert_eq!(flaw(&store, &Evidence::default()).await, Flaw::CheckpointRange { number: 2, expected: 5 });
}

#[tokio::test]
async fn a_key_that_was_replaced_is_still_known() {
    let (_server, store, api) = bench(2).await;
    sign(&store, "old key").await.unwrap();
    add(&api, 2).await;
    let new = SigningKey::new("k2", &KEY.replace('0', "f")).unwrap();
    let surroundings = Surroundings::of(&store, "new key").await;
    checkpoint(&surroundings, &Remembered::default(), &new).await.unwrap();
    let mut ring = KeyRing::default();
    ring.add(new);
    assert_eq!(flaw(&store, &ring.clone().into()).await, Flaw::UnknownKey { number: 1, key_id: "k1".into() });
    ring.add(key("k1"));
    assert_eq!(verify(&store, &ring.into(), |_| ()).await.unwrap().unwrap().checkpoints, 2);
}

#[tokio::test]
async fn verification_sees_one_moment_while_others_write() {
    let (server, store, _api) = bench(3_000).await;
    let writer = session(&server, "floh").await;
    let writing = tokio::spawn(async move {
        for n in 0.. {
            if writer.batch_execute(&insert(&n.to_string())).await.is_err() {
                return n;
            }
        }
        0
    });
    for _ in 0..3 {
        assert!(intact(&store).await.rows >= 3_000);
    }
    let admin = server.admin().await;
    admin.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'floh'").await.unwrap();
    assert!(writing.await.unwrap() > 0, "nothing was written meanwhile");
}

#[tokio::test]
async fn a_checkpoint_of_a_lost_lease_is_not_made() {
    let (_server, store, api) = bench(3).await;
    let frozen = Surroundings::of(&store, "job").await;
    let transaction = store.begin(&frozen.lease).await.unwrap();
    taken(&store, &identity("job"), &fetch(2, 200)).await;
    drop(transaction);
    let error = checkpoint(&frozen, &Remembered::default(), &key("k1")).await.unwrap_err();
    assert!(matches!(error, JobError::LeaseLost(_)), "{error}");
    let count: i64 = api.query_one("SELECT count(*) FROM audit_checkpoint", &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
    // Out of turn it is refused by the database itself.
    let sql = "INSERT INTO audit_checkpoint VALUES (1, 2, 3, 2, sha256(''), 'k1', sha256(''), now())";
    assert_eq!(api.batch_execute(sql).await.unwrap_err().code(), Some(&SqlState::RESTRICT_VIOLATION));
}
