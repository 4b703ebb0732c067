//! Workflow definitions as they are stored: one row per version.

use super::{Store, StoreError};
use serde_json::Value;
use std::{convert::Infallible, fmt, str::FromStr};
use uuid::Uuid;

/// Which definition is meant, as people say it: `NAME` (its active version, where one is to be run), `NAME@VERSION`, or the
/// id of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// By its name.
    Name(String),
    /// A version of it.
    Version(String, i32),
    /// A version, by its id.
    Id(Uuid),
}

impl Reference {
    /// Name, version and id, as far as they are said.
    pub(super) fn parts(&self) -> (Option<&str>, Option<i32>, Option<Uuid>) {
        match self {
            Reference::Name(name) => (Some(name), None, None),
            Reference::Version(name, version) => (Some(name), Some(*version), None),
            Reference::Id(id) => (None, None, Some(*id)),
        }
    }
}

impl FromStr for Reference {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Reference, Infallible> {
        if let Ok(id) = Uuid::try_parse(text) {
            return Ok(Reference::Id(id));
        }
        Ok(match text.rsplit_once('@').map(|(name, version)| (name, version.parse::<i32>())) {
            Some((name, Ok(version))) if version > 0 && !name.is_empty() => {
                Reference::Version(name.to_string(), version)
            }
            _ => Reference::Name(text.to_string()),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Name(name) => write!(f, "`{name}`"),
            Reference::Version(name, version) => write!(f, "`{name}@{version}`"),
            Reference::Id(id) => write!(f, "with the id {id}"),
        }
    }
}

/// One version of a definition.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDefinition {
    /// Its name.
    pub name: String,
    /// Its version, from 1.
    pub version: i32,
    /// Whether it may still change.
    pub is_draft: bool,
    /// Its JSON.
    pub document: Value,
}

impl Store {
    /// The version with this id, if there is one.
    pub async fn definition(&self, id: Uuid) -> Result<Option<StoredDefinition>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT name, version, status, definition FROM workflow_definition WHERE id = $1";
        let Some(row) = client.query_opt(sql, &[&id]).await? else { return Ok(None) };
        Ok(Some(StoredDefinition {
            name: row.try_get("name")?,
            version: row.try_get("version")?,
            is_draft: row.try_get::<_, &str>("status")? == "draft",
            document: row.try_get("definition")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_named_as_people_say_it() {
        let of = |text: &str| text.parse::<Reference>().unwrap();
        assert_eq!(of("Onboarding"), Reference::Name("Onboarding".into()));
        assert_eq!(of("Onboarding@12"), Reference::Version("Onboarding".into(), 12));
        assert_eq!(of("a@b@2"), Reference::Version("a@b".into(), 2));
        let id = "6f1c2f60-8a55-4d2e-9a36-3f0b0c8f0a11";
        assert_eq!(of(id), Reference::Id(id.parse().unwrap()));
        for name in ["a@", "@3", "a@0", "a@-1", "a@2b", "a@99999999999"] {
            assert_eq!(of(name), Reference::Name(name.into()));
        }
    }
}
