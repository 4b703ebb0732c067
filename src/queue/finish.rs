//! Ending an attempt: completed, failed, retried later or at once, handed back.

use super::{
    Job, Queue,
    connection::COMMAND_DEADLINE,
    error::Error,
    fetch::{Fetched, Wait, lock_duration, read_fetched},
    lease::pack,
    options::Keep,
    scripts,
};
use redis::Value;
use std::time::Duration;

/// How an attempt ends.
#[derive(Debug, Clone)]
pub enum Ending {
    /// Completed with this JSON text; `epoch` is the committed result that the finish acknowledges.
    Completed {
        /// JSON.
        value: String,
        /// Kept in the job's hash, so that a retry by hand is told from a finish that never arrived.
        epoch: Option<i64>,
    },
    /// Failed for good.
    Failed(Reason),
    /// Failed, to be tried again after the delay.
    Retried(Reason, Duration),
    /// Could not go on, for this reason that is not its own: no attempt is charged, and it comes again after the delay.
    PutOff(String, Duration),
}

impl Ending {
    /// Whether the job is to run again.
    pub fn requeues(&self) -> bool {
        matches!(self, Ending::Retried(..) | Ending::PutOff(..))
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone)]
pub struct Reason {
    /// One sentence.
    pub text: String,
    /// All stack traces that the job keeps.
    pub stacktrace: Vec<String>,
    /// Whether the job could not be run at all; only for the log.
    pub refused: bool,
}

/// What a finishing script answered.
#[derive(Debug)]
pub enum Finished {
    /// Done; and the next job, if one was asked for and there is one.
    Done(Fetched),
    /// Refused: the job is not in the state that the script needs.
    Refused(Refusal),
}

/// BullMQ's answers below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// −1: the job's hash is gone.
    Missing,
    /// −2: nobody holds the lock.
    NoLock,
    /// −3: it is not in `active`.
    NotActive,
    /// −4: children of it are pending.
    PendingChildren,
    /// −6: somebody else holds the lock.
    OthersLock,
    /// −9: children of it failed.
    FailedChildren,
    /// An answer that this version of the scripts does not document.
    Unknown(i64),
}

impl Refusal {
    fn read(code: i64) -> Refusal {
        match code {
            -1 => Refusal::Missing,
            -2 => Refusal::NoLock,
            -3 => Refusal::NotActive,
            -4 => Refusal::PendingChildren,
            -6 => Refusal::OthersLock,
            -9 => Refusal::FailedChildren,
            other => Refusal::Unknown(other),
        }
    }
}

/// The next fetch inside a finish.
#[derive(Debug, Clone, Copy)]
pub struct FetchNext<'a> {
    /// Whether to fetch at all.
    pub wanted: bool,
    /// What BullMQ shows as `processedBy`.
    pub worker: &'a str,
}

/// A job's end for good, as the script is told of it.
struct End<'a> {
    /// The field that holds the value.
    property: &'a str,
    value: &'a str,
    /// The set that it goes to.
    target: &'static str,
    /// More fields of its hash, packed.
    fields: Vec<u8>,
    /// The committed result that is acknowledged, or nothing.
    epoch: String,
    keep: Keep,
}

#[derive(serde::Serialize)]
struct FinishOptions<'a> {
    token: &'a str,
    name: &'a str,
    #[serde(rename = "keepJobs")]
    keep_jobs: Keep,
    #[serde(rename = "lockDuration")]
    lock_duration: &'a str,
    /// Only looked at where an attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(rename = "maxMetricsSize")]
    max_metrics_size: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    fpof: bool,
    #[serde(skip_serializing_if = "is_false")]
    cpof: bool,
    #[serde(skip_serializing_if = "is_false")]
    idof: bool,
    #[serde(skip_serializing_if = "is_false")]
    rdof: bool,
}

