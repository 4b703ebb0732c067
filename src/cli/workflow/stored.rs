//! Definitions in the database.

use super::{checked, say};
use crate::{
    cli::{Answer, NO, UNAVAILABLE, complain, complain_store, time},
    config::Config,
    engine::Definition,
    store::{
        Store, Version,
        definition::{DefinitionStatus, Imported, Published, Reference, StoredDefinition},
    },
};
use serde_json::Value;
use std::{convert::Infallible, process::ExitCode};

/// The most that is listed.
const MOST: i64 = 1000;

/// The database, where its schema fits.
async fn open(config: &Config) -> Result<Store, ExitCode> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = Store::open(&config.database, 1, "flohctl workflow").map_err(|error| complain_store(&error))?;
    store.require_schema(Version::ours()).await.map_err(|error| complain_store(&error))?;
    Ok(store)
}

/// What a name means: one version, or all of a name, newest first, and at least one.
async fn find(store: &Store, name: &str) -> Result<(Reference, Vec<StoredDefinition>), ExitCode> {
    let reference = name.parse().unwrap_or_else(|never: Infallible| match never {});
    let found = store.definitions(&reference).await.map_err(|error| complain_store(&error))?;
    if found.is_empty() {
        return Err(complain(NO, &format_args!("there is no workflow definition {reference}")));
    }
    Ok((reference, found))
}

/// The JSON of the newest version.
pub async fn newest(name: &str, config: &Config) -> Result<Value, ExitCode> {
    let store = open(config).await?;
    let (_, found) = find(&store, name).await?;
    Ok(found.into_iter().next().map_or(Value::Null, |version| version.document))
}

/// The JSON of the active version, or of the newest one where none is.
pub async fn active(name: &str, config: &Config) -> Result<Value, ExitCode> {
    let store = open(config).await?;
    let (_, mut found) = find(&store, name).await?;
    let index = found.iter().position(|version| version.status == DefinitionStatus::Active).unwrap_or(0);
    let version = found.swap_remove(index);
    say(format_args!("{}@{}, {}", version.name, version.version, version.status.word()));
    Ok(version.document)
}

/// All versions, a line each.
pub async fn list(name: Option<&str>, config: &Config) -> Answer {
    let store = open(config).await?;
    let listed = store.list_definitions(name, MOST).await.map_err(|error| complain_store(&error))?;
    if listed.is_empty() {
        say(match name {
            None => "there are no workflow definitions".to_string(),
            Some(name) => format!("there is no workflow definition `{name}`"),
        });
    }
    for one in listed {
        let when = match one.published_at {
            Some(at) => format!("published {}", time(at)),
            None => format!("changed {}", time(one.updated_at)),
        };
        let category = one.category.map(|category| format!("  ({category})")).unwrap_or_default();
        say(format_args!("{}@{}  {}  {when}{category}", one.name, one.version, one.status.word()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Stores a definition that could be published.
pub async fn import(definition: &Definition, document: &Value, config: &Config) -> Answer {
    let store = open(config).await?;
    import_into(&store, definition, document).await?;
    Ok(ExitCode::SUCCESS)
}

/// Stores it and publishes what was stored.
pub async fn import_and_publish(definition: &Definition, document: &Value, config: &Config) -> Answer {
    let store = open(config).await?;
    let version = import_into(&store, definition, document).await?;
    let reference = Reference::Version(definition.name.clone(), version);
    let found = store.definitions(&reference).await.map_err(|error| complain_store(&error))?;
    match found.into_iter().next() {
        Some(version) if version.document == *document => publish_version(&store, &version).await,
        _ => Err(changed(&definition.name, version)),
    }
}

/// Returns the version that holds the document now.
async fn import_into(store: &Store, definition: &Definition, document: &Value) -> Result<i32, ExitCode> {
    let name = &definition.name;
    let imported = store.import_definition(name, definition.category.as_deref(), document).await;
    let (version, what) = match imported.map_err(|error| complain_store(&error))? {
        Imported::New { version } => (version, "is a new draft"),
        Imported::Updated { version } => (version, "is a draft, and has changed"),
        Imported::Same { version, status } => (
            version,
            match status {
                DefinitionStatus::Draft => "is the same draft already",
                DefinitionStatus::Active => "is the same already, and active",
                DefinitionStatus::Deprecated => "is the same already, and deprecated",
            },
        ),
    };
    say(format_args!("{name}@{version} {what}"));
    Ok(version)
}

/// Publishes a stored version.
pub async fn publish(name: &str, config: &Config) -> Answer {
    let store = open(config).await?;
    let (reference, found) = find(&store, name).await?;
    let Some(version) = found.into_iter().next() else { return Ok(ExitCode::from(NO)) };
    if matches!(reference, Reference::Name(_)) && version.status == DefinitionStatus::Deprecated {
        let why = format!(
            "`{name}` has no draft; to activate a version again, name it: flohctl workflow publish '{name}@{}'",
            version.version
        );
        return Err(complain(NO, &why));
    }
    publish_version(&store, &version).await
}

async fn publish_version(store: &Store, version: &StoredDefinition) -> Answer {
    let (name, number) = (&version.name, version.version);
    let definition = checked(&format!("{name}@{number}"), &version.document)?;
    if definition.name != *name {
        let why = format!("`{name}@{number}` calls itself `{}` in its JSON: import it by that name", definition.name);
        return Err(complain(NO, &why));
    }
    match store.publish_definition(version).await.map_err(|error| complain_store(&error))? {
        Published::Now { instead } => {
            let instead = instead.map(|former| format!(", in place of version {former}")).unwrap_or_default();
            say(format_args!("{name}@{number} is active from now on{instead}"));
            Ok(ExitCode::SUCCESS)
        }
        Published::Before => {
            say(format_args!("{name}@{number} is active already"));
            Ok(ExitCode::SUCCESS)
        }
        Published::Changed => Err(changed(name, number)),
    }
}

fn changed(name: &str, version: i32) -> ExitCode {
    complain(UNAVAILABLE, &format_args!("{name}@{version} has changed while it was looked at; try again"))
}
