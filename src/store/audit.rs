//! The audit log, its hash chain and its checkpoints, read in pages whose rows are handed on one by one: memory does not
//! grow with the log.

use super::{Client, FencedTransaction, Store, StoreError};
use chrono::{DateTime, Utc};
use std::ops::{ControlFlow, Deref};
use tokio_postgres::Row;

/// A page also ends when its states take this many bytes on the server's disk. They may be a hundred times as many
/// when they are unpacked, and a reader who needs long for a page would meet the statement timeout.
const PAGE_BYTES: i64 = 256 * 1024;

/// A row of the audit log. The states are the text that PostgreSQL prints for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number, in order of insertion, with gaps.
    pub id: i64,
    /// What kind of thing was acted on.
    pub entity: String,
    /// Which one.
    pub entity_id: String,
    /// What was done.
    pub action: String,
    /// Who did it, for people.
    pub actor: Option<String>,
    /// Who did it, for programs.
    pub actor_id: Option<String>,
    /// When, to the microsecond.
    pub timestamp: DateTime<Utc>,
    /// Before.
    pub previous_state: Option<String>,
    /// After.
    pub new_state: Option<String>,
    /// From where.
    pub ip_address: Option<String>,
}

/// A row of the chain, with the audit row that it points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainLink {
    /// Its place, from 1 without gaps.
    pub position: i64,
    /// Which audit row was chained.
    pub audit_id: i64,
    /// The hash of the position before, 32 zero bytes at the first.
    pub previous_hash: Vec<u8>,
    /// The SHA-256 over the previous hash and the audit row.
    pub hash: Vec<u8>,
    /// Absent if somebody removed it.
    pub row: Option<AuditRow>,
}

/// A signed statement about a range of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its number, from 1 without gaps.
    pub number: i64,
    /// First position, the one after the last of the checkpoint before.
    pub from_position: i64,
    /// Last position.
    pub to_position: i64,
    /// How many positions these are.
    pub row_count: i64,
    /// The hash at the last position.
    pub head_hash: Vec<u8>,
    /// Which key signed it.
    pub key_id: String,
    /// HMAC-SHA256.
    pub signature: Vec<u8>,
    /// When, to the microsecond.
    pub created_at: DateTime<Utc>,
}

/// What the database remembers of the last checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointHead {
    /// Its number; 0 if there is none.
    pub number: i64,
    /// Its last position; 0 if there is none.
    pub to_position: i64,
}

/// A read-only look at all audit tables as they were at one moment. Its session is closed on drop.
pub struct AuditSnapshot {
    client: Client,
}

impl Store {
    /// Opens a snapshot. Each read must follow the last within 10 s.
    pub async fn audit_snapshot(&self) -> Result<AuditSnapshot, StoreError> {
        let snapshot = AuditSnapshot { client: self.client().await? };
        snapshot.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(snapshot)
    }
}