/// What is not there is false to a script, and need not be read by it.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Queue {
    /// Ends the attempt with the lock's own token and, if wanted, fetches the next job with the same token.
    ///
    /// # Errors
    /// After [`Error::Unavailable`] it may have been done, and a next job may have been taken.
    pub async fn finish(
        &self,
        job: &Job,
        token: &str,
        ending: &Ending,
        next: FetchNext<'_>,
    ) -> Result<Finished, Error> {
        match ending {
            Ending::Completed { value, epoch } => {
                let end = End {
                    property: "returnvalue",
                    value,
                    target: "completed",
                    fields: Vec::new(),
                    epoch: epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
                    keep: job.options.keep_completed(),
                };
                self.move_to_finished(job, token, end, next).await
            }
            Ending::Failed(reason) => {
                let end = End {
                    property: "failedReason",
                    value: &reason.text,
                    target: "failed",
                    fields: pack(&["failedReason", &reason.text, "stacktrace", &traces(reason)?])?,
                    epoch: String::new(),
                    keep: job.options.keep_failed(),
                };
                self.move_to_finished(job, token, end, next).await
            }
            Ending::Retried(reason, delay) if delay.is_zero() => self.retry_now(job, token, reason).await,
            Ending::Retried(reason, delay) => {
                let fields = pack(&["failedReason", &reason.text, "stacktrace", &traces(reason)?])?;
                self.move_to_delayed(job, token, *delay, Some(fields), next).await
            }
            Ending::PutOff(_, delay) => self.move_to_delayed(job, token, *delay, None, next).await,
        }
    }

    async fn move_to_finished(
        &self,
        job: &Job,
        token: &str,
        end: End<'_>,
        next: FetchNext<'_>,
    ) -> Result<Finished, Error> {
        let keys = &self.keys;
        let options = pack(&FinishOptions {
            token,
            name: next.worker,
            keep_jobs: end.keep,
            lock_duration: &lock_duration(),
            attempts: (end.target == "failed").then(|| job.options.attempts()),
            max_metrics_size: "",
            fpof: job.options.fail_parent,
            cpof: job.options.continue_parent,
            idof: job.options.ignore_dependency,
            rdof: job.options.remove_dependency,
        })?;
        let (hash, metrics) = (keys.job(&job.id), keys.metrics(end.target));
        let set = if end.target == "completed" { &keys.completed } else { &keys.failed };
        let answer: Value = scripts::MOVE_TO_FINISHED
            .call(
                &self.link,
                COMMAND_DEADLINE,
                &[
                    &keys.wait,
                    &keys.active,
                    &keys.prioritized,
                    &keys.events,
                    &keys.stalled,
                    &keys.limiter,
                    &keys.delayed,
                    &keys.paused,
                    &keys.meta,
                    &keys.priority_counter,
                    set,
                    &hash,
                    &metrics,
                    &keys.marker,
                ],
                self.settle(),
                &[
                    job.id.as_bytes(),
                    b"",
                    end.property.as_bytes(),
                    end.value.as_bytes(),
                    end.target.as_bytes(),
                    if next.wanted { b"1" } else { b"0" },
                    keys.base.as_bytes(),
                    &options,
                    &end.fields,
                    end.epoch.as_bytes(),
                ],
            )
            .await?;
        read_finished("moveToFinished", &answer, self.max_job_bytes)
    }

    async fn retry_now(&self, job: &Job, token: &str, reason: &Reason) -> Result<Finished, Error> {
        let keys = &self.keys;
        let fields = pack(&["failedReason", &reason.text, "stacktrace", &traces(reason)?])?;
        let hash = keys.job(&job.id);
        let answer: Value = scripts::RETRY_JOB
            .call(
                &self.link,
                COMMAND_DEADLINE,
                &[
                    &keys.active,
                    &keys.wait,
                    &keys.paused,
                    &hash,
                    &keys.meta,
                    &keys.events,
                    &keys.delayed,
                    &keys.prioritized,
                    &keys.priority_counter,
                    &keys.marker,
                    &keys.stalled,
                ],
                self.settle(),
                &[
                    keys.base.as_bytes(),
                    b"",
                    if job.options.lifo { b"RPUSH" } else { b"LPUSH" },
                    job.id.as_bytes(),
                    token.as_bytes(),
                    &fields,
                ],
            )
            .await?;
        read_finished("retryJob", &answer, self.max_job_bytes)
    }

    /// With the packed fields of an attempt that failed, or without one.
    async fn move_to_delayed(
        &self,
        job: &Job,
        token: &str,
        delay: Duration,
        failed: Option<Vec<u8>>,
        next: FetchNext<'_>,
    ) -> Result<Finished, Error> {
        #[derive(serde::Serialize)]
        struct NextOptions<'a> {
            token: &'a str,
            #[serde(rename = "lockDuration")]
            lock_duration: &'a str,
            name: &'a str,
        }
        let keys = &self.keys;
        let options = pack(&NextOptions { token, lock_duration: &lock_duration(), name: next.worker })?;
        let (hash, delay) = (keys.job(&job.id), delay.as_millis().to_string());
        let answer: Value = scripts::MOVE_TO_DELAYED
            .call(
                &self.link,
                COMMAND_DEADLINE,
                &[
                    &keys.marker,
                    &keys.active,
                    &keys.prioritized,
                    &keys.delayed,
                    &hash,
                    &keys.events,
                    &keys.meta,
                    &keys.stalled,
                    &keys.wait,
                    &keys.limiter,
                    &keys.priority_counter,
                ],
                self.settle(),
                &[
                    keys.base.as_bytes(),
                    b"",
                    job.id.as_bytes(),
                    token.as_bytes(),
                    delay.as_bytes(),
                    // Whether it is no attempt.
                    if failed.is_some() { b"0" } else { b"1" },
                    &failed.unwrap_or_default(),
                    if next.wanted { b"1" } else { b"0" },
                    &options,
                ],
            )
            .await?;
        read_finished("moveToDelayed", &answer, self.max_job_bytes)
    }

    /// Gives an unfinished job back with its own token: it is the next to run, and no attempt is charged.
    pub async fn hand_back(&self, job_id: &str, token: &str) -> Result<Result<(), Refusal>, Error> {
        let keys = &self.keys;
        let hash = keys.job(job_id);
        let answer: i64 = scripts::MOVE_JOB_FROM_ACTIVE_TO_WAIT
            .call(
                &self.link,
                COMMAND_DEADLINE,
                &[
                    &keys.active,
                    &keys.wait,
                    &keys.stalled,
                    &keys.paused,
                    &keys.meta,
                    &keys.limiter,
                    &keys.prioritized,
                    &keys.marker,
                    &keys.events,
                ],
                self.settle(),
                &[job_id.as_bytes(), token.as_bytes(), hash.as_bytes()],
            )
            .await?;
        Ok(if answer < 0 { Err(Refusal::read(answer)) } else { Ok(()) })
    }
}

fn traces(reason: &Reason) -> Result<String, Error> {
    serde_json::to_string(&reason.stacktrace).map_err(|error| Error::answer("stacktrace", error.to_string()))
}

fn read_finished(script: &str, answer: &Value, largest: usize) -> Result<Finished, Error> {
    Ok(match answer {
        Value::Int(code) if *code < 0 => Finished::Refused(Refusal::read(*code)),
        Value::Int(_) | Value::Nil => Finished::Done(Fetched::Nothing(Wait::Empty)),
        other => Finished::Done(read_fetched(script, other, largest)?),
    })
}
