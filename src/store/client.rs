//! A pooled session whose every statement has a deadline and whose errors are ours.

use super::{
    connect::{ANSWER_TIMEOUT, STATEMENT_TIMEOUT},
    error::{Place, StoreError},
};
use chrono::{DateTime, Utc};
use deadpool_postgres::Object;
use futures_util::TryStreamExt;
use std::{
    future::Future,
    ops::{ControlFlow, Deref, DerefMut},
    pin::pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use tokio_postgres::{Row, types::ToSql};

/// `feature_not_supported`, as which PostgreSQL reports a cached plan whose result would have another type.
const OUTDATED_PLAN: &str = "0A000";
/// From here on a pause in a transaction is why the session is gone. The server began to count when it sent its last
/// answer, which was a little before that was read here.
const PAUSE: Duration = STATEMENT_TIMEOUT.saturating_sub(Duration::from_millis(500));

/// A session out of the pool, given back on drop.
///
/// Its own methods prepare once per session, end after 15 s at the latest and report [`StoreError`]s. What is not
/// among them (COPY, streams, `transaction`) is reached by `Deref` to [`tokio_postgres::Client`], without a deadline.
/// A session that is dropped while a statement is under way is closed and not used again.
pub struct Client {
    object: Option<Object>,
    place: Place,
    unanswered: AtomicUsize,
    /// In a job's transaction: when its last statement was answered.
    answered: Mutex<Option<Instant>>,
}

impl Client {
    pub(super) fn new(object: Object, place: Place) -> Client {
        Client { object: Some(object), place, unanswered: AtomicUsize::new(0), answered: Mutex::new(None) }
    }

    /// A job's transaction is open from here on. Where a pause of the job is why the session is gone, the next statement
    /// says so; the server's own words for it mostly go to nobody.
    pub(super) fn watch_pauses(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long the job has paused, if that is too long for the server.
    pub(super) fn pause(&self) -> Option<Duration> {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.map(|at| at.elapsed()).filter(|pause| *pause >= PAUSE)
    }

    /// Remembers an answer, or says why there is none any more. After a pause that was too long it stays that.
    fn judge<T>(&self, pause: Option<Duration>, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        match (answer, pause) {
            (Err(error), Some(pause)) if error.is_unavailable() || error.is_pause() => Err(StoreError::paused(pause)),
            (answer, _) => {
                if !answer.as_ref().is_err_and(StoreError::is_unavailable)
                    && let Some(at) = &mut *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
                {
                    *at = Instant::now();
                }
                answer
            }
        }
    }

    #[expect(clippy::expect_used, reason = "only discard and drop take the session out, and both end the Client")]
    fn object(&self) -> &Object {
        self.object.as_ref().expect("the session is there until the end")
    }

    /// Waits for one answer. If the caller is dropped meanwhile, `unanswered` stays up, and drop closes the session.
    async fn answer<T>(&self, ask: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, StoreError> {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        #[cfg(feature = "test-jobs")]
        crate::fail_points::pass();
        let pause = self.pause();
        let answer = match tokio::time::timeout(ANSWER_TIMEOUT, ask).await {
            Ok(answer) => {
                let answer = answer.map_err(|e| StoreError::sort(&self.place, &e));
                // A session whose prepared statements are outdated (a migration changed their tables) is not used
                // again, either: it would keep them.
                if !matches!(&answer, Err(StoreError::Query { code, .. }) if code == OUTDATED_PLAN) {
                    self.unanswered.fetch_sub(1, Ordering::Relaxed);
                }
                answer
            }
            Err(_) => Err(StoreError::Unavailable {
                place: self.place.clone(),
                reason: format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
            }),
        };
        #[cfg(feature = "test-jobs")]
        crate::fail_points::pass();
        self.judge(pause, answer)
    }

    /// All rows of a statement.
    pub async fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        let session = self.object();
        self.answer(async { session.query(&session.prepare_cached(sql).await?, params).await }).await
    }

    /// The only row of a statement; none, or more than one, is an error.
    pub async fn query_one(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, StoreError> {
        let session = self.object();
        self.answer(async { session.query_one(&session.prepare_cached(sql).await?, params).await }).await
    }

    /// The row of a statement that has at most one.
    pub async fn query_opt(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, StoreError> {
        let session = self.object();
        self.answer(async { session.query_opt(&session.prepare_cached(sql).await?, params).await }).await
    }

    /// Hands the rows of a statement to `take` as they arrive, so that they are never in memory together. `take` may end
    /// it early.
    pub async fn for_each(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        mut take: impl FnMut(&Row) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let session = self.object();
        let rows = self
            .answer(async { session.query_raw(&session.prepare_cached(sql).await?, params.iter().copied()).await })
            .await?;
        let mut rows = pin!(rows);
        while let Some(row) = self.answer(rows.try_next()).await? {
            if take(&row)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The time by the database's clock.
    pub async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(self.query_one("SELECT clock_timestamp()", &[]).await?.try_get(0)?)
    }

    /// How many rows a statement changed.
    pub async fn execute(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, StoreError> {
        let session = self.object();
        self.answer(async { session.execute(&session.prepare_cached(sql).await?, params).await }).await
    }

    /// Several statements in one round trip, without parameters and without rows.
    pub async fn batch_execute(&self, sql: &str) -> Result<(), StoreError> {
        self.answer(self.object().batch_execute(sql)).await
    }

    /// Several statements in one round trip; the first column of the first row, as text.
    pub(super) async fn batch_value(&self, sql: &str) -> Result<Option<String>, StoreError> {
        let messages = self.answer(self.object().simple_query(sql)).await?;
        Ok(messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
            _ => None,
        }))
    }

    /// Closes the session instead of giving it back: its state is not known.
    pub(super) fn discard(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        self.object()
    }
}

impl DerefMut for Client {
    #[expect(clippy::expect_used, reason = "only discard and drop take the session out, and both end the Client")]
    fn deref_mut(&mut self) -> &mut tokio_postgres::Client {
        self.object.as_mut().expect("the session is there until the end")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if *self.unanswered.get_mut() > 0 {
            self.discard();
        }
    }
}
