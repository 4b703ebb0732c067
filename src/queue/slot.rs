//! One slot: a job from its fetch to its end, and the next one that the end brought.

mod verdict;

use super::{
    Error, Job, Queue,
    connection::Backoff,
    doubts::Doubts,
    fetch::Fetched,
    finish::{Ending, FetchNext, Finished, Reason, Refusal},
    lease::{Cancelled, Lease, Leases, uptime_ms},
    panics,
    processor::{Execution, Failure, Outcome, Processor},
    pulse::{Pulse, Tally},
    schedulers,
};
use crate::events;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use verdict::{Before, Verdict};

/// How long a cancelled handler and its notes may take to let go before its job is handed back all the same.
const LET_GO: Duration = Duration::from_secs(1);
/// The longest that a job is put off which cannot go on: what held it up may have held up all.
const LONGEST_PUT_OFF: Duration = Duration::from_secs(5);
/// How often a finish that Redis answers with an error is tried again: what is done should not be done twice.
const REFUSALS: u32 = 15;

/// What every slot of a consumer shares.
pub(crate) struct Shared {
    pub queue: Arc<Queue>,
    pub leases: Arc<Leases>,
    pub pulse: Arc<Pulse>,
    pub processor: Arc<dyn Processor>,
    /// What BullMQ shows as `processedBy`.
    pub worker: String,
    /// No more fetches.
    pub stop: CancellationToken,
    /// What may have been taken without our knowing.
    pub doubts: Doubts,
}

/// What is left of a token after a job's end.
enum Token {
    /// It locks the next job, asked for at this time.
    Next(Box<Job>, i64),
    /// It is not used again.
    Retired,
}

impl Shared {
    /// Works on a job, and on those that its end brings, until there is none.
    pub async fn run(self: &Arc<Self>, first: Box<Job>, first_lease: Arc<Lease>) {
        let (mut job, mut lease) = (first, first_lease);
        loop {
            let span = crate::job_span!(id = job.id, name = job.name, attempt = job.attempt());
            let left = self.one(*job, Arc::clone(&lease)).instrument(span).await;
            let Token::Next(next, asked_ms) = left else {
                self.leases.ended(&lease);
                return;
            };
            // On record before the old lease goes: at no moment is the token unknown.
            let next_lease = self.leases.fetched(&lease.token, &next.id, &next.name, asked_ms);
            self.leases.ended(&lease);
            (job, lease) = (next, next_lease);
            // The finish was sent before the stop and answered after it: a drain starts no job.
            if self.stop.is_cancelled() {
                self.decline(&job, &lease).await;
                return;
            }
        }
    }

    /// Gives back a job that arrived when nothing is started any more.
    pub async fn decline(&self, job: &Job, lease: &Lease) {
        let span = crate::job_span!(id = job.id, name = job.name, attempt = job.attempt());
        self.hand_back(job, lease, "fetched while the worker stops").instrument(span).await;
        self.leases.ended(lease);
    }

    async fn one(self: &Arc<Self>, job: Job, lease: Arc<Lease>) -> Token {
        for mistake in &job.options.mistakes {
            tracing::warn!(message_id = events::JOB_OPTION_IGNORED, "an option of the job is ignored: {mistake}");
        }
        if let Err(error) = self.continue_schedule(&job, &lease).await {
            // To end this iteration without the next one would end the chain.
            let why = format!("the next iteration of its schedule was not added: {error}");
            return self.end(&job, &lease, Outcome::Interrupted(why), Duration::ZERO).await;
        }
        if job.broken_fields
            && let Err(error) = self.queue.mend_fields(&job.id).await
        {
            tracing::warn!("the job's fields were not mended: {error}");
        }
        let mut execution = Execution { job, lease: Arc::clone(&lease), queue: Arc::clone(&self.queue) };
        if let Err(why) = self.judge_stall(&mut execution).await {
            return self.end(&execution.job, &lease, Outcome::Interrupted(why), Duration::ZERO).await;
        }
        let started = std::time::Instant::now();
        let job = &execution.job;
        tracing::debug!(message_id = events::JOB_STARTED, "attempt {} of {}", job.attempt(), job.options.attempts());
        let execution = Arc::new(execution);
        let outcome = self.outcome(&execution).await;
        let took = started.elapsed();
        self.end(&execution.job, &lease, outcome, took).await
    }

