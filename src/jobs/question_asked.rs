//! The part of `escalation-reminder` that tells somebody that they are asked something besides approvals, and closes what was
//! left open when its step ended. The database writes the jobs: one with the question, and one for what it leaves open.

use super::{
    JobContext, JobError, again, escalation_reminder,
    telling::{self, Told},
};
use crate::{
    engine::run::Engine,
    mail::{MessageId, message::one_line},
    store::{
        notification::{NewNotification, notify},
        question::{Question, QuestionKind, QuestionStatus, by_id, close_left},
    },
};
use chrono::SecondsFormat;
use serde_json::{Value, json};
use uuid::Uuid;

/// The question of a job's data, if it is about one.
pub fn named(data: &Value) -> Option<Uuid> {
    data.get("questionId")?.as_str()?.parse().ok()
}

/// Whether a job is only to close its question, where the step has ended.
fn only_closes(data: &Value) -> bool {
    data.get("close") == Some(&Value::Bool(true))
}

/// Tells whom a question is for, unless it is over: in the application, and by mail where that is configured.
pub async fn tell(engine: &Engine, job: &JobContext, id: Uuid) -> Result<Value, JobError> {
    let transaction = job.begin().await?;
    close_left(&transaction, id).await?;
    let question = match by_id(&transaction, id).await? {
        Some(question) if question.status == QuestionStatus::Pending && !only_closes(&job.data) => question,
        other => {
            let why = other.map_or("missing", |question| question.status.word());
            return job.complete(transaction, json!({"questionId": id, "skipped": why})).await;
        }
    };
    tracing::Span::current().record("floh_run_id", tracing::field::display(question.run));
    tracing::Span::current().record("floh_step_id", &question.step);
    let (subject, text) = words(&question);
    notify(&transaction, &[shown(&question, &subject, &text)]).await?;
    transaction.commit().await?;
    let email = question.assignee_email.as_deref();
    let message = MessageId::of(&["question", &id.to_string()]);
    let told = match telling::mail(engine, (email, None), subject, text, message).await? {
        Told::Done(told) => told,
        Told::Later(why) => return again::after_a_pause(job, escalation_reminder::NAME, &why).await,
    };
    let who = email.or(question.assignee_id.as_deref()).unwrap_or_default();
    tracing::info!("{who} is asked: {}{told}", question.kind.word());
    Ok(json!({"questionId": id, "to": who}))
}

/// As the application shows it.
fn shown(question: &Question, subject: &str, text: &str) -> NewNotification {
    NewNotification {
        user_id: question.assignee_id.clone(),
        email: question.assignee_email.clone().filter(|_| question.assignee_id.is_none()),
        run: question.run,
        step: question.step.clone(),
        visit: question.visit,
        kind: question.kind.word(),
        title: one_line(subject),
        body: text.to_string(),
        link: None,
    }
}

/// Subject and text.
fn words(question: &Question) -> (String, String) {
    let please = match question.kind {
        QuestionKind::Prompt => "Please answer",
        QuestionKind::Document => "Please hand in",
        QuestionKind::Review => "Please review",
        QuestionKind::Consent => "Please agree or refuse",
        QuestionKind::Acceptance => "Please accept or reject",
    };
    let title = question.title.as_deref().unwrap_or(question.step.as_str());
    let mut text = format!("Hello,\n\n{}:\n\n{title}\n", please.to_lowercase());
    if let Some(message) = &question.message {
        text.push_str(&format!("\n{message}\n"));
    }
    for field in &question.fields {
        let name = |of: &str| field.get(of).and_then(Value::as_str);
        text.push_str(&format!("\n- {}", name("label").or(name("name")).unwrap_or_default()));
    }
    if let Some(due) = question.due_at {
        text.push_str(&format!("\nIt expires at {}.\n", due.to_rfc3339_opts(SecondsFormat::Secs, true)));
    }
    text.push_str(&format!("\nRun: {}\nQuestion: {}\n", question.run, question.id));
    (format!("{please}: {title}"), text)
}
