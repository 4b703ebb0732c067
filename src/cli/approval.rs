//! `flohctl approval`: shows what waits for a decision, and decides it as an API server does.

use super::{Answer, NO, complain, complain_store, remark, run::find, say};
use crate::{
    config::Config,
    store::{
        Store, Version,
        approval::{Approval, Undecided},
    },
};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use std::{env, process::ExitCode};
use uuid::Uuid;

/// Look at approvals, and decide them
#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Approve(Approve),
    Reject(Reject),
}

/// Show the approvals that wait for a decision
#[derive(Debug, Args)]
pub struct List {
    /// Also those that are decided, expired, void, reassigned, or not asked for yet
    #[arg(long)]
    all: bool,
    /// Only those of this run: its id, or the first 6 or more of its characters
    #[arg(long, value_name = "ID")]
    run: Option<String>,
}

/// Approve
///
/// The run goes on at once. Exit code 1, and a sentence that says why, if there is nothing to decide any more.
#[derive(Debug, Args)]
pub struct Approve {
    /// The approval's id
    id: Uuid,
    /// Who decides: an id or an address; without it, whoever is logged in
    #[arg(long = "as", value_name = "WHO")]
    who: Option<String>,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

/// Reject
///
/// The run goes on at once. Exit code 1, and a sentence that says why, if there is nothing to decide any more.
#[derive(Debug, Args)]
pub struct Reject {
    /// The approval's id
    id: Uuid,
    /// Who decides: an id or an address; without it, whoever is logged in
    #[arg(long = "as", value_name = "WHO")]
    who: Option<String>,
    /// Why
    #[arg(long)]
    reason: String,
}

/// The most that is listed.
const MOST: i64 = 1000;

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Answer {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = Store::open(&config.database, 1, "flohctl approval").map_err(|error| complain_store(&error))?;
    store.require_schema(Version::ours()).await.map_err(|error| complain_store(&error))?;
    match command {
        Command::List(list) => show(list, &store).await,
        Command::Approve(Approve { id, who, reason }) => {
            decide(&store, *id, true, who.as_deref(), reason.as_deref()).await
        }
        Command::Reject(Reject { id, who, reason }) => decide(&store, *id, false, who.as_deref(), Some(reason)).await,
    }
}

async fn show(list: &List, store: &Store) -> Answer {
    let run = match &list.run {
        Some(run) => Some(find(store, run).await?),
        None => None,
    };
    let approvals = store.approvals(list.all, run, MOST).await.map_err(|error| complain_store(&error))?;
    if approvals.is_empty() {
        say(if list.all { "there is no approval" } else { "no approval waits for a decision" });
    }
    for approval in &approvals {
        tell(approval);
    }
    if approvals.len() == usize::try_from(MOST).unwrap_or(usize::MAX) {
        remark(format_args!("these are the first {MOST}; --run ID shows those of one run"));
    }
    Ok(ExitCode::SUCCESS)
}

/// An approval in a line, and below it what belongs to it.
fn tell(approval: &Approval) {
    let Approval { id, run, step, status, .. } = approval;
    let asked = approval.asked_at.map(|at| format!(" since {}", time(at))).unwrap_or_default();
    let due = approval.due_at.map(|at| format!(", until {}", time(at))).unwrap_or_default();
    say(format_args!("{id} {status} {}{asked}{due}", approval.who.label()));
    let title = approval.title.as_deref().map(|title| format!(": {}", line(title))).unwrap_or_default();
    say(format_args!("    run {run}, step {step}{title}"));
    if let Some((by, at)) = &approval.decided {
        let reason = approval.reason.as_deref().map(|reason| format!(": {}", line(reason))).unwrap_or_default();
        say(format_args!("    by {by} at {}{reason}", time(*at)));
    }
    if approval.reminders > 0 && status == "pending" {
        say(format_args!("    reminded: {}", approval.reminders));
    }
    if let Some(because) = &approval.reassigned_because {
        say(format_args!("    reassigned: {}", line(because)));
    }
}

/// A text of somebody's, in one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

async fn decide(store: &Store, id: Uuid, approved: bool, who: Option<&str>, reason: Option<&str>) -> Answer {
    let who = who.map_or_else(user, str::to_string);
    match store.decide(id, approved, &who, reason).await {
        Ok(()) => {
            say(format_args!("{id} is {} by {who}", if approved { "approved" } else { "rejected" }));
            Ok(ExitCode::SUCCESS)
        }
        Err(Undecided::Refused(why)) => Err(complain(NO, &why)),
        Err(Undecided::Store(error)) => Err(complain_store(&error)),
    }
}

/// Whoever is logged in, also behind sudo.
fn user() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "flohctl".into())
}
