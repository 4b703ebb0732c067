//! `flohctl connector`: looks after connectors and their secrets.

use super::{Answer, CONFIG, FAILED, NO, complain, complain_store, remark, say, say_pretty_json, workflow};
use crate::{
    config::Config,
    connectors::{
        self,
        secrets::{HIDDEN, Keyring, has_hidden, has_plain_secret, hide, is_sealed},
    },
    store::{
        Store, StoreError, Version,
        connector::{self, ConnectorRow, Imported},
    },
};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};
use uuid::Uuid;

/// Look after connectors, the other systems that steps call
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List them, by name
    List,
    Show(Name),
    Import(Import),
    Seal(Name),
    /// Seal every secret anew, with the current key
    ///
    /// After it, CONNECTOR_ENCRYPTION_KEY_PREVIOUS is needed no longer. Harmless when it runs twice. Exit code 78 if a secret
    /// can be opened with neither key; the others are sealed anew all the same. Else 70 if a connector was changed meanwhile.
    Reseal,
}

/// Print one as JSON, without its secrets
#[derive(Debug, Args)]
pub struct Name {
    /// Its name; for `show`, its id will do
    name: String,
}

/// Add a connector, or change the one of its name
///
/// The file is a JSON object with `name`, `type` and `config`, and may have `mocks`, `mockEnabled` and `enabled`. What is wrong
/// with it is said, and nothing is changed then.
#[derive(Debug, Args)]
pub struct Import {
    /// A file with the connector's JSON; - for standard input
    file: PathBuf,
}

/// The longest secret, bytes.
const LONGEST_SECRET: u64 = 64 * 1024;

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Answer {
    let keys = Keyring::new(&config.connectors);
    match command {
        Command::Seal(Name { name }) => seal(&keys, name),
        Command::Import(Import { file }) => {
            let row = read(file, &keys)?;
            let client = open(config).await?.client().await.map_err(|error| complain_store(&error))?;
            let imported = connector::import(&client, &row).await.map_err(|error| complain_store(&error))?;
            say(format_args!("{} {}", if imported == Imported::Added { "added" } else { "changed" }, row.name));
            Ok(ExitCode::SUCCESS)
        }
        Command::List => list(&open(config).await?).await,
        Command::Show(Name { name }) => show(&open(config).await?, name).await,
        Command::Reseal => reseal(&open(config).await?, &keys).await,
    }
}

async fn open(config: &Config) -> Result<Store, ExitCode> {
    let opened: Result<Store, StoreError> = async {
        let store = Store::open(&config.database, 1, "flohctl connector")?;
        store.require_schema(Version::ours()).await?;
        Ok(store)
    }
    .await;
    opened.map_err(|error| complain_store(&error))
}