    /// Runs the handler in a task of its own, so that a panic ends only it and a cancellation need not wait for it.
    async fn outcome(self: &Arc<Self>, execution: &Arc<Execution>) -> Outcome {
        let job = &execution.job;
        if let Some(reason) = &job.defect {
            return Outcome::Failed(Failure::refused(reason));
        }
        if let Some(reason) = &job.deferred_failure {
            return Outcome::Failed(Failure::for_good(reason));
        }
        let processing = Arc::clone(&self.processor).process(Arc::clone(execution));
        let mut task = tokio::spawn(panics::catch(processing).in_current_span());
        let joined = tokio::select! {
            joined = &mut task => joined,
            why = execution.lease.withdrawn() => {
                // It may end by itself, with a result that is worth keeping, before it is dropped at its next await.
                match tokio::time::timeout(LET_GO, &mut task).await {
                    Ok(joined) if why == Cancelled::Interrupted => joined,
                    _ => {
                        task.abort();
                        return match why {
                            Cancelled::LeaseLost => Outcome::Lost("the lease was lost".into()),
                            Cancelled::Interrupted | Cancelled::Requested => {
                                Outcome::Interrupted("the worker stops".into())
                            }
                        };
                    }
                }
            }
        };
        match joined {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Outcome::Failed(Failure::from(panic)),
            Err(error) => Outcome::Interrupted(format!("the handler's task ended: {error}")),
        }
    }

    async fn end(&self, job: &Job, lease: &Lease, outcome: Outcome, took: Duration) -> Token {
        let ending = match outcome {
            Outcome::Completed { value, epoch } => Ending::Completed { value: value.to_string(), epoch },
            Outcome::Failed(failure) => ending_of(job, failure),
            // What keeps this job from going on may let every other one go on: it does not stand in their way.
            Outcome::Interrupted(why) if !self.takes_nothing() && lease.cancellation().is_none() => {
                Ending::PutOff(why, put_off(job))
            }
            Outcome::Interrupted(why) => {
                self.hand_back(job, lease, &why).await;
                return Token::Retired;
            }
            Outcome::Lost(why) => {
                self.pulse.count(Tally::Lost);
                tracing::error!(message_id = events::JOB_LOST, "lease lost, nothing more is written: {why}");
                self.let_go(job, lease).await;
                return Token::Retired;
            }
        };
        self.finish(job, lease, ending, took).await
    }

    /// Whether no job is fetched now.
    fn takes_nothing(&self) -> bool {
        self.stop.is_cancelled() || self.processor.hold().is_some()
    }

