//! `flohctl audit`: looks after the audit log.

use super::{Answer, CONFIG, NO, USAGE, complain, complain_store, remark, say};
use crate::{
    audit::{self, Evidence, KeyRing, SigningKey, Summary, Witness},
    config::Config,
    store::{Store, StoreError, Version, audit::Checkpoint},
};
use chrono::SecondsFormat;
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
/// rest is checked all the same. The database alone cannot show that checkpoints were taken away and the log rewritten:
/// for that, give one that was noted earlier with --expect. Exit code 0 if nothing was found, 1 if something was.
#[derive(Debug, Args)]
pub struct Verify {
    /// A key that was used earlier: its name (AUDIT_CHECKPOINT_KEY_ID) and the file that holds it; may be repeated
    #[arg(long = "key", value_name = "ID=FILE")]
    keys: Vec<OldKey>,
    /// A checkpoint that has to be there, as an earlier verification or the worker's log printed it; may be repeated
    #[arg(long = "expect", value_name = "NUMBER=HASH")]
    expected: Vec<Witness>,
    /// Check signatures or nothing (exit code 64 without a key), and find fault with a log that has rows and no checkpoint
    #[arg(long)]
    require_signatures: bool,
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
    if arguments.require_signatures && keys.is_empty() {
        return Err(complain(USAGE, &"--require-signatures needs a key: AUDIT_CHECKPOINT_KEY, or --key ID=FILE"));
    }
    let evidence =
        Evidence { keys, witnesses: arguments.expected.clone(), demand_checkpoint: arguments.require_signatures };
    let store = Store::open(&config.database, 1, "flohctl audit").map_err(|error| complain_store(&error))?;
    let found = look(&store, &evidence).await.map_err(|error| complain_store(&error))?;
    match found {
        Ok(summary) => {
            describe(&summary, evidence.witnesses.len()).into_iter().for_each(say);
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

async fn look(store: &Store, evidence: &Evidence) -> Result<Result<Summary, audit::Flaw>, StoreError> {
    store.require_schema(Version::ours()).await?;
    // A big log takes minutes: somebody who watches sees that it goes on.
    let watched = std::io::stderr().is_terminal();
    let mut told = Instant::now();
    audit::verify(store, evidence, |position| {
        if watched && told.elapsed() > Duration::from_secs(2) {
            remark(format_args!("{position} rows are good so far"));
            told = Instant::now();
        }
    })
    .await
}

/// What was seen, what was not looked at, and what to keep for the next time; a line each.
fn describe(summary: &Summary, expected: usize) -> Vec<String> {
    let Summary { rows, head, checkpoints, last, unsigned_rows, signatures_checked } = summary;
    let count = |number: i64, one: &str| match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    };
    let signatures = match (checkpoints, signatures_checked) {
        (0, _) => "",
        (_, false) => ", signatures NOT CHECKED",
        (1, true) => ", its signature is good",
        (_, true) => ", their signatures are good",
    };
    let known = match expected {
        0 => "",
        1 => ", the expected one is there",
        _ => ", the expected ones are there",
    };
    let mut lines = vec![format!(
        "the audit log is intact: {}, head {}; {}{signatures}{known}; {} since the last checkpoint",
        count(*rows, "row"),
        hex::encode(head),
        count(*checkpoints, "checkpoint"),
        count(*unsigned_rows, "row"),
    )];
    match last {
        None if *rows > 0 => {
            lines.push("nothing is signed: a log that was rewritten as a whole would look the same".into())
        }
        None => {}
        Some(last) => {
            if !signatures_checked {
                lines.push(
                    "without a key (AUDIT_CHECKPOINT_KEY is not set) signatures were not checked: a log that was rewritten \
                     together with its checkpoints would look the same"
                        .into(),
                );
            }
            lines.push(keep(last));
        }
    }
    lines
}

/// The last checkpoint, to be kept outside the database.
fn keep(last: &Checkpoint) -> String {
    format!(
        "the last checkpoint is number {} of {}; keep it for the next time: --expect {}",
        last.number,
        last.created_at.to_rfc3339_opts(SecondsFormat::Secs, true),
        Witness::from(last)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(checkpoints: i64, signatures_checked: bool) -> Summary {
        let last = Checkpoint {
            number: checkpoints,
            from_position: 1,
            to_position: 9,
            row_count: 9,
            head_hash: vec![0xcd; 2],
            key_id: "k".into(),
            signature: Vec::new(),
            created_at: chrono::DateTime::UNIX_EPOCH,
        };
        let last = (checkpoints > 0).then_some(last);
        Summary { rows: 12, head: vec![0xab; 2], checkpoints, last, unsigned_rows: 3, signatures_checked }
    }

    const KEEP: &str = "of 1970-01-01T00:00:00Z; keep it for the next time: --expect";

    #[test]
    fn a_summary_says_what_was_seen_and_what_to_keep() {
        let seen = "the audit log is intact: 12 rows, head abab; 2 checkpoints, their signatures are good";
        assert_eq!(
            describe(&summary(2, true), 0),
            [
                format!("{seen}; 3 rows since the last checkpoint"),
                format!("the last checkpoint is number 2 {KEEP} 2=cdcd")
            ]
        );
        let known = |number| describe(&summary(2, true), number).remove(0);
        assert_eq!(known(1), format!("{seen}, the expected one is there; 3 rows since the last checkpoint"));
        assert_eq!(known(2), format!("{seen}, the expected ones are there; 3 rows since the last checkpoint"));
        let one = Summary { rows: 1, unsigned_rows: 1, ..summary(1, true) };
        assert_eq!(
            describe(&one, 0)[0],
            "the audit log is intact: 1 row, head abab; 1 checkpoint, its signature is good; 1 row since the last checkpoint"
        );
    }

    #[test]
    fn what_was_not_checked_is_said() {
        let lines = describe(&summary(1, false), 0);
        assert!(lines[0].contains("; 1 checkpoint, signatures NOT CHECKED; 3 rows"), "{lines:?}");
        assert!(lines[1].contains("AUDIT_CHECKPOINT_KEY is not set"), "{lines:?}");
        assert_eq!(lines[2], format!("the last checkpoint is number 1 {KEEP} 1=cdcd"));
        let lines = describe(&summary(0, true), 0);
        assert!(lines[0].contains("; 0 checkpoints; 3 rows") && lines[1].contains("nothing is signed"), "{lines:?}");
        let empty = Summary { rows: 0, ..summary(0, true) };
        assert_eq!(describe(&empty, 0).len(), 1);
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
