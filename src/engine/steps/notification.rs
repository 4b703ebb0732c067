//! `notification`: tells people something, and may ask them to accept it.

mod mails;
mod progress;
mod recipients;
mod texts;

use super::{StepType, question, words};
use crate::{
    engine::{
        definition::Retry,
        fields::Fields,
        people::Asked,
        run::{Effect, EffectError, Ending, Visit},
    },
    mail::{Kind, Template},
    store::{
        FencedTransaction, StoreError,
        notification::{NewNotification, notify},
        question::{Question, QuestionKind, QuestionStatus},
    },
};
use futures_util::future::BoxFuture;
use recipients::{Recipient, Wanted};
use serde_json::{Map, Value, json};
use std::time::Duration;
use texts::{RECIPIENT, Shown, Texts};

/// A message.
pub struct Notification;

/// The members that are Handlebars templates, and what values are put into.
const TEMPLATES: [(&str, Kind); 3] = [("subject", Kind::Text), ("text", Kind::Text), ("html", Kind::Html)];

impl StepType for Notification {
    fn name(&self) -> &'static str {
        "notification"
    }

    fn check(&self, config: &Fields<'_>) {
        let by_mail = config.word("channel", &[("email", true), ("inApp", false)]).unwrap_or(true);
        let to = config.texts("to");
        if to.is_empty() {
            config.wrong("MISSING", "to", "`to` lists who is told: ids, addresses or templates of them");
        }
        let subject = if by_mail { config.text("subject") } else { config.maybe_text("subject") };
        let (text, html) = (config.maybe_text("text"), config.maybe_text("html"));
        if text.is_none() && html.is_none() {
            config.wrong("MISSING", "text", "a message has a `text`, or an `html`, or both");
        }
        for ((name, kind), template) in TEMPLATES.into_iter().zip([subject, text, html]) {
            if let Some(Err(wrong)) = template.map(|template| Template::parse(template, kind)) {
                config.wrong("BAD_TEMPLATE", name, wrong.to_string());
            }
        }
        let _ = config.maybe_text("link");
        if let Some(acceptance) = config.fields("acceptance") {
            let _ = acceptance.span("expiresAfter");
            acceptance.done();
        }
    }

    fn outcomes(&self, config: &Map<String, Value>) -> Vec<String> {
        words(if self.waits(config) { &["approved", "rejected"] } else { &["success"] })
    }

    fn failures(&self, config: &Map<String, Value>) -> Vec<&'static str> {
        let expires = config.get("acceptance").is_some_and(|acceptance| acceptance.get("expiresAfter").is_some());
        if expires { vec!["error", "expired"] } else { vec!["error"] }
    }

    fn waits(&self, config: &Map<String, Value>) -> bool {
        config.get("acceptance").is_some_and(|acceptance| !acceptance.is_null())
    }

    /// Where it asks to be accepted, nobody has accepted it then, nor rejected it.
    fn carries_on(&self, config: &Map<String, Value>) -> Option<String> {
        (!self.waits(config)).then(|| "success".to_string())
    }

    /// Messages have Handlebars templates, which are another language.
    fn plain(&self) -> &'static [&'static str] {
        &["subject", "text", "html"]
    }

    fn asks(&self, config: &Map<String, Value>) -> Vec<(&'static str, String)> {
        let mut asked = Vec::new();
        for (name, kind) in TEMPLATES {
            let template = config.get(name).and_then(Value::as_str).map(|text| Template::parse(text, kind));
            let Some(Ok(template)) = template else { continue };
            let variables = template.variables().into_iter().filter(|(variable, _)| *variable != RECIPIENT);
            asked.extend(variables.map(|(variable, _)| (name, variable.to_string())));
        }
        asked
    }

    /// The last try is after about 21 minutes: a mail server that is restarted or upgraded fails no run.
    fn retry(&self) -> Option<Retry> {
        Some(Retry { attempts: 8, delay: Duration::from_secs(10), doubles: true })
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async {
            let accepts = self.waits(&visit.step.config);
            if accepts && visit.waits {
                let questions = question::asked(visit, QuestionKind::Acceptance).await?;
                // Without any it is still on its way to the people.
                if !questions.is_empty() {
                    return Ok(accepted(visit, &questions));
                }
            }
            let config = match visit.config() {
                Ok(config) => config,
                Err(why) => return Ok(Ending::failed(why)),
            };
            let in_app = config.get("channel").and_then(Value::as_str) == Some("inApp");
            let wanted = Wanted { answers: accepts, mail: !in_app };
            let recipients = match recipients::find(visit.store, config.get("to"), wanted).await? {
                Ok(recipients) => recipients,
                Err(why) => return Ok(Ending::failed(why)),
            };
            let texts = match Texts::read(&config) {
                Ok(texts) => texts,
                Err(why) => return Ok(Ending::failed(why)),
            };
            let link = config.get("link").map(question::written).filter(|link| in_app && !link.trim().is_empty());
            let mut shown = Vec::new();
            if in_app || accepts {
                shown = match texts.shown(visit, &recipients, link.as_ref().map_or(0, String::len)) {
                    Ok(shown) => shown,
                    Err(why) => return Ok(Ending::failed(why)),
                };
            }
            let told = if in_app {
                tell(visit, &recipients, &shown, link.as_deref())
            } else {
                mails::send(visit, &recipients, &texts).await
            };
            Ok(if accepts { ask(visit, &config, &recipients, shown, told) } else { told })
        })
    }
}

