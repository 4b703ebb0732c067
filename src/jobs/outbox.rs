//! The sender of the outbox: jobs that a transaction wanted are added to the queue once it has committed, whoever wrote
//! them. Every worker has one; a row is sent by whichever comes first.

use super::Trouble;
use crate::{
    events,
    queue::{self, Added, Queue, add::NewJob, connection::Backoff},
    store::{
        Notice, Notices, Store,
        outbox::{Failed, OutboxBatch, Unsent},
    },
};
use std::{sync::Arc, time::Duration};

/// Rows of one transaction, and of one round trip to Redis.
const BATCH: usize = 100;
/// How often the outbox is looked at when nothing is heard.
const POLL: Duration = Duration::from_secs(5);
/// After a look the next one waits at least this long, so that a fleet that hears of each row does not ask for each.
const PAUSE: Duration = Duration::from_millis(50);

/// Sends the rows of the outbox.
pub struct Sender {
    store: Store,
    queue: Arc<Queue>,
    notices: Arc<Notices>,
}

impl Sender {
    /// For the rows of this queue.
    pub fn new(store: &Store, queue: &Arc<Queue>, notices: &Arc<Notices>) -> Sender {
        Sender { store: store.clone(), queue: Arc::clone(queue), notices: Arc::clone(notices) }
    }

    /// For ever: at once when there is news, and every few seconds without.
    pub async fn run(&self) {
        let mut news = self.notices.subscribe(Notice::Outbox);
        let mut backoff = Backoff::default();
        let mut told = None;
        loop {
            // What is said while we look is looked at again.
            news.borrow_and_update();
            if let Err(error) = self.send_all().await {
                let error = error.to_string();
                if told.as_ref() != Some(&error) {
                    tracing::warn!("the outbox is not sent: {error}");
                    told = Some(error);
                }
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            }
            (backoff, told) = (Backoff::default(), None);
            tokio::time::sleep(PAUSE.mul_f64(rand::random_range(0.5..=1.0))).await;
            tokio::select! {
                _ = news.changed() => {}
                () = tokio::time::sleep(POLL.mul_f64(rand::random_range(0.7..=1.0))) => {}
            }
        }
    }

    /// Sends what there is to send, and returns how many rows it were.
    pub async fn send_all(&self) -> Result<usize, Trouble> {
        let mut sent = 0;
        while let Some(batch) = self.store.outbox_batch(&self.queue.qualified_name, BATCH as i64).await? {
            let last = batch.rows.len() < BATCH;
            sent += self.send(batch).await?;
            if last {
                break;
            }
        }
        Ok(sent)
    }

    async fn send(&self, batch: OutboxBatch) -> Result<usize, Trouble> {
        let jobs: Vec<NewJob> = batch.rows.iter().map(job).collect();
        let added = match self.queue.add_all(&jobs).await {
            Ok(added) => added,
            Err(error) => {
                // What the queue said is the news, also where the session has ended meanwhile.
                if let Err(lost) = batch.give_up().await {
                    tracing::debug!("the rows are free again with the end of their session: {lost}");
                }
                return Err(error.into());
            }
        };
        let accepts = added.iter().any(|added| !matches!(added, Added::Refused(_)));
        let (mut sent, mut refused, mut unsure) = (Vec::new(), Vec::new(), None);
        for (row, added) in batch.rows.iter().zip(added) {
            match added {
                Added::InQueue => sent.push(row.id),
                Added::Ended => {
                    refused.push(refuse(
                        row,
                        "an ended job of this id is still kept in the queue; each wake-up needs its own",
                    ));
                }
                Added::Refused(error) if accepts || is_about_the_row(&error) => {
                    refused.push(refuse(row, &error.to_string()));
                }
                Added::Refused(error) => unsure = Some(error),
            }
        }
        tracing::debug!("{} wake-ups sent", sent.len());
        batch.close(&sent, &refused).await?;
        // A server that takes none of them has something against all: they wait until somebody has seen to it.
        unsure.map_or(Ok(sent.len()), |error| Err(error.into()))
    }
}

/// Whether an error says something about one job alone, and would be the same the next time.
fn is_about_the_row(error: &queue::Error) -> bool {
    match error {
        queue::Error::Settings(_) => true,
        queue::Error::Answer { what, .. } => what.contains("WRONGTYPE"),
        queue::Error::Unavailable { .. } | queue::Error::Rejected { .. } | queue::Error::Forbidden { .. } => false,
    }
}

fn refuse(row: &Unsent, why: &str) -> Failed {
    let reason = format!("a wake-up of the outbox cannot be sent and counts as failed: {why}");
    tracing::error!(
        message_id = events::WAKE_UP_REFUSED,
        floh_job_id = %row.job_id,
        floh_job_name = %row.name,
        "{reason}"
    );
    Failed { id: row.id, reason }
}

/// It removes itself when it is completed: the row knows that it was.
fn job(row: &Unsent) -> NewJob {
    NewJob {
        name: row.name.clone(),
        data: row.data.clone(),
        id: Some(row.job_id.clone()),
        delay: row.delay,
        priority: row.priority,
        lifo: false,
        attempts: row.attempts,
        remove_on_complete: true,
    }
}
