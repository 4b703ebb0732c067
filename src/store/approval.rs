//! Approvals: who is asked, and what was decided. The rules are the database's (`migrations/V13__approvals.sql`): a decision
//! is a plain UPDATE, whoever writes it, and wakes the run.

mod escalation;

pub use escalation::{Due, Overdue, Reminder, next_reminder, overdue, reassign, reminder, show};

use super::{Client, Store, StoreError};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

/// A question to one approver, to be written.
#[derive(Debug, Clone, Serialize)]
pub struct NewApproval {
    /// Its id, made before, so that writing it twice is the same.
    pub id: Uuid,
    /// Which of the step's approvers, from 1.
    pub position: i32,
    /// `single`, `sequential` or `parallel`.
    pub mode: &'static str,
    /// How many of the step's approvers have to approve.
    pub quorum: i32,
    /// Who decides.
    #[serde(flatten)]
    pub who: Approver,
    /// What is to be decided.
    pub title: Option<String>,
    /// More about it.
    pub message: Option<String>,
    /// `pending`, or `waiting` for those before.
    pub status: &'static str,
    /// When it expires.
    pub due_at: Option<DateTime<Utc>>,
    /// Whether the approver is told.
    pub notify: bool,
    /// What happens when nobody decides, as the table has it.
    pub escalation: Value,
}

/// A person who decides, as known when they are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Approver {
    /// As the definition names them.
    pub approver: String,
    /// Their id, if they have one here.
    pub approver_id: Option<String>,
    /// Their address.
    pub approver_email: Option<String>,
    /// Their name.
    pub approver_name: Option<String>,
}

/// An approval as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Approval {
    /// Its id.
    pub id: Uuid,
    /// The run.
    pub run: Uuid,
    /// The step.
    pub step: String,
    /// Which of the step's approvers.
    pub position: i32,
    /// Who decides.
    pub who: Approver,
    /// What is to be decided.
    pub title: Option<String>,
    /// `waiting`, `pending`, `approved`, `rejected`, `expired`, `void` or `reassigned`.
    pub status: String,
    /// When the approver was asked.
    pub asked_at: Option<DateTime<Utc>>,
    /// When it expires.
    pub due_at: Option<DateTime<Utc>>,
    /// Who decided, and when.
    pub decided: Option<(String, DateTime<Utc>)>,
    /// Why.
    pub reason: Option<String>,
    /// Reminders so far.
    pub reminders: i32,
    /// The approval that it took the place of.
    pub reassigned_from: Option<Uuid>,
    /// Why somebody else is asked.
    pub reassigned_because: Option<String>,
}

/// What a visit's approvals have come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// `approved`, `rejected`, `expired`; none while it is open.
    pub outcome: Option<String>,
    /// The approvals, by place and time.
    pub approvals: Vec<Approval>,
}

/// Why a decision was not made.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// The database's rules refuse it; a sentence.
    #[error("{0}")]
    Refused(String),
    /// Something else went wrong.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which visit of which step of which run.
#[derive(Debug, Clone)]
pub struct Place {
    /// The run.
    pub run: Uuid,
    /// The step.
    pub step: String,
    /// The visit.
    pub visit: i32,
}

const COLUMNS: &str = "a.id, a.run_id, a.step_id, a.position, a.approver, a.approver_id, a.approver_email,
    a.approver_name, a.title, a.status, a.asked_at, a.due_at, a.decided_by, a.decided_at, a.reason, a.reminders,
    a.reassigned_from, a.reassigned_because";

/// Asks approvers, in the caller's transaction. Those who are asked now get the jobs that tell and remind them.
pub async fn ask(client: &Client, place: &Place, approvals: &[NewApproval]) -> Result<(), StoreError> {
    let sql = "INSERT INTO approval (run_id, step_id, visit, id, position, mode, quorum, approver, approver_id,
            approver_email, approver_name, title, message, status, asked_at, due_at, notify, escalation)
        SELECT $1, $2, $3, n.id, n.position, n.mode, n.quorum, n.approver, n.approver_id, n.approver_email,
            n.approver_name, n.title, n.message, n.status, CASE n.status WHEN 'pending' THEN clock_timestamp() END,
            n.due_at, n.notify, n.escalation
        FROM jsonb_to_recordset($4) AS n (id uuid, position integer, mode text, quorum integer, approver text,
            approver_id text, approver_email text, approver_name text, title text, message text, status text,
            due_at timestamptz, notify boolean, escalation jsonb)";
    let rows = serde_json::to_value(approvals).unwrap_or_default();
    client.execute(sql, &[&place.run, &place.step, &place.visit, &rows]).await?;
    Ok(())
}

/// Asks the next one in a row. Whoever was asked meanwhile is not asked again.
pub async fn ask_next(client: &Client, approval: Uuid) -> Result<(), StoreError> {
    let sql = "UPDATE approval SET status = 'pending' WHERE id = $1 AND status = 'waiting'";
    client.execute(sql, &[&approval]).await?;
    Ok(())
}

