//! flohctl, the operator's tool: one file per command.
//!
//! Exit codes: 0 done, 1 the question was answered with no, 64 usage, 69 a server is not available or its schema not
//! migrated (try again), 70 something failed, 78 the configuration has to change.

// All that is said goes through `output`, which makes it harmless.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod approval;
mod audit;
mod config;
mod connector;
mod job;
mod migrate;
mod output;
mod question;
mod run;
mod schedule;
mod settings;
mod workflow;

use crate::{
    config::{Config, ConfigErrors, Notice, Severity},
    store::{Policy, StoreError},
};
use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand};
use output::{remark, say, say_json, say_pretty_json};
use std::{fmt::Display, path::PathBuf, process::ExitCode};

/// The question was answered with no: pending migrations, a broken chain.
const NO: u8 = 1;
/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;
/// `EX_UNAVAILABLE`: waiting and trying again may help.
const UNAVAILABLE: u8 = 69;
/// `EX_SOFTWARE`: an error that is none of the others.
const FAILED: u8 = 70;
/// `EX_CONFIG`: nothing but a change of the configuration helps.
const CONFIG: u8 = 78;

/// Looks after floh-worker, the background worker of the Floh workflow engine.
///
/// Its settings are the worker's, see floh-env(5): from --env-file, or from the environment if that names a server
/// (DB_…, REDIS_…), or else from /etc/floh/env.
#[derive(Debug, Parser)]
#[command(name = "flohctl", version = crate::VERSION)]
pub struct Cli {
    /// Take the settings from FILE, read as systemd reads it; may be given again, later files win
    #[arg(long = "env-file", value_name = "FILE", global = true)]
    env_files: Vec<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(subcommand)]
    Approval(approval::Command),
    #[command(subcommand)]
    Audit(audit::Command),
    #[command(subcommand)]
    Connector(connector::Command),
    #[command(subcommand)]
    Job(job::Command),
    Migrate(migrate::Arguments),
    Config(config::Arguments),
    #[command(subcommand)]
    Question(question::Command),
    #[command(subcommand)]
    Run(run::Command),
    #[command(subcommand)]
    Schedule(schedule::Command),
    #[command(subcommand)]
    Workflow(workflow::Command),
}

/// Parses the command line, runs the command, and says by the exit code how it went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` are not mistakes, and clap prints them to standard output.
            let code = if error.use_stderr() { USAGE } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(FAILED),
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(FAILED, &error),
    };
    runtime.block_on(answer(cli)).unwrap_or_else(|code| code)
}

/// A command's answer: its exit code, or the one of a mistake that was already reported.
type Answer = Result<ExitCode, ExitCode>;

async fn answer(cli: Cli) -> Answer {
    let configuration = || configuration(&cli.env_files);
    match &cli.command {
        Command::Approval(command) => approval::run(command, &configuration()?).await,
        Command::Audit(command) => audit::run(command, &configuration()?).await,
        Command::Connector(command) => connector::run(command, &configuration()?).await,
        Command::Job(command) => job::run(command, &configuration()?).await,
        Command::Migrate(arguments) => migrate::run(arguments, &configuration()?).await,
        Command::Config(arguments) => config::run(arguments, &cli.env_files),
        Command::Run(command) => run::run(command, &configuration()?).await,
        Command::Question(command) => question::run(command, &configuration()?).await,
        Command::Schedule(command) => schedule::run(command, configuration).await,
        Command::Workflow(command) => workflow::run(command, configuration).await,
    }
}

/// The configuration, or its mistakes on standard error.
fn configuration(files: &[PathBuf]) -> Result<Config, ExitCode> {
    let settings = settings::find(files).map_err(|errors| complain_each(&errors))?;
    for (path, found) in &settings.remarks {
        remark(format_args!("{}: {found}", path.display()));
    }
    match Config::load(&settings.variables) {
        Ok((config, notices)) => {
            warn(&notices);
            Ok(config)
        }
        Err(errors) => {
            warn(&errors.notices);
            Err(complain_each(&errors))
        }
    }
}

/// Warnings on standard error. That workers will make no checkpoints is not for every command to say.
fn warn(notices: &[Notice]) {
    for notice in notices.iter().filter(|n| n.severity == Severity::Warning && n.variable != "AUDIT_CHECKPOINT_KEY") {
        remark(notice);
    }
}

/// Reports mistakes in the settings on standard error, a line each.
fn complain_each(errors: &ConfigErrors) -> ExitCode {
    for mistake in &errors.mistakes {
        remark(mistake);
    }
    ExitCode::from(CONFIG)
}

/// A time as people read it.
fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Reports a mistake on standard error.
fn complain(code: u8, error: &dyn Display) -> ExitCode {
    remark(error);
    ExitCode::from(code)
}

/// Reports an error of the database.
fn complain_store(error: &StoreError) -> ExitCode {
    let code = match error.policy() {
        Policy::Wait | Policy::Retry => UNAVAILABLE,
        Policy::Fatal => CONFIG,
        Policy::Yield | Policy::Ask | Policy::Fail => FAILED,
    };
    complain(code, error)
}
