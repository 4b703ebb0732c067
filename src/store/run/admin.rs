//! Runs as people look after them: found, listed, shown, cancelled, tried again.

use super::ENGINE;
use crate::store::{Store, StoreError};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

/// Which runs are listed.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Only those with one of these states; all where there is none.
    pub statuses: Vec<String>,
    /// Only those of the definition of this name.
    pub definition: Option<String>,
    /// Only those of this version of it.
    pub version: Option<i32>,
    /// At most so many, the latest first.
    pub limit: i64,
}

/// A run in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedRun {
    /// Its id.
    pub id: Uuid,
    /// The name of its definition.
    pub definition: String,
    /// The version that it is pinned to.
    pub version: i32,
    /// `pending`, `running`, `waiting`, `completed`, `failed` or `cancelled`.
    pub status: String,
    /// The step that it is at.
    pub current_step: Option<String>,
    /// Who started it.
    pub submitter_id: Option<String>,
    /// Whether it has to wait for its turn.
    pub held_back: bool,
    /// Whether connectors are not called.
    pub use_mocks: bool,
    /// Why it failed or was cancelled.
    pub failure_reason: Option<String>,
    /// Somebody wants it cancelled since.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// When it is woken next.
    pub wake_at: Option<DateTime<Utc>>,
    /// When it was started.
    pub created_at: DateTime<Utc>,
    /// When a worker began with it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// One visit of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownStep {
    /// Its id in the definition.
    pub step_id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The visit, from 1.
    pub visit: i32,
    /// The try, from 1.
    pub attempt: i32,
    /// Its status.
    pub status: String,
    /// Who has to do something, in a word.
    pub assignment_state: Option<String>,
    /// The outcome that chose the edge.
    pub outcome: Option<String>,
    /// What it found.
    pub result: Option<Value>,
    /// Why it failed, or will be tried again.
    pub failure_reason: Option<String>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// When its waiting is over, whatever came of it.
    pub due_at: Option<DateTime<Utc>>,
}

/// Somebody of whom a run waits to hear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// What is asked for, in a word: `approval`, `prompt`, `consent` …
    pub what: String,
    /// The id of the question, for whoever answers it.
    pub id: String,
    /// The step that asks.
    pub step: String,
    /// Who is asked.
    pub whom: String,
}

/// A run with its history.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownRun {
    /// The run.
    #[serde(flatten)]
    pub run: ListedRun,
    /// Its variables.
    pub variables: Map<String, Value>,
    /// The instance that works on it now.
    pub worker: Option<String>,
    /// Its steps, in the order in which they were visited.
    pub steps: Vec<ShownStep>,
    /// Of whom it waits to hear.
    pub asked: Vec<Asked>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// What a run says to a wish to cancel it or to try it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// It is noted; before that the run had this status.
    Granted(String),
    /// It had been asked to cancel before.
    Again,
    /// A run of this status cannot.
    Not(String),
}

const LISTED: &str = "r.id, d.name, d.version, r.status, r.current_step, r.submitter_id, r.held_back, r.use_mocks, \
    r.failure_reason, r.cancel_requested_at, r.wake_at, r.created_at, r.started_at, r.finished_at";