/// Reads a secret, and prints it sealed. The line end that `echo` and editors leave is none of it.
fn seal(keys: &Keyring, name: &str) -> Answer {
    let mut secret = String::new();
    let read = io::stdin().take(LONGEST_SECRET + 1).read_to_string(&mut secret);
    let read = read.map_err(|error| complain(CONFIG, &format_args!("the secret on standard input: {error}")))?;
    let secret = secret.strip_suffix('\n').map_or(secret.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if secret.is_empty() || u64::try_from(read).unwrap_or(u64::MAX) > LONGEST_SECRET {
        return Err(complain(CONFIG, &"a secret of at most 64 KiB is expected on standard input"));
    }
    say(keys.seal(name, secret).map_err(|failure| complain(CONFIG, &failure))?);
    Ok(ExitCode::SUCCESS)
}

async fn list(store: &Store) -> Answer {
    let rows = rows(store).await.map_err(|error| complain_store(&error))?;
    if rows.is_empty() {
        say("there is no connector beside the built-in http and delay");
    }
    let widest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    for row in rows {
        let base = row.config.get("baseUrl").and_then(Value::as_str).unwrap_or("-");
        let base = if is_sealed(base) { HIDDEN } else { base };
        let disabled = if row.enabled { "" } else { "  disabled" };
        let mocked = if row.mock_enabled { "  mocked" } else { "" };
        say(format_args!("{:widest$}  {:5}  {}  {base}{disabled}{mocked}", row.name, row.kind, row.id));
    }
    Ok(ExitCode::SUCCESS)
}

async fn rows(store: &Store) -> Result<Vec<ConnectorRow>, StoreError> {
    connector::list(&store.client().await?).await
}

async fn show(store: &Store, name: &str) -> Answer {
    let found = async { connector::find(&store.client().await?, name).await }.await;
    let Some(row) = found.map_err(|error| complain_store(&error))? else {
        say(format_args!("there is no connector {name}"));
        return Ok(ExitCode::from(NO));
    };
    let shown = json!({
        "id": row.id, "name": row.name, "type": row.kind, "config": hide(&Value::Object(row.config)),
        "mocks": hide(&Value::Object(row.mocks)), "mockEnabled": row.mock_enabled, "enabled": row.enabled,
    });
    say_pretty_json(&shown);
    Ok(ExitCode::SUCCESS)
}

async fn reseal(store: &Store, keys: &Keyring) -> Answer {
    let (mut secrets, mut unopened, mut changed) = (0, false, false);
    for row in rows(store).await.map_err(|error| complain_store(&error))? {
        let (config, count) = match keys.reseal(&row.name, &row.config) {
            Ok(sealed) => sealed,
            Err(failure) => {
                complain(CONFIG, &failure);
                unopened = true;
                continue;
            }
        };
        if count == 0 {
            continue;
        }
        let replaced = async { connector::replace_config(&store.client().await?, &row, &config).await }.await;
        if replaced.map_err(|error| complain_store(&error))? {
            secrets += count;
        } else {
            complain(FAILED, &format_args!("{} was changed meanwhile; run it again", row.name));
            changed = true;
        }
    }
    say(format_args!("sealed anew: {secrets}"));
    Ok(match (unopened, changed) {
        (true, _) => ExitCode::from(CONFIG),
        (false, true) => ExitCode::from(FAILED),
        (false, false) => ExitCode::SUCCESS,
    })
}

/// A connector as its file has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    id: Option<Uuid>,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    config: Map<String, Value>,
    #[serde(default)]
    mocks: Map<String, Value>,
    #[serde(default)]
    mock_enabled: bool,
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

/// Reads a connector's file, and refuses what no call could be made with.
fn read(path: &Path, keys: &Keyring) -> Result<ConnectorRow, ExitCode> {
    let place = path.display();
    let refuse = |why: String| complain(CONFIG, &format_args!("{place}: {why}"));
    let text = workflow::text(path).map_err(|error| refuse(error.to_string()))?;
    let document: Value = serde_json::from_str(&text).map_err(|error| refuse(format!("it is not JSON: {error}")))?;
    let file: File = serde_json::from_value(document).map_err(|_| {
        refuse(
            "expected an object with `name`, `type` and `config`, and if need be \
            `id`, `mocks` (an object), `mockEnabled` and `enabled` (true or false)"
                .to_string(),
        )
    })?;
    if file.name.trim() != file.name || file.name.is_empty() {
        return Err(refuse("`name` is empty, or has blanks around it".to_string()));
    }
    if file.name == connectors::HTTP {
        return Err(refuse("`http` is the built-in connector: this one needs a name of its own".to_string()));
    }
    match file.kind.as_str() {
        connectors::HTTP if file.name != connectors::DELAY => {
            connectors::check_http(&file.config).map_err(|failure| refuse(failure.message))?;
        }
        connectors::DELAY if file.config.is_empty() => {}
        connectors::DELAY => return Err(refuse("a connector of type `delay` has no `config`".to_string())),
        connectors::HTTP => return Err(refuse("`delay` is a connector that waits".to_string())),
        _ => return Err(refuse("`type` is http or delay".to_string())),
    }
    let config = Value::Object(file.config.clone());
    if has(&config, &|text| text == HIDDEN) {
        return Err(refuse(format!(
            "a secret in it is hidden ({HIDDEN}): seal it with `flohctl connector seal {}`",
            file.name
        )));
    }
    if has_hidden(&Value::Object(file.mocks.clone())) {
        return Err(refuse(format!("`mocks` has a value that is hidden ({HIDDEN}): write what the mock is to answer")));
    }
    // What cannot be opened here, no worker with the same settings could open.
    keys.reseal(&file.name, &file.config).map_err(|failure| refuse(failure.message))?;
    if has_plain_secret(&config) {
        remark(format_args!("{place}: a secret in it is not sealed; see `flohctl connector seal`"));
    }
    Ok(ConnectorRow {
        id: file.id.unwrap_or_else(Uuid::new_v4),
        name: file.name,
        kind: file.kind,
        config: file.config,
        mock_enabled: file.mock_enabled,
        mocks: file.mocks,
        enabled: file.enabled,
    })
}

/// Whether a text in it is such a one.
fn has(value: &Value, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is(text),
        Value::Array(list) => list.iter().any(|value| has(value, is)),
        Value::Object(members) => members.values().any(|value| has(value, is)),
        _ => false,
    }
}
