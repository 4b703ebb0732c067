//! `flohctl audit`: looks after the audit log.

use super::{Answer, CONFIG, NO, complain, complain_store, say};
use crate::{
    audit::{self, KeyRing, SigningKey, Summary},
    config::Config,
    store::{Store, StoreError, Version},
};
use clap::{Args, Subcommand};
use std::{
    io::IsTerminal,
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

/// Look after the audit log
#[derive(Debug, Subcommand)]
pub enum Command {
    Verify(Verify),
}

/// Check the audit log's hash chain and its checkpoints, and name the first bad row
///
/// Recomputes every hash from the rows themselves. Signatures are checked with AUDIT_CHECKPOINT_KEY; without it the
/// chain is checked all the same. Exit code 0 if all is well, 1 if a row is bad.
#[derive(Debug, Args)]
pub struct Verify {
    /// A key that was used earlier: its name (AUDIT_CHECKPOINT_KEY_ID) and the file that holds it; may be repeated
    #[arg(long = "key", value_name = "ID=FILE")]
    keys: Vec<OldKey>,
}

/// A key's name and file.
#[derive(Debug, Clone)]
struct OldKey {
    id: String,
    file: PathBuf,
}

impl FromStr for OldKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((id, file)) if !id.is_empty() && !file.is_empty() => {
                Ok(OldKey { id: id.to_string(), file: file.into() })
            }
            _ => Err("expected ID=FILE".into()),
        }
    }
}

pub async fn run(command: &Command, config: &Config) -> Answer {
    match command {
        Command::Verify(arguments) => verify(arguments, config).await,
    }
}

async fn verify(arguments: &Verify, config: &Config) -> Answer {
    let keys = key_ring(arguments, config).map_err(|mistake| complain(CONFIG, &mistake))?;
    let store = Store::open(&config.database, 1, "flohctl audit").map_err(|error| complain_store(&error))?;
    let found = look(&store, &keys).await.map_err(|error| complain_store(&error))?;
    match found {
        Ok(summary) => {
            say(describe(&summary));
            Ok(ExitCode::SUCCESS)
        }
        Err(flaw) => {
            say(format_args!("the audit log is not intact: {flaw}"));
            Ok(ExitCode::from(NO))
        }
    }
}

fn key_ring(arguments: &Verify, config: &Config) -> Result<KeyRing, String> {
    let mut keys = KeyRing::default();
    for OldKey { id, file } in &arguments.keys {
        let hex = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        keys.add(SigningKey::new(id, &hex)?);
    }
    if let Some(key) = &config.audit.checkpoint_key {
        keys.add(SigningKey::from_config(key)?);
    }
    Ok(keys)
}

async fn look(store: &Store, keys: &KeyRing) -> Result<Result<Summary, audit::Flaw>, StoreError> {
    store.require_schema(Version::ours()).await?;
    // A big log takes minutes: somebody who watches sees that it goes on.
    let watched = std::io::stderr().is_terminal();
    let mut told = Instant::now();
    audit::verify(store, keys, |position| {
        if watched && told.elapsed() > Duration::from_secs(2) {
            eprintln!("flohctl: {position} rows are good so far");
            told = Instant::now();
        }
    })
    .await
}

/// `1204 audit rows are intact (head 5f…); 3 checkpoints, signatures good; 17 rows since the last one`.
fn describe(summary: &Summary) -> String {
    let Summary { rows, head, checkpoints, unsigned_rows, signatures_checked } = summary;
    let count = |number: i64, one: &str, many: &str| match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    };
    let signatures = match (checkpoints, signatures_checked) {
        (0, _) => "",
        (1, true) => ", its signature is good",
        (_, true) => ", their signatures are good",
        (_, false) => ", signatures not checked (AUDIT_CHECKPOINT_KEY is not set)",
    };
    format!(
        "the audit log is intact: {}, head {}; {}{signatures}; {} since the last checkpoint",
        count(*rows, "row", "rows"),
        hex::encode(head),
        count(*checkpoints, "checkpoint", "checkpoints"),
        count(*unsigned_rows, "row", "rows"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_one_sentence_in_the_right_number() {
        let summary =
            Summary { rows: 1, head: vec![0xab; 2], checkpoints: 1, unsigned_rows: 0, signatures_checked: false };
        assert_eq!(
            describe(&summary),
            "the audit log is intact: 1 row, head abab; 1 checkpoint, signatures not checked (AUDIT_CHECKPOINT_KEY is \
             not set); 0 rows since the last checkpoint"
        );
        let summary = Summary { rows: 12, checkpoints: 2, unsigned_rows: 3, signatures_checked: true, ..summary };
        assert_eq!(
            describe(&summary),
            "the audit log is intact: 12 rows, head abab; 2 checkpoints, their signatures are good; 3 rows since the \
             last checkpoint"
        );
    }

    #[test]
    fn an_old_key_is_named_with_its_file() {
        let key: OldKey = "2025=/etc/floh/old=key".parse().unwrap();
        assert_eq!((key.id.as_str(), key.file.to_str().unwrap()), ("2025", "/etc/floh/old=key"));
        for bad in ["2025", "=x", "2025="] {
            assert!(bad.parse::<OldKey>().is_err(), "{bad}");
        }
    }
}
