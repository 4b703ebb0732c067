//! `notification`: tells people something, and may ask them to accept it.

mod recipients;

use super::{StepType, question, words};
use crate::{
    engine::{
        definition::Retry,
        fields::Fields,
        people::Asked,
        run::{Effect, EffectError, Ending, Visit},
    },
    mail::{Kind, Message, MessageId, Template, message::one_line},
    store::{
        FencedTransaction, StoreError,
        notification::{NewNotification, notify},
        question::{Question, QuestionKind, QuestionStatus},
        run::StepStatus,
    },
};
use futures_util::future::BoxFuture;
use recipients::Recipient;
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;

/// A message.
pub struct Notification;

/// The members that are Handlebars templates, and what values are put into.
const TEMPLATES: [(&str, Kind); 3] = [("subject", Kind::Text), ("text", Kind::Text), ("html", Kind::Html)];

/// What templates may ask for beside the run's variables: the person that is told.
const RECIPIENT: &str = "recipient";

/// After so long it is noted who has got the mail, before the others get it.
const NOTE_AFTER: Duration = Duration::from_secs(10);

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
            let recipients = match recipients::find(visit.store, config.get("to"), accepts).await? {
                Ok(recipients) => recipients,
                Err(why) => return Ok(Ending::failed(why)),
            };
            let texts = match Texts::read(&config) {
                Ok(texts) => texts,
                Err(why) => return Ok(Ending::failed(why)),
            };
            let told = if config.get("channel").and_then(Value::as_str) == Some("inApp") {
                tell(visit, &config, &recipients, &texts)
            } else {
                send(visit, &recipients, &texts).await
            };
            Ok(if accepts { ask(visit, &config, &recipients, &texts, told) } else { told })
        })
    }
}

