//! `escalation-reminder`: tells an approver that something is to be decided, and reminds them. The database writes the first
//! ones with the question, and each sees to the next one before it does anything else: a mail server that is down for good
//! costs one reminder, not those after it.

use super::{
    Handler, JobContext, JobError,
    notify::{Message, Notifier, Untold},
};
use crate::{
    events,
    queue::BoxFuture,
    store::{
        approval::{self, Due, Reminder},
        outbox::WakeUp,
    },
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// The job's name.
pub const NAME: &str = "escalation-reminder";

/// The handler.
pub struct EscalationReminder {
    notifier: Arc<dyn Notifier>,
}

/// The job's data, as the database writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Data {
    /// The approval.
    pub(super) approval_id: Uuid,
    /// Which reminder: 0 is the first word about it. Without a number the approval is only closed, where its step has ended.
    number: Option<i32>,
    /// How often the job came before its time.
    #[serde(default)]
    early: u32,
}

impl Data {
    /// Reads a job's data.
    pub(super) fn read(job: &JobContext) -> Result<Data, JobError> {
        Data::deserialize(&job.data).map_err(|error| {
            let what = "a job of this name says which approval is meant, {\"approvalId\": UUID}";
            JobError::Fail(format!("{what}: {error}"))
        })
    }
}

impl EscalationReminder {
    /// Reminds this way.
    pub fn new(notifier: &Arc<dyn Notifier>) -> EscalationReminder {
        EscalationReminder { notifier: Arc::clone(notifier) }
    }
}

impl Handler for EscalationReminder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<Value, JobError>> {
        Box::pin(async {
            let data = Data::read(job)?;
            let (id, number) = (data.approval_id, data.number.unwrap_or(-1));
            let transaction = job.begin().await?;
            let reminder = match approval::reminder(&transaction, id, number, job.lease.outbox).await? {
                Due::Over(why) => return job.complete(transaction, json!({"approvalId": id, "skipped": why})).await,
                Due::Early(time) => {
                    job.enqueue(&transaction, again(job, &data, time)).await?;
                    return job.complete(transaction, json!({"approvalId": id, "early": time})).await;
                }
                Due::Now(_) if number < 0 => {
                    return job.complete(transaction, json!({"approvalId": id, "skipped": "open"})).await;
                }
                Due::Now(reminder) => reminder,
            };
            tracing::Span::current().record("floh_run_id", tracing::field::display(reminder.run));
            tracing::Span::current().record("floh_step_id", &reminder.step);
            approval::next_reminder(&transaction, id, number).await?;
            transaction.commit().await?;
            let told = self.tell(&message(id, number, &reminder)).await?;
            let who = reminder.who.label();
            match number {
                0 => tracing::info!(message_id = events::APPROVER_ASKED, "{who} is asked to decide{told}"),
                n => tracing::info!(message_id = events::APPROVER_REMINDED, "{who} is reminded, number {n}{told}"),
            }
            Ok(json!({"approvalId": id, "number": number, "to": who}))
        })
    }
}

impl EscalationReminder {
    /// Sends a message; how it went, for the journal.
    async fn tell(&self, message: &Message) -> Result<String, JobError> {
        if message.to.is_empty() {
            return Ok(", without a mail: there is no address".into());
        }
        if !self.notifier.is_there() {
            return Ok(", without a mail: SMTP_HOST is not set".into());
        }
        match self.notifier.tell(message).await {
            Ok(()) => Ok(String::new()),
            Err(Untold::ForNow(why)) => Err(JobError::Retry(format!("the mail to {} is not sent: {why}", message.to))),
            Err(Untold::ForGood(why)) => Err(JobError::Fail(format!("the mail to {} is refused: {why}", message.to))),
        }
    }
}

/// The same job once more, for its time.
pub(super) fn again(job: &JobContext, data: &Data, time: DateTime<Utc>) -> WakeUp {
    let early = data.early + 1;
    let before = job.job_id();
    let before = before.rsplit_once("-early-").map_or(before, |(before, _)| before);
    let mut more = job.data.clone();
    more["early"] = json!(early);
    let name = if before.starts_with("reassign-") { super::escalation_reassignment::NAME } else { NAME };
    let mut wake_up = WakeUp::new(format!("{before}-early-{early}"), name, more);
    wake_up.due_at = Some(time);
    wake_up
}

/// What the approver is told.
fn message(id: Uuid, number: i32, reminder: &Reminder) -> Message {
    let title = reminder.title.as_deref().unwrap_or(&reminder.workflow);
    let subject = match number {
        0 => format!("Please decide: {title}"),
        _ => format!("Reminder: please decide: {title}"),
    };
    let mut text = format!("Hello {},\n\nyou are asked to approve or reject:\n\n{title}\n", reminder.who.label());
    if let Some(message) = &reminder.message {
        text.push_str(&format!("\n{message}\n"));
    }
    if let Some(due) = reminder.due_at {
        text.push_str(&format!("\nIt expires at {}.\n", due.to_rfc3339_opts(SecondsFormat::Secs, true)));
    }
    let Reminder { workflow, run, .. } = reminder;
    text.push_str(&format!("\nWorkflow: {workflow}\nRun: {run}\nApproval: {id}\n"));
    Message {
        key: format!("approval/{id}/{number}"),
        to: reminder.who.approver_email.clone().unwrap_or_default(),
        name: reminder.who.approver_name.clone(),
        subject,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::approval::Approver;

    #[test]
    fn the_message_says_what_is_to_be_decided_and_until_when() {
        let who = Approver {
            approver: "u-1".into(),
            approver_id: Some("u-1".into()),
            approver_email: Some("ada@example.org".into()),
            approver_name: Some("Ada".into()),
        };
        let reminder = Reminder {
            who,
            title: Some("A role".into()),
            message: None,
            due_at: DateTime::from_timestamp(1_800_000_000, 0),
            run: Uuid::nil(),
            step: "ask".into(),
            workflow: "Onboarding".into(),
        };
        let first = message(Uuid::nil(), 0, &reminder);
        assert_eq!((first.subject.as_str(), first.to.as_str()), ("Please decide: A role", "ada@example.org"));
        assert!(first.text.contains("Hello Ada,") && first.text.contains("It expires at 2027-01-15T08:00:00Z."));
        let second = message(Uuid::nil(), 1, &reminder);
        assert_eq!(second.subject, "Reminder: please decide: A role");
        assert_ne!(first.key, second.key);
    }
}
