//! `resume-run`: a run is begun, or goes on after a wait. Every wake-up of a run is one such job, out of the outbox.

use super::{Handler, JobContext, JobError};
use crate::{
    engine::run::{Engine, Stop, Work},
    queue::BoxFuture,
    store::Policy,
};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use uuid::Uuid;

/// The job's name.
pub const NAME: &str = "resume-run";

/// The handler.
pub struct ResumeRun {
    engine: Arc<Engine>,
}

/// The job's data, as the database writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    run_id: Uuid,
    /// The number of the wake-up; a job that somebody else adds may do without.
    seq: Option<i64>,
}

/// The beginning of a run's id, which is enough to find it.
fn short(run: Uuid) -> String {
    let mut text = run.to_string();
    text.truncate(8);
    format!("{text}…")
}

impl ResumeRun {
    /// With the engine of this process.
    pub fn new(engine: &Arc<Engine>) -> ResumeRun {
        ResumeRun { engine: Arc::clone(engine) }
    }

    async fn go_on(&self, job: &JobContext, data: &Data) -> Result<Value, JobError> {
        let work = Work {
            store: &job.store,
            lease: &job.lease,
            cancellation: job.cancellation(),
            draining: job.draining(),
            hand_on_at: job.half_time(),
            at_step: &|step| job.about(format!("run {}, step {step}", short(data.run_id))),
        };
        let value = self.engine.go_on(&work, data.run_id, data.seq).await.map_err(|stop| match stop {
            Stop::Interrupted(why) => JobError::Interrupted(why.into()),
            // Somebody holds a row for long: that is nobody's failed attempt.
            Stop::Store(error) if error.policy() == Policy::Retry => JobError::Interrupted(error.to_string()),
            Stop::Store(error) => error.into(),
        })?;
        job.complete(job.begin().await?, value).await
    }
}

impl Handler for ResumeRun {
    fn name(&self) -> &'static str {
        NAME
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<Value, JobError>> {
        Box::pin(async {
            let data = Data::deserialize(&job.data).map_err(|error| {
                JobError::Fail(format!("a job of this name says which run is meant, {{\"runId\": UUID}}: {error}"))
            })?;
            tracing::Span::current().record("floh_run_id", tracing::field::display(data.run_id));
            let going_on = self.go_on(job, &data);
            #[cfg(feature = "test-jobs")]
            let going_on = crate::fail_points::counted(data.run_id, going_on);
            going_on.await
        })
    }
}
