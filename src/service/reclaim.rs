//! Gives back at once what previous lives of this instance held, and charges a death to what it ran.

use super::{
    predecessor::{Predecessor, State},
    upkeep::host_name,
};
use crate::{
    events,
    queue::{
        Queue,
        connection::Backoff,
        lease::{LOCK_DURATION, Leases},
    },
    store::{Store, StoreError, suspicion::Death},
};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often is looked whether the locks of a life that may not be over have expired.
const LOOK: Duration = Duration::from_secs(1);

/// What the clearing up needs.
pub struct Reclaim {
    /// The queue.
    pub queue: Arc<Queue>,
    /// The ledger, which knows what ran.
    pub store: Store,
    /// What this life holds: never to be given back.
    pub leases: Arc<Leases>,
    /// What BullMQ shows as `processedBy`.
    pub worker: String,
}

/// Something went wrong that another look may mend.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Queue(#[from] crate::queue::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What one look came to.
struct Look {
    /// Jobs that the life held.
    found: usize,
    /// Those of them that were given back.
    given: usize,
}

impl Look {
    /// Whether nothing was given back although a later look may do so.
    fn may_find_more(&self, predecessor: &Predecessor) -> bool {
        self.given == 0 && (self.found > 0 || !predecessor.certainly_ours)
    }
}

impl Reclaim {
    /// Clears up after each predecessor, with as many looks as it takes; first after those whose jobs need not be waited for.
    pub async fn run(&self, state: &State, mut predecessors: Vec<Predecessor>) {
        predecessors.sort_by_key(|predecessor| !predecessor.certainly_ours);
        for predecessor in predecessors {
            let since = Instant::now();
            let mut backoff = Backoff::default();
            let (mut recorded, mut charged) = (false, HashSet::new());
            loop {
                match self.clear_up(&predecessor, &mut recorded, &mut charged).await {
                    // The locks of a life that may go on elsewhere are waited for: once expired they are nobody's. And what
                    // was refused may be given back by another look.
                    Ok(look) if look.may_find_more(&predecessor) && since.elapsed() < LOCK_DURATION + LOOK => {
                        tokio::time::sleep(LOOK).await;
                    }
                    Ok(Look { given: 0, .. }) => break,
                    // Somebody may have been taken up in between: look again until nothing is found.
                    Ok(_) => backoff.reset(),
                    Err(error) => {
                        if !backoff.is_raised() {
                            tracing::warn!("what the previous life held is not given back yet: {error}");
                        }
                        tokio::time::sleep(backoff.next_delay()).await;
                    }
                }
            }
            if let Err(error) = state.forget(&[predecessor.invocation]) {
                tracing::warn!("the instance's state still names a life that is cleared up: {error}");
            }
        }
    }

    /// One look.
    async fn clear_up(
        &self,
        predecessor: &Predecessor,
        recorded: &mut bool,
        charged: &mut HashSet<String>,
    ) -> Result<Look, Error> {
        // First, so that a job which another worker takes meanwhile is charged by that take.
        if !*recorded {
            self.record(predecessor).await?;
            *recorded = true;
        }
        let prefix = format!("{}:", predecessor.invocation);
        let mut found = self.queue.orphans(&prefix, &self.worker, &self.leases).await?;
        found.retain(|orphan| predecessor.certainly_ours || orphan.token.is_none());
        if found.is_empty() {
            return Ok(Look { found: 0, given: 0 });
        }
        // Charged before it is given out again, so that it runs alone; once, however often it is found.
        let new: Vec<String> =
            found.iter().map(|orphan| orphan.id.clone()).filter(|id| !charged.contains(id)).collect();
        self.charge(predecessor, &new).await?;
        charged.extend(new);
        let mut given = 0;
        for orphan in &found {
            if self.queue.give_back(orphan, &self.leases.token_prefix()).await? {
                given += 1;
                tracing::warn!(
                    message_id = events::PREDECESSOR_RECLAIMED,
                    floh_job_id = %orphan.id,
                    "the previous life of this instance held this job: given back"
                );
            }
        }
        Ok(Look { found: found.len(), given })
    }

    /// Notes how the life ended, which charges what others have taken from it.
    async fn record(&self, predecessor: &Predecessor) -> Result<(), Error> {
        let Some(death) = death(predecessor) else { return Ok(()) };
        tell(&death, self.store.record_death(&death).await?);
        Ok(())
    }

    async fn charge(&self, predecessor: &Predecessor, ids: &[String]) -> Result<(), Error> {
        let Some(death) = death(predecessor).filter(|_| !ids.is_empty()) else { return Ok(()) };
        tell(&death, self.store.suspect(&death, &self.queue.qualified_name, ids).await?);
        Ok(())
    }
}

/// The end of a life, if it is evidence against what it ran.
fn death(predecessor: &Predecessor) -> Option<Death> {
    let evidence = predecessor.evidence.clone()?;
    Some(Death { invocation: predecessor.invocation, host: host_name(), evidence })
}

fn tell(death: &Death, suspects: Vec<String>) {
    for id in suspects {
        tracing::error!(
            message_id = events::JOB_SUSPECTED,
            floh_job_id = %id,
            "the previous life of this instance ended while this job ran: {}; it is suspected, and runs alone",
            death.evidence
        );
    }
}
