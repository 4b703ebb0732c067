//! `flohctl workflow`: looks at workflow definitions.

use super::{Answer, CONFIG, NO, complain, say};
use crate::engine::{self, Definition, Finding, Severity};
use clap::{Args, Subcommand};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The largest file that is read, bytes.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Look at workflow definitions
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find everything that is wrong with a definition
    ///
    /// Prints a line for each finding: how bad it is, its code, its place in the file, and a sentence. Exits with 0 if the
    /// definition could be published, with 1 if not. No server is asked.
    Validate(Source),
    /// Draw a definition: its steps, and where each outcome leads
    Show(Source),
}

/// Where the definition is.
#[derive(Debug, Args)]
pub struct Source {
    /// A file with the definition's JSON; - for standard input
    file: PathBuf,
}

/// Runs the command.
pub fn run(command: &Command) -> Answer {
    match command {
        Command::Validate(source) => {
            let (_, findings) = read(&source.file)?;
            for finding in &findings {
                say(finding);
            }
            if is_refused(&findings) {
                return Ok(ExitCode::from(NO));
            }
            say(format_args!("{}: the definition can be published", source.file.display()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Show(source) => {
            let (definition, findings) = read(&source.file)?;
            draw(&definition);
            for finding in &findings {
                eprintln!("flohctl: {finding}");
            }
            Ok(if is_refused(&findings) { ExitCode::from(NO) } else { ExitCode::SUCCESS })
        }
    }
}

fn is_refused(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

fn read(path: &Path) -> Result<(Definition, Vec<Finding>), ExitCode> {
    let place = path.display();
    let complain = |what: String| complain(CONFIG, &format_args!("{place}: {what}"));
    let text = text(path).map_err(|error| complain(error.to_string()))?;
    let document = serde_json::from_str(&text).map_err(|error| complain(format!("it is not JSON: {error}")))?;
    Ok(engine::validate(&document))
}

/// What is in a file, or comes on standard input.
pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(LARGEST + 1).read_to_string(&mut text)?
    } else {
        File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?
    };
    if u64::try_from(read).unwrap_or(u64::MAX) > LARGEST {
        return Err(io::Error::other(format!("it is larger than {LARGEST} bytes")));
    }
    Ok(text)
}

/// A line for each step, and below it one for each edge.
fn draw(definition: &Definition) {
    let category = definition.category.as_deref().map(|category| format!(" ({category})")).unwrap_or_default();
    say(format_args!("{}{category}", definition.name));
    for variable in &definition.variables {
        let required = if variable.required { ", required" } else { "" };
        say(format_args!("  {}: {}{required}", variable.name, variable.kind.name()));
    }
    let widest = definition.steps.iter().map(|step| step.id.len()).max().unwrap_or(0);
    for step in &definition.steps {
        say("");
        let name = if step.name == step.id { String::new() } else { format!("  {}", step.name) };
        say(format_args!("{:widest$}  {}{name}", step.id, step.kind.name()));
        for (number, transition) in step.transitions.iter().enumerate() {
            let branch = if number + 1 == step.transitions.len() { '└' } else { '├' };
            say(format_args!("  {branch}─ {} → {}", transition.on, transition.to));
        }
    }
}
