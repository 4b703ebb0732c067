//! A session that listens: what others say in the database (a wake-up was written, a job is to be cancelled) reaches this
//! process at once. It is a shortcut; everything said is also found by slow polls.

use super::{Store, StoreError, connect::Listening};
use std::time::Duration;
use tokio::sync::watch;

/// What was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// There are new rows in the outbox.
    Outbox,
    /// Somebody wants a running job cancelled.
    Cancel,
    /// A schedule is new, another one than before, or gone.
    Schedules,
}

/// Counters that rise with each notice; a reader waits for its own to change.
#[derive(Debug)]
pub struct Notices {
    outbox: watch::Sender<u64>,
    cancel: watch::Sender<u64>,
    schedules: watch::Sender<u64>,
}

impl Default for Notices {
    fn default() -> Notices {
        Notices { outbox: watch::Sender::new(0), cancel: watch::Sender::new(0), schedules: watch::Sender::new(0) }
    }
}

impl Notices {
    /// Changes whenever something of this kind was said, and after each time in which nothing could be heard.
    pub fn subscribe(&self, notice: Notice) -> watch::Receiver<u64> {
        self.counter(notice).subscribe()
    }

    fn tell(&self, notice: Notice) {
        self.counter(notice).send_modify(|count| *count += 1);
    }

    fn counter(&self, notice: Notice) -> &watch::Sender<u64> {
        match notice {
            Notice::Outbox => &self.outbox,
            Notice::Cancel => &self.cancel,
            Notice::Schedules => &self.schedules,
        }
    }
}

/// A session that says nothing for this long is asked whether it is still there.
const ASK: Duration = Duration::from_secs(10);
/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(5);

impl Store {
    /// Listens until the session ends, tells `notices`, and returns how it ended, or why there was none. The caller calls it
    /// again, with pauses of its own.
    pub async fn listen(&self, notices: &Notices) -> StoreError {
        match self.try_listen(notices).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_listen(&self, notices: &Notices) -> Result<std::convert::Infallible, StoreError> {
        let unavailable = |reason: &str| StoreError::Unavailable { place: self.place().clone(), reason: reason.into() };
        let Listening { client, mut said, task: _task } = self.shared.connector.open_listening().await?;
        let sort = |error: tokio_postgres::Error| StoreError::sort(self.place(), &error);
        let channel: String = client
            .query_one("SELECT quote_ident(worker_channel())", &[])
            .await
            .and_then(|row| row.try_get(0))
            .map_err(sort)?;
        client.batch_execute(&format!("LISTEN {channel}")).await.map_err(sort)?;
        // What was said before we listened is to be found by looking.
        notices.tell(Notice::Outbox);
        notices.tell(Notice::Cancel);
        notices.tell(Notice::Schedules);
        loop {
            match tokio::time::timeout(ASK, said.recv()).await {
                Ok(Some(payload)) => match payload.as_str() {
                    "outbox" => notices.tell(Notice::Outbox),
                    "cancel" => notices.tell(Notice::Cancel),
                    "schedules" => notices.tell(Notice::Schedules),
                    other => tracing::debug!("{other:?} was said, which this version does not know"),
                },
                Ok(None) => return Err(unavailable("the session that listens was closed")),
                Err(_) => match tokio::time::timeout(ANSWER, client.simple_query("")).await {
                    Ok(answer) => drop(answer.map_err(sort)?),
                    Err(_) => return Err(unavailable("the session that listens does not answer")),
                },
            }
        }
    }
}
