//! `flohctl job`: cancels running jobs, and looks after the quarantine.

mod cancel;

use super::{Answer, FAILED, NO, UNAVAILABLE, complain, complain_store, say};
use crate::{
    config::Config,
    queue::{self, Queue, connection::Fate},
    store::{Store, Version},
};
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Look after single jobs
#[derive(Debug, Subcommand)]
pub enum Command {
    Cancel(Cancel),
    #[command(subcommand)]
    Quarantine(Quarantine),
}

/// Cancel a running job, on whichever machine it runs
///
/// It fails with the reason given and is not tried again; so does one that a worker holds and has not begun. Exit code 0
/// when it has failed so, 1 if it is not running, ended otherwise before, or did not react within 5 s.
#[derive(Debug, Args)]
pub struct Cancel {
    /// The job's id
    id: String,
    /// Why, for the job's failed reason
    #[arg(long, default_value = "by an operator")]
    reason: String,
}

/// Jobs that are not run any more because workers died of them
#[derive(Debug, Subcommand)]
pub enum Quarantine {
    /// Show them, with the evidence
    List,
    /// Forget what a job is suspected of, and run it again
    Release {
        /// The job's id
        id: String,
        /// Only forget; a retry by hand then runs it
        #[arg(long)]
        no_retry: bool,
    },
}

/// The most that is listed.
const MOST: i64 = 1000;

pub async fn run(command: &Command, config: &Config) -> Answer {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = Store::open(&config.database, 1, "flohctl job").map_err(|error| complain_store(&error))?;
    let queue = Queue::new(&config.queue, &config.redis, Fate::default()).map_err(|error| complain_queue(&error))?;
    store.require_schema(Version::ours()).await.map_err(|error| complain_store(&error))?;
    match command {
        Command::Cancel(arguments) => cancel::run(&arguments.id, &arguments.reason, &store, &queue).await,
        Command::Quarantine(Quarantine::List) => list(&store, &queue).await,
        Command::Quarantine(Quarantine::Release { id, no_retry }) => release(id, *no_retry, &store, &queue).await,
    }
}

async fn list(store: &Store, queue: &Queue) -> Answer {
    let jobs = store.quarantined(&queue.qualified_name, MOST).await.map_err(|error| complain_store(&error))?;
    if jobs.is_empty() {
        say("no job is in quarantine");
    }
    for job in jobs {
        say(format_args!("{} {} since {}", job.job_id, job.name, job.since.format("%Y-%m-%d %H:%M:%S UTC")));
        for suspicion in job.suspicions {
            say(format_args!("    {suspicion}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn release(id: &str, no_retry: bool, store: &Store, queue: &Queue) -> Answer {
    let released =
        store.release_from_quarantine(&queue.qualified_name, id).await.map_err(|error| complain_store(&error))?;
    if !released {
        say(format_args!("job {id} is neither in quarantine nor suspected of anything"));
        return Ok(ExitCode::from(NO));
    }
    let retried = !no_retry && queue.retry_failed(id).await.map_err(|error| complain_queue(&error))?;
    say(format_args!("job {id} is released{}", if retried { ", and waits to be run again" } else { "" }));
    Ok(ExitCode::SUCCESS)
}

/// Reports an error of the queue.
fn complain_queue(error: &queue::Error) -> ExitCode {
    let code = match error {
        error if error.is_unavailable() => UNAVAILABLE,
        error if error.is_fatal() => super::CONFIG,
        _ => FAILED,
    };
    complain(code, error)
}
