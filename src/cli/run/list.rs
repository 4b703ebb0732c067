//! `flohctl run list`.

use crate::{
    cli::{Answer, complain_store, say, say_json, time},
    store::{
        Store,
        definition::Reference,
        run::{ListedRun, RunFilter},
    },
};
use clap::{Args, ValueEnum};
use std::{convert::Infallible, process::ExitCode};

/// List runs, the latest first
///
/// A line for each: its id, its definition and version, its status, the step that it is at, when it was started, and why
/// it failed.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only those in this status; may be repeated
    #[arg(long = "status")]
    statuses: Vec<Status>,
    /// Only those of NAME, or of NAME@VERSION
    #[arg(long, value_name = "DEFINITION")]
    definition: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// As a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Pending,
    Running,
    Waiting,
    Completed,
    Failed,
    Cancelled,
}

pub async fn run(arguments: &Arguments, store: &Store) -> Answer {
    let (definition, version) = match arguments.definition.as_deref().map(str::parse) {
        None => (None, None),
        Some(Ok(Reference::Version(name, version))) => (Some(name), Some(version)),
        Some(Ok(Reference::Name(name))) => (Some(name), None),
        Some(Ok(Reference::Id(id))) => match store.definition(id).await.map_err(|error| complain_store(&error))? {
            Some(found) => (Some(found.name), Some(found.version)),
            None => (Some(id.to_string()), None),
        },
        Some(Err::<_, Infallible>(never)) => match never {},
    };
    let word = |status: &Status| status.to_possible_value().map(|value| value.get_name().to_string());
    let filter = RunFilter {
        statuses: arguments.statuses.iter().filter_map(word).collect(),
        definition,
        version,
        limit: i64::from(arguments.limit),
    };
    let runs = store.list_runs(&filter).await.map_err(|error| complain_store(&error))?;
    if arguments.json {
        say_json(&runs);
    } else if runs.is_empty() {
        say("there are no such runs");
    } else {
        runs.iter().map(line).for_each(say);
    }
    Ok(ExitCode::SUCCESS)
}

fn line(run: &ListedRun) -> String {
    let step = run.current_step.as_deref().map(|step| format!(" at {step}")).unwrap_or_default();
    let reason = run.failure_reason.as_deref().map(|why| format!("  {}", first_line(why))).unwrap_or_default();
    format!(
        "{}  {}@{}  {}{step}  {}{reason}",
        run.id,
        run.definition,
        run.version,
        super::show::status(run),
        time(run.created_at)
    )
}

/// What fits into a line.
fn first_line(text: &str) -> String {
    const LONGEST: usize = 100;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_string(),
    }
}
