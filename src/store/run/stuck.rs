//! Which runs are stuck, and what becomes of those.

use super::ENGINE;
use crate::store::{Client, StoreError, instance::ALIVE};
use chrono::{DateTime, Utc};
use std::time::Duration;
use uuid::Uuid;

/// Where a page of stuck runs ended: the next one starts behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckCursor {
    updated_at: DateTime<Utc>,
    id: Uuid,
}

/// What became of one page of stuck runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StuckPage {
    /// Runs that are failed now.
    pub failed: Vec<Uuid>,
    /// Runs for which a wake-up is pending now.
    pub woken: Vec<Uuid>,
    /// Steps of the failed runs that were open and are failed now.
    pub closed_steps: u64,
    /// Where to go on; absent after the last page.
    pub next: Option<StuckCursor>,
}

/// One page, oldest first, in one statement. The pieces:
///
/// * `fleet.since`: since when a worker has been alive without a gap that we know of. A run whose worker is gone has the
///   whole timeout from then on: its job is still in the queue, and nobody could take it before.
/// * `stuck`: our running runs without progress, without those whose ledger row is held by a worker that was heard of
///   within the timeout (the job of one that was killed waits in the queue, and perhaps behind others), or whose attempt
///   ended within it (another one may be due), or whose job is a wake-up that has not ended (it waits for a worker of its
///   queue, and if it fails the run fails with it). A run is woken if a wake-up is due, or its lease was handed back, or is
///   so old that the ledger has forgotten it (which means that no worker ran for all that time, or it would have been dealt
///   with long before).
/// * A row that another transaction has locked makes progress, or is being dealt with: it is passed over.
const RECOVER: &str = "
    WITH fleet AS (
        SELECT coalesce(min(alive_since), now()) AS since
        FROM worker_instance WHERE last_seen > now() - make_interval(secs => $4)
    ), stuck AS MATERIALIZED (
        SELECT r.id, r.updated_at, (r.wake_at IS NOT NULL OR r.lease_execution IS NOT NULL
                AND (j.id IS NULL OR j.state = 'handed_back')) AS wake
        FROM workflow_run r
            CROSS JOIN fleet
            LEFT JOIN job_execution j ON j.id = r.lease_execution
        WHERE r.engine = $1 AND r.status = 'running' AND r.updated_at < now() - make_interval(secs => $2)
            AND (r.wake_at IS NULL OR r.wake_at < now() - make_interval(secs => $2))
            AND ($5::timestamptz IS NULL OR (r.updated_at, r.id) > ($5, $6::uuid))
            AND (j.state IS DISTINCT FROM 'taken' OR NOT EXISTS (SELECT FROM worker_instance w
                WHERE w.invocation = j.invocation AND w.last_seen > now() - make_interval(secs => greatest($2, $4))))
            AND (j.state IS NULL OR j.state IN ('taken', 'handed_back')
                OR j.updated_at < now() - make_interval(secs => $2))
            AND NOT EXISTS (SELECT FROM job_outbox o WHERE o.id = j.outbox_id AND o.ended_at IS NULL)
            AND (r.wake_at IS NOT NULL OR r.lease_execution IS NULL OR j.id IS NULL OR j.state = 'handed_back'
                OR fleet.since < now() - make_interval(secs => $2))
        ORDER BY r.updated_at, r.id
        LIMIT $3
        FOR UPDATE OF r SKIP LOCKED
    ), failed AS (
        UPDATE workflow_run r
            SET status = 'failed', failure_reason = $7, finished_at = now(), lease_execution = NULL, lease_epoch = NULL
            FROM stuck WHERE r.id = stuck.id AND NOT stuck.wake
            RETURNING r.id
    ), woken AS (
        UPDATE workflow_run r
            SET wake_at = now(), wake_seq = r.wake_seq + 1, lease_execution = NULL, lease_epoch = NULL
            FROM stuck WHERE r.id = stuck.id AND stuck.wake
            RETURNING r.id
    ), closed AS (
        UPDATE workflow_step s SET status = 'failed', failure_reason = $7, finished_at = now()
            FROM failed WHERE s.run_id = failed.id
                AND (s.status IN ('running', 'waiting_approval', 'waiting_response')
                    -- One that waits for its next try; another engine's plan may have pending steps that never began.
                    OR s.status = 'pending' AND s.attempt > 1)
            RETURNING s.id
    )
    SELECT ARRAY(SELECT id FROM failed) AS failed, ARRAY(SELECT id FROM woken) AS woken,
        (SELECT count(*) FROM closed) AS closed,
        (SELECT count(*) FROM stuck) AS seen, last.updated_at, last.id
    FROM (SELECT) AS one
        LEFT JOIN (SELECT updated_at, id FROM stuck ORDER BY updated_at DESC, id DESC LIMIT 1) last ON true";

/// Deals with the next `limit` stuck runs, inside the caller's transaction: those of ours in `running` without progress
/// for `timeout`, with no live lease. They are failed with `reason`, and their running steps with them; those that were
/// handed back or whose wake-up came to nothing are woken instead, that is, `wake_at` is set and `wake_seq` is raised.
///
/// Runs that wait for a person or for a time are not `running` and never touched.
pub async fn recover_stuck_runs(
    client: &Client,
    timeout: Duration,
    reason: &str,
    after: Option<&StuckCursor>,
    limit: u32,
) -> Result<StuckPage, StoreError> {
    let (updated_at, id) = (after.map(|cursor| cursor.updated_at), after.map(|cursor| cursor.id));
    let row = client
        .query_one(
            RECOVER,
            &[&ENGINE, &timeout.as_secs_f64(), &i64::from(limit), &ALIVE.as_secs_f64(), &updated_at, &id, &reason],
        )
        .await?;
    let closed: i64 = row.try_get("closed")?;
    let seen: i64 = row.try_get("seen")?;
    let next = match (row.try_get("updated_at")?, row.try_get("id")?) {
        (Some(updated_at), Some(id)) if seen >= i64::from(limit) => Some(StuckCursor { updated_at, id }),
        _ => None,
    };
    Ok(StuckPage {
        failed: row.try_get("failed")?,
        woken: row.try_get("woken")?,
        closed_steps: closed.unsigned_abs(),
        next,
    })
}
