//! `flohctl config check`: everything that is wrong or odd about the settings, before a worker starts with them.

use super::{Answer, CONFIG, say, settings, settings::Settings};
use crate::config::{Config, ConfigErrors, Severity};
use clap::{Args, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Look after the settings
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the settings as the worker does when it starts, and print every mistake and warning
    ///
    /// A file is read as systemd reads it, which is not as a shell does. Values of secrets are never printed. Exits
    /// with 0 if a worker would start with these settings, and with 78 if not. No server is asked.
    Check,
}

pub fn run(arguments: &Arguments, files: &[PathBuf]) -> Answer {
    match arguments.command {
        Command::Check => Ok(check(files)),
    }
}

fn check(files: &[PathBuf]) -> ExitCode {
    let report = match settings::find(files) {
        Ok(settings) => Report::new(&settings),
        Err(errors) => Report { mistakes: lines_of(&errors), ..Report::default() },
    };
    report.print();
    if report.mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CONFIG) }
}

/// What is printed, a line each.
#[derive(Default)]
struct Report {
    origin: String,
    mistakes: Vec<String>,
    warnings: Vec<String>,
    infos: Vec<String>,
}

impl Report {
    fn new(settings: &Settings) -> Self {
        let mut report = Self { origin: settings.origin.clone(), ..Self::default() };
        for (path, remark) in &settings.remarks {
            let list = if remark.mistake { &mut report.mistakes } else { &mut report.warnings };
            list.push(format!("{}: {remark}", path.display()));
        }
        for path in &settings.exposed {
            let path = path.display();
            report.warnings.push(format!("{path}: everybody may read or write this file: chmod 0600 {path}"));
        }
        let notices = match Config::load(&settings.variables) {
            Ok((_, notices)) => notices,
            Err(errors) => {
                report.mistakes.extend(lines_of(&errors));
                errors.notices
            }
        };
        for notice in notices {
            let list = if notice.severity == Severity::Warning { &mut report.warnings } else { &mut report.infos };
            list.push(notice.to_string());
        }
        report
    }

    fn print(&self) {
        for (kind, lines) in [("mistake", &self.mistakes), ("warning", &self.warnings), ("note", &self.infos)] {
            for line in lines {
                say(format_args!("{kind}: {line}"));
            }
        }
        let origin = if self.origin.is_empty() { String::new() } else { format!("{}: ", self.origin) };
        let (mistakes, warnings) = (count(self.mistakes.len(), "mistake"), count(self.warnings.len(), "warning"));
        say(format_args!("{origin}{mistakes}, {warnings}"));
    }
}

fn lines_of(errors: &ConfigErrors) -> Vec<String> {
    errors.mistakes.iter().map(ToString::to_string).collect()
}

fn count(number: usize, what: &str) -> String {
    match number {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
