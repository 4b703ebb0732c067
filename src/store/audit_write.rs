//! One audit row, written in the transaction of what it tells of.

use super::{Client, StoreError};
use serde_json::Value;
use uuid::Uuid;

/// Who did it, where a step of a run has: the run is the `actor_id`.
pub const ACTOR: &str = "floh-worker";

/// What a step of a run has done to somebody.
#[derive(Debug, Clone)]
pub struct Audited<'a> {
    /// What kind of thing was acted on.
    pub entity: &'a str,
    /// Which one.
    pub entity_id: &'a str,
    /// What was done, such as `role.granted`.
    pub action: &'a str,
    /// The run.
    pub run: Uuid,
    /// Before, if there was something.
    pub previous: Option<Value>,
    /// After.
    pub new: Option<Value>,
}

/// Writes the row. The database chains it at commit.
pub async fn write(client: &Client, what: &Audited<'_>) -> Result<(), StoreError> {
    let sql = "INSERT INTO audit_log (entity, entity_id, action, actor, actor_id, previous_state, new_state)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let run = what.run.to_string();
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&what.entity, &what.entity_id, &what.action, &ACTOR, &run, &what.previous, &what.new];
    client.execute(sql, values).await.map(drop)
}