/// Once they are told, each of them is asked to accept it.
fn ask(
    visit: &Visit<'_>,
    config: &Map<String, Value>,
    recipients: &[Recipient],
    texts: &Texts,
    told: Ending,
) -> Ending {
    let Ending::Done { result: told_result, effects, .. } = told else { return told };
    let filled = match texts.fill_all(visit, recipients) {
        Ok(filled) => filled,
        Err(why) => return Ending::failed(why),
    };
    let expires = config.get("acceptance").and_then(|acceptance| acceptance.get("expiresAfter"));
    let due = question::due(visit, expires);
    let questions = recipients.iter().zip(filled).map(|(recipient, [subject, text, html])| {
        let asked = Asked {
            id: recipient.id.clone(),
            email: recipient.email.clone().unwrap_or_default(),
            display_name: String::new(),
        };
        let mut new = question::to(&asked, QuestionKind::Acceptance, visit, config, due);
        new.title = one_line(&subject.unwrap_or_else(|| visit.step.name.clone()));
        new.message = text.or(html);
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

/// The templates of a message.
struct Texts([Option<Template>; 3]);

/// A message's texts: subject, text, HTML.
type Filled = [Option<String>; 3];

impl Texts {
    fn read(config: &Map<String, Value>) -> Result<Texts, String> {
        let mut templates = [None, None, None];
        for ((name, kind), template) in TEMPLATES.into_iter().zip(&mut templates) {
            if let Some(text) = config.get(name).and_then(Value::as_str) {
                *template = Some(Template::parse(text, kind).map_err(|wrong| format!("`{name}`, {wrong}"))?);
            }
        }
        Ok(Texts(templates))
    }

    /// For one recipient. `values` are the run's variables; a variable of the name `recipient` stays what it is.
    fn fill(&self, values: &mut Value, own: bool, recipient: &Recipient) -> Result<Filled, String> {
        if let Some(members) = values.as_object_mut().filter(|_| !own) {
            members.insert(RECIPIENT.to_string(), recipient.person.clone());
        }
        let mut filled = [None, None, None];
        for (((name, _), template), text) in TEMPLATES.into_iter().zip(&self.0).zip(&mut filled) {
            if let Some(template) = template {
                *text = Some(template.fill(values).map_err(|wrong| format!("`{name}`, {wrong}"))?);
            }
        }
        Ok(filled)
    }

    /// For all of them, before anybody is told anything.
    fn fill_all(&self, visit: &Visit<'_>, recipients: &[Recipient]) -> Result<Vec<Filled>, String> {
        let mut values = Value::Object(visit.variables.clone());
        let own = visit.variables.contains_key(RECIPIENT);
        recipients.iter().map(|recipient| self.fill(&mut values, own, recipient)).collect()
    }
}

/// Shows it in the application.
fn tell(visit: &Visit<'_>, config: &Map<String, Value>, recipients: &[Recipient], texts: &Texts) -> Ending {
    let filled = match texts.fill_all(visit, recipients) {
        Ok(filled) => filled,
        Err(why) => return Ending::failed(why),
    };
    let link = config.get("link").map(question::written).filter(|link| !link.trim().is_empty());
    let told = recipients.iter().zip(filled).map(|(recipient, [subject, text, html])| NewNotification {
        user_id: recipient.id.clone(),
        email: recipient.email.clone().filter(|_| recipient.id.is_none()),
        run: visit.run,
        step: visit.step.id.clone(),
        visit: visit.number,
        kind: "notification",
        title: one_line(&subject.unwrap_or_else(|| visit.step.name.clone())),
        body: text.or(html).unwrap_or_default(),
        link: link.clone(),
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

/// What has become of the mails of a visit so far. Between two tries it is the step's result, so that nobody who has got a
/// mail gets it again because the server refused another one.
#[derive(Default)]
struct Progress {
    sent: BTreeSet<String>,
    refused: Vec<String>,
    for_now: Option<String>,
}

impl Progress {
    fn of(visit: &Visit<'_>) -> Progress {
        let sent = visit.result.and_then(|result| result.get("sent")).and_then(Value::as_array);
        let sent = sent.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
        Progress { sent, ..Progress::default() }
    }

    /// Whether somebody has got it, under this address or another spelling of it.
    fn has(&self, address: &str) -> bool {
        self.sent.iter().any(|sent| sent.eq_ignore_ascii_case(address))
    }

    fn result(&self) -> Option<Value> {
        Some(json!({ "sent": self.sent }))
    }
}

/// Sends a mail to each of them.
async fn send(visit: &Visit<'_>, recipients: &[Recipient], texts: &Texts) -> Ending {
    let mailer = &visit.tools.mailer;
    if let Err(error) = mailer.sender() {
        return Ending::failed(error.reason);
    }
    let mails = match mails(visit, recipients, texts) {
        Ok(mails) => mails,
        Err(why) => return Ending::failed(why),
    };
    let mut progress = Progress::of(visit);
    let begun = Instant::now();
    for mail in &mails {
        let address = mail.to.email.to_string();
        if progress.has(&address) {
            continue;
        }
        if begun.elapsed() >= NOTE_AFTER && progress.refused.is_empty() && progress.for_now.is_none() {
            return go_on_later(visit, &progress);
        }
        match mailer.send(mail).await {
            Ok(()) => {
                progress.sent.insert(address);
            }
            Err(error) if error.passing => {
                progress.for_now.get_or_insert(format!("the mail to {address} was not sent: {}", error.reason));
                if !error.reached {
                    break;
                }
            }
            Err(error) => progress.refused.push(format!("{address}: {}", error.reason)),
        }
    }
    let result = progress.result();
    let failed = |reason, passing| Ending::Failed {
        reason,
        outcome: "error",
        set: Map::new(),
        result: result.clone(),
        passing,
        effects: Vec::new(),
    };
    match (progress.for_now, &progress.refused[..]) {
        (Some(reason), _) => failed(reason, true),
        (None, []) => Ending::Done { outcome: "success".into(), set: Map::new(), result, effects: Vec::new() },
        (None, refused) => failed(format!("not every mail was sent: {}", refused.join("; ")), false),
    }
}

/// Notes who has got the mail, and goes on at once: a long list is no reason to do all of it again after a crash, nor to keep a
/// worker from stopping.
fn go_on_later(visit: &Visit<'_>, progress: &Progress) -> Ending {
    Ending::Waits {
        status: StepStatus::WaitingResponse,
        until: Some(visit.now),
        result: progress.result(),
        assignment: None,
        effects: Vec::new(),
    }
}

fn mails(visit: &Visit<'_>, recipients: &[Recipient], texts: &Texts) -> Result<Vec<Message>, String> {
    let filled = texts.fill_all(visit, recipients)?;
    let filled = recipients.iter().zip(filled);
    filled
        .map(|(recipient, [subject, text, html])| {
            let to = recipient.mailbox()?;
            Ok(Message {
                id: MessageId::of_visit(visit.run, &visit.step.id, visit.number, &to.email),
                to,
                subject: subject.unwrap_or_else(|| visit.step.name.clone()),
                text,
                html,
            })
        })
        .collect()
}
