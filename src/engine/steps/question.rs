//! What steps share that ask people something: the question is written with the step's wait, the answer wakes the run.

use crate::{
    engine::{
        people::Asked,
        run::{Effect, EffectError, Ending, Visit},
        span,
    },
    store::{
        FencedTransaction, StoreError,
        question::{self, Asker, NewQuestion, Question, QuestionKind, QuestionStatus},
        run::StepStatus,
    },
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The most that a step shows to all the people whom it tells or asks something, bytes: each has a copy of the texts, and
/// all of these are held in memory and written at once.
const MOST_SHOWN: usize = 16 * 1024 * 1024;

/// Whether what a step shows to all its people is little enough.
///
/// # Errors
/// A sentence.
pub fn fits(bytes: usize) -> Result<(), String> {
    if bytes <= MOST_SHOWN {
        return Ok(());
    }
    Err(format!("what its people are shown has more than {} MiB together", MOST_SHOWN / (1024 * 1024)))
}

/// The visit as it asks.
#[must_use]
pub fn asker(visit: &Visit<'_>) -> Asker {
    Asker { run: visit.run, step: visit.step.id.clone(), visit: visit.number, attempt: visit.attempt }
}

/// Until when answers are taken, by a span such as `expiresAfter`, from now on; and never longer than the step may take.
#[must_use]
pub fn due(visit: &Visit<'_>, expires_after: Option<&Value>) -> Option<DateTime<Utc>> {
    let after = |start: DateTime<Utc>, span| start.checked_add_signed(TimeDelta::from_std(span).ok()?);
    let expires = expires_after.and_then(|value| span::read(value).ok()).and_then(|span| after(visit.now, span));
    let limit = visit.step.timeout.and_then(|timeout| after(visit.started_at, timeout));
    match (expires, limit) {
        (Some(expires), Some(limit)) => Some(expires.min(limit)),
        (expires, limit) => expires.or(limit),
    }
}

/// A question to somebody, with the title and the message of the configuration.
#[must_use]
pub fn to(
    asked: &Asked,
    kind: QuestionKind,
    visit: &Visit<'_>,
    config: &Map<String, Value>,
    due_at: Option<DateTime<Utc>>,
) -> NewQuestion {
    let text = |name: &str| config.get(name).map(written).filter(|text| !text.is_empty());
    NewQuestion {
        id: Uuid::new_v4(),
        kind,
        assignee_id: asked.id.clone(),
        assignee_email: asked.email.clone(),
        title: text("title").unwrap_or_else(|| visit.step.name.clone()),
        message: text("message"),
        fields: Vec::new(),
        document_type: None,
        document: None,
        due_at,
    }
}

/// A value as a text: one that is a text already has no quotes.
#[must_use]
pub fn written(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The step waits for the answers to these questions. `state` is who has to do something, in a word.
#[must_use]
pub fn ask(visit: &Visit<'_>, questions: Vec<NewQuestion>, state: &str) -> Ending {
    ask_after(visit, questions, state, Vec::new())
}

/// The same, with something that is written before them.
#[must_use]
pub fn ask_after(visit: &Visit<'_>, questions: Vec<NewQuestion>, state: &str, before: Vec<Box<dyn Effect>>) -> Ending {
    let until = questions.iter().filter_map(|one| one.due_at).min();
    let mut effects = before;
    effects.push(Box::new(Ask { asker: asker(visit), questions }));
    let assignment = Some(state.to_string());
    Ending::Waits { status: StepStatus::WaitingResponse, until, result: None, assignment, effects }
}

/// What the step has asked in this try, in the order of the answers.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn asked(visit: &Visit<'_>, kind: QuestionKind) -> Result<Vec<Question>, StoreError> {
    let mut questions = visit.store.questions(&asker(visit)).await?;
    questions.retain(|one| one.kind == kind);
    Ok(questions)
}

/// The answer to the one question of a step; or what the step comes to without one.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn answer(visit: &Visit<'_>, kind: QuestionKind) -> Result<Result<Question, Ending>, StoreError> {
    let questions = asked(visit, kind).await?;
    Ok(match questions.iter().find(|one| is_answered(one)) {
        Some(answered) => Ok(answered.clone()),
        None => Err(unanswered(visit, &questions)),
    })
}

