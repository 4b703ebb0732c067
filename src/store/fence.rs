//! Fenced transactions: effects of a job that are committed only while its lease is ours.
//!
//! The fence is the last statement before COMMIT: it compares the epoch and locks the ledger row until the transaction
//! has ended, so that no take can come between.

#[cfg(feature = "test-jobs")]
use crate::switches::off;

use super::{Lease, Policy, Store, StoreError, client::Client};
use serde_json::Value;
use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};
use tokio::time::Instant;

/// What became of a lease whose last answer was lost.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// The result is committed, with this value.
    Committed(Value),
    /// It is not, and will not be; the lease is still ours.
    NotCommitted,
    /// Somebody else has the job now; nothing more of ours is committed.
    Lost,
}

/// The statement that compares the epoch, locks the row and writes the result.
const RESULT: &str = "SELECT fence_result($1, $2, $3)";
/// What it would be without comparing.
#[cfg(feature = "test-jobs")]
const UNFENCED_RESULT: &str =
    "UPDATE job_execution SET state = 'committed', value = $3 WHERE id = $1 AND epoch >= $2 RETURNING id";

/// How long ended sessions may take to be gone.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(5);

/// A transaction of a job. Use it like a [`Client`]; end it with one of its own methods. Dropped without that, its
/// session is closed and nothing is committed.
pub struct FencedTransaction {
    client: Client,
    lease: Lease,
    transaction: String,
    ended: bool,
}

impl Store {
    /// Opens a transaction under a lease (READ COMMITTED). [`StoreError::LeaseLost`] if the lease is already gone.
    pub async fn begin(&self, lease: &Lease) -> Result<FencedTransaction, StoreError> {
        let client = self.client().await?;
        let mut transaction =
            FencedTransaction { client, lease: lease.clone(), transaction: String::new(), ended: false };
        let sql = format!("BEGIN; SELECT begin_fenced({}, {})", lease.row, lease.epoch.0);
        #[cfg(feature = "test-jobs")]
        let sql = if off("fence") { "BEGIN; SELECT pg_current_xact_id()::text".to_string() } else { sql };
        match transaction.client.batch_value(&sql).await {
            Ok(number) => {
                transaction.transaction = number.unwrap_or_default();
                transaction.client.watch_pauses();
                Ok(transaction)
            }
            Err(error) => {
                transaction.roll_back().await;
                Err(error)
            }
        }
    }

    /// What became of a lease, after [`StoreError::CommitUnknown`] from [`FencedTransaction::commit_result`]. Ends what
    /// sessions may still work under its epoch, so that the answer is final.
    pub async fn outcome(&self, lease: &Lease) -> Result<Outcome, StoreError> {
        let client = self.client().await?;
        end_sessions(self, &client, lease).await?;
        let sql = "SELECT epoch, state, value FROM job_execution WHERE id = $1";
        let Some(row) = client.query_opt(sql, &[&lease.row]).await? else { return Ok(Outcome::Lost) };
        let state: String = row.try_get("state")?;
        if row.try_get::<_, i64>("epoch")? != lease.epoch.0 {
            Ok(Outcome::Lost)
        } else if state == "committed" {
            Ok(Outcome::Committed(row.try_get("value")?))
        } else {
            Ok(Outcome::NotCommitted)
        }
    }

    /// Whether a transaction was committed, after [`StoreError::CommitUnknown`] (which holds its number) from
    /// [`FencedTransaction::commit`]. Ends what sessions may still work under the lease's epoch, so that the answer is
    /// final.
    pub async fn transaction_committed(&self, lease: &Lease, transaction: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        end_sessions(self, &client, lease).await?;
        let row = client.query_one("SELECT pg_xact_status($1::text::xid8)", &[&transaction]).await?;
        Ok(row.try_get::<_, Option<&str>>(0)? == Some("committed"))
    }
}

/// Ends the sessions of an epoch and waits until they are gone: what they had in their hands is then decided.
async fn end_sessions(store: &Store, client: &Client, lease: &Lease) -> Result<(), StoreError> {
    let limit = Instant::now() + TERMINATION_TIMEOUT;
    while client.query_one("SELECT terminate_epoch($1)", &[&lease.epoch.0]).await?.try_get::<_, i32>(0)? > 0 {
        if Instant::now() > limit {
            return Err(StoreError::Unavailable {
                place: store.place().clone(),
                reason: format!("a session of epoch {} does not end", lease.epoch),
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

impl FencedTransaction {
    /// The lease it works under.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// PostgreSQL's number of this transaction, by which [`Store::transaction_committed`] finds its fate.
    pub fn number(&self) -> &str {
        &self.transaction
    }

    /// Commits the effects if the lease is still ours: fence and COMMIT in one round trip.
    ///
    /// [`StoreError::LeaseLost`]: another worker has the job, nothing is committed. [`StoreError::CommitUnknown`]: the
    /// connection died meanwhile. After any other error nothing is committed.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        // Where a pause has ended the session, that is known before COMMIT is sent: nothing has to be asked about.
        if self.client.pause().is_some()
            && let Err(error) = self.client.batch_execute("SELECT 1").await
        {
            self.roll_back().await;
            return Err(error);
        }
        let sql = format!("SELECT fence({}, {}); COMMIT", self.lease.row, self.lease.epoch.0);
        #[cfg(feature = "test-jobs")]
        let sql = if off("fence") { "COMMIT".to_string() } else { sql };
        let answer = self.client.batch_execute(&sql).await;
        self.conclude(answer).await
    }

    /// The same for the transaction that finishes the job: its return value is committed with its effects, and the
    /// lease is over. The job is not run again unless its finish was acknowledged (see [`super::Start::acknowledged`]).
    pub async fn commit_result(mut self, value: &Value) -> Result<(), StoreError> {
        let sql = RESULT;
        #[cfg(feature = "test-jobs")]
        let sql = if off("fence") { UNFENCED_RESULT } else { sql };
        let fenced = self.client.query_one(sql, &[&self.lease.row, &self.lease.epoch.0, value]).await;
        let answer = match fenced {
            Ok(_) => self.client.batch_execute("COMMIT").await,
            Err(error) => {
                // COMMIT was not sent, so whatever happened, nothing is committed.
                self.roll_back().await;
                return Err(error);
            }
        };
        self.conclude(answer).await
    }

    /// Gives up the effects and gives the session back.
    pub async fn rollback(mut self) {
        self.roll_back().await;
    }

    async fn conclude(&mut self, answer: Result<(), StoreError>) -> Result<(), StoreError> {
        match answer {
            Ok(()) => {
                self.ended = true;
                Ok(())
            }
            Err(error) if error.policy() == Policy::Wait => Err(StoreError::CommitUnknown {
                transaction: std::mem::take(&mut self.transaction),
                reason: error.to_string(),
            }),
            Err(error) => {
                self.roll_back().await;
                Err(error)
            }
        }
    }

    /// Where ROLLBACK is not answered, drop closes the session.
    async fn roll_back(&mut self) {
        self.ended = self.client.batch_execute("ROLLBACK").await.is_ok();
    }
}

impl Deref for FencedTransaction {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for FencedTransaction {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for FencedTransaction {
    fn drop(&mut self) {
        if !self.ended {
            self.client.discard();
        }
    }
}
