//! What people do with schedules.

use super::{COLUMNS, Schedule, WIDTH};
use crate::store::{Store, StoreError};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// A schedule to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSchedule {
    /// Its name.
    pub name: String,
    /// Name of the definition.
    pub definition: String,
    /// When, as a cron expression.
    pub cron: String,
    /// The zone of its wall clock.
    pub zone: String,
    /// What each run starts with: an object.
    pub variables: Value,
    /// Who starts the runs.
    pub submitter_id: Option<String>,
    /// Connectors are not called.
    pub use_mocks: bool,
    /// Whether it starts runs.
    pub enabled: bool,
    /// `skip`, `one`, `all`.
    pub catch_up: String,
    /// Of `all`, at most as many.
    pub catch_up_limit: u16,
    /// `allow`, `skip`, `queue`.
    pub overlap: String,
    /// The queue of its jobs.
    pub queue: String,
}

/// A schedule in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The schedule.
    pub schedule: Schedule,
    /// Whether its definition has an active version.
    pub has_active_version: bool,
    /// Its runs that wait for their turn.
    pub held: i64,
    /// The last tick that was fired.
    pub last: Option<LastTick>,
}

/// What came of a schedule's last tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastTick {
    /// When it was due.
    pub due_at: DateTime<Utc>,
    /// `started`, `held`, `skipped`.
    pub outcome: String,
}

impl Store {
    /// Makes a schedule; false if there is one of this name.
    pub async fn add_schedule(&self, new: &NewSchedule) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql =
            "INSERT INTO workflow_schedule (name, definition, cron, zone, variables, submitter_id, use_mocks, enabled,
                catch_up, catch_up_limit, overlap, queue)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (name) DO NOTHING";
        let limit = i32::from(new.catch_up_limit);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 12] = [
            &new.name,
            &new.definition,
            &new.cron,
            &new.zone,
            &new.variables,
            &new.submitter_id,
            &new.use_mocks,
            &new.enabled,
            &new.catch_up,
            &limit,
            &new.overlap,
            &new.queue,
        ];
        Ok(client.execute(sql, &params).await? == 1)
    }

    /// All schedules by name, or the one of this name.
    pub async fn list_schedules(&self, name: Option<&str>) -> Result<Vec<Listed>, StoreError> {
        let client = self.client().await?;
        let sql = format!(
            "SELECT {COLUMNS},
                EXISTS (SELECT FROM workflow_definition d WHERE d.name = s.definition AND d.status = 'active'),
                (SELECT count(*) FROM workflow_run r WHERE r.schedule_id = s.id AND r.held_back
                    AND r.status IN ('pending', 'running', 'waiting')),
                t.due_at, t.outcome
            FROM workflow_schedule s LEFT JOIN LATERAL (SELECT t.due_at, t.outcome FROM schedule_tick t
                WHERE t.schedule_id = s.id ORDER BY t.due_at DESC LIMIT 1) t ON true
            WHERE s.name = coalesce($1, s.name) ORDER BY s.name"
        );
        let mut listed = Vec::new();
        for row in client.query(&sql, &[&name]).await? {
            let due_at: Option<DateTime<Utc>> = row.try_get(WIDTH + 2)?;
            let outcome: Option<String> = row.try_get(WIDTH + 3)?;
            listed.push(Listed {
                schedule: Schedule::read(&row)?,
                has_active_version: row.try_get(WIDTH)?,
                held: row.try_get(WIDTH + 1)?,
                last: due_at.zip(outcome).map(|(due_at, outcome)| LastTick { due_at, outcome }),
            });
        }
        Ok(listed)
    }

    /// Pauses or resumes a schedule; false if there is none of this name.
    pub async fn enable_schedule(&self, name: &str, enabled: bool) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql = "UPDATE workflow_schedule SET enabled = $2 WHERE name = $1";
        Ok(client.execute(sql, &[&name, &enabled]).await? == 1)
    }

    /// Removes a schedule; its runs stay. False if there is none of this name.
    pub async fn remove_schedule(&self, name: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        Ok(client.execute("DELETE FROM workflow_schedule WHERE name = $1", &[&name]).await? == 1)
    }
}