/// Whether somebody has said something.
#[must_use]
pub fn is_answered(question: &Question) -> bool {
    use QuestionStatus::{Answered, Approved, Rejected};
    matches!(question.status, Answered | Approved | Rejected)
}

/// What a step comes to while what has been answered of these questions decides nothing: it waits on, or it has waited long
/// enough.
#[must_use]
pub fn unanswered(visit: &Visit<'_>, questions: &[Question]) -> Ending {
    let of = |status| questions.iter().filter(move |one| one.status == status);
    let due = of(QuestionStatus::Pending).filter_map(|one| one.due_at).min();
    if of(QuestionStatus::Pending).next().is_some() {
        // The end of a time is written while the step still waits, so that it cannot cross with an answer: whichever was
        // first is seen when the step is looked at again, which is at once, because `until` has passed.
        let over = due.is_some_and(|due| due <= visit.now);
        let effects: Vec<Box<dyn Effect>> =
            if over { vec![Box::new(Expire { asker: asker(visit) })] } else { Vec::new() };
        let status = StepStatus::WaitingResponse;
        return Ending::Waits { status, until: due, result: None, assignment: None, effects };
    }
    let silent: Vec<&Question> = of(QuestionStatus::Expired).collect();
    if silent.is_empty() {
        return Ending::failed("its question was withdrawn, and nobody can answer it any more");
    }
    let names: Vec<&str> = silent.iter().filter_map(|one| one.assignee_email.as_deref()).collect();
    let until = silent.iter().filter_map(|one| one.due_at).max().map(time).unwrap_or_default();
    Ending::Failed {
        reason: format!("not answered by {until}: {}", names.join(", ")),
        outcome: "expired",
        set: Map::new(),
        result: None,
        passing: false,
        effects: Vec::new(),
    }
}

/// The outcome of a question that was approved or rejected. A rejection without an edge of its own is a failure, so that
/// nothing that needs an agreement is done without one.
#[must_use]
pub fn decided(visit: &Visit<'_>, question: &Question, effects: Vec<Box<dyn Effect>>) -> Ending {
    let result = Some(said(question));
    let outcome = if question.status == QuestionStatus::Rejected { "rejected" } else { "approved" };
    if outcome == "approved" || visit.step.transitions.iter().any(|edge| edge.on == outcome) {
        return Ending::Done { outcome: outcome.into(), set: Map::new(), result, effects };
    }
    let reason = rejection(question);
    Ending::Failed { reason, outcome: "rejected", set: Map::new(), result, passing: false, effects }
}

/// Who rejected it, and why, in a sentence.
#[must_use]
pub fn rejection(question: &Question) -> String {
    let by = question.answered_by.as_deref().unwrap_or_default();
    match question.reason.as_deref().filter(|reason| !reason.trim().is_empty()) {
        Some(reason) => format!("rejected by {by}: {reason}"),
        None => format!("rejected by {by}"),
    }
}

/// Who answered, when, and what was said with it: for people, and as the step's result.
#[must_use]
pub fn said(question: &Question) -> Value {
    json!({
        "questionId": question.id, "answer": question.status.word(), "answeredBy": question.answered_by,
        "answeredAt": question.answered_at.map(time), "reason": question.reason,
    })
}

/// A time as results and documents show it.
#[must_use]
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Questions are asked.
struct Ask {
    asker: Asker,
    questions: Vec<NewQuestion>,
}

impl Effect for Ask {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            for question in &self.questions {
                question::ask(transaction, &self.asker, question).await?;
            }
            Ok(())
        })
    }
}

/// The time of open questions is over.
struct Expire {
    asker: Asker,
}

impl Effect for Expire {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move { Ok(question::expire(transaction, &self.asker).await?) })
    }
}
