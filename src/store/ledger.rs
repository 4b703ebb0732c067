//! The ledger of jobs: who works on which attempt, under which epoch, and what was committed.
//!
//! A take is one round trip to the function `take_job` (its latest form is in `migrations/V9__attempts.sql`, which holds the decision).

use super::{Store, StoreError, outbox::sentence};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};
use uuid::Uuid;

/// The fencing number that PostgreSQL issued for a lease. A later take has a greater one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which attempt of which job: what stays the same when a worker dies and another one goes on.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Identity {
    /// Queue name with its prefix, such as `bull:workflow-scheduler`: queues of equal names under other prefixes may share
    /// the database.
    pub queue: String,
    /// BullMQ's job id.
    pub job_id: String,
    /// The job's own `timestamp` in milliseconds, so that an id that is used again is another job.
    pub timestamp_ms: i64,
    /// BullMQ's `atm`.
    pub attempts_made: i32,
}

/// What one fetch of the job says.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// The job's name.
    pub name: &'a str,
    /// BullMQ's `ats`, which each fetch raises.
    pub attempts_started: i32,
    /// BullMQ's `processedOn` of this fetch, in milliseconds.
    pub processed_on_ms: i64,
    /// The instance that fetched it.
    pub instance: &'a str,
    /// The process life that fetched it.
    pub invocation: Uuid,
    /// The epoch that the job's hash in Redis holds: stored there by the script that finished the job, so it says
    /// which committed result has arrived.
    pub acknowledged: Option<Epoch>,
}

/// The right to commit effects of a job, until somebody else takes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Which attempt of which job.
    pub identity: Identity,
    /// Its fencing number.
    pub epoch: Epoch,
    /// How many workers died while the job ran.
    pub suspicions: u32,
    /// The row of the outbox that the job is, if it is one.
    pub outbox: Option<i64>,
    /// The tick of a schedule that the job makes up for, milliseconds, if it does.
    pub tick_ms: Option<i64>,
    /// The ledger row.
    pub(super) row: i64,
}

/// What a take found.
#[derive(Clone, PartialEq, Debug)]
pub enum Take {
    /// The job is ours.
    Taken(Lease),
    /// It was done before: its effects are committed and only its finish has not arrived. Finish it with this value
    /// (and acknowledge this epoch) without running it.
    Committed {
        /// The epoch to acknowledge.
        epoch: Epoch,
        /// The return value.
        value: serde_json::Value,
    },
    /// A later fetch has taken it: leave it alone.
    Outranked,
    /// It is a wake-up that has completed before and got into the queue twice: complete it without running it.
    Done,
    /// Too many workers died while it ran: fail it without running it.
    Quarantined {
        /// The attempt, for [`Store::suspicions`].
        identity: Identity,
    },
}

/// Why a lease ended without a committed result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// The job went back to the queue unfinished.
    HandedBack,
    /// The attempt failed and another one follows.
    Retried,
    /// The job failed for good. A wake-up of the outbox ends with it.
    Failed,
    /// Its lock in Redis was lost.
    Lost,
}

impl Release {
    fn state(self) -> &'static str {
        match self {
            Release::HandedBack => "handed_back",
            Release::Retried => "retried",
            Release::Failed => "failed",
            Release::Lost => "lost",
        }
    }
}

const TAKE: &str = "SELECT outcome, id, epoch, value, suspicions, outbox, \
    floor(extract(epoch FROM tick_at) * 1000)::bigint AS tick_ms \
    FROM take_job($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// Rows that one statement of [`Store::prune_ledger`] removes.
const PRUNE_BATCH: i64 = 1000;

impl Store {
    /// Takes a fetched job, or says why not. Where a frozen predecessor holds the row, its sessions are ended after a
    /// second. Asking again after a lost answer gives the same lease again.
    ///
    /// The caller must check afterwards that the lock in Redis still holds its token: a worker that froze before the
    /// take could otherwise outrank the live one.
    pub async fn take(&self, identity: &Identity, start: &Start<'_>) -> Result<Take, StoreError> {
        let client = self.client().await?;
        let acknowledged = start.acknowledged.map(|epoch| epoch.0);
        let row = client
            .query_one(
                TAKE,
                &[
                    &identity.queue,
                    &identity.job_id,
                    &identity.timestamp_ms,
                    &identity.attempts_made,
                    &start.name,
                    &start.attempts_started,
                    &start.processed_on_ms,
                    &start.instance,
                    &start.invocation,
                    &acknowledged,
                ],
            )
            .await?;
        let outcome: String = row.try_get("outcome")?;
        let epoch = Epoch(row.try_get("epoch")?);
        match outcome.as_str() {
            "taken" => Ok(Take::Taken(Lease {
                identity: identity.clone(),
                epoch,
                suspicions: u32::try_from(row.try_get::<_, i32>("suspicions")?).unwrap_or(0),
                outbox: row.try_get("outbox")?,
                tick_ms: row.try_get("tick_ms")?,
                row: row.try_get("id")?,
            })),
            "committed" => Ok(Take::Committed { epoch, value: row.try_get("value")? }),
            "done" => Ok(Take::Done),
            "quarantined" => Ok(Take::Quarantined { identity: identity.clone() }),
            _ => Ok(Take::Outranked),
        }
    }

    /// Notes how a lease ended; false if it was no longer ours, or its result is committed. It tells an interruption from a
    /// death, for people, for the recovery of stuck runs and for ticks that the queue lost; no commit depends on it.
    pub async fn release(&self, lease: &Lease, how: Release) -> Result<bool, StoreError> {
        self.release_because(lease, how, None).await
    }

    /// The same with a reason, which a wake-up that failed for good hands on to what it was to wake.
    pub async fn release_because(&self, lease: &Lease, how: Release, reason: Option<&str>) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let reason = reason.map(sentence);
        // Locked in the order of the fences: the ledger's row first.
        let sql = "WITH released AS (
                UPDATE job_execution SET state = $3, updated_at = now()
                WHERE id = $1 AND epoch = $2 AND state = 'taken' RETURNING outbox_id
            ), failed AS (
                UPDATE job_outbox o SET ended = 'failed', ended_at = now(), failure_reason = $4 FROM released
                WHERE $3 = 'failed' AND o.id = released.outbox_id AND o.epoch = $2 AND o.ended_at IS NULL
            )
            SELECT EXISTS (SELECT FROM released)";
        Ok(client.query_one(sql, &[&lease.row, &lease.epoch.0, &how.state(), &reason]).await?.try_get(0)?)
    }

    /// Removes ledger rows that nothing has happened to for longer than `older_than`, in batches; returns how many.
    /// Choose it longer than a finish may take to arrive: a committed row that is gone no longer suppresses a run. A job in
    /// quarantine stays for as long as it is suspected, because people find it by its row.
    pub async fn prune_ledger(&self, older_than: Duration) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let seconds = older_than.as_secs_f64();
        let sql = "DELETE FROM job_execution WHERE id IN (
                SELECT id FROM job_execution j WHERE updated_at < now() - make_interval(secs => $1)
                    AND NOT (state = 'quarantined' AND EXISTS (SELECT FROM job_suspicion s WHERE s.queue = j.queue
                        AND s.job_id = j.job_id AND s.job_timestamp = j.job_timestamp))
                ORDER BY updated_at LIMIT $2 FOR UPDATE OF j SKIP LOCKED)";
        let mut removed = 0;
        loop {
            let batch = client.execute(sql, &[&seconds, &PRUNE_BATCH]).await?;
            removed += batch;
            if batch < PRUNE_BATCH.unsigned_abs() {
                return Ok(removed);
            }
        }
    }
}
