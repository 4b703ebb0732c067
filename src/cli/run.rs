//! `flohctl run`: starts runs, shows them, cancels them, and tries failed ones again.

mod change;
mod list;
mod show;
mod start;

pub(super) use start::misfits;

use super::{Answer, NO, complain, complain_store};
use crate::{
    config::Config,
    store::{Store, Version},
};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use uuid::Uuid;

/// Look after workflow runs
///
/// A run is named by its id, or by the first 6 or more of the id's characters, where they mean one run only.
#[derive(Debug, Subcommand)]
pub enum Command {
    Start(start::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
    /// Ask for a run to be cancelled: it ends at the next boundary between two steps
    ///
    /// A run that waits ends within a second or two, where a worker is there. A step that is under way is done before. Exit
    /// code 0 if the run is, or will be, cancelled; 1 if it has ended before.
    Cancel {
        /// The run
        run: String,
        /// Why, for the run's reason
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a failed run go on: the step at which it failed is visited again
    ///
    /// Exit code 0 if it goes on, 1 if it has not failed.
    Retry {
        /// The run
        run: String,
    },
}

/// What every command about one run is told.
#[derive(Debug, Args)]
struct One {
    /// The run: its id, or the first 6 or more of its characters
    run: String,
}

pub async fn run(command: &Command, config: &Config) -> Answer {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = Store::open(&config.database, 1, "flohctl run").map_err(|error| complain_store(&error))?;
    store.require_schema(Version::ours()).await.map_err(|error| complain_store(&error))?;
    match command {
        Command::Start(arguments) => start::run(arguments, config, &store).await,
        Command::List(arguments) => list::run(arguments, &store).await,
        Command::Show(arguments) => show::run(arguments, &store).await,
        Command::Cancel { run, reason } => change::cancel(find(&store, run).await?, reason.as_deref(), &store).await,
        Command::Retry { run } => change::retry(find(&store, run).await?, &store).await,
    }
}

/// The fewest characters of an id that are taken for one.
const FEWEST: usize = 6;

/// The run that is meant.
pub(super) async fn find(store: &Store, text: &str) -> Result<Uuid, ExitCode> {
    let digits = text.strip_suffix('…').unwrap_or(text);
    if let Ok(id) = Uuid::try_parse(digits) {
        return Ok(id);
    }
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if !plain || digits.bytes().filter(u8::is_ascii_hexdigit).count() < FEWEST {
        let why = format!("`{text}` is no run: its id is meant, or the first {FEWEST} or more of its characters");
        return Err(complain(super::USAGE, &why));
    }
    let found = store.runs_beginning_with(digits).await.map_err(|error| complain_store(&error))?;
    match found[..] {
        [id] => Ok(id),
        [] => Err(unknown(text)),
        _ => Err(complain(NO, &format_args!("several runs begin with {text}: say more of the id"))),
    }
}

fn unknown(run: &str) -> ExitCode {
    complain(NO, &format_args!("there is no run {run} of this engine"))
}
