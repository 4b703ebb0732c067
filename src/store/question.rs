//! Questions to people: the rows of `question`. Whoever answers one does it in SQL; the database checks the answer and wakes
//! the run (see `migrations/V14__questions.sql`).

use super::{Client, Store, StoreError};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuestionKind {
    /// Values for a form.
    Prompt,
    /// A document.
    Document,
    /// Whether a document is as it should be.
    Review,
    /// Whether somebody agrees to a text.
    Consent,
    /// Whether somebody accepts what a message says.
    Acceptance,
}

impl QuestionKind {
    const ALL: [(QuestionKind, &'static str); 5] = [
        (QuestionKind::Prompt, "prompt"),
        (QuestionKind::Document, "document"),
        (QuestionKind::Review, "review"),
        (QuestionKind::Consent, "consent"),
        (QuestionKind::Acceptance, "acceptance"),
    ];

    /// As the table calls it.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, word)| word)
    }

    fn of(word: &str) -> QuestionKind {
        Self::ALL.iter().find(|(_, one)| *one == word).map_or(QuestionKind::Prompt, |(kind, _)| *kind)
    }
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuestionStatus {
    /// Nobody has answered yet.
    Pending,
    /// The form is filled in, or the document handed in.
    Answered,
    /// Yes.
    Approved,
    /// No.
    Rejected,
    /// Its time is over.
    Expired,
    /// It does not matter any more.
    Void,
}

impl QuestionStatus {
    const ALL: [(QuestionStatus, &'static str); 6] = [
        (QuestionStatus::Pending, "pending"),
        (QuestionStatus::Answered, "answered"),
        (QuestionStatus::Approved, "approved"),
        (QuestionStatus::Rejected, "rejected"),
        (QuestionStatus::Expired, "expired"),
        (QuestionStatus::Void, "void"),
    ];

    /// As the table calls it.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(status, _)| *status == self).map_or("", |(_, word)| word)
    }

    fn of(word: &str) -> QuestionStatus {
        Self::ALL.iter().find(|(_, one)| *one == word).map_or(QuestionStatus::Void, |(status, _)| *status)
    }
}

/// The visit of a step that asks, and its try: another try asks anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The run.
    pub run: Uuid,
    /// The step's id in the definition.
    pub step: String,
    /// The visit.
    pub visit: i32,
    /// The try.
    pub attempt: i32,
}

/// A question that is asked now.
#[derive(Debug, Clone, PartialEq)]
pub struct NewQuestion {
    /// Its id.
    pub id: Uuid,
    /// What is asked.
    pub kind: QuestionKind,
    /// Who is asked: the id, if they have one.
    pub assignee_id: Option<String>,
    /// Their address.
    pub assignee_email: String,
    /// A line for them.
    pub title: String,
    /// More than a line.
    pub message: Option<String>,
    /// What the answer has to hold.
    pub fields: Vec<Value>,
    /// The type of the document.
    pub document_type: Option<String>,
    /// The document that is reviewed.
    pub document: Option<Uuid>,
    /// No answer is taken from then on.
    pub due_at: Option<DateTime<Utc>>,
}

/// A question that was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Its id.
    pub id: Uuid,
    /// What was asked.
    pub kind: QuestionKind,
    /// The run that waits for it.
    pub run: Uuid,
    /// The step.
    pub step: String,
    /// The visit.
    pub visit: i32,
    /// Who was asked: the id, if they have one.
    pub assignee_id: Option<String>,
    /// Their address.
    pub assignee_email: Option<String>,
    /// A line for them.
    pub title: Option<String>,
    /// More than a line.
    pub message: Option<String>,
    /// What the answer has to hold.
    pub fields: Vec<Value>,
    /// The type of the document.
    pub document_type: Option<String>,
    /// The document that is reviewed.
    pub document: Option<Uuid>,
    /// What became of it.
    pub status: QuestionStatus,
    /// The values that were given.
    pub answer: Map<String, Value>,
    /// Why it was rejected, or what was said with it.
    pub reason: Option<String>,
    /// Who answered.
    pub answered_by: Option<String>,
    /// When.
    pub answered_at: Option<DateTime<Utc>>,
    /// No answer is taken from then on.
    pub due_at: Option<DateTime<Utc>>,
}

/// Asks. What earlier tries of the visit have asked does not matter any more.
pub async fn ask(client: &Client, asker: &Asker, question: &NewQuestion) -> Result<(), StoreError> {
    if asker.attempt > 1 {
        let sql = "UPDATE question SET status = 'void'
            WHERE run_id = $1 AND step_id = $2 AND visit = $3 AND attempt < $4 AND status = 'pending'";
        client.execute(sql, &[&asker.run, &asker.step, &asker.visit, &asker.attempt]).await?;
    }
    let sql = "INSERT INTO question (id, kind, run_id, step_id, visit, attempt, assignee_id, assignee_email, title,
            message, fields, document_type, document_id, due_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
    let fields = Value::Array(question.fields.clone());
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &question.id,
        &question.kind.word(),
        &asker.run,
        &asker.step,
        &asker.visit,
        &asker.attempt,
        &question.assignee_id,
        &question.assignee_email,
        &question.title,
        &question.message,
        &fields,
        &question.document_type,
        &question.document,
        &question.due_at,
    ];
    client.execute(sql, values).await.map(drop)
}

