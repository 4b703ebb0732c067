//! Documents that people handed in: the rows of `document`.

use super::{Client, StoreError};
use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

/// A document that was handed in.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its id.
    pub id: Uuid,
    /// Whose it is: the id, if they have one.
    pub user_id: Option<String>,
    /// Their address.
    pub email: Option<String>,
    /// What kind of document it is.
    pub kind: String,
    /// Where it is.
    pub reference: String,
    /// What else was said of it.
    pub metadata: Value,
    /// When it was handed in.
    pub submitted_at: DateTime<Utc>,
    /// The run that asked for it.
    pub run: Uuid,
    /// The step.
    pub step: String,
    /// The visit.
    pub visit: i32,
}

/// What a reviewer said, or, where there is none, that nobody has to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The document.
    pub document: Uuid,
    /// Whether it is as it should be.
    pub approved: bool,
    /// Who said so.
    pub by: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
    /// Why, or what was said with it.
    pub reason: Option<String>,
    /// Until when an approved one is valid; for ever without it.
    pub valid_until: Option<DateTime<Utc>>,
}

/// Adds a document, as submitted.
pub async fn submit(client: &Client, document: &Document) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO document (id, user_id, email, type, reference, metadata, submitted_at, run_id, step_id, visit)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &document.id,
        &document.user_id,
        &document.email,
        &document.kind,
        &document.reference,
        &document.metadata,
        &document.submitted_at,
        &document.run,
        &document.step,
        &document.visit,
    ];
    client.execute(sql, values).await.map(drop)
}

/// Writes a verdict on a submitted document. Returns its type and owner; none if there is nothing submitted of this id.
pub async fn decide(client: &Client, verdict: &Verdict) -> Result<Option<(String, Option<String>)>, StoreError> {
    let sql =
        "UPDATE document SET status = $2, reviewed_by = $3, reviewed_at = $4, review_reason = $5, valid_until = $6
        WHERE id = $1 AND status = 'submitted' RETURNING type, user_id";
    let status = if verdict.approved { "approved" } else { "rejected" };
    let valid_until = verdict.valid_until.filter(|_| verdict.approved);
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&verdict.document, &status, &verdict.by, &verdict.at, &verdict.reason, &valid_until];
    let Some(row) = client.query_opt(sql, values).await? else { return Ok(None) };
    Ok(Some((row.try_get("type")?, row.try_get("user_id")?)))
}