/// Lets those expire whose time is over. Decisions that were made in time, and are not committed yet, are waited for.
pub async fn expire(client: &Client, place: &Place) -> Result<(), StoreError> {
    let sql = "UPDATE approval SET status = 'expired' WHERE run_id = $1 AND step_id = $2 AND visit = $3
        AND status IN ('waiting', 'pending') AND due_at <= clock_timestamp()";
    client.execute(sql, &[&place.run, &place.step, &place.visit]).await?;
    Ok(())
}

/// Closes what is still open of a visit that is settled.
pub async fn close(client: &Client, place: &Place) -> Result<(), StoreError> {
    let sql = "UPDATE approval SET status = 'void' WHERE run_id = $1 AND step_id = $2 AND visit = $3
        AND status IN ('waiting', 'pending')";
    client.execute(sql, &[&place.run, &place.step, &place.visit]).await?;
    Ok(())
}

impl Store {
    /// What a visit's approvals have come to.
    pub async fn approvals_of(&self, place: &Place) -> Result<Standing, StoreError> {
        let client = self.client().await?;
        let sql = format!(
            "SELECT {COLUMNS}, approval_outcome($1, $2, $3) AS outcome FROM approval a
            WHERE a.run_id = $1 AND a.step_id = $2 AND a.visit = $3 ORDER BY a.position, a.created_at, a.asked_at"
        );
        let rows = client.query(&sql, &[&place.run, &place.step, &place.visit]).await?;
        let outcome = rows.first().map(|row| row.try_get("outcome")).transpose()?.flatten();
        Ok(Standing { outcome, approvals: rows.iter().map(approval).collect::<Result<_, _>>()? })
    }

    /// Approvals, those that were asked first in front: the pending ones, or `all`; of one run, or of every.
    pub async fn approvals(&self, all: bool, run: Option<Uuid>, limit: i64) -> Result<Vec<Approval>, StoreError> {
        let client = self.client().await?;
        let sql = format!(
            "SELECT {COLUMNS} FROM approval a
            WHERE ($1 OR a.status = 'pending') AND ($2::uuid IS NULL OR a.run_id = $2)
            ORDER BY a.asked_at, a.run_id, a.step_id, a.visit, a.position LIMIT $3"
        );
        client.query(&sql, &[&all, &run, &limit]).await?.iter().map(approval).collect()
    }

    /// Writes a decision, as an API server does it.
    pub async fn decide(
        &self,
        approval: Uuid,
        approved: bool,
        decided_by: &str,
        reason: Option<&str>,
    ) -> Result<(), Undecided> {
        let client = self.client().await?;
        let status = if approved { "approved" } else { "rejected" };
        let sql = "UPDATE approval SET status = $2, decided_by = $3, reason = $4 WHERE id = $1";
        match client.execute(sql, &[&approval, &status, &decided_by, &reason]).await {
            Ok(0) => Err(Undecided::Refused(format!("there is no approval {approval}"))),
            Ok(_) => Ok(()),
            Err(error) => Err(refusal(error)),
        }
    }
}

/// The sentence of a rule that refuses a statement.
fn refusal(error: StoreError) -> Undecided {
    match error {
        StoreError::Query { code, message, .. } if code.starts_with("FL02") => Undecided::Refused(message),
        error => Undecided::Store(error),
    }
}

fn approval(row: &Row) -> Result<Approval, StoreError> {
    let decided_by: Option<String> = row.try_get("decided_by")?;
    Ok(Approval {
        id: row.try_get("id")?,
        run: row.try_get("run_id")?,
        step: row.try_get("step_id")?,
        position: row.try_get("position")?,
        who: approver(row)?,
        title: row.try_get("title")?,
        status: row.try_get("status")?,
        asked_at: row.try_get("asked_at")?,
        due_at: row.try_get("due_at")?,
        decided: decided_by.zip(row.try_get("decided_at")?),
        reason: row.try_get("reason")?,
        reminders: row.try_get("reminders")?,
        reassigned_from: row.try_get("reassigned_from")?,
        reassigned_because: row.try_get("reassigned_because")?,
    })
}

fn approver(row: &Row) -> Result<Approver, StoreError> {
    Ok(Approver {
        approver: row.try_get("approver")?,
        approver_id: row.try_get("approver_id")?,
        approver_email: row.try_get("approver_email")?,
        approver_name: row.try_get("approver_name")?,
    })
}

impl Approver {
    /// Whether it is the same person.
    #[must_use]
    pub fn is(&self, other: &Approver) -> bool {
        let same_email = self.approver_email.as_ref().zip(other.approver_email.as_ref());
        let same_id = self.approver_id.as_ref().zip(other.approver_id.as_ref());
        same_id.map_or_else(|| same_email.is_some_and(|(one, two)| one.eq_ignore_ascii_case(two)), |(a, b)| a == b)
    }

    /// For people: the name, and whatever else there is.
    #[must_use]
    pub fn label(&self) -> &str {
        self.approver_name.as_deref().or(self.approver_email.as_deref()).unwrap_or(&self.approver)
    }
}
