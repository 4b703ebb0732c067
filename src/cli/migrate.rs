//! `flohctl migrate`: makes or upgrades our schema, and says how far it is.

use super::{Answer, NO, complain_store, say};
use crate::{
    config::Config,
    store::{self, MigrationStatus},
};
use clap::Args;
use std::process::ExitCode;

/// Bring the database schema (DB_SCHEMA) to this version
///
/// Harmless when it is there already, and when run twice at once. Run it once per upgrade, before or after the
/// workers: they wait for the schema they need.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Change nothing; list the migrations, and exit with 1 if some are not applied
    #[arg(long)]
    status: bool,
}

pub async fn run(arguments: &Arguments, config: &Config) -> Answer {
    if arguments.status { status(config).await } else { migrate(config).await }
}

async fn migrate(config: &Config) -> Answer {
    let done = store::migrate(&config.database).await.map_err(|error| complain_store(&error))?;
    let schema = &config.database.schema;
    for name in &done.applied {
        say(format_args!("applied {name}"));
    }
    if done.newer_than_known {
        say(format_args!(
            "schema {schema} is at version {}, which is newer than this flohctl: nothing to do",
            done.version
        ));
    } else if done.applied.is_empty() {
        say(format_args!("schema {schema} is at version {} already: nothing to do", done.version));
    } else {
        say(format_args!("schema {schema} is at version {}", done.version));
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(config: &Config) -> Answer {
    let lines = store::migration_status(&config.database).await.map_err(|error| complain_store(&error))?;
    say(format_args!("schema {}", config.database.schema));
    for MigrationStatus { version, name, applied_at } in &lines {
        let name = if name.is_empty() { "(newer than this flohctl)" } else { name };
        say(format_args!("{version:>4}  {name:<26}  {}", applied_at.as_deref().unwrap_or("not applied")));
    }
    let pending = lines.iter().filter(|line| line.applied_at.is_none()).count();
    if pending == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!("{pending} not applied: run `flohctl migrate`"));
    Ok(ExitCode::from(NO))
}
