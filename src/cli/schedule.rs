//! `flohctl schedule`: what starts runs at certain times.

use super::{Answer, NO, USAGE, complain, complain_store, remark, run::misfits, say};
use crate::{
    config::Config,
    cron::Timetable,
    engine::{self, run::storable},
    store::{
        Store, Version,
        definition::{DefinitionStatus, Reference},
        schedule::{Listed, NewSchedule},
    },
};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};
use std::{fmt::Display, process::ExitCode};

/// Look after schedules, which start runs at certain times
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all schedules
    List,
    Add(Box<Add>),
    /// Let a schedule start nothing until it is resumed
    Pause(Name),
    /// Let a schedule go on with its next time; what came due meanwhile is not made up for
    Resume(Name),
    /// Remove a schedule; its runs stay
    Remove(Name),
    Next(Next),
}

/// Which schedule.
#[derive(Debug, Args)]
pub struct Name {
    /// The schedule's name
    name: String,
}

/// Make a schedule
///
/// Each run starts with the version of the definition that is active then. Exit code 1 if there is a schedule of this name.
#[derive(Debug, Args)]
pub struct Add {
    /// The schedule's name
    name: String,
    /// Name of the definition
    #[arg(long)]
    definition: String,
    /// When: five fields, or six with seconds
    #[arg(long)]
    cron: String,
    /// The zone of its clock, of the IANA database
    #[arg(long, default_value = "UTC")]
    zone: String,
    /// What each run starts with, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    variables: String,
    /// Who starts the runs, by id or address
    #[arg(long, value_name = "ID")]
    submitter: Option<String>,
    /// What is done about times that were missed: nothing, the latest is made up for, or each of the latest
    #[arg(long, value_enum, default_value_t = CatchUp::One)]
    catch_up: CatchUp,
    /// How many the latest are
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    catch_up_limit: u16,
    /// What happens while a run of the schedule has not ended: another one starts, none, or one that waits for its turn
    #[arg(long, value_enum, default_value_t = Overlap::Allow)]
    overlap: Overlap,
    /// Let the connectors' mocks answer, except in steps with `mock: false`; mail is sent
    #[arg(long)]
    mocks: bool,
    /// Let it start nothing until it is resumed
    #[arg(long)]
    paused: bool,
}

/// Of times that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CatchUp {
    Skip,
    One,
    All,
}

/// While a run has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Overlap {
    Allow,
    Skip,
    Queue,
}

/// The word of the command line is that of the table.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
}

/// Show the next times of a schedule, in its zone and in UTC
///
/// With --cron no server is asked.
#[derive(Debug, Args)]
pub struct Next {
    /// The schedule's name
    #[arg(required_unless_present = "cron", conflicts_with = "cron")]
    name: Option<String>,
    /// Those of this expression instead of a schedule's
    #[arg(long)]
    cron: Option<String>,
    /// The zone of the expression's clock
    #[arg(long, default_value = "UTC", requires = "cron")]
    zone: String,
    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// From this time on, such as 2026-03-28T12:00:00Z, instead of now
    #[arg(long, value_name = "TIME")]
    after: Option<String>,
}