/// Once they are told, each of them is asked to accept it.
fn ask(
    visit: &Visit<'_>,
    config: &Map<String, Value>,
    recipients: &[Recipient],
    shown: Vec<Shown>,
    told: Ending,
) -> Ending {
    let Ending::Done { result: told_result, effects, .. } = told else { return told };
    let expires = config.get("acceptance").and_then(|acceptance| acceptance.get("expiresAfter"));
    let due = question::due(visit, expires);
    let questions = recipients.iter().zip(shown).map(|(recipient, Shown { title, body })| {
        let asked = Asked {
            id: recipient.id.clone(),
            email: recipient.email.clone().unwrap_or_default(),
            display_name: String::new(),
        };
        let mut new = question::to(&asked, QuestionKind::Acceptance, visit, config, due);
        (new.title, new.message) = (title, body);
        new
    });
    match question::ask_after(visit, questions.collect(), "assigned", effects) {
        Ending::Waits { status, until, assignment, effects, .. } => {
            Ending::Waits { status, until, result: told_result, assignment, effects }
        }
        other => other,
    }
}

/// What the answers come to: one rejection decides, and so does the last acceptance.
fn accepted(visit: &Visit<'_>, questions: &[Question]) -> Ending {
    if let Some(rejected) = questions.iter().find(|one| one.status == QuestionStatus::Rejected) {
        return question::decided(visit, rejected, Vec::new());
    }
    if questions.iter().any(|one| one.status != QuestionStatus::Approved) {
        return question::unanswered(visit, questions);
    }
    let result = json!({ "accepted": questions.iter().map(question::said).collect::<Vec<_>>() });
    Ending::Done { outcome: "approved".into(), set: Map::new(), result: Some(result), effects: Vec::new() }
}

/// Shows it in the application.
fn tell(visit: &Visit<'_>, recipients: &[Recipient], shown: &[Shown], link: Option<&str>) -> Ending {
    let told = recipients.iter().zip(shown).map(|(recipient, Shown { title, body })| NewNotification {
        user_id: recipient.id.clone(),
        email: recipient.email.clone().filter(|_| recipient.id.is_none()),
        run: visit.run,
        step: visit.step.id.clone(),
        visit: visit.number,
        kind: "notification",
        title: title.clone(),
        body: body.clone().unwrap_or_default(),
        link: link.map(str::to_string),
    });
    let told: Vec<NewNotification> = told.collect();
    let people: Vec<&str> = told.iter().filter_map(|one| one.user_id.as_deref().or(one.email.as_deref())).collect();
    let result = json!({ "told": people });
    let effects: Vec<Box<dyn Effect>> = vec![Box::new(Told(told))];
    Ending::Done { outcome: "success".into(), set: Map::new(), result: Some(result), effects }
}

/// The rows of those who are told.
struct Told(Vec<NewNotification>);

impl Effect for Told {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async {
            notify(transaction, &self.0).await?;
            Ok(())
        })
    }
}
