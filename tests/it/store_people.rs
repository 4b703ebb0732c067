//! The tables of people, roles and documents, and whom a name leads to.

use crate::{store_ledger::migrated, support::PostgresServer};
use floh_worker::{engine::people, store::Store};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// Ada, whose manager is Max, and Dora, who is disabled; the roles `vpn` and `payroll`, which requires an `nda`.
pub const PEOPLE: &str = "SET search_path = floh_worker;
    INSERT INTO app_user (id, email, display_name, status, manager_id, attributes) VALUES
        ('u-max', 'max@example.org', 'Max', 'active', NULL, '{}'),
        ('u-ada', 'Ada@Example.org', 'Ada', 'active', 'u-max', '{\"department\": \"IT\"}'),
        ('u-dora', 'dora@example.org', 'Dora', 'disabled', NULL, '{}');
    INSERT INTO role (id, name) VALUES ('r-vpn', 'vpn'), ('r-pay', 'payroll');
    INSERT INTO role_required_document VALUES ('r-pay', 'nda')";

/// A server with our tables and those people in it, and a session of the API server's kind.
pub async fn peopled() -> (PostgresServer, Store, Client) {
    let (server, store) = migrated().await;
    let owner = server.session("floh").await;
    owner.batch_execute(PEOPLE).await.unwrap();
    (server, store, owner)
}

/// The SQLSTATE of a statement that is refused.
pub async fn refused(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error.code().map(|code| code.code().to_string()).unwrap_or_default()
}

#[tokio::test]
async fn a_person_is_found_by_id_address_or_object_and_read_anew() {
    let (_server, store, _owner) = peopled().await;
    let max = json!({"id": "u-max", "email": "max@example.org", "displayName": "Max", "status": "active"});
    let ada = json!({"id": "u-ada", "email": "Ada@Example.org", "displayName": "Ada", "status": "active",
        "department": "IT", "manager": max});
    for named in [
        json!("u-ada"),
        json!(" ADA@example.ORG "),
        json!({"id": "u-ada", "email": "old@example.org", "department": "before"}),
        json!({"email": "ada@example.org"}),
        json!({"id": null, "email": "ada@example.org", "displayName": "somebody"}),
    ] {
        assert_eq!(people::snapshot(&store, &named).await.unwrap(), Ok(ada.clone()), "{named}");
    }
    let dora = people::snapshot(&store, &json!("u-dora")).await.unwrap().unwrap();
    assert_eq!((&dora["status"], &dora["manager"]), (&json!("disabled"), &Value::Null));
}

#[tokio::test]
async fn an_unknown_address_is_somebody_outside_and_an_unknown_id_is_nobody() {
    let (_server, store, _owner) = peopled().await;
    let outside = people::snapshot(&store, &json!("eve@elsewhere.org")).await.unwrap().unwrap();
    let expected = json!({"id": null, "email": "eve@elsewhere.org", "displayName": "eve@elsewhere.org",
        "status": null, "manager": null});
    assert_eq!(outside, expected);
    let given = json!({"email": "eve@elsewhere.org", "displayName": "Eve", "since": "2020-01-01"});
    let outside = people::snapshot(&store, &given).await.unwrap().unwrap();
    assert_eq!((&outside["displayName"], &outside["since"]), (&json!("Eve"), &json!("2020-01-01")));
    for (named, words) in [
        (json!("u-nobody"), "there is no person `u-nobody`"),
        (json!(""), "there is no person ``"),
        (json!("a\u{0}@b"), "U+0000"),
        (json!({"id": "u-nobody", "email": "ada@example.org"}), "there is no person with the id \"u-nobody\""),
        (json!({"id": 7}), "there is no person with the id 7"),
        (json!({"email": "nowhere"}), "`nowhere` is no address"),
        (json!({"name": "Ada"}), "names nobody"),
        (json!(null), "here is null"),
        (json!(["u-ada"]), "here is a list"),
    ] {
        let why = people::snapshot(&store, &named).await.unwrap().unwrap_err();
        assert!(why.contains(words), "{named}: {why}");
    }
    let why = people::known(&store, &json!("eve@elsewhere.org")).await.unwrap().unwrap_err();
    assert!(why.contains("`eve@elsewhere.org` is nobody's address"), "{why}");
    assert_eq!(people::known(&store, &json!("u-dora")).await.unwrap().unwrap().status, "disabled");
    let why = people::asked(&store, &json!("u-dora")).await.unwrap().unwrap_err();
    assert!(why.contains("Dora (dora@example.org) is disabled"), "{why}");
    assert_eq!(people::asked(&store, &json!("eve@elsewhere.org")).await.unwrap().unwrap().id, None);
}