/// Closes what a visit has asked and whose time is over. Whoever answers at the same moment is waited for, and was in time.
pub async fn expire(client: &Client, asker: &Asker) -> Result<(), StoreError> {
    let sql = "UPDATE question SET status = 'expired'
        WHERE run_id = $1 AND step_id = $2 AND visit = $3 AND status = 'pending' AND due_at <= clock_timestamp()";
    client.execute(sql, &[&asker.run, &asker.step, &asker.visit]).await.map(drop)
}

/// Closes a question that was left open because somebody was answering it when its step ended. They are waited for.
pub async fn close_left(client: &Client, id: Uuid) -> Result<(), StoreError> {
    let sql = "UPDATE question SET status = CASE WHEN due_at <= clock_timestamp() THEN 'expired' ELSE 'void' END
        WHERE id = $1 AND status = 'pending' AND NOT is_to_be_answered(run_id, step_id, visit)";
    client.execute(sql, &[&id]).await.map(drop)
}

const QUESTION: &str = "SELECT id, kind, run_id, step_id, visit, assignee_id, assignee_email, title, message, fields,
    document_type, document_id, status, answer, reason, answered_by, answered_at, due_at FROM question";

impl Store {
    /// What one try of a visit has asked, in the order of the answers; unanswered ones come last.
    pub async fn questions(&self, asker: &Asker) -> Result<Vec<Question>, StoreError> {
        let client = self.client().await?;
        let sql = format!(
            "{QUESTION} WHERE run_id = $1 AND step_id = $2 AND visit = $3 AND attempt = $4 ORDER BY answered_at, id"
        );
        let rows = client.query(&sql, &[&asker.run, &asker.step, &asker.visit, &asker.attempt]).await?;
        rows.iter().map(question).collect()
    }

    /// The question of this id.
    pub async fn question(&self, id: Uuid) -> Result<Option<Question>, StoreError> {
        let client = self.client().await?;
        by_id(&client, id).await
    }

    /// Questions that wait for an answer, the oldest first; of one person, named by id or address, if `of` says so.
    pub async fn open_questions(
        &self,
        of: Option<&str>,
        run: Option<Uuid>,
        most: i64,
    ) -> Result<Vec<Question>, StoreError> {
        let client = self.client().await?;
        // One that was left open when its run ended is no question any more.
        let sql = format!(
            "{QUESTION} q WHERE status = 'pending' AND (due_at IS NULL OR due_at > now())
                AND ($1::text IS NULL OR assignee_id = $1 OR lower(assignee_email) = lower($1))
                AND is_to_be_answered(q.run_id, q.step_id, q.visit)
                AND ($2::uuid IS NULL OR run_id = $2)
            ORDER BY created_at, id LIMIT $3"
        );
        client.query(&sql, &[&of, &run, &most]).await?.iter().map(question).collect()
    }

    /// Answers a question, as an API server does. False if there is none of this id; whatever else is wrong with the answer
    /// the database says.
    pub async fn answer_question(
        &self,
        id: Uuid,
        status: QuestionStatus,
        answer: Option<&Value>,
        reason: Option<&str>,
        by: &str,
    ) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql = "UPDATE question SET status = $2, answer = $3, reason = $4, answered_by = $5 WHERE id = $1";
        Ok(client.execute(sql, &[&id, &status.word(), &answer, &reason, &by]).await? > 0)
    }
}

/// The question of this id, as a transaction sees it.
pub async fn by_id(client: &Client, id: Uuid) -> Result<Option<Question>, StoreError> {
    let sql = format!("{QUESTION} WHERE id = $1");
    client.query_opt(&sql, &[&id]).await?.map(|row| question(&row)).transpose()
}

fn question(row: &Row) -> Result<Question, StoreError> {
    let (fields, answer): (Value, Option<Value>) = (row.try_get("fields")?, row.try_get("answer")?);
    Ok(Question {
        id: row.try_get("id")?,
        kind: QuestionKind::of(row.try_get("kind")?),
        run: row.try_get("run_id")?,
        step: row.try_get("step_id")?,
        visit: row.try_get("visit")?,
        assignee_id: row.try_get("assignee_id")?,
        assignee_email: row.try_get("assignee_email")?,
        title: row.try_get("title")?,
        message: row.try_get("message")?,
        fields: fields.as_array().cloned().unwrap_or_default(),
        document_type: row.try_get("document_type")?,
        document: row.try_get("document_id")?,
        status: QuestionStatus::of(row.try_get("status")?),
        answer: answer.as_ref().and_then(Value::as_object).cloned().unwrap_or_default(),
        reason: row.try_get("reason")?,
        answered_by: row.try_get("answered_by")?,
        answered_at: row.try_get("answered_at")?,
        due_at: row.try_get("due_at")?,
    })
}
