//! `trigger-workflow`: a run begins, because its time has come or because somebody asks for it. The job stores the run, in the
//! transaction that completes it; the run is executed by its own wake-up.
//!
//! `request` is what the job's data may say, `choice` which ticks of a schedule are started, `settle` starts them, `schedules`
//! keeps the job schedulers and looks for ticks that no job fired.

mod choice;
mod request;
mod schedules;
mod settle;

pub use choice::{Asked, Choice, choose};
pub use schedules::{PREFIX, Schedules};
pub use settle::{Settled, settle};

use super::{Handler, JobContext, JobError};
use crate::{
    events,
    queue::BoxFuture,
    store::{
        run::{NewRun, Started, start_run},
        schedule,
    },
};
use request::Request;
use serde_json::{Value, json};
use uuid::Uuid;

/// The job's name.
pub const NAME: &str = "trigger-workflow";

/// The handler.
pub struct TriggerWorkflow;

impl Handler for TriggerWorkflow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<Value, JobError>> {
        Box::pin(async {
            match Request::read(&job.data).map_err(JobError::Fail)? {
                Request::Schedule(id) => tick(job, id).await,
                Request::Definition(mut run) => {
                    run.queue.clone_from(&job.lease.identity.queue);
                    start(job, &run).await
                }
            }
        })
    }
}

/// A tick of a schedule; or somebody wants a run of it now, where the job has no due time.
async fn tick(job: &JobContext, id: Uuid) -> Result<Value, JobError> {
    let transaction = job.begin().await?;
    let Some(opened) = schedule::open(&transaction, id).await? else {
        // The last iteration of a schedule that was removed while it was due.
        if job.scheduler().is_some_and(|scheduler| scheduler.starts_with(PREFIX)) {
            return job.complete(transaction, json!({ "skipped": "the schedule was removed" })).await;
        }
        transaction.rollback().await;
        return Err(JobError::Fail(format!("there is no schedule {id}; flohctl schedule list shows those that are")));
    };
    let asked = job.due_ms().map_or(Asked::Now, Asked::Tick);
    match settle(&transaction, &opened, asked).await? {
        Ok(settled) => {
            let value = job.complete(transaction, settled.value()).await?;
            settled.tell();
            Ok(value)
        }
        Err(why) => {
            transaction.rollback().await;
            Err(JobError::Fail(why))
        }
    }
}

async fn start(job: &JobContext, new: &NewRun) -> Result<Value, JobError> {
    let transaction = job.begin().await?;
    match start_run(&transaction, new).await? {
        Started::Run { id, name, version, .. } => {
            let value = job.complete(transaction, json!({ "runId": id })).await?;
            tracing::info!(
                message_id = events::RUN_TRIGGERED,
                floh_run_id = %id,
                "run {id} of {name}@{version} is started by this job"
            );
            Ok(value)
        }
        Started::Refused(why) => {
            transaction.rollback().await;
            Err(JobError::Fail(why.to_string()))
        }
    }
}
