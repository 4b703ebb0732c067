//! The table of connectors.

use super::{Client, StoreError};
use serde_json::{Map, Value};
use uuid::Uuid;

/// A connector as an administrator has set it up. It has no `Debug`: its configuration may hold secrets that nobody sealed.
#[derive(Clone, PartialEq)]
pub struct ConnectorRow {
    /// What definitions may name it by.
    pub id: Uuid,
    /// What people name it by, and definitions may.
    pub name: String,
    /// `http` or `delay`.
    pub kind: String,
    /// What the type asks for, with secrets sealed.
    pub config: Map<String, Value>,
    /// Whether answers come from `mocks`.
    pub mock_enabled: bool,
    /// Answers by command.
    pub mocks: Map<String, Value>,
    /// A connector that is not enabled calls nothing.
    pub enabled: bool,
}

/// What [`import`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// There was none of this name.
    Added,
    /// The one of this name is as given now.
    Changed,
}

const COLUMNS: &str = "id, name, type, connector_config, mock_enabled, mocks, enabled";

/// The connector of this id, or else of this name. One whose name is another one's id does not hide that one.
///
/// # Errors
/// As every statement.
pub async fn find(client: &Client, id_or_name: &str) -> Result<Option<ConnectorRow>, StoreError> {
    let id = Uuid::parse_str(id_or_name).ok();
    let sql = format!(
        "SELECT {COLUMNS} FROM connector_definition WHERE id = $1 OR name = $2 ORDER BY id = $1 DESC NULLS LAST LIMIT 1"
    );
    client.query_opt(&sql, &[&id, &id_or_name]).await?.as_ref().map(read).transpose()
}

/// All of them, by name.
///
/// # Errors
/// As every statement.
pub async fn list(client: &Client) -> Result<Vec<ConnectorRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM connector_definition ORDER BY name");
    client.query(&sql, &[]).await?.iter().map(read).collect()
}

/// Adds a connector, or changes the one of its name, whose id stays.
///
/// # Errors
/// As every statement.
pub async fn import(client: &Client, row: &ConnectorRow) -> Result<Imported, StoreError> {
    let sql = "INSERT INTO connector_definition AS c (id, name, type, connector_config, mock_enabled, mocks, enabled)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (name) DO UPDATE SET type = excluded.type, connector_config = excluded.connector_config,
            mock_enabled = excluded.mock_enabled, mocks = excluded.mocks, enabled = excluded.enabled
        RETURNING c.id = $1";
    let (config, mocks) = (Value::Object(row.config.clone()), Value::Object(row.mocks.clone()));
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
        [&row.id, &row.name, &row.kind, &config, &row.mock_enabled, &mocks, &row.enabled];
    let added: bool = client.query_one(sql, &values).await?.try_get(0)?;
    Ok(if added { Imported::Added } else { Imported::Changed })
}

/// Replaces a connector's configuration, if it still is what was read.
///
/// # Errors
/// As every statement.
pub async fn replace_config(
    client: &Client,
    row: &ConnectorRow,
    config: &Map<String, Value>,
) -> Result<bool, StoreError> {
    let (old, new) = (Value::Object(row.config.clone()), Value::Object(config.clone()));
    let sql = "UPDATE connector_definition SET connector_config = $3
        WHERE id = $1 AND name = $4 AND connector_config = $2";
    Ok(client.execute(sql, &[&row.id, &old, &new, &row.name]).await? == 1)
}

fn read(row: &tokio_postgres::Row) -> Result<ConnectorRow, StoreError> {
    let object = |name: &str| -> Result<Map<String, Value>, StoreError> {
        match row.try_get(name)? {
            Value::Object(members) => Ok(members),
            // A constraint of the table forbids it.
            _ => Ok(Map::new()),
        }
    };
    Ok(ConnectorRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        kind: row.try_get("type")?,
        config: object("connector_config")?,
        mock_enabled: row.try_get("mock_enabled")?,
        mocks: object("mocks")?,
        enabled: row.try_get("enabled")?,
    })
}
