//! A run in the hands of a job: taken under its lease, and carried on by one statement per step.

use crate::store::{Client, FencedTransaction, Lease, Store, StoreError};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

/// A run that this job works on now, as far as it got.
#[derive(Debug, Clone, PartialEq)]
pub struct TakenRun {
    /// Its id.
    pub id: Uuid,
    /// The version of the definition that it is pinned to.
    pub definition_id: Uuid,
    /// Who started it, by id or address.
    pub submitter_id: Option<String>,
    /// Its variables.
    pub variables: Map<String, Value>,
    /// Whether connectors are not called.
    pub use_mocks: bool,
    /// Somebody wants it cancelled, and why.
    pub cancel_reason: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// The step that it is at; none if it has not begun.
    pub step: Option<TakenStep>,
    /// The database's time of the take.
    pub taken_at: DateTime<Utc>,
    /// Visits of steps so far.
    pub steps: i32,
    /// The number of its last wake-up.
    pub wake_seq: i64,
}

/// The step that a taken run is at.
#[derive(Debug, Clone, PartialEq)]
pub struct TakenStep {
    /// Its id in the definition.
    pub id: String,
    /// Which visit of it this is, from 1.
    pub visit: i32,
    /// Which try of the visit, from 1.
    pub attempt: i32,
    /// `running`; or waiting, and then it has been executed before.
    pub status: StepStatus,
    /// What it has noted when it began to wait.
    pub result: Option<Value>,
    /// When the visit began; or when the run was taken again, where whoever had the running step was gone.
    pub started_at: DateTime<Utc>,
    /// When its waiting, or the pause before its next try, is over.
    pub due_at: Option<DateTime<Utc>>,
}

/// Why a run is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untaken {
    /// There is no such run.
    Missing,
    /// It belongs to another engine.
    Foreign,
    /// It has ended.
    Ended,
    /// Its turn has not come.
    Held,
    /// Another job works on it, and looks at what woke it before it waits.
    Busy,
    /// It waits, and a later wake-up is on its way.
    Stale,
}

impl Untaken {
    /// As the database calls it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Untaken::Missing => "missing",
            Untaken::Foreign => "foreign",
            Untaken::Ended => "ended",
            Untaken::Held => "held",
            Untaken::Busy => "busy",
            Untaken::Stale => "stale",
        }
    }

    fn of(word: &str) -> Option<Untaken> {
        [Self::Missing, Self::Foreign, Self::Ended, Self::Held, Self::Busy, Self::Stale]
            .into_iter()
            .find(|one| one.word() == word)
    }
}

/// A step's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// It waits for its next try.
    Pending,
    /// It is under way.
    Running,
    /// It waits for a decision.
    WaitingApproval,
    /// It waits for an answer, or for a time.
    WaitingResponse,
    /// Done.
    Completed,
    /// Failed.
    Failed,
    /// Left out.
    Skipped,
    /// Its run was cancelled.
    Cancelled,
}

impl StepStatus {
    const ALL: [(StepStatus, &'static str); 8] = [
        (StepStatus::Pending, "pending"),
        (StepStatus::Running, "running"),
        (StepStatus::WaitingApproval, "waiting_approval"),
        (StepStatus::WaitingResponse, "waiting_response"),
        (StepStatus::Completed, "completed"),
        (StepStatus::Failed, "failed"),
        (StepStatus::Skipped, "skipped"),
        (StepStatus::Cancelled, "cancelled"),
    ];

    /// The status of this name; `Running` for one that this version does not know.
    #[must_use]
    pub fn of(word: &str) -> StepStatus {
        Self::ALL.iter().find(|(_, name)| *name == word).map_or(StepStatus::Running, |(status, _)| *status)
    }
}

/// A run's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Under way.
    Running,
    /// It waits for a person, or for a time.
    Waiting,
    /// Ended well.
    Completed,
    /// Ended by a failure.
    Failed,
    /// Ended because somebody wanted it so.
    Cancelled,
}

/// What one visit of a step came to, as [`Commit`] writes it.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// The step.
    pub step: StepChange,
    /// The variables that it sets.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub set: Map<String, Value>,
    /// The run.
    pub run: RunChange,
    /// The step that follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<NextStep>,
    /// The number of the last wake-up before the step was looked at: a later one does not let the run wait.
    pub seen: i64,
}

/// The step's part of a [`Change`].
#[derive(Debug, Clone, Serialize)]
pub struct StepChange {
    /// Its id in the definition.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The visit.
    pub visit: i32,
    /// The try; after a failure that is tried again, the next one.
    pub attempt: i32,
    /// Its new status.
    pub status: StepStatus,
    /// The outcome that chose the edge.
    pub outcome: Option<String>,
    /// What it found, or remembers while it waits.
    pub result: Option<Value>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Who has to do something, in a word (`assignment_state`).
    pub assignment: Option<String>,
    /// When its waiting is over.
    pub due: Option<DateTime<Utc>>,
}

/// The run's part of a [`Change`].
#[derive(Debug, Clone, Serialize)]
pub struct RunChange {
    /// Its new status.
    pub status: RunStatus,
    /// Why it failed or was cancelled.
    pub reason: Option<String>,
}

