//! `escalation-reassignment`: somebody else is asked, because an approver has not decided. Who was asked before, and why it is
//! another one's now, stays in the table; the new approver is told by a job of their own.

use super::{
    Handler, JobContext, JobError,
    escalation_reminder::{Data, again},
};
use crate::{
    events,
    queue::BoxFuture,
    store::approval::{self, Due, Undecided},
};
use serde_json::{Value, json};

/// The job's name.
pub const NAME: &str = "escalation-reassignment";

/// The handler.
pub struct EscalationReassignment;

impl Handler for EscalationReassignment {
    fn name(&self) -> &'static str {
        NAME
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<Value, JobError>> {
        Box::pin(async {
            let data = Data::read(job)?;
            let id = data.approval_id;
            let transaction = job.begin().await?;
            let overdue = match approval::overdue(&transaction, id, job.lease.outbox).await? {
                Due::Over(why) => return job.complete(transaction, json!({"approvalId": id, "skipped": why})).await,
                Due::Early(time) => {
                    job.enqueue(&transaction, again(job, &data, time)).await?;
                    return job.complete(transaction, json!({"approvalId": id, "early": time})).await;
                }
                Due::Now(overdue) => overdue,
            };
            let (who, to) = (overdue.who.label(), overdue.to.label());
            let because = format!("{who} has not decided within {}", overdue.after);
            match approval::reassign(&transaction, id, &overdue.to, &because).await {
                Ok(new) => {
                    let value = json!({"approvalId": id, "reassignedTo": new, "to": to});
                    let value = job.complete(transaction, value).await?;
                    tracing::info!(message_id = events::APPROVAL_REASSIGNED, "{to} decides now: {because}");
                    Ok(value)
                }
                // Whoever should be asked is asked already, or the step has ended just now: all stays as it is.
                Err(Undecided::Refused(why)) => {
                    transaction.rollback().await;
                    tracing::warn!(message_id = events::APPROVAL_NOT_REASSIGNED, "{why}");
                    Ok(json!({"approvalId": id, "skipped": why}))
                }
                Err(Undecided::Store(error)) => Err(error.into()),
            }
        })
    }
}
