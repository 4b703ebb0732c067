//! Roles and who has them: the rows of `role` and `role_assignment`.

use super::{Client, Store, StoreError};
use chrono::{DateTime, Utc};
use uuid::Uuid;

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The id, an API server's own or a UUID.
    pub id: String,
    /// The name, unique.
    pub name: String,
}

/// The visit of a step that does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doer {
    /// The run.
    pub run: Uuid,
    /// The step's id in the definition.
    pub step: String,
    /// The visit.
    pub visit: i32,
}

/// A role for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The id of the assignment, if it is a new one.
    pub id: Uuid,
    /// The person.
    pub user_id: String,
    /// The role.
    pub role_id: String,
    /// When.
    pub at: DateTime<Utc>,
    /// Until when; without it until it is revoked.
    pub expires_at: Option<DateTime<Utc>>,
    /// Why.
    pub reason: Option<String>,
    /// By whom.
    pub by: Doer,
}

/// What came of a [`Grant`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Granted {
    /// The person did not have the role.
    New {
        /// The assignment whose time was over, without anybody having ended it so far.
        expired: Option<Uuid>,
    },
    /// The person had it, and keeps it longer.
    Extended {
        /// The assignment.
        id: Uuid,
        /// Until when it was.
        from: Option<DateTime<Utc>>,
    },
    /// The person has it already, for as long or longer.
    Kept,
}

impl Store {
    /// The role of this id or, if none has it, of this name.
    pub async fn role_named(&self, named: &str) -> Result<Option<Role>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT id, name FROM role WHERE id = $1 OR name = $1 ORDER BY (id = $1) DESC LIMIT 1";
        let Some(row) = client.query_opt(sql, &[&named]).await? else { return Ok(None) };
        Ok(Some(Role { id: row.try_get("id")?, name: row.try_get("name")? }))
    }

    /// Whether a person has a role now.
    pub async fn has_role(&self, user_id: &str, role_id: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT EXISTS (SELECT FROM role_assignment
            WHERE user_id = $1 AND role_id = $2 AND status = 'active')";
        Ok(client.query_one(sql, &[&user_id, &role_id]).await?.try_get(0)?)
    }
}

/// The types of documents that a role requires and a person does not have, approved and valid.
pub async fn missing_documents(client: &Client, role_id: &str, user_id: &str) -> Result<Vec<String>, StoreError> {
    let rows = client.query("SELECT missing_documents($1, $2)", &[&role_id, &user_id]).await?;
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

/// Gives a person a role. Who has it already keeps it, for the longer of the two times; the longest is without an end.
pub async fn grant(client: &Client, grant: &Grant) -> Result<Granted, StoreError> {
    let mut expired = None;
    // Somebody else's grant may come between the look and the insert: then there is one to look at.
    for _ in 0..4 {
        let sql = "SELECT id, expires_at FROM role_assignment
            WHERE user_id = $1 AND role_id = $2 AND status = 'active' FOR UPDATE";
        if let Some(row) = client.query_opt(sql, &[&grant.user_id, &grant.role_id]).await? {
            let (id, until): (Uuid, Option<DateTime<Utc>>) = (row.try_get("id")?, row.try_get("expires_at")?);
            if until.is_some_and(|until| until <= grant.at) {
                let sql = "UPDATE role_assignment SET status = 'expired', ended_at = expires_at, end_reason = 'expired'
                    WHERE id = $1";
                client.execute(sql, &[&id]).await?;
                expired = Some(id);
            } else if until.is_some_and(|until| grant.expires_at.is_none_or(|wanted| wanted > until)) {
                let sql = "UPDATE role_assignment SET expires_at = $2 WHERE id = $1";
                client.execute(sql, &[&id, &grant.expires_at]).await?;
                return Ok(Granted::Extended { id, from: until });
            } else {
                return Ok(Granted::Kept);
            }
        }
        let sql = "INSERT INTO role_assignment
                (id, user_id, role_id, granted_at, expires_at, reason, run_id, step_id, visit)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
            ON CONFLICT (user_id, role_id) WHERE status = 'active' DO NOTHING";
        let by = &grant.by;
        let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
            &grant.id,
            &grant.user_id,
            &grant.role_id,
            &grant.at,
            &grant.expires_at,
            &grant.reason,
            &by.run,
            &by.step,
            &by.visit,
        ];
        if client.execute(sql, values).await? > 0 {
            return Ok(Granted::New { expired });
        }
    }
    Err(StoreError::Query {
        code: "40001".into(),
        message: format!(
            "the role {} of {} is granted and revoked by others all the time",
            grant.role_id, grant.user_id
        ),
        transient: true,
    })
}

/// Takes a role from a person. Returns the assignment that was active and its expiry; none if there was none.
pub async fn revoke(
    client: &Client,
    user_id: &str,
    role_id: &str,
    at: DateTime<Utc>,
    reason: Option<&str>,
    by: &Doer,
) -> Result<Option<(Uuid, Option<DateTime<Utc>>)>, StoreError> {
    let sql = "UPDATE role_assignment SET status = 'revoked', ended_at = $3, end_reason = $4, ended_run_id = $5,
            ended_step_id = $6, ended_visit = $7
        WHERE user_id = $1 AND role_id = $2 AND status = 'active' RETURNING id, expires_at";
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&user_id, &role_id, &at, &reason, &by.run, &by.step, &by.visit];
    let Some(row) = client.query_opt(sql, values).await? else { return Ok(None) };
    Ok(Some((row.try_get("id")?, row.try_get("expires_at")?)))
}
