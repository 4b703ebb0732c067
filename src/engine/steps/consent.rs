//! `consent`: asks a person to agree to a text. The agreement is recorded, word for word.

use super::{StepType, failures_of_question, question, words};
use crate::{
    engine::{
        fields::Fields,
        people,
        run::{Effect, EffectError, Ending, Visit},
    },
    store::{
        FencedTransaction, StoreError,
        audit_write::{self, Audited},
        question::{Question, QuestionKind, QuestionStatus},
    },
};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// A person's consent.
pub struct Consent;

impl StepType for Consent {
    fn name(&self) -> &'static str {
        "consent"
    }

    fn check(&self, config: &Fields<'_>) {
        let _ = (config.text("user"), config.text("text"), config.maybe_text("title"), config.span("expiresAfter"));
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["approved"])
    }

    /// Without an edge of its own a refusal is a failure, so that nothing that needs a consent is done without one.
    fn failures(&self, config: &Map<String, Value>) -> Vec<&'static str> {
        failures_of_question(config, &["rejected"])
    }

    fn waits(&self, _config: &Map<String, Value>) -> bool {
        true
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async move {
            if !visit.waits {
                return ask(visit).await;
            }
            Ok(match question::answer(visit, QuestionKind::Consent).await? {
                Ok(answered) => {
                    let record = Record { run: visit.run, question: answered.clone() };
                    question::decided(visit, &answered, vec![Box::new(record)])
                }
                Err(ending) => ending,
            })
        })
    }
}

async fn ask(visit: &Visit<'_>) -> Result<Ending, StoreError> {
    let config = match visit.config() {
        Ok(config) => config,
        Err(why) => return Ok(Ending::failed(why)),
    };
    let asked = match people::asked(visit.store, config.get("user").unwrap_or(&Value::Null)).await? {
        Ok(asked) => asked,
        Err(why) => return Ok(Ending::failed(format!("`user`: {why}"))),
    };
    let due = question::due(visit, config.get("expiresAfter"));
    let mut new = question::to(&asked, QuestionKind::Consent, visit, &config, due);
    new.message = config.get("text").map(question::written);
    Ok(question::ask(visit, vec![new], "assigned"))
}

/// The audit row: who agreed to which words, or did not.
struct Record {
    run: Uuid,
    question: Question,
}

impl Effect for Record {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            let question = &self.question;
            let given = question.status == QuestionStatus::Approved;
            let state = json!({
                "userId": question.assignee_id, "email": question.assignee_email, "title": question.title,
                "text": question.message, "answeredBy": question.answered_by,
                "answeredAt": question.answered_at.map(question::time), "reason": question.reason,
            });
            let audited = Audited {
                entity: "consent",
                entity_id: &question.id.to_string(),
                action: if given { "consent.given" } else { "consent.refused" },
                run: self.run,
                previous: None,
                new: Some(state),
            };
            Ok(audit_write::write(transaction, &audited).await?)
        })
    }
}