impl Deref for AuditSnapshot {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for AuditSnapshot {
    fn drop(&mut self) {
        self.client.discard();
    }
}

/// A page of at most 1,000 rows. Each inner LIMIT keeps the planner, which does not know the parameters, from joining or
/// sorting whole tables for it: a page costs the same wherever in the chain it is.
const LINKS: &str = "
    SELECT position, audit_id, previous_hash, hash, id, entity, entity_id, action, actor, actor_id, timestamp,
        previous_state::text AS previous_state, new_state::text AS new_state, ip_address
    FROM (
        SELECT c.*, l.*, sum(coalesce(pg_column_size(l.previous_state), 0) + coalesce(pg_column_size(l.new_state), 0))
            OVER (ORDER BY c.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
        FROM (SELECT * FROM audit_chain WHERE position > $1 ORDER BY position LIMIT 1000) c
            LEFT JOIN LATERAL (SELECT * FROM audit_log WHERE id = c.audit_id LIMIT 1) l ON true
    ) page
    WHERE position <= $2 AND coalesce(bytes_before, 0) < $3
    ORDER BY position";

/// Hands the next page of the chain, behind `after` and up to and with `up_to`, to `take`, which may end it early.
/// Returns the last position that was handed on; `None` if there was none.
pub async fn chain_page(
    client: &Client,
    after: i64,
    up_to: i64,
    mut take: impl FnMut(&ChainLink) -> ControlFlow<()>,
) -> Result<Option<i64>, StoreError> {
    let mut last = None;
    client
        .for_each(LINKS, &[&after, &up_to, &PAGE_BYTES], |row| {
            let link = link(row)?;
            last = Some(link.position);
            Ok(take(&link))
        })
        .await?;
    Ok(last)
}

fn link(row: &Row) -> Result<ChainLink, StoreError> {
    let audit_row = match row.try_get("id")? {
        None => None,
        Some(id) => Some(AuditRow {
            id,
            entity: row.try_get("entity")?,
            entity_id: row.try_get("entity_id")?,
            action: row.try_get("action")?,
            actor: row.try_get("actor")?,
            actor_id: row.try_get("actor_id")?,
            timestamp: row.try_get("timestamp")?,
            previous_state: row.try_get("previous_state")?,
            new_state: row.try_get("new_state")?,
            ip_address: row.try_get("ip_address")?,
        }),
    };
    Ok(ChainLink {
        position: row.try_get("position")?,
        audit_id: row.try_get("audit_id")?,
        previous_hash: row.try_get("previous_hash")?,
        hash: row.try_get("hash")?,
        row: audit_row,
    })
}

/// The last position of the chain, 0 if it is empty.
pub async fn chain_end(client: &Client) -> Result<i64, StoreError> {
    Ok(client.query_one("SELECT coalesce(max(position), 0) FROM audit_chain", &[]).await?.try_get(0)?)
}

/// The hash at a position, if the position exists.
pub async fn chain_hash_at(client: &Client, position: i64) -> Result<Option<Vec<u8>>, StoreError> {
    let row = client.query_opt("SELECT hash FROM audit_chain WHERE position = $1", &[&position]).await?;
    row.map(|row| row.try_get(0)).transpose().map_err(StoreError::from)
}

/// Position and audit row of what follows a hash, wherever it stands.
pub async fn chain_follower(client: &Client, hash: &[u8]) -> Result<Option<(i64, i64)>, StoreError> {
    let sql = "SELECT position, audit_id FROM audit_chain WHERE previous_hash = $1";
    match client.query_opt(sql, &[&hash]).await? {
        Some(row) => Ok(Some((row.try_get(0)?, row.try_get(1)?))),
        None => Ok(None),
    }
}

/// Looks through the next page of the log, behind the id `after`, for a row that is not in the chain. Returns the last
/// id of the page (`None` behind the end) and the first such row.
pub async fn unchained_page(client: &Client, after: i64) -> Result<(Option<i64>, Option<i64>), StoreError> {
    let sql = "
        SELECT max(id) AS last, min(id) FILTER (WHERE NOT chained) AS unchained
        FROM (SELECT l.id, c.audit_id IS NOT NULL AS chained
            FROM (SELECT id FROM audit_log WHERE id > $1 ORDER BY id LIMIT 10000) l
                LEFT JOIN LATERAL (SELECT audit_id FROM audit_chain WHERE audit_id = l.id LIMIT 1) c ON true) page";
    let row = client.query_one(sql, &[&after]).await?;
    Ok((row.try_get("last")?, row.try_get("unchained")?))
}

/// Checkpoints, each with the chain's hash at its last position.
const CHECKPOINTS: &str = "
    SELECT p.number, p.from_position, p.to_position, p.row_count, p.head_hash, p.key_id, p.signature, p.created_at,
        c.hash AS chain_hash
    FROM audit_checkpoint p LEFT JOIN audit_chain c ON c.position = p.to_position";

/// The next page of checkpoints behind a number, each with the chain's hash at its last position.
pub async fn checkpoint_page(
    client: &Client,
    after: i64,
    limit: i64,
) -> Result<Vec<(Checkpoint, Option<Vec<u8>>)>, StoreError> {
    let sql = format!("{CHECKPOINTS} WHERE p.number > $1 ORDER BY p.number LIMIT $2");
    let rows = client.query(&sql, &[&after, &limit]).await?;
    rows.iter().map(|row| Ok((checkpoint(row)?, row.try_get("chain_hash")?))).collect()
}

/// The checkpoint with the greatest number, with the chain's hash at its last position.
pub async fn last_checkpoint(client: &Client) -> Result<Option<(Checkpoint, Option<Vec<u8>>)>, StoreError> {
    let sql = format!("{CHECKPOINTS} ORDER BY p.number DESC LIMIT 1");
    let row = client.query_opt(&sql, &[]).await?;
    row.map(|row| Ok((checkpoint(&row)?, row.try_get("chain_hash")?))).transpose()
}

fn checkpoint(row: &Row) -> Result<Checkpoint, StoreError> {
    Ok(Checkpoint {
        number: row.try_get("number")?,
        from_position: row.try_get("from_position")?,
        to_position: row.try_get("to_position")?,
        row_count: row.try_get("row_count")?,
        head_hash: row.try_get("head_hash")?,
        key_id: row.try_get("key_id")?,
        signature: row.try_get("signature")?,
        created_at: row.try_get("created_at")?,
    })
}

/// What the database remembers of the last checkpoint; `None` if somebody removed that row.
pub async fn checkpoint_head(client: &Client) -> Result<Option<CheckpointHead>, StoreError> {
    head(client, "SELECT number, to_position FROM audit_checkpoint_head").await
}

/// The same for the transaction that makes the next checkpoint: until it has ended, another one waits here. Also the
/// database's time.
pub async fn lock_checkpoint_head(
    transaction: &FencedTransaction,
) -> Result<(Option<CheckpointHead>, DateTime<Utc>), StoreError> {
    let found = head(transaction, "SELECT number, to_position FROM audit_checkpoint_head FOR UPDATE").await?;
    Ok((found, transaction.now().await?))
}

async fn head(client: &Client, sql: &str) -> Result<Option<CheckpointHead>, StoreError> {
    match client.query_opt(sql, &[]).await? {
        Some(row) => Ok(Some(CheckpointHead { number: row.try_get(0)?, to_position: row.try_get(1)? })),
        None => Ok(None),
    }
}

/// Adds a checkpoint. The database refuses one that does not continue the last.
pub async fn insert_checkpoint(transaction: &FencedTransaction, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let sql = "INSERT INTO audit_checkpoint
            (number, from_position, to_position, row_count, head_hash, key_id, signature, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    transaction
        .execute(
            sql,
            &[
                &checkpoint.number,
                &checkpoint.from_position,
                &checkpoint.to_position,
                &checkpoint.row_count,
                &checkpoint.head_hash,
                &checkpoint.key_id,
                &checkpoint.signature,
                &checkpoint.created_at,
            ],
        )
        .await?;
    Ok(())
}
