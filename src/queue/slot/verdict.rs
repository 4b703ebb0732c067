//! What it means that a script refuses to end a job.

use super::{
    super::{Job, connection::Backoff, finish::Refusal, lease::Lease, processor::Failure, state::Place},
    Shared,
};
/// What a call before this one, whose answer was lost, would have done with the job.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// There was none.
    Nothing,
    /// Ended it.
    Ended,
    /// Put it back into the queue, where others may have taken it since.
    Requeued,
}

impl Before {
    pub(super) fn call(sent: bool, requeues: bool) -> Before {
        match (sent, requeues) {
            (false, _) => Before::Nothing,
            (true, false) => Before::Ended,
            (true, true) => Before::Requeued,
        }
    }
}

/// What becomes of a job whose end was refused.
pub(super) enum Verdict {
    /// An earlier call had ended it.
    Done,
    /// The call is to be made again.
    Again,
    /// It ends in this way.
    Instead(Failure),
    /// It is not ours any more, and why.
    Lost(String),
}

impl Shared {
    /// What a refusal means. With a call before it whose answer was lost, a job that is gone or moved on is what that
    /// call did.
    pub(super) async fn judge(&self, job: &Job, lease: &Lease, refusal: Refusal, before: Before) -> Verdict {
        let lost = |why: &str| Verdict::Lost(why.to_string());
        match refusal {
            Refusal::PendingChildren => Verdict::Instead(Failure::again("the job has children that are pending")),
            Refusal::FailedChildren => Verdict::Instead(Failure::for_good("the job has failed children")),
            Refusal::OthersLock if before == Before::Requeued => Verdict::Done,
            Refusal::OthersLock => lost("another worker holds its lock"),
            Refusal::Unknown(code) => lost(&format!("the script answered {code}")),
            Refusal::Missing if before != Before::Nothing => Verdict::Done,
            Refusal::Missing => lost("its hash is gone: it was removed"),
            Refusal::NoLock | Refusal::NotActive => match self.place(&job.id).await {
                Place::Finished if before != Before::Nothing => Verdict::Done,
                Place::Waiting if before == Before::Requeued => Verdict::Done,
                Place::Active => match self.queue.relock(&job.id, &lease.token).await {
                    Ok(true) => Verdict::Again,
                    Ok(false) => lost("another worker holds its lock"),
                    Err(error) if error.is_outage() => Verdict::Again,
                    Err(error) => lost(&error.to_string()),
                },
                place => lost(&format!("it is {place} although this worker held it")),
            },
        }
    }

    async fn place(&self, id: &str) -> Place {
        let mut backoff = Backoff::default();
        loop {
            match self.queue.place(id).await {
                Ok(place) => return place,
                Err(error) if error.is_outage() => tokio::time::sleep(backoff.next_delay()).await,
                Err(error) => {
                    tracing::error!("the job's state cannot be read: {error}");
                    return Place::Nowhere;
                }
            }
        }
    }
}
