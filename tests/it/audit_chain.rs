//! The database chains what is inserted, whoever inserts it and however transactions interleave.

use crate::{
    store_ledger::migrated,
    support::{PostgresServer, eventually, within},
};
use floh_worker::{
    audit::{Evidence, Summary, canonical, chain_hash, verify},
    store::{
        Store,
        audit::{AuditRow, ChainLink, chain_page},
    },
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::{ops::ControlFlow, time::Duration};
use tokio_postgres::{Client, error::SqlState};

/// A session of a role in our schema: an API server's.
pub async fn session(server: &PostgresServer, role: &str) -> Client {
    let client = server.session(role).await;
    client.batch_execute("SET search_path = floh_worker").await.unwrap();
    client
}

/// The statement that an API server uses.
pub fn insert(entity_id: &str) -> String {
    format!(
        "INSERT INTO audit_log (entity, entity_id, action, actor, actor_id, previous_state, new_state, ip_address)
        VALUES ('role', '{entity_id}', 'grant', 'Ada', 'u1', NULL, '{{\"on\": true}}', '192.0.2.7')"
    )
}

/// The whole chain.
pub async fn links(store: &Store) -> Vec<ChainLink> {
    let mut links = Vec::new();
    let client = store.client().await.unwrap();
    while chain_page(&client, links.len() as i64, i64::MAX, |link| {
        links.push(link.clone());
        ControlFlow::Continue(())
    })
    .await
    .unwrap()
    .is_some()
    {}
    links
}

/// Verifies without keys; panics at a flaw.
pub async fn intact(store: &Store) -> Summary {
    verify(store, &Evidence::default(), |_| ()).await.unwrap().unwrap()
}

#[tokio::test]
async fn plain_inserts_are_chained_in_the_order_of_their_commits() {
    let (server, store) = migrated().await;
    assert_eq!(intact(&store).await.rows, 0);
    let (early, late) = (session(&server, "floh").await, session(&server, "floh").await);
    // A long transaction that wrote early holds nobody up, and comes after who committed first.
    early.batch_execute(&format!("BEGIN; {}", insert("early"))).await.unwrap();
    for n in 0..3 {
        within("a commit beside it", Duration::from_secs(5), late.batch_execute(&insert(&format!("late {n}"))))
            .await
            .unwrap();
    }
    early.batch_execute(&format!("{}; COMMIT", insert("early again"))).await.unwrap();
    // What is rolled back, wholly or to a savepoint, leaves no trace.
    late.batch_execute(&format!("BEGIN; {}; ROLLBACK", insert("never"))).await.unwrap();
    late.batch_execute(&format!("BEGIN; SAVEPOINT s; {}; ROLLBACK TO s; {}; COMMIT", insert("never"), insert("last")))
        .await
        .unwrap();
    let order: Vec<String> = links(&store).await.into_iter().map(|link| link.row.unwrap().entity_id).collect();
    assert_eq!(order, ["late 0", "late 1", "late 2", "early", "early again", "last"]);
    assert_eq!(intact(&store).await.rows, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_at_once_make_one_chain() {
    let (server, store) = migrated().await;
    let mut writers = Vec::new();
    for writer in 0..8 {
        let client = session(&server, "floh").await;
        writers.push(tokio::spawn(async move {
            for n in 0..50 {
                // Alternately one row, and three in a transaction.
                let one = insert(&format!("{writer}/{n}"));
                let sql = if n % 2 == 0 { one } else { format!("BEGIN; {one}; {one}; {one}; COMMIT") };
                client.batch_execute(&sql).await.unwrap();
            }
        }));
    }
    for writer in writers {
        within("a writer", Duration::from_secs(60), writer).await.unwrap();
    }
    assert_eq!(intact(&store).await.rows, 8 * 25 * 4);
}

#[tokio::test]
async fn opposite_lock_orders_do_not_deadlock() {
    let (server, store) = migrated().await;
    let (one, two) = (session(&server, "floh").await, session(&server, "floh").await);
    one.batch_execute(
        "CREATE TABLE public.account (id int PRIMARY KEY, n int); INSERT INTO public.account VALUES (1, 0)",
    )
    .await
    .unwrap();
    // One audits and then wants the row; the other has the row and then audits.
    one.batch_execute(&format!("BEGIN; {}", insert("one"))).await.unwrap();
    two.batch_execute("BEGIN; UPDATE public.account SET n = n + 1").await.unwrap();
    let waiting = one.batch_execute("UPDATE public.account SET n = n + 1; COMMIT");
    let other = async {
        let watcher = server.admin().await;
        eventually("the first waits for the row", Duration::from_secs(10), || async {
            let sql = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
            watcher.query_opt(sql, &[]).await.unwrap()
        })
        .await;
        two.batch_execute(&format!("{}; COMMIT", insert("two"))).await
    };
    let (first, second) = within("both", Duration::from_secs(20), async { tokio::join!(waiting, other) }).await;
    first.unwrap();
    second.unwrap();
    let order: Vec<String> = links(&store).await.into_iter().map(|link| link.row.unwrap().entity_id).collect();
    assert_eq!(order, ["two", "one"]);
}

#[tokio::test]
async fn an_old_snapshot_gets_a_serialisation_failure_and_never_a_fork() {
    let (server, store) = migrated().await;
    let (old, other) = (session(&server, "floh").await, session(&server, "floh").await);
    for (level, rows_before) in [("REPEATABLE READ", 0), ("SERIALIZABLE", 3), ("REPEATABLE READ", 6)] {
        let begin = format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM audit_log");
        // With nobody in between, it is chained.
        old.batch_execute(&format!("{begin}; {}; COMMIT", insert("alone"))).await.unwrap();
        // With somebody in between, it is not.
        old.batch_execute(&format!("{begin}; {}", insert("old"))).await.unwrap();
        other.batch_execute(&insert("between")).await.unwrap();
        let error = old.batch_execute("COMMIT").await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{level}: {error}");
        // Tried again, as such a caller must, it is.
        old.batch_execute(&format!("{begin}; {}; COMMIT", insert("again"))).await.unwrap();
        assert_eq!(intact(&store).await.rows, rows_before + 3);
    }
}

#[tokio::test]
async fn a_role_that_may_only_insert_is_chained_and_can_do_nothing_else() {
    let (server, store) = migrated().await;
    let admin = server.admin().await;
    admin
        .batch_execute(
            "CREATE ROLE api LOGIN; GRANT USAGE ON SCHEMA floh_worker TO api; GRANT INSERT ON floh_worker.audit_log TO api;
            GRANT CREATE ON SCHEMA public TO api",
        )
        .await
        .unwrap();
    let api = server.session("api").await;
    // Its own search_path, and objects of its own that would come first, mean nothing to the trigger.
    api.batch_execute(
        "SET search_path = pg_temp, public; SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY';
        SET bytea_output = 'escape'; SET standard_conforming_strings = off;
        CREATE TEMP TABLE audit_chain (position bigint, audit_id bigint, previous_hash bytea, hash bytea);
        CREATE FUNCTION public.audit_field(text) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea';
        CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea'",
    )
    .await
    .unwrap();
    let row = "INSERT INTO floh_worker.audit_log (entity, entity_id, action) VALUES ('user', 'u1', 'create')";
    api.batch_execute(row).await.unwrap();
    api.batch_execute(&format!("BEGIN; {row}; {row}; COMMIT")).await.unwrap();
    assert_eq!(api.query("SELECT * FROM audit_chain", &[]).await.unwrap().len(), 0);
    assert_eq!(intact(&store).await.rows, 3);
    for forbidden in [
        "SELECT * FROM floh_worker.audit_log",
        "SELECT * FROM floh_worker.audit_chain",
        "INSERT INTO floh_worker.audit_chain VALUES (9, 9, '', '')",
        "UPDATE floh_worker.audit_checkpoint_head SET number = 1",
        "CREATE TABLE public.mine (LIKE pg_class); CREATE TRIGGER t AFTER INSERT ON public.mine FOR EACH ROW
            EXECUTE FUNCTION floh_worker.audit_chain_append()",
    ] {
        let error = api.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{forbidden}: {error}");
    }
}

#[tokio::test]
async fn nothing_is_changed_or_removed_not_even_by_the_owner() {
    let (server, store) = migrated().await;
    let owner = session(&server, "floh").await;
    owner.batch_execute(&insert("kept")).await.unwrap();
    for table in ["audit_log", "audit_chain", "audit_checkpoint", "audit_checkpoint_head"] {
        let column = match table {
            "audit_log" => "action = 'revoke'",
            "audit_chain" => "audit_id = 7",
            "audit_checkpoint" => "key_id = 'x'",
            _ => "number = 7",
        };
        for statement in [
            format!("UPDATE {table} SET {column}"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("TRUNCATE {table} CASCADE"),
        ] {
            let error = owner.batch_execute(&statement).await.unwrap_err();
            assert_eq!(error.code(), Some(&SqlState::RESTRICT_VIOLATION), "{statement}: {error}");
            let message = error.as_db_error().unwrap().message();
            assert!(message.starts_with(&format!("{table} is append-only")), "{message}");
        }
    }
    let upsert =
        "INSERT INTO audit_log (id, entity, entity_id, action) OVERRIDING SYSTEM VALUE VALUES (1, 'a', 'b', 'c')
        ON CONFLICT (id) DO UPDATE SET action = 'c'";
    let error = owner.batch_execute(upsert).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::RESTRICT_VIOLATION), "{error}");
    // A checkpoint that does not continue the last one is refused, too.
    let checkpoint = "INSERT INTO audit_checkpoint VALUES
        (2, 1, 1, 1, sha256(''), 'k', sha256(''), now())";
    let error = owner.batch_execute(checkpoint).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::RESTRICT_VIOLATION), "{error}");
    assert_eq!(intact(&store).await.rows, 1);
}

