//! `escalation-reassignment`: somebody else is asked, because an approver has not decided. Who was asked before, and why it is
//! another one's now, stays in the table; the new approver is told by a job of their own.

use super::{Handler, JobContext, JobError, again, escalation_reminder::Data};
use crate::{
    engine::steps::approval::known_now,
    events,
    queue::BoxFuture,
    store::approval::{self, Due, Undecided},
};
use serde_json::{Value, json};
use uuid::Uuid;

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
                    job.enqueue(&transaction, again::at(job, NAME, time)).await?;
                    return job.complete(transaction, json!({"approvalId": id, "early": time})).await;
                }
                Due::Now(overdue) => overdue,
            };
            // Whoever was named then may have left meanwhile.
            let to = match known_now(&job.store, &overdue.to).await? {
                Ok(to) => to,
                Err(why) => {
                    transaction.rollback().await;
                    return Ok(left(id, &format!("approval {id} cannot be reassigned: {why}")));
                }
            };
            let because = format!("{} has not decided within {}", overdue.who.label(), overdue.after);
            match approval::reassign(&transaction, id, &to, &because).await {
                Ok(new) => {
                    let to = to.label();
                    let value = json!({"approvalId": id, "reassignedTo": new, "to": to});
                    let value = job.complete(transaction, value).await?;
                    tracing::info!(message_id = events::APPROVAL_REASSIGNED, "{to} decides now: {because}");
                    Ok(value)
                }
                // Whoever should be asked is asked already, or the step has ended just now: all stays as it is.
                Err(Undecided::Refused(why)) => {
                    transaction.rollback().await;
                    Ok(left(id, &why))
                }
                Err(Undecided::Store(error)) => Err(error.into()),
            }
        })
    }
}

/// All stays as it is, and why.
fn left(id: Uuid, why: &str) -> Value {
    tracing::warn!(message_id = events::APPROVAL_NOT_REASSIGNED, "{why}");
    json!({"approvalId": id, "skipped": why})
}
