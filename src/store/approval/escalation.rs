//! What happens while an approver does not decide: they are reminded, and somebody else is asked in the end. Each is a job
//! that the database wrote into the outbox with the question; the statements here are those of its transaction.

use super::{Approver, Undecided, approver, refusal};
use crate::store::{Client, StoreError};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

/// What a job for a time finds.
#[derive(Debug, Clone, PartialEq)]
pub enum Due<T> {
    /// There is nothing to be done any more: in a word, why.
    Over(String),
    /// It is not time yet, but at this time.
    Early(DateTime<Utc>),
    /// It is.
    Now(T),
}

/// An approver to be told, or reminded.
#[derive(Debug, Clone, PartialEq)]
pub struct Reminder {
    /// Whom.
    pub who: Approver,
    /// What is to be decided.
    pub title: Option<String>,
    /// More about it.
    pub message: Option<String>,
    /// When it expires.
    pub due_at: Option<DateTime<Utc>>,
    /// The run.
    pub run: Uuid,
    /// The step.
    pub step: String,
    /// The number of the latest one that came before.
    pub latest: i32,
    /// The definition's name.
    pub workflow: String,
}

/// An approval that somebody else is to decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Overdue {
    /// Who has not decided.
    pub who: Approver,
    /// Who is asked then.
    pub to: Approver,
    /// For how long the former has been asked, in words.
    pub after: String,
}

/// Looks at the approval that a job is about, and keeps it as it is until the transaction has ended. `outbox` is the job's
/// row, which knows its time. One that was left open because somebody was deciding when its step ended is closed.
async fn look(client: &Client, id: Uuid, outbox: Option<i64>) -> Result<Due<tokio_postgres::Row>, StoreError> {
    let sql = "SELECT a.*, clock_timestamp() AS now, is_to_be_decided(a.run_id, a.step_id, a.visit) AS open,
            (SELECT o.due_at FROM job_outbox o WHERE o.id = $2) AS time, d.name AS workflow
        FROM approval a JOIN workflow_run r ON r.id = a.run_id JOIN workflow_definition d ON d.id = r.definition_id
        WHERE a.id = $1 FOR UPDATE OF a";
    let Some(row) = client.query_opt(sql, &[&id, &outbox]).await? else { return Ok(Due::Over("missing".into())) };
    let status: String = row.try_get("status")?;
    if matches!(status.as_str(), "waiting" | "pending") && !row.try_get::<_, bool>("open")? {
        client.execute("UPDATE approval SET status = 'void' WHERE id = $1", &[&id]).await?;
        return Ok(Due::Over("void".into()));
    }
    let now: DateTime<Utc> = row.try_get("now")?;
    let expires: Option<DateTime<Utc>> = row.try_get("due_at")?;
    let time: Option<DateTime<Utc>> = row.try_get("time")?;
    Ok(match time {
        _ if status != "pending" => Due::Over(status),
        _ if expires.is_some_and(|due| due <= now) => Due::Over("expired".into()),
        Some(time) if time > now => Due::Early(time),
        _ => Due::Now(row),
    })
}

/// Looks at an approval whose approver is to be told (`number` 0) or reminded, and notes that it is done.
pub async fn reminder(
    client: &Client,
    id: Uuid,
    number: i32,
    outbox: Option<i64>,
) -> Result<Due<Reminder>, StoreError> {
    let row = match look(client, id, outbox).await? {
        Due::Over(why) => return Ok(Due::Over(why)),
        Due::Early(time) => return Ok(Due::Early(time)),
        Due::Now(row) => row,
    };
    let sql = "UPDATE approval SET reminders = $2, reminded_at = clock_timestamp() WHERE id = $1 AND reminders < $2";
    client.execute(sql, &[&id, &number]).await?;
    Ok(Due::Now(Reminder {
        who: approver(&row)?,
        title: row.try_get("title")?,
        message: row.try_get("message")?,
        due_at: row.try_get("due_at")?,
        run: row.try_get("run_id")?,
        step: row.try_get("step_id")?,
        latest: row.try_get("reminders")?,
        workflow: row.try_get("workflow")?,
    }))
}