    /// Finishes over as many connections as it takes; only the first call fetches the next job.
    async fn finish(&self, job: &Job, lease: &Lease, mut ending: Ending, took: Duration) -> Token {
        lease.finishing();
        let mut backoff = Backoff::default();
        let mut sent_before = false;
        let mut refused = 0;
        loop {
            let wanted = !sent_before
                && !self.takes_nothing()
                // A request to cancel names the token: a later run of the same job must not have it.
                && lease.request().is_none();
            let next = FetchNext { wanted, worker: &self.worker };
            let asked = uptime_ms();
            match self.queue.finish(job, &lease.token, &ending, next).await {
                Ok(Finished::Done(fetched)) => {
                    self.tell(&ending, took);
                    return match fetched {
                        Fetched::Job(next) => Token::Next(next, asked),
                        Fetched::Nothing(_) => Token::Retired,
                    };
                }
                Ok(Finished::Refused(refusal)) => {
                    match self.judge(job, lease, refusal, Before::call(sent_before, ending.requeues())).await {
                        Verdict::Done => {
                            self.tell(&ending, took);
                            return Token::Retired;
                        }
                        Verdict::Again => sent_before = true,
                        Verdict::Instead(failure) => ending = ending_of(job, failure),
                        Verdict::Lost(why) => {
                            self.pulse.count(Tally::Lost);
                            tracing::error!(message_id = events::JOB_LOST, "could not be finished, because {why}");
                            return Token::Retired;
                        }
                    }
                }
                Err(error) if error.is_outage() || refused < REFUSALS => {
                    if !sent_before {
                        tracing::warn!("finishing is tried again: {error}");
                    }
                    refused += u32::from(!error.is_outage());
                    sent_before = true;
                    // The script may have run, and may have taken a job with it.
                    self.doubts.raise();
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(error) => {
                    self.pulse.count(Tally::Lost);
                    tracing::error!(
                        message_id = events::JOB_LOST,
                        "could not be finished: {error}; the stalled check will bring it back"
                    );
                    return Token::Retired;
                }
            }
        }
    }

    /// Where the lock is still ours although the lease is lost, nobody works on the job: it need not wait until the lock
    /// expires. Where it is not, the script refuses.
    async fn let_go(&self, job: &Job, lease: &Lease) {
        lease.finishing();
        match self.queue.hand_back(&job.id, &lease.token).await {
            Ok(Ok(())) => tracing::warn!(message_id = events::JOB_HANDED_BACK, "its lock was still ours: handed back"),
            Ok(Err(Refusal::OthersLock)) => tracing::debug!("another worker holds its lock"),
            // It may be active with a lock that has expired: the look for jobs of lost answers finds it.
            Ok(Err(refusal)) => {
                tracing::debug!("its lock is not ours any more ({refusal:?})");
                self.doubts.raise();
            }
            Err(error) => {
                tracing::debug!("it waits until its lock expires: {error}");
                self.doubts.raise();
            }
        }
    }

    async fn hand_back(&self, job: &Job, lease: &Lease, why: &str) {
        #[cfg(feature = "test-jobs")]
        if crate::switches::off("hand-back") {
            return;
        }
        lease.finishing();
        let mut backoff = Backoff::default();
        let mut sent_before = false;
        let refused = loop {
            match self.queue.hand_back(&job.id, &lease.token).await {
                Ok(Ok(())) => break None,
                Ok(Err(refusal)) => match self.judge(job, lease, refusal, Before::call(sent_before, true)).await {
                    Verdict::Done => break None,
                    Verdict::Again => sent_before = true,
                    Verdict::Instead(failure) => break Some(failure.reason),
                    Verdict::Lost(why) => break Some(why),
                },
                Err(error) if error.is_outage() => {
                    if !sent_before {
                        tracing::warn!("handing back is tried again: {error}");
                    }
                    sent_before = true;
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(error) => {
                    // The look for jobs of lost answers finds it, and so does the next life.
                    self.doubts.raise();
                    break Some(error.to_string());
                }
            }
        };
        match refused {
            None => {
                self.pulse.count(Tally::HandedBack);
                tracing::warn!(message_id = events::JOB_HANDED_BACK, "handed back, no attempt charged: {why}");
            }
            Some(refused) => {
                self.pulse.count(Tally::Lost);
                tracing::error!(
                    message_id = events::JOB_ABANDONED,
                    "could not be handed back, because {refused}: {why}"
                );
            }
        }
    }

    /// Adds a scheduler's next iteration before its job runs, so that a crash in between cannot end the chain.
    async fn continue_schedule(&self, job: &Job, lease: &Lease) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        loop {
            match schedulers::continue_chain(&self.queue, job).await {
                Err(error) if error.is_outage() && lease.cancellation().is_none() => {
                    if !backoff.is_raised() {
                        tracing::warn!("the next iteration of its schedule is tried again: {error}");
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                other => return other,
            }
        }
    }

    /// Clears the stall verdict of a Node worker's check: whether a job is poison is not a question of how often its
    /// worker was restarted. Where workers of ours died of the job too, the verdict stands.
    async fn judge_stall(&self, execution: &mut Execution) -> Result<(), String> {
        if !execution.job.is_stall_verdict() || self.processor.is_suspected(execution).await? {
            return Ok(());
        }
        match self.queue.clear_deferred_failure(&execution.job.id).await {
            Ok(()) => tracing::warn!("another worker's stalled check had condemned this job: it runs all the same"),
            Err(error) => tracing::warn!("the stall verdict was not cleared: {error}"),
        }
        execution.job.deferred_failure = None;
        Ok(())
    }

    fn tell(&self, ending: &Ending, took: Duration) {
        let took = took.as_secs_f64();
        match ending {
            Ending::Completed { .. } => {
                self.pulse.count(Tally::Completed);
                tracing::info!(message_id = events::JOB_COMPLETED, "completed in {took:.3} s");
            }
            Ending::Failed(reason) => {
                self.pulse.count(Tally::Failed);
                let kind = if reason.refused { events::JOB_REFUSED } else { events::JOB_FAILED };
                tracing::error!(message_id = kind, "failed after {took:.3} s: {}", reason.text);
            }
            Ending::Retried(reason, delay) => {
                self.pulse.count(Tally::Retried);
                let wait = delay.as_secs_f64();
                tracing::warn!(
                    message_id = events::JOB_RETRIED,
                    "failed after {took:.3} s, again in {wait:.1} s: {}",
                    reason.text
                );
            }
            Ending::PutOff(why, delay) => {
                self.pulse.count(Tally::HandedBack);
                let wait = delay.as_secs();
                tracing::warn!(
                    message_id = events::JOB_HANDED_BACK,
                    "handed back, no attempt charged, again in {wait} s: {why}"
                );
            }
        }
    }
}

/// How long a job waits that could not go on: twice as long each time, up to the longest.
fn put_off(job: &Job) -> Duration {
    // Each fetch starts an attempt, and only one that ended was made.
    let before = job.attempts_started.saturating_sub(job.attempts_made).saturating_sub(1);
    Duration::from_secs(1 << before.min(6)).min(LONGEST_PUT_OFF)
}

/// Whether a failure is for good, or how long to wait for the next attempt.
fn ending_of(job: &Job, failure: Failure) -> Ending {
    let stack = failure.stack.as_deref().unwrap_or(&failure.reason);
    let reason =
        Reason { text: failure.reason.clone(), stacktrace: job.stacktrace_with(Some(stack)), refused: failure.refused };
    let made = job.attempt();
    if !failure.retry || job.is_last_attempt() {
        return Ending::Failed(reason);
    }
    let delay =
        job.options.backoff().map_or(Duration::ZERO, |backoff| backoff.delay(made, rand::random_range(0.0..1.0)));
    Ending::Retried(reason, delay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::options::Options;

    fn ending(options: &str, attempts_made: u32, retry: bool) -> Ending {
        let job = Job { attempts_made, options: Options::parse(Some(options)), ..Job::default() };
        ending_of(&job, Failure { retry, ..Failure::again("no") })
    }

    #[test]
    fn three_retries_after_5_10_and_20_seconds_and_then_failed() {
        let delays: Vec<_> = (0..4)
            .map(|made| match ending("{}", made, true) {
                Ending::Retried(_, delay) => delay.as_secs(),
                _ => 0,
            })
            .collect();
        assert_eq!(delays, [5, 10, 20, 0]);
        assert!(matches!(ending("{}", 3, true), Ending::Failed(_)));
    }

    #[test]
    fn what_cannot_be_retried_fails_at_once() {
        assert!(matches!(ending("{}", 0, false), Ending::Failed(_)));
        assert!(matches!(ending(r#"{"attempts":1}"#, 0, true), Ending::Failed(_)));
    }
}