/// Runs the command; the configuration is only read where a server is asked.
pub async fn run(command: &Command, config: impl FnOnce() -> Result<Config, ExitCode>) -> Answer {
    match command {
        Command::List => list(&open(&config()?).await?).await,
        Command::Add(arguments) => {
            // What is wrong with the words is said before a server is asked.
            let variables = check(arguments).map_err(|why| complain(USAGE, &why))?;
            let config = config()?;
            add(arguments, variables, &config, &open(&config).await?).await
        }
        Command::Pause(Name { name }) => enable(&open(&config()?).await?, name, false).await,
        Command::Resume(Name { name }) => enable(&open(&config()?).await?, name, true).await,
        Command::Remove(Name { name }) => {
            let removed =
                open(&config()?).await?.remove_schedule(name).await.map_err(|error| complain_store(&error))?;
            Ok(answer(removed, name, "is removed; its runs stay"))
        }
        Command::Next(arguments) => {
            let after = after(arguments).map_err(|why| complain(USAGE, &why))?;
            let (cron, zone) = match (&arguments.cron, &arguments.name) {
                (None, Some(name)) => match find(&open(&config()?).await?, name).await? {
                    Some(listed) => {
                        if !listed.schedule.enabled {
                            remark(format_args!("the schedule {name} is paused"));
                        }
                        (listed.schedule.cron, listed.schedule.zone)
                    }
                    None => return Ok(unknown(name)),
                },
                (cron, _) => (cron.clone().unwrap_or_default(), arguments.zone.clone()),
            };
            let table = Timetable::parse(&cron, &zone).map_err(|why| complain(USAGE, &why))?;
            next(&table, after, arguments.count);
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn open(config: &Config) -> Result<Store, ExitCode> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = Store::open(&config.database, 1, "flohctl schedule").map_err(|error| complain_store(&error))?;
    store.require_schema(Version::ours()).await.map_err(|error| complain_store(&error))?;
    Ok(store)
}

async fn find(store: &Store, name: &str) -> Result<Option<Listed>, ExitCode> {
    Ok(store.list_schedules(Some(name)).await.map_err(|error| complain_store(&error))?.pop())
}

fn unknown(name: &str) -> ExitCode {
    say(format_args!("there is no schedule {name}"));
    ExitCode::from(NO)
}

/// Says what was done, or that there is no such schedule.
fn answer(done: bool, name: &str, what: impl Display) -> ExitCode {
    if !done {
        return unknown(name);
    }
    say(format_args!("the schedule {name} {what}"));
    ExitCode::SUCCESS
}

/// The variables, or what is wrong with the words.
fn check(arguments: &Add) -> Result<Map<String, Value>, String> {
    Timetable::parse(&arguments.cron, &arguments.zone)?;
    for (what, text) in [("name", &arguments.name), ("definition", &arguments.definition)] {
        if text.trim().is_empty() {
            return Err(format!("the {what} is empty"));
        }
    }
    let text = &arguments.variables;
    match serde_json::from_str(text) {
        Ok(Value::Object(variables)) => match storable::refusal_of(&variables, &Map::new()) {
            None => Ok(variables),
            Some(why) => Err(format!("--variables: {why}")),
        },
        Ok(_) => Err(format!("--variables {text}: it is no JSON object")),
        Err(error) => Err(format!("--variables {text}: it is not JSON: {error}")),
    }
}

async fn add(arguments: &Add, variables: Map<String, Value>, config: &Config, store: &Store) -> Answer {
    let new = NewSchedule {
        name: arguments.name.clone(),
        definition: arguments.definition.clone(),
        cron: arguments.cron.clone(),
        zone: arguments.zone.clone(),
        variables: Value::Object(variables.clone()),
        submitter_id: arguments.submitter.clone(),
        use_mocks: arguments.mocks,
        enabled: !arguments.paused,
        catch_up: word(arguments.catch_up),
        catch_up_limit: arguments.catch_up_limit,
        overlap: word(arguments.overlap),
        queue: format!("{}:{}", config.queue.prefix, config.queue.name),
    };
    if !store.add_schedule(&new).await.map_err(|error| complain_store(&error))? {
        say(format_args!("there is a schedule {} already", new.name));
        return Ok(ExitCode::from(NO));
    }
    let next = if new.enabled { next_text(&new.cron, &new.zone) } else { "paused".into() };
    say(format_args!("the schedule {} is made: {next}", new.name));
    // Neither forbids the schedule: what a version needs may change with the next one.
    let versions = store.definitions(&Reference::Name(new.definition.clone())).await;
    let mut versions = versions.map_err(|error| complain_store(&error))?.into_iter();
    match versions.find(|version| version.status == DefinitionStatus::Active) {
        None => {
            remark(format_args!(
                "no version of the definition {} is active: until one is, nothing starts",
                new.definition
            ));
        }
        Some(active) => {
            for wrong in misfits(&engine::validate(&active.document).0, &variables) {
                remark(format_args!("{}@{}: {wrong}", new.definition, active.version));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn enable(store: &Store, name: &str, enabled: bool) -> Answer {
    let done = store.enable_schedule(name, enabled).await.map_err(|error| complain_store(&error))?;
    if !enabled {
        return Ok(answer(done, name, "is paused"));
    }
    let next = match find(store, name).await? {
        Some(listed) => next_text(&listed.schedule.cron, &listed.schedule.zone),
        None => return Ok(unknown(name)),
    };
    Ok(answer(done, name, format_args!("goes on: {next}")))
}

async fn list(store: &Store) -> Answer {
    let all = store.list_schedules(None).await.map_err(|error| complain_store(&error))?;
    if all.is_empty() {
        say("there are no schedules");
    }
    for Listed { schedule, has_active_version, held, last } in all {
        let missing = if has_active_version { "" } else { " (no version of it is active)" };
        say(format_args!("{}  {}{missing}", schedule.name, schedule.definition));
        say(format_args!(
            "    {} {}, catch-up {}, overlap {}",
            schedule.cron, schedule.zone, schedule.catch_up, schedule.overlap
        ));
        let next = if schedule.enabled { next_text(&schedule.cron, &schedule.zone) } else { "paused".into() };
        let last = match last {
            Some(last) => format!("last tick {} {}", last.due_at.format("%Y-%m-%d %H:%M:%S UTC"), last.outcome),
            None => "no tick yet".into(),
        };
        let held = if held > 0 { format!(", {held} runs wait for their turn") } else { String::new() };
        say(format_args!("    {next}, {last}{held}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// When it comes next, for people; or what is wrong with it.
fn next_text(cron: &str, zone: &str) -> String {
    let table = match Timetable::parse(cron, zone) {
        Ok(table) => table,
        Err(why) => return format!("starts nothing: {why}"),
    };
    let next = table.next_after(Utc::now().timestamp_millis()).and_then(DateTime::from_timestamp_millis);
    match next {
        Some(next) => format!("next {}", next.format("%Y-%m-%d %H:%M:%S UTC")),
        None => "it never comes again".into(),
    }
}

/// From when on, milliseconds.
fn after(arguments: &Next) -> Result<i64, String> {
    let Some(text) = &arguments.after else { return Ok(Utc::now().timestamp_millis()) };
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.timestamp_millis());
    time.map_err(|_| format!("--after {text}: it is no time such as 2026-03-28T12:00:00Z"))
}

fn next(table: &Timetable, after: i64, count: u16) {
    let times = std::iter::successors(table.next_after(after), |last| table.next_after(*last));
    for time in times.take(usize::from(count)) {
        let utc = DateTime::from_timestamp_millis(time).map(|at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string());
        say(format_args!("{}  {}", table.clock(time).unwrap_or_default(), utc.unwrap_or_default()));
    }
}