/// Sees to the reminder that follows this one, if one does, whatever becomes of this one. Written before, it is the same.
pub async fn next_reminder(client: &Client, id: Uuid, number: i32) -> Result<(), StoreError> {
    let sql = "INSERT INTO job_outbox (queue, job_id, name, data, due_at)
        SELECT r.queue, 'remind-' || a.id || '-' || $2 + 1, 'escalation-reminder',
            jsonb_build_object('approvalId', a.id, 'number', $2 + 1), n.due
        FROM approval a JOIN workflow_run r ON r.id = a.run_id, LATERAL (SELECT clock_timestamp()
            + make_interval(secs => (a.escalation ->> 'remindEvery')::double precision) AS due) n
        WHERE a.id = $1 AND $2 > 0 AND $2 < (a.escalation ->> 'maxReminders')::integer
            AND (a.due_at IS NULL OR n.due < a.due_at)
        ON CONFLICT (queue, job_id) DO NOTHING";
    client.execute(sql, &[&id, &number]).await?;
    Ok(())
}

/// Shows an approver in the application what is to be decided, each number once.
pub async fn show(client: &Client, id: Uuid, number: i32, title: &str, body: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO notification (user_id, email, run_id, step_id, visit, kind, title, body)
        SELECT a.approver_id, CASE WHEN a.approver_id IS NULL THEN a.approver_email END, a.run_id, a.step_id, a.visit,
            CASE $2::integer WHEN 0 THEN 'approval' ELSE 'approval-reminder-' || $2 END, $3, $4
        FROM approval a WHERE a.id = $1 AND coalesce(a.approver_id, a.approver_email) <> ''
        ON CONFLICT DO NOTHING";
    client.execute(sql, &[&id, &number, &title, &body]).await?;
    Ok(())
}

/// Looks at an approval that is to be reassigned.
pub async fn overdue(client: &Client, id: Uuid, outbox: Option<i64>) -> Result<Due<Overdue>, StoreError> {
    let row = match look(client, id, outbox).await? {
        Due::Over(why) => return Ok(Due::Over(why)),
        Due::Early(time) => return Ok(Due::Early(time)),
        Due::Now(row) => row,
    };
    let escalation: Value = row.try_get("escalation")?;
    let after = escalation.get("reassignAfter").and_then(Value::as_f64);
    let (Some(after), Some(Value::Object(to))) = (after, escalation.get("reassignTo")) else {
        return Ok(Due::Over("nobody to be asked".into()));
    };
    Ok(Due::Now(Overdue { who: approver(&row)?, to: stored(to), after: span(after) }))
}

/// Asks somebody else; the id of the new approval.
pub async fn reassign(client: &Client, id: Uuid, to: &Approver, because: &str) -> Result<Uuid, Undecided> {
    let sql = "SELECT reassign_approval($1, $2, $3, $4, $5, $6)";
    let (named, person) = (&to.approver, (&to.approver_id, &to.approver_email, &to.approver_name));
    let row = client.query_one(sql, &[&id, named, person.0, person.1, person.2, &because]).await.map_err(refusal)?;
    Ok(row.try_get(0).map_err(StoreError::from)?)
}

/// A person as the escalation of an approval holds them.
fn stored(person: &Map<String, Value>) -> Approver {
    let text = |name: &str| person.get(name).and_then(Value::as_str).map(str::to_string);
    Approver {
        approver: text("approver").unwrap_or_default(),
        approver_id: text("approver_id"),
        approver_email: text("approver_email"),
        approver_name: text("approver_name"),
    }
}

/// A span of time as definitions write it.
fn span(seconds: f64) -> String {
    let units = [(86_400.0, "d"), (3600.0, "h"), (60.0, "m")];
    let unit = units.into_iter().find(|(length, _)| seconds >= *length && seconds % length == 0.0);
    let (length, unit) = unit.unwrap_or((1.0, "s"));
    format!("{}{unit}", seconds / length)
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn a_span_is_written_in_the_largest_unit_that_fits() {
        for (seconds, text) in
            [(345_600.0, "4d"), (7200.0, "2h"), (90.0, "90s"), (900.0, "15m"), (0.5, "0.5s"), (5400.0, "90m")]
        {
            assert_eq!(span(seconds), text);
        }
    }
}
