//! `flohctl workflow`: looks at workflow definitions, stores them as drafts, and publishes them.

mod draw;
mod stored;

use super::{Answer, CONFIG, NO, complain, remark, say};
use crate::{
    config::Config,
    engine::{self, Definition, Finding, Severity},
};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    process::ExitCode,
};

/// The largest file that is read, bytes.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Look after workflow definitions
///
/// A definition is a file with its JSON (a name with a slash or with the ending .json, or - for standard input), or it is
/// stored: NAME, NAME@VERSION, or the id of a version.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find everything that is wrong with a definition
    ///
    /// Prints a line for each finding: how bad it is, its code, its place in the JSON, and a sentence. Exits with 0 if the
    /// definition could be published, with 1 if not. No server is asked about a file. NAME is the newest version.
    Validate(Source),
    /// Store a file's definition as the newest draft of its name
    ///
    /// A draft that is there changes; after a published version a new one is made. A definition that could not be published
    /// is not stored (exit code 1).
    Import {
        /// A file with the definition's JSON; - for standard input
        file: String,
    },
    /// Publish a version: new runs start with it, and the one that was active is deprecated
    ///
    /// A published version never changes. A file is imported and published. NAME is the newest version, if it is a draft;
    /// NAME@VERSION may also be a deprecated one, which is active again then. Exits with 1 if something forbids it.
    Publish(Source),
    /// List the stored definitions, all versions of them
    List {
        /// Only those of this name
        name: Option<String>,
    },
    /// Draw a definition: its steps, and where each outcome leads
    ///
    /// NAME is the active version, or else the newest.
    Show(Source),
}

/// Which definition is meant.
#[derive(Debug, Args)]
pub struct Source {
    /// A file, - for standard input, or NAME, NAME@VERSION or the id of a stored definition
    #[arg(value_name = "FILE-or-NAME")]
    source: String,
}

/// Runs the command. The configuration is only asked for where a server is.
pub async fn run(command: &Command, configuration: impl Fn() -> Result<Config, ExitCode>) -> Answer {
    match command {
        Command::Validate(Source { source }) => {
            let document = match is_file(source) {
                true => read(source)?,
                false => stored::newest(source, &configuration()?).await?,
            };
            Ok(validate(source, &document))
        }
        Command::Show(Source { source }) => {
            let document = match is_file(source) {
                true => read(source)?,
                false => stored::active(source, &configuration()?).await?,
            };
            let (definition, findings) = engine::validate(&document);
            draw::draw(&definition, &document).into_iter().for_each(say);
            findings.iter().for_each(remark);
            Ok(if is_refused(&findings) { ExitCode::from(NO) } else { ExitCode::SUCCESS })
        }
        Command::Import { file } => {
            let document = read(file)?;
            let definition = checked(file, &document)?;
            stored::import(&definition, &document, &configuration()?).await
        }
        Command::Publish(Source { source }) if is_file(source) => {
            let document = read(source)?;
            let definition = checked(source, &document)?;
            stored::import_and_publish(&definition, &document, &configuration()?).await
        }
        Command::Publish(Source { source }) => stored::publish(source, &configuration()?).await,
        Command::List { name } => stored::list(name.as_deref(), &configuration()?).await,
    }
}

/// Whether a file is meant, and no stored definition.
fn is_file(source: &str) -> bool {
    source == "-" || source.contains('/') || Path::new(source).extension().is_some_and(|ending| ending == "json")
}

/// Says everything that is wrong, and whether it could be published.
fn validate(source: &str, document: &Value) -> ExitCode {
    let (_, findings) = engine::validate(document);
    findings.iter().for_each(say);
    if is_refused(&findings) {
        return ExitCode::from(NO);
    }
    say(format_args!("{source}: the definition can be published"));
    ExitCode::SUCCESS
}

/// The definition, where it could be published; its findings on standard error.
fn checked(source: &str, document: &Value) -> Result<Definition, ExitCode> {
    let (definition, findings) = engine::validate(document);
    for finding in &findings {
        remark(format_args!("{source}: {finding}"));
    }
    if is_refused(&findings) {
        return Err(complain(NO, &format_args!("{source}: the definition cannot be published as it is")));
    }
    Ok(definition)
}

fn is_refused(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

/// A file's JSON.
fn read(path: &str) -> Result<Value, ExitCode> {
    let complain = |what: String| complain(CONFIG, &format_args!("{path}: {what}"));
    let text = text(Path::new(path)).map_err(|error| complain(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| complain(format!("it is not JSON: {error}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_from_a_name() {
        for file in ["-", "./onboarding", "a/b", "onboarding.json", "/etc/x"] {
            assert!(is_file(file), "{file}");
        }
        for name in ["onboarding", "Employee onboarding@3", "json", "onboarding.v2"] {
            assert!(!is_file(name), "{name}");
        }
    }
}
