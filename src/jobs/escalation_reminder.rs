//! `escalation-reminder`: tells an approver that something is to be decided, and reminds them: in the application, and by mail
//! where that is configured and there is an address.
//!
//! The database writes the first ones with the question, and each sees to the next one before any mail is sent: a mail
//! server that is down holds up its own mail, not the reminders after it. Until the question is decided the job comes again
//! for a mail that cannot go, unless the mail of a later one says the same.
//!
//! The job is done when its mail is sent, not when its transaction is committed: whoever takes it after a death in between
//! finds the rows there and sends the mail, under the same id.

use super::{
    Handler, JobContext, JobError, again, question_asked,
    telling::{self, Told},
};
use crate::{
    engine::run::Engine,
    events,
    mail::MessageId,
    queue::BoxFuture,
    store::approval::{self, Due, Reminder},
};
use chrono::SecondsFormat;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// The job's name.
pub const NAME: &str = "escalation-reminder";

/// The handler.
pub struct EscalationReminder {
    engine: Arc<Engine>,
}

/// What an approver is told.
struct Words {
    subject: String,
    text: String,
}

/// The job's data, as the database writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Data {
    /// The approval.
    pub(super) approval_id: Uuid,
    /// Which reminder: 0 is the first word about it. Without a number the approval is only closed, where its step has ended.
    number: Option<i32>,
}

impl Data {
    /// Reads a job's data.
    pub(super) fn read(job: &JobContext) -> Result<Data, JobError> {
        // A list would do for the struct, and for nothing else.
        let data = if job.data.is_object() { &job.data } else { &Value::Null };
        Data::deserialize(data).map_err(|error| {
            let what = "a job of this name says which approval is meant, {\"approvalId\": UUID}";
            JobError::Fail(format!("{what}: {error}"))
        })
    }
}

impl EscalationReminder {
    /// With the engine of this process, which knows the mail server.
    pub fn new(engine: &Arc<Engine>) -> EscalationReminder {
        EscalationReminder { engine: Arc::clone(engine) }
    }
}

impl Handler for EscalationReminder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<Value, JobError>> {
        Box::pin(async {
            if let Some(question) = question_asked::named(&job.data) {
                return question_asked::tell(&self.engine, job, question).await;
            }
            let reminding = self.remind(job);
            #[cfg(feature = "test-jobs")]
            let reminding = crate::fail_points::counted_job(job.job_id(), reminding);
            reminding.await
        })
    }
}

impl EscalationReminder {
    /// Tells or reminds an approver, if it is time.
    async fn remind(&self, job: &JobContext) -> Result<Value, JobError> {
        let data = Data::read(job)?;
        let (id, number) = (data.approval_id, data.number.unwrap_or(-1));
        let transaction = job.begin().await?;
        let reminder = match approval::reminder(&transaction, id, number, job.lease.outbox).await? {
            Due::Over(why) => return job.complete(transaction, json!({"approvalId": id, "skipped": why})).await,
            Due::Early(time) => {
                job.enqueue(&transaction, again::at(job, NAME, time)).await?;
                return job.complete(transaction, json!({"approvalId": id, "early": time})).await;
            }
            Due::Now(_) if number < 0 => {
                return job.complete(transaction, json!({"approvalId": id, "skipped": "open"})).await;
            }
            Due::Now(reminder) if number < reminder.latest && again::count(&job.data) > 0 => {
                return job.complete(transaction, json!({"approvalId": id, "skipped": "overtaken"})).await;
            }
            Due::Now(reminder) => reminder,
        };
        tracing::Span::current().record("floh_run_id", tracing::field::display(reminder.run));
        tracing::Span::current().record("floh_step_id", &reminder.step);
        let words = words(id, number, &reminder);
        approval::next_reminder(&transaction, id, number).await?;
        approval::show(&transaction, id, number, &words.subject, &words.text).await?;
        transaction.commit().await?;
        let told = match self.mail(id, number, &reminder, words).await? {
            Told::Done(told) => told,
            Told::Later(why) => return again::after_a_pause(job, NAME, &why).await,
        };
        #[cfg(feature = "test-jobs")]
        crate::fail_points::pass();
        let who = reminder.who.label();
        match number {
            0 => tracing::info!(message_id = events::APPROVER_ASKED, "{who} is asked to decide{told}"),
            n => tracing::info!(message_id = events::APPROVER_REMINDED, "{who} is reminded, number {n}{told}"),
        }
        Ok(json!({"approvalId": id, "number": number, "to": who}))
    }

    /// Sends a mail.
    async fn mail(&self, id: Uuid, number: i32, reminder: &Reminder, words: Words) -> Result<Told, JobError> {
        let who = &reminder.who;
        let to = (who.approver_email.as_deref(), who.approver_name.as_deref());
        let id = MessageId::of(&["approval", &id.to_string(), &number.to_string()]);
        telling::mail(&self.engine, to, words.subject, words.text, id).await
    }
}

/// What the approver is told.
fn words(id: Uuid, number: i32, reminder: &Reminder) -> Words {
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
    Words { subject, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::approval::Approver;
    use chrono::DateTime;

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
            latest: 0,
            workflow: "Onboarding".into(),
        };
        let first = words(Uuid::nil(), 0, &reminder);
        assert_eq!(first.subject, "Please decide: A role");
        assert!(first.text.contains("Hello Ada,") && first.text.contains("It expires at 2027-01-15T08:00:00Z."));
        assert_eq!(words(Uuid::nil(), 1, &reminder).subject, "Reminder: please decide: A role");
    }
}