/// An id may look like somebody else's address.
#[tokio::test]
async fn an_id_comes_before_an_address() {
    let (_server, store, owner) = peopled().await;
    let sql = "INSERT INTO app_user (id, email, display_name) VALUES ('max@example.org', 'other@example.org', 'Other')";
    owner.batch_execute(sql).await.unwrap();
    let found = people::snapshot(&store, &json!("max@example.org")).await.unwrap().unwrap();
    assert_eq!(found["displayName"], "Other");
}

#[tokio::test]
async fn the_tables_refuse_what_makes_no_sense() {
    let (_server, _store, owner) = peopled().await;
    let grant = "INSERT INTO role_assignment (user_id, role_id) VALUES ('u-ada', 'r-vpn')";
    owner.batch_execute(grant).await.unwrap();
    for (sql, code) in [
        ("INSERT INTO app_user (email, display_name) VALUES ('ADA@example.org', 'x')", "23505"),
        ("INSERT INTO app_user (email, display_name) VALUES ('no address', 'x')", "23514"),
        ("UPDATE app_user SET manager_id = 'u-ada' WHERE id = 'u-ada'", "23514"),
        ("INSERT INTO role (name) VALUES ('vpn')", "23505"),
        (grant, "23505"),
        ("DELETE FROM app_user WHERE id = 'u-ada'", "23503"),
        ("DELETE FROM role WHERE id = 'r-vpn'", "23503"),
        (
            "INSERT INTO role_assignment (user_id, role_id, expires_at) VALUES ('u-max', 'r-vpn', now() - interval '1 s')",
            "23514",
        ),
        ("INSERT INTO document (type, reference) VALUES ('nda', 's3://x')", "23514"),
        (
            "INSERT INTO document (user_id, type, reference, status) VALUES ('u-ada', 'nda', 's3://x', 'rejected')",
            "23514",
        ),
    ] {
        assert_eq!(refused(&owner, sql).await, code, "{sql}");
    }
    // A grant ends once, and its end has a time.
    owner.batch_execute("UPDATE role_assignment SET status = 'revoked'").await.unwrap();
    let row = owner.query_one("SELECT ended_at IS NOT NULL FROM role_assignment", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0));
    assert_eq!(refused(&owner, "UPDATE role_assignment SET status = 'active', ended_at = NULL").await, "55000");
    owner.batch_execute(grant).await.unwrap();
}

#[tokio::test]
async fn a_role_misses_the_documents_that_are_not_approved_and_valid() {
    let (_server, _store, owner) = peopled().await;
    let missing = || async {
        let rows = owner.query("SELECT missing_documents('r-pay', 'u-ada')", &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    assert_eq!(missing().await, ["nda"]);
    owner
        .batch_execute("INSERT INTO document (user_id, type, reference) VALUES ('u-ada', 'nda', 's3://x')")
        .await
        .unwrap();
    assert_eq!(missing().await, ["nda"], "a document that nobody has approved");
    owner.batch_execute("UPDATE document SET status = 'approved'").await.unwrap();
    assert!(missing().await.is_empty());
    owner.batch_execute("UPDATE document SET valid_until = now() - interval '1 s'").await.unwrap();
    assert_eq!(missing().await, ["nda"], "a document that has expired");
}

/// Later work looks for what has expired: not by reading whole tables.
#[tokio::test]
async fn what_expires_is_found_by_an_index() {
    let (_server, _store, owner) = peopled().await;
    let many = "INSERT INTO app_user (id, email, display_name) SELECT n, n || '@example.org', n FROM generate_series(1, 2000) n;
        INSERT INTO role_assignment (user_id, role_id, expires_at)
            SELECT n, 'r-vpn', now() + interval '1 day' FROM generate_series(1, 2000) n;
        INSERT INTO document (user_id, type, reference, status, valid_until)
            SELECT n, 'nda', 's3://x', 'approved', now() + interval '1 day' FROM generate_series(1, 2000) n;
        ANALYZE";
    owner.batch_execute(many).await.unwrap();
    for (sql, index) in [
        ("SELECT id FROM role_assignment WHERE status = 'active' AND expires_at < now()", "role_assignment_expires_at"),
        ("SELECT id FROM document WHERE status = 'approved' AND valid_until < now()", "document_valid_until"),
        ("SELECT id FROM app_user WHERE lower(email) = lower('x@y')", "app_user_email"),
    ] {
        let plan = owner.query(&format!("EXPLAIN {sql}"), &[]).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        assert!(plan.concat().contains(index), "{sql}: {plan:?}");
    }
}