/// The step that follows.
#[derive(Debug, Clone, Serialize)]
pub struct NextStep {
    /// Its id in the definition.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What became of a [`Change`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Whether it was made.
    pub outcome: CommitOutcome,
    /// The visit of the step that follows, if one does.
    pub next_visit: Option<i32>,
    /// Somebody wants the run cancelled, and why.
    pub cancel_reason: Option<String>,
    /// The database's time.
    pub at: DateTime<Utc>,
    /// The number of the run's last wake-up.
    pub wake_seq: i64,
}

/// Whether a [`Change`] was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It was, now or before.
    Committed,
    /// The step was to wait, and something has happened meanwhile: the run goes on at the same visit.
    Woken,
    /// The step that waited was to end by its timeout, and something has come in time: it is to be looked at again; nothing
    /// was made.
    Overtaken,
    /// Somebody has ended the run; nothing was made.
    Ended,
    /// Another job has the run; nothing was made.
    Moved,
}

const TAKE: &str = "SELECT * FROM take_run($1, $2, $3, $4)";
const COMMIT: &str = "SELECT * FROM commit_step($1, $2, $3, $4)";

impl Store {
    /// Takes a run for the job of a lease, in one statement of its own. `seq` is the wake-up's number, where the job has
    /// one. [`StoreError::LeaseLost`] if the job is not ours any more.
    pub async fn take_run(
        &self,
        lease: &Lease,
        run: Uuid,
        seq: Option<i64>,
    ) -> Result<Result<TakenRun, Untaken>, StoreError> {
        let client = self.client().await?;
        let row = client.query_one(TAKE, &[&run, &seq, &lease.row, &lease.epoch.0]).await?;
        let outcome: String = row.try_get("outcome")?;
        if let Some(untaken) = Untaken::of(&outcome) {
            return Ok(Err(untaken));
        }
        Ok(Ok(taken(run, &row)?))
    }

    /// Commits a change without other effects, in one statement of its own. After an error that leaves its fate unknown it
    /// can be asked again as it is.
    pub async fn commit_step(&self, lease: &Lease, run: Uuid, change: &Value) -> Result<Commit, StoreError> {
        let client = self.client().await?;
        commit(&client, lease, run, change).await
    }

    /// Lets another job go on with a run. False if it is not this job's any more.
    pub async fn hand_on_run(&self, lease: &Lease, run: Uuid) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT hand_on_run($1, $2, $3)";
        Ok(client.query_one(sql, &[&run, &lease.row, &lease.epoch.0]).await?.try_get(0)?)
    }
}

/// Writes a change as the last statement but COMMIT of a transaction with other effects.
pub async fn commit_in(transaction: &FencedTransaction, run: Uuid, change: &Value) -> Result<Commit, StoreError> {
    commit(transaction, transaction.lease(), run, change).await
}

async fn commit(client: &Client, lease: &Lease, run: Uuid, change: &Value) -> Result<Commit, StoreError> {
    let row = client.query_one(COMMIT, &[&run, &lease.row, &lease.epoch.0, change]).await?;
    let outcome: String = row.try_get("outcome")?;
    Ok(Commit {
        outcome: match outcome.as_str() {
            "committed" => CommitOutcome::Committed,
            "woken" => CommitOutcome::Woken,
            "overtaken" => CommitOutcome::Overtaken,
            "moved" => CommitOutcome::Moved,
            _ => CommitOutcome::Ended,
        },
        next_visit: row.try_get("next_visit")?,
        cancel_reason: row.try_get("cancel_reason")?,
        at: row.try_get("committed_at")?,
        wake_seq: row.try_get::<_, Option<i64>>("wake_seq")?.unwrap_or_default(),
    })
}

fn taken(id: Uuid, row: &Row) -> Result<TakenRun, StoreError> {
    let taken_at = row.try_get("taken_at")?;
    let step = match row.try_get::<_, Option<String>>("step_id")? {
        None => None,
        Some(id) => Some(TakenStep {
            id,
            visit: row.try_get::<_, Option<i32>>("visit")?.unwrap_or(1),
            attempt: row.try_get::<_, Option<i32>>("attempt")?.unwrap_or(1),
            status: StepStatus::of(row.try_get::<_, Option<&str>>("step_status")?.unwrap_or_default()),
            result: row.try_get("result")?,
            started_at: row.try_get::<_, Option<_>>("step_started_at")?.unwrap_or(taken_at),
            due_at: row.try_get("due_at")?,
        }),
    };
    let variables: Value = row.try_get("variables")?;
    Ok(TakenRun {
        id,
        definition_id: row.try_get("definition_id")?,
        submitter_id: row.try_get("submitter_id")?,
        variables: variables.as_object().cloned().unwrap_or_default(),
        use_mocks: row.try_get("use_mocks")?,
        cancel_reason: row.try_get("cancel_reason")?,
        created_at: row.try_get("created_at")?,
        step,
        taken_at,
        steps: row.try_get("steps")?,
        wake_seq: row.try_get("wake_seq")?,
    })
}