#[tokio::test]
async fn a_timestamp_that_no_calendar_holds_is_refused() {
    let (server, _store) = migrated().await;
    let client = session(&server, "floh").await;
    for timestamp in ["infinity", "-infinity", "10000-01-01 00:00:00+00", "0001-12-31 00:00:00+00 BC"] {
        let sql = format!(
            "INSERT INTO audit_log (entity, entity_id, action, timestamp) VALUES ('a', 'b', 'c', '{timestamp}')"
        );
        let error = client.batch_execute(&sql).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{timestamp}: {error}");
    }
}

/// Texts with what canonical forms stumble over, but without NUL, which PostgreSQL does not hold.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,12}", "[^\\x00]{0,20}", Just(String::new()), Just("a\u{1}b\\x00 \u{10ffff}ß".to_string())]
}

/// JSON as a caller writes it: PostgreSQL prints it in its own way.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_string()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        (any::<i32>(), 0_u32..400, -20_i32..20).prop_map(|(n, digits, exponent)| format!("{n}.{digits:03}e{exponent}")),
        text().prop_map(|t| serde_json::to_string(&t).unwrap()),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" , "))),
            prop::collection::vec((text(), inner), 0..4).prop_map(|members| {
                let members: Vec<String> =
                    members.iter().map(|(k, v)| format!("{}:{v}", serde_json::to_string(k).unwrap())).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

/// Microseconds between the years 1 and 9999.
fn micros() -> impl Strategy<Value = i64> {
    prop_oneof![-62_135_596_800_000_000_i64..253_402_300_800_000_000, -5_i64..5]
}

#[tokio::test]
async fn both_sides_compute_the_same_hashes_over_random_rows() {
    let (server, store) = migrated().await;
    let client = session(&server, "floh").await;
    let optional = || prop::option::of(text()).boxed();
    let state = || prop::option::of(json()).boxed();
    let row = (
        [text().boxed(), text().boxed(), text().boxed()],
        [optional(), optional(), optional()],
        micros(),
        [state(), state()],
    );
    let mut runner = TestRunner::default();
    let sql = "INSERT INTO audit_log (entity, entity_id, action, actor, actor_id, timestamp, previous_state, new_state,
            ip_address)
        VALUES ($1, $2, $3, $4, $5, '1970-01-01 00:00:00+00'::timestamptz + make_interval(secs => 0)
            + ($6::text || ' microseconds')::interval, $7::text::jsonb, $8::text::jsonb, $9)";
    let statement = client.prepare(sql).await.unwrap();
    for _ in 0..1000 {
        let ([entity, entity_id, action], [actor, actor_id, ip], micros, [before, after]) =
            row.new_tree(&mut runner).unwrap().current();
        client
            .execute(
                &statement,
                &[&entity, &entity_id, &action, &actor, &actor_id, &micros.to_string(), &before, &after, &ip],
            )
            .await
            .unwrap();
    }
    let theirs = client.query("SELECT audit_canonical(l) FROM audit_log l ORDER BY id", &[]).await.unwrap();
    let links = links(&store).await;
    assert_eq!(links.len(), 1000);
    for (link, theirs) in links.iter().zip(theirs) {
        let row = link.row.as_ref().unwrap();
        assert_eq!(hex::encode(canonical(row)), hex::encode(theirs.get::<_, Vec<u8>>(0)), "{row:?}");
        assert_eq!(link.hash, chain_hash(&link.previous_hash, row), "{row:?}");
    }
    assert_eq!(intact(&store).await.rows, 1000);
}

/// The rows of the test vectors in `docs/audit-chain.md`.
fn vectors() -> [AuditRow; 2] {
    let first = AuditRow {
        id: 1,
        entity: "role_assignment".into(),
        entity_id: "7b1c".into(),
        action: "grant".into(),
        actor: Some("Ada Lovelace".into()),
        actor_id: Some("u-1".into()),
        timestamp: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
        previous_state: None,
        new_state: Some("{\"role\": \"admin\", \"until\": null}".into()),
        ip_address: Some("192.0.2.7".into()),
    };
    let second = AuditRow {
        id: 3,
        entity: "user".into(),
        entity_id: String::new(),
        action: "löschen".into(),
        actor: None,
        actor_id: Some(String::new()),
        timestamp: "1969-12-31T23:59:59.999999Z".parse().unwrap(),
        previous_state: Some("null".into()),
        new_state: None,
        ip_address: None,
    };
    [first, second]
}

#[tokio::test]
async fn the_documented_test_vectors_hold_on_both_sides() {
    let (server, store) = migrated().await;
    let client = session(&server, "floh").await;
    let document = include_str!("../../docs/audit-chain.md");
    // The statements of the document itself.
    for statement in document.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        if statement.starts_with("INSERT INTO audit_log") {
            client.batch_execute(statement).await.unwrap();
        }
    }
    let links = links(&store).await;
    assert_eq!(links.len(), 2);
    let mut previous = vec![0; 32];
    for (link, expected) in links.iter().zip(vectors()) {
        assert_eq!(link.row.as_ref().unwrap(), &expected);
        let bytes = hex::encode(canonical(&expected));
        assert!(document.replace(['\n', ' '], "").contains(&bytes), "the document lacks {bytes}");
        let hash = chain_hash(&previous, &expected);
        assert!(document.contains(&hex::encode(hash)), "the document lacks {}", hex::encode(hash));
        assert_eq!(link.hash, hash);
        previous = hash.to_vec();
    }
}
