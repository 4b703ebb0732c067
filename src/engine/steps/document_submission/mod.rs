//! `document_submission`: asks a person for a document, and others to look at it.
//!
//! The first reviewer who says something decides. Only a reference to the document is kept.

mod effects;

use super::{StepType, check_output, check_question, failures_of_question, kept, needed, output, question, words};
use crate::{
    engine::{
        fields::Fields,
        people::{self, Asked},
        run::{Effect, Ending, Visit},
        span,
    },
    store::{
        StoreError,
        document::{Document, Verdict},
        question::{NewQuestion, Question, QuestionKind, QuestionStatus},
    },
};
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use effects::{Decide, Submit};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// A document to be handed in.
pub struct DocumentSubmission;

impl StepType for DocumentSubmission {
    fn name(&self) -> &'static str {
        "document_submission"
    }

    fn check(&self, config: &Fields<'_>) {
        check_question(config);
        let _ = (config.text("assignee"), config.text("documentType"), config.texts("reviewers"));
        let _ = config.span("validFor");
        check_output(config);
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn failures(&self, config: &Map<String, Value>) -> Vec<&'static str> {
        failures_of_question(config, if is_reviewed(config) { &["rejected"] } else { &[] })
    }

    fn waits(&self, _config: &Map<String, Value>) -> bool {
        true
    }

    fn outputs(&self, config: &Map<String, Value>) -> Vec<String> {
        output(config).map(str::to_string).into_iter().collect()
    }

    fn plain(&self) -> &'static [&'static str] {
        &["output"]
    }

    /// Nobody has approved the document then, whether somebody has rejected it or nobody has handed it in.
    fn carries_on(&self, _config: &Map<String, Value>) -> Option<String> {
        None
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async move {
            let config = match visit.config() {
                Ok(config) => config,
                Err(why) => return Ok(Ending::failed(why)),
            };
            if !visit.waits {
                return ask(visit, &config).await;
            }
            let submitted = match question::answer(visit, QuestionKind::Document).await? {
                Ok(submitted) => submitted,
                Err(ending) => return Ok(expired(&config, ending)),
            };
            if !is_reviewed(&config) {
                return Ok(accepted(visit, &config, &submitted));
            }
            let reviews = question::asked(visit, QuestionKind::Review).await?;
            if reviews.is_empty() {
                return ask_reviewers(visit, &config, &submitted).await;
            }
            Ok(match reviews.iter().find(|one| question::is_answered(one)) {
                Some(review) => reviewed(visit, &config, &submitted, review),
                None => question::unanswered(visit, &reviews),
            })
        })
    }
}

