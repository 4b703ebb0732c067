//! `flohctl question`: shows what people are asked besides approvals, and answers as an API server does.

use super::{Answer, NO, USAGE, complain, complain_store, remark, run::find, say};
use crate::{
    config::Config,
    engine::run::storable,
    store::{
        Store, StoreError, Version,
        question::{Question, QuestionStatus},
    },
};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::{env, process::ExitCode};
use uuid::Uuid;

/// Look at what people are asked (forms, documents, reviews, consents, acceptances), and answer
#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Answer(Give),
    Accept(Accept),
    Reject(Reject),
}

/// Show the questions that wait for an answer
#[derive(Debug, Args)]
pub struct List {
    /// Only those to this person, by id or address
    #[arg(long = "to", value_name = "WHO")]
    to: Option<String>,
    /// Only those of this run: its id, or the first 6 or more of its characters
    #[arg(long, value_name = "ID")]
    run: Option<String>,
}

/// Fill in a form, or hand in a document
///
/// The run goes on at once. Exit code 1, and a sentence that says why, if the answer is not taken.
#[derive(Debug, Args)]
pub struct Give {
    /// The question's id
    id: Uuid,
    /// The values as a JSON object; of a document its `reference`
    #[arg(value_name = "JSON")]
    answer: String,
    /// Who answers: an id or an address; without it, whoever is logged in
    #[arg(long = "as", value_name = "WHO")]
    who: Option<String>,
}

/// Say yes to a review, a consent or an acceptance
///
/// The run goes on at once. Exit code 1, and a sentence that says why, if the answer is not taken.
#[derive(Debug, Args)]
pub struct Accept {
    /// The question's id
    id: Uuid,
    /// Who answers: an id or an address; without it, whoever is logged in
    #[arg(long = "as", value_name = "WHO")]
    who: Option<String>,
    /// What is to be said with it
    #[arg(long)]
    reason: Option<String>,
}

/// Say no to a review, a consent or an acceptance
///
/// The run goes on at once. Exit code 1, and a sentence that says why, if the answer is not taken.
#[derive(Debug, Args)]
pub struct Reject {
    /// The question's id
    id: Uuid,
    /// Who answers: an id or an address; without it, whoever is logged in
    #[arg(long = "as", value_name = "WHO")]
    who: Option<String>,
    /// Why; only a consent is refused without it
    #[arg(long)]
    reason: Option<String>,
}

/// The most that is listed.
const MOST: i64 = 1000;

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Answer {
    // What is wrong with the words is said before a server is asked.
    let value = match command {
        Command::Answer(give) => Some(
            serde_json::from_str(&give.answer)
                .map_err(|error| complain(USAGE, &format_args!("the answer is not JSON: {error}")))?,
        ),
        _ => None,
    };
    if let Some(why) = value.as_ref().and_then(storable::refusal) {
        return Err(complain(NO, &format_args!("the answer is not taken: {why}")));
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = Store::open(&config.database, 1, "flohctl question").map_err(|error| complain_store(&error))?;
    store.require_schema(Version::ours()).await.map_err(|error| complain_store(&error))?;
    let store = &store;
    match command {
        Command::List(list) => show(list, store).await,
        Command::Answer(Give { id, who, .. }) => {
            tell(store, *id, QuestionStatus::Answered, value.as_ref(), None, who.as_deref()).await
        }
        Command::Accept(Accept { id, who, reason }) => {
            tell(store, *id, QuestionStatus::Approved, None, reason.as_deref(), who.as_deref()).await
        }
        Command::Reject(Reject { id, who, reason }) => {
            tell(store, *id, QuestionStatus::Rejected, None, reason.as_deref(), who.as_deref()).await
        }
    }
}

async fn show(list: &List, store: &Store) -> Answer {
    let run = match &list.run {
        Some(run) => Some(find(store, run).await?),
        None => None,
    };
    let questions =
        store.open_questions(list.to.as_deref(), run, MOST).await.map_err(|error| complain_store(&error))?;
    if questions.is_empty() {
        say("no question waits for an answer");
    }
    for question in &questions {
        describe(question);
    }
    if questions.len() == usize::try_from(MOST).unwrap_or(usize::MAX) {
        remark(format_args!(
            "these are the first {MOST}; --to WHO shows those to one person, --run ID those of one run"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// A question in a line, and below it what belongs to it.
fn describe(question: &Question) {
    let who = question.assignee_email.as_deref().or(question.assignee_id.as_deref()).unwrap_or_default();
    let due = question.due_at.map(|at| format!(", until {}", time(at))).unwrap_or_default();
    say(format_args!("{} {} {who}{due}", question.id, question.kind.word()));
    let title = question.title.as_deref().map(|title| format!(": {}", line(title))).unwrap_or_default();
    say(format_args!("    run {}, step {}{title}", question.run, question.step));
    if let Some(message) = &question.message {
        say(format_args!("    {}", line(message)));
    }
    for field in &question.fields {
        let text = |name: &str| field.get(name).and_then(Value::as_str);
        let required = if field.get("required") == Some(&Value::Bool(true)) { ", required" } else { "" };
        let label = text("label").map(|label| format!(": {}", line(label))).unwrap_or_default();
        let (name, kind) = (text("name").unwrap_or_default(), text("type").unwrap_or("string"));
        say(format_args!("    {name} ({kind}{required}){label}"));
    }
}

/// A text of somebody's, in one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

async fn tell(
    store: &Store,
    id: Uuid,
    status: QuestionStatus,
    answer: Option<&Value>,
    reason: Option<&str>,
    who: Option<&str>,
) -> Answer {
    let who = who.map_or_else(user, str::to_string);
    match store.answer_question(id, status, answer, reason, &who).await {
        Ok(true) => {
            say(format_args!("{id} is {} by {who}", status.word()));
            Ok(ExitCode::SUCCESS)
        }
        Ok(false) => Err(complain(NO, &format_args!("there is no question {id}"))),
        // The database's own sentences about answers.
        Err(StoreError::Query { code, message, .. }) if code.starts_with("FL02") || code == "23514" => {
            Err(complain(NO, &message))
        }
        Err(error) => Err(complain_store(&error)),
    }
}

/// Whoever is logged in, also behind sudo.
fn user() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "flohctl".into())
}