impl Store {
    /// Runs of ours whose ids begin so, at most two: hexadecimal digits, with or without the dashes.
    pub async fn runs_beginning_with(&self, digits: &str) -> Result<Vec<Uuid>, StoreError> {
        let digits: String = digits.chars().filter(|one| *one != '-').collect();
        let fill = |with: char| format!("{digits}{}", with.to_string().repeat(32_usize.saturating_sub(digits.len())));
        let (Ok(low), Ok(high)) = (Uuid::try_parse(&fill('0')), Uuid::try_parse(&fill('f'))) else {
            return Ok(Vec::new());
        };
        let client = self.client().await?;
        let sql = "SELECT id FROM workflow_run WHERE id BETWEEN $1 AND $2 AND engine = $3 ORDER BY id LIMIT 2";
        client.query(sql, &[&low, &high, &ENGINE]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Runs of ours, the latest first.
    pub async fn list_runs(&self, filter: &RunFilter) -> Result<Vec<ListedRun>, StoreError> {
        let client = self.client().await?;
        let sql = format!(
            "SELECT {LISTED} FROM workflow_run r JOIN workflow_definition d ON d.id = r.definition_id
                WHERE r.engine = $1 AND (cardinality($2::text[]) = 0 OR r.status = ANY ($2))
                    AND ($3::text IS NULL OR d.name = $3) AND ($4::int IS NULL OR d.version = $4)
                ORDER BY r.created_at DESC, r.id LIMIT $5"
        );
        let rows = client
            .query(&sql, &[&ENGINE, &filter.statuses, &filter.definition, &filter.version, &filter.limit])
            .await?;
        rows.iter().map(listed).collect()
    }

    /// A run with its history; `None` if there is none of ours with this id.
    pub async fn show_run(&self, id: Uuid) -> Result<Option<ShownRun>, StoreError> {
        let client = self.client().await?;
        let sql = format!(
            "SELECT {LISTED}, r.variables, j.instance, now() AS now,
                    to_regclass('approval') IS NOT NULL AS approvals, to_regclass('question') IS NOT NULL AS questions
                FROM workflow_run r JOIN workflow_definition d ON d.id = r.definition_id
                    LEFT JOIN job_execution j ON j.id = r.lease_execution AND j.epoch = r.lease_epoch AND j.state = 'taken'
                WHERE r.id = $1 AND r.engine = $2"
        );
        let Some(row) = client.query_opt(&sql, &[&id, &ENGINE]).await? else { return Ok(None) };
        let steps = "SELECT step_id, type, visit, attempt, status, assignment_state, outcome, result, failure_reason,
                started_at, finished_at, due_at
            FROM workflow_step WHERE run_id = $1 ORDER BY position, created_at, visit";
        let steps = client.query(steps, &[&id]).await?.iter().map(step).collect::<Result<_, _>>()?;
        let mut asked = Vec::new();
        for (table, there) in [("approval", row.try_get("approvals")?), ("question", row.try_get("questions")?)] {
            if there {
                let sql = format!("SELECT to_jsonb(a) FROM {table} a WHERE a.run_id = $1 AND a.status = 'pending'");
                for row in client.query(&sql, &[&id]).await? {
                    asked.push(matter(table, &row.try_get::<_, Value>(0)?));
                }
            }
        }
        Ok(Some(ShownRun {
            run: listed(&row)?,
            variables: row.try_get::<_, Value>("variables")?.as_object().cloned().unwrap_or_default(),
            worker: row.try_get("instance")?,
            steps,
            asked,
            now: row.try_get("now")?,
        }))
    }

    /// Asks for a run to be cancelled at the next boundary between two steps. `None` if there is no such run of ours.
    pub async fn cancel_run(&self, id: Uuid, reason: Option<&str>) -> Result<Option<Wish>, StoreError> {
        let client = self.client().await?;
        let sql = "WITH run AS (
                SELECT id, status, cancel_requested_at IS NOT NULL AS asked FROM workflow_run
                WHERE id = $1 AND engine = $3 FOR UPDATE
            ), cancelled AS (
                UPDATE workflow_run r SET cancel_requested_at = now(), cancel_reason = $2 FROM run
                WHERE r.id = run.id AND NOT run.asked AND run.status IN ('pending', 'running', 'waiting')
                RETURNING r.id
            )
            SELECT status, asked, EXISTS (SELECT FROM cancelled) AS granted FROM run";
        let Some(row) = client.query_opt(sql, &[&id, &reason, &ENGINE]).await? else { return Ok(None) };
        let status: String = row.try_get("status")?;
        let live = matches!(status.as_str(), "pending" | "running" | "waiting");
        Ok(Some(match (row.try_get("granted")?, row.try_get("asked")?) {
            (true, _) => Wish::Granted(status),
            (false, true) if live => Wish::Again,
            _ => Wish::Not(status),
        }))
    }

    /// A failed run goes on with another visit of the step at which it failed. `None` if there is no such run of ours.
    pub async fn retry_run(&self, id: Uuid) -> Result<Option<Wish>, StoreError> {
        let client = self.client().await?;
        // Asked for its status first: the function changes it.
        let sql = "SELECT status FROM workflow_run WHERE id = $1 AND engine = $2";
        let Some(row) = client.query_opt(sql, &[&id, &ENGINE]).await? else { return Ok(None) };
        let status: String = row.try_get(0)?;
        let granted: bool = client.query_one("SELECT retry_run($1)", &[&id]).await?.try_get(0)?;
        Ok(Some(if granted { Wish::Granted(status) } else { Wish::Not(status) }))
    }
}

fn listed(row: &Row) -> Result<ListedRun, StoreError> {
    Ok(ListedRun {
        id: row.try_get("id")?,
        definition: row.try_get("name")?,
        version: row.try_get("version")?,
        status: row.try_get("status")?,
        current_step: row.try_get("current_step")?,
        submitter_id: row.try_get("submitter_id")?,
        held_back: row.try_get("held_back")?,
        use_mocks: row.try_get("use_mocks")?,
        failure_reason: row.try_get("failure_reason")?,
        cancel_requested_at: row.try_get("cancel_requested_at")?,
        wake_at: row.try_get("wake_at")?,
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
    })
}

fn step(row: &Row) -> Result<ShownStep, StoreError> {
    Ok(ShownStep {
        step_id: row.try_get("step_id")?,
        kind: row.try_get("type")?,
        visit: row.try_get("visit")?,
        attempt: row.try_get("attempt")?,
        status: row.try_get("status")?,
        assignment_state: row.try_get("assignment_state")?,
        outcome: row.try_get("outcome")?,
        result: row.try_get("result")?,
        failure_reason: row.try_get("failure_reason")?,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
        due_at: row.try_get("due_at")?,
    })
}

/// A pending row of a table of questions, whichever columns it has.
fn matter(table: &str, row: &Value) -> Asked {
    let text = |names: &[&str]| names.iter().find_map(|name| row.get(name)?.as_str()).unwrap_or("?").to_string();
    Asked {
        what: row.get("kind").and_then(Value::as_str).unwrap_or(table).to_string(),
        id: text(&["id"]),
        step: text(&["step_id"]),
        whom: text(&["approver_email", "approver", "assignee_email", "assignee_id"]),
    }
}