fn is_reviewed(config: &Map<String, Value>) -> bool {
    config.get("reviewers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

/// The person is asked. That there are reviewers, and that the document is of some type, is seen to before, while somebody may
/// still be there to mend it.
async fn ask(visit: &Visit<'_>, config: &Map<String, Value>) -> Result<Ending, StoreError> {
    let document_type = match needed(config, "documentType") {
        Ok(document_type) => document_type,
        Err(why) => return Ok(Ending::failed(why)),
    };
    let assignee = config.get("assignee").unwrap_or(&Value::Null);
    let asked = match people::asked(visit.store, assignee).await? {
        Ok(asked) => asked,
        Err(why) => return Ok(Ending::failed(format!("`assignee`: {why}"))),
    };
    if is_reviewed(config)
        && let Err(why) = reviewers(visit, config).await?
    {
        return Ok(Ending::failed(why));
    }
    let due = question::due(visit, config.get("expiresAfter"));
    let mut new = question::to(&asked, QuestionKind::Document, visit, config, due);
    new.document_type = Some(document_type);
    new.fields = vec![
        json!({"name": "reference", "type": "string", "required": true, "label": "Where the document is"}),
        json!({"name": "validUntil", "type": "date", "label": "Until when it is valid"}),
        json!({"name": "metadata", "type": "object", "label": "What else is to be known of it"}),
    ];
    Ok(question::ask(visit, vec![new], "assigned"))
}

/// The document is written down, and its reviewers are asked. They have as long as the step has.
async fn ask_reviewers(
    visit: &Visit<'_>,
    config: &Map<String, Value>,
    submitted: &Question,
) -> Result<Ending, StoreError> {
    let reviewers = match reviewers(visit, config).await? {
        Ok(reviewers) => reviewers,
        Err(why) => return Ok(Ending::failed(why)),
    };
    let document = document(visit, submitted);
    let due = question::due(visit, None);
    let from = submitted.assignee_email.as_deref().unwrap_or_default();
    let message = format!("{} from {from}: {}", document.kind, document.reference);
    let title = format!("Review: {}", submitted.title.as_deref().unwrap_or(&document.kind));
    if let Err(why) = question::fits((title.len() + message.len()).saturating_mul(reviewers.len())) {
        return Ok(Ending::failed(why));
    }
    let questions = reviewers.iter().map(|reviewer| NewQuestion {
        title: title.clone(),
        message: Some(message.clone()),
        document: Some(document.id),
        document_type: Some(document.kind.clone()),
        ..question::to(reviewer, QuestionKind::Review, visit, config, due)
    });
    let questions = questions.collect();
    let before: Vec<Box<dyn Effect>> = vec![Box::new(Submit { document })];
    Ok(question::ask_after(visit, questions, "in_review", before))
}

/// Who looks at the document; each of them once. A template may stand for a list of people.
async fn reviewers(visit: &Visit<'_>, config: &Map<String, Value>) -> Result<Result<Vec<Asked>, String>, StoreError> {
    let mut reviewers: Vec<Asked> = Vec::new();
    for named in config.get("reviewers").and_then(Value::as_array).into_iter().flatten() {
        let several = match named {
            Value::Array(several) => several.iter().collect(),
            one => vec![one],
        };
        for named in several {
            match people::asked(visit.store, named).await? {
                Ok(asked) if reviewers.iter().any(|one| one.email.eq_ignore_ascii_case(&asked.email)) => {}
                Ok(asked) => reviewers.push(asked),
                Err(why) => return Ok(Err(format!("`reviewers`: {why}"))),
            }
        }
    }
    Ok(if reviewers.is_empty() { Err("`reviewers` names nobody".to_string()) } else { Ok(reviewers) })
}

/// Nobody has to look at it.
fn accepted(visit: &Visit<'_>, config: &Map<String, Value>, submitted: &Question) -> Ending {
    let document = document(visit, submitted);
    let at = submitted.answered_at.unwrap_or(visit.now);
    let valid_until = valid_until(config, submitted, at);
    let verdict = Verdict { document: document.id, approved: true, by: None, at, reason: None, valid_until };
    let shown = shown(&document, &verdict);
    let effects: Vec<Box<dyn Effect>> =
        vec![Box::new(Submit { document }), Box::new(Decide { run: visit.run, verdict })];
    succeeded(config, shown, effects)
}

/// Somebody has looked at it. What other reviewers say comes too late.
fn reviewed(visit: &Visit<'_>, config: &Map<String, Value>, submitted: &Question, review: &Question) -> Ending {
    let approved = review.status == QuestionStatus::Approved;
    let at = review.answered_at.unwrap_or(visit.now);
    let mut document = document(visit, submitted);
    document.id = review.document.unwrap_or(document.id);
    let verdict = Verdict {
        document: document.id,
        approved,
        by: review.answered_by.clone(),
        at,
        reason: review.reason.clone(),
        valid_until: valid_until(config, submitted, at),
    };
    let shown = shown(&document, &verdict);
    let effects: Vec<Box<dyn Effect>> = vec![Box::new(Decide { run: visit.run, verdict })];
    if approved {
        return succeeded(config, shown, effects);
    }
    let set = kept(config, &shown);
    if visit.step.transitions.iter().any(|edge| edge.on == "rejected") {
        return Ending::Done { outcome: "rejected".into(), set, result: Some(shown), effects };
    }
    let reason = question::rejection(review);
    Ending::Failed { reason, outcome: "rejected", set, result: Some(shown), passing: false, effects }
}

fn succeeded(config: &Map<String, Value>, shown: Value, effects: Vec<Box<dyn Effect>>) -> Ending {
    Ending::Done { outcome: "success".into(), set: kept(config, &shown), result: Some(shown), effects }
}

/// That nobody has handed it in in time is what later steps see of it.
fn expired(config: &Map<String, Value>, ending: Ending) -> Ending {
    match ending {
        Ending::Failed { reason, outcome: outcome @ "expired", passing, effects, .. } => {
            let shown = json!({
                "id": null, "type": config.get("documentType").map(question::written), "reference": null,
                "status": outcome, "submittedAt": null, "validUntil": null, "reviewedBy": null, "reason": null,
            });
            Ending::Failed { reason, outcome, set: kept(config, &shown), result: Some(shown), passing, effects }
        }
        other => other,
    }
}

/// The document of an answer, under a new id.
fn document(visit: &Visit<'_>, submitted: &Question) -> Document {
    let text = |name: &str| submitted.answer.get(name).map(question::written).unwrap_or_default();
    let metadata = submitted.answer.get("metadata").filter(|value| value.is_object()).cloned();
    Document {
        id: Uuid::new_v4(),
        user_id: submitted.assignee_id.clone(),
        email: submitted.assignee_email.clone(),
        kind: submitted.document_type.clone().unwrap_or_default(),
        reference: text("reference"),
        metadata: metadata.unwrap_or_else(|| json!({})),
        submitted_at: submitted.answered_at.unwrap_or(visit.now),
        run: visit.run,
        step: visit.step.id.clone(),
        visit: visit.number,
    }
}

/// As results and the variable `output` show it.
fn shown(document: &Document, verdict: &Verdict) -> Value {
    json!({
        "id": document.id, "type": document.kind, "reference": document.reference,
        "status": if verdict.approved { "approved" } else { "rejected" },
        "submittedAt": question::time(document.submitted_at),
        "validUntil": verdict.valid_until.filter(|_| verdict.approved).map(question::time),
        "reviewedBy": verdict.by, "reason": verdict.reason,
    })
}

/// A document is valid for as long as the step says, from its approval on, and no longer than it says itself.
fn valid_until(config: &Map<String, Value>, submitted: &Question, from: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let span = config.get("validFor").and_then(|value| span::read(value).ok());
    let by_step = span.and_then(|span| from.checked_add_signed(TimeDelta::from_std(span).ok()?));
    let by_itself = submitted.answer.get("validUntil").and_then(Value::as_str).and_then(end_of);
    match (by_step, by_itself) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A time; or of a day its end, in UTC.
fn end_of(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    Some(text.parse::<NaiveDate>().ok()?.succ_opt()?.and_time(NaiveTime::MIN).and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_valid_until_its_end_and_a_time_until_itself() {
        let text = |day: &str| end_of(day).map(question::time);
        assert_eq!(text("2026-12-31").as_deref(), Some("2027-01-01T00:00:00.000Z"));
        assert_eq!(text("2026-12-31T12:00:00+02:00").as_deref(), Some("2026-12-31T10:00:00.000Z"));
        assert_eq!(text("soon"), None);
    }
}
