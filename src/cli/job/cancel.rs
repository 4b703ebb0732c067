//! `flohctl job cancel`: asks whoever has the job, and says what became of it by what the queue knows.

use super::{super::complain_store, Answer, NO, complain_queue, say};
use crate::{
    queue::{
        Queue,
        state::{End, Place},
    },
    store::{Epoch, Store},
};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a job may take to react.
const REACTION: Duration = Duration::from_secs(5);
/// How often is asked again: meanwhile the job may have begun, or be in other hands.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often is looked what became of it.
const LOOK: Duration = Duration::from_millis(50);

/// Who has the job.
enum Holder {
    /// An instance of ours; with the epoch, if it has begun.
    Ours(String, Option<Epoch>),
    /// A worker that is none of ours.
    Foreign,
    /// Nobody: its lock has expired.
    Nobody,
}

/// The job as it is asked for.
struct Wanted<'a> {
    id: &'a str,
    reason: &'a str,
    store: &'a Store,
    queue: &'a Queue,
}

/// Cancels a job.
pub(super) async fn run(id: &str, reason: &str, store: &Store, queue: &Queue) -> Answer {
    let wanted = Wanted { id, reason, store, queue };
    if wanted.place().await? != Place::Active {
        return wanted.not_running().await;
    }
    let begun = Instant::now();
    let mut asked = begun;
    let mut holder = wanted.ask().await?;
    loop {
        if wanted.place().await? != Place::Active {
            return wanted.ended(&holder).await;
        }
        let patience = if matches!(holder, Holder::Ours(..)) { REACTION } else { 2 * ASK_AGAIN };
        if begun.elapsed() > patience {
            return Ok(wanted.still_active(&holder));
        }
        if asked.elapsed() > ASK_AGAIN {
            asked = Instant::now();
            holder = latest(holder, wanted.ask().await?);
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Wanted<'_> {
    async fn place(&self) -> Result<Place, ExitCode> {
        self.queue.place(self.id).await.map_err(|error| complain_queue(&error))
    }

    async fn end(&self) -> Result<Option<End>, ExitCode> {
        self.queue.end(self.id).await.map_err(|error| complain_queue(&error))
    }

    /// Asks whoever holds the job's lock, and in the ledger, which remembers how a job ended that is removed then.
    async fn ask(&self) -> Result<Holder, ExitCode> {
        let Wanted { id, reason, store, queue } = self;
        let token = queue.lock_token(id).await.map_err(|error| complain_queue(&error))?;
        let holder = match &token {
            None => None,
            Some(token) => {
                // BullMQ's own tokens begin with an id of the worker, too.
                let Ok(invocation) = Uuid::parse_str(token.split(':').next().unwrap_or_default()) else {
                    return Ok(Holder::Foreign);
                };
                let asked = store.ask_to_cancel_held(invocation, id, token, reason).await;
                let Some(instance) = asked.map_err(|error| complain_store(&error))? else { return Ok(Holder::Foreign) };
                Some(instance)
            }
        };
        let asked = store.ask_to_cancel(&queue.qualified_name, id, reason).await.map_err(|e| complain_store(&e))?;
        let epoch = asked.as_ref().map(|asked| asked.epoch);
        Ok(holder
            .or(asked.map(|asked| asked.instance))
            .map_or(Holder::Nobody, |instance| Holder::Ours(instance, epoch)))
    }

    /// Nobody was asked.
    async fn not_running(&self) -> Answer {
        let id = self.id;
        match self.end().await? {
            Some(End::Gone) => say(format_args!("there is no job {id} in the queue {}", self.queue.qualified_name)),
            Some(End::Completed) => say(format_args!("job {id} is not running: it has completed")),
            Some(End::Failed(reason)) => say(format_args!("job {id} is not running: it has failed: {reason}")),
            None => say(format_args!("job {id} is not running: it is {}", self.place().await?)),
        }
        Ok(ExitCode::from(NO))
    }

    /// It runs no longer.
    async fn ended(&self, holder: &Holder) -> Answer {
        let id = self.id;
        let whom = match holder {
            Holder::Ours(instance, _) => format!("on floh-worker@{instance}"),
            Holder::Foreign | Holder::Nobody => "elsewhere".into(),
        };
        match self.end().await? {
            Some(End::Failed(reason)) if reason.starts_with("cancelled: ") => return Ok(cancelled(id, &whom)),
            Some(End::Failed(reason)) => {
                say(format_args!("job {id} has failed {whom} before it could be cancelled: {reason}"));
            }
            Some(End::Completed) => say(format_args!("job {id} has completed {whom} before it could be cancelled")),
            Some(End::Gone) => match holder {
                Holder::Ours(_, Some(epoch)) if self.failed_on_request(*epoch).await? => {
                    return Ok(cancelled(id, &whom));
                }
                _ => say(format_args!("job {id} has ended {whom} and was removed: it may have completed")),
            },
            None => {
                say(format_args!("job {id} is not cancelled: it went back to the queue and is {}", self.place().await?))
            }
        }
        Ok(ExitCode::from(NO))
    }

    /// A job that is removed when it has ended leaves its end in the ledger.
    async fn failed_on_request(&self, epoch: Epoch) -> Result<bool, ExitCode> {
        let was = self.store.was_cancelled(&self.queue.qualified_name, self.id, epoch).await;
        was.map_err(|error| complain_store(&error))
    }

    fn still_active(&self, holder: &Holder) -> ExitCode {
        let id = self.id;
        match holder {
            Holder::Ours(instance, _) => {
                say(format_args!("floh-worker@{instance} was asked to cancel job {id} and has not done so yet"));
            }
            Holder::Foreign => say(format_args!(
                "job {id} is active, but no floh-worker runs it: a Node worker's job cannot be cancelled here"
            )),
            Holder::Nobody => {
                say(format_args!("job {id} is active, but no worker holds it any more: it waits again within a minute"))
            }
        }
        ExitCode::from(NO)
    }
}

/// What is known after asking again: a job that is just ending looks as if nobody had it.
fn latest(before: Holder, now: Holder) -> Holder {
    match (before, now) {
        (Holder::Ours(_, before), Holder::Ours(instance, now)) => Holder::Ours(instance, now.or(before)),
        (before @ Holder::Ours(..), _) => before,
        (_, now) => now,
    }
}

fn cancelled(id: &str, whom: &str) -> ExitCode {
    say(format_args!("job {id} is cancelled {whom}"));
    ExitCode::SUCCESS
}
