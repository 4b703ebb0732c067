//! Workflow definitions as they are stored: one row per version.

use super::{Store, StoreError};
use serde_json::Value;
use uuid::Uuid;

/// One version of a definition.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDefinition {
    /// Its name.
    pub name: String,
    /// Its version, from 1.
    pub version: i32,
    /// Whether it may still change.
    pub is_draft: bool,
    /// Its JSON.
    pub document: Value,
}

impl Store {
    /// The version with this id, if there is one.
    pub async fn definition(&self, id: Uuid) -> Result<Option<StoredDefinition>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT name, version, status, definition FROM workflow_definition WHERE id = $1";
        let Some(row) = client.query_opt(sql, &[&id]).await? else { return Ok(None) };
        Ok(Some(StoredDefinition {
            name: row.try_get("name")?,
            version: row.try_get("version")?,
            is_draft: row.try_get::<_, &str>("status")? == "draft",
            document: row.try_get("definition")?,
        }))
    }
}
