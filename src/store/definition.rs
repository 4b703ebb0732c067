//! Workflow definitions as they are stored: one row per version. A published version does not change, which the database
//! sees to (`migrations/V16__definitions.sql`).

use super::{Store, StoreError};
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::{convert::Infallible, fmt, str::FromStr};
use tokio_postgres::Row;
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

/// Where a version is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefinitionStatus {
    /// It may still change, and is not run.
    Draft,
    /// New runs start with it.
    Active,
    /// Another version has taken its place; its runs go on.
    Deprecated,
}

impl DefinitionStatus {
    /// As the database calls it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            DefinitionStatus::Draft => "draft",
            DefinitionStatus::Active => "active",
            DefinitionStatus::Deprecated => "deprecated",
        }
    }

    fn of(word: &str) -> DefinitionStatus {
        match word {
            "draft" => DefinitionStatus::Draft,
            "active" => DefinitionStatus::Active,
            _ => DefinitionStatus::Deprecated,
        }
    }
}

/// One version of a definition.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDefinition {
    /// Its id, which runs refer to.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its version, from 1.
    pub version: i32,
    /// Whether it may be run.
    pub status: DefinitionStatus,
    /// Its JSON.
    pub document: Value,
}

impl StoredDefinition {
    /// Whether it may still change.
    #[must_use]
    pub fn is_draft(&self) -> bool {
        self.status == DefinitionStatus::Draft
    }
}

/// A line of the list of definitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDefinition {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: i32,
    /// Where it is in its life.
    pub status: DefinitionStatus,
    /// For people.
    pub category: Option<String>,
    /// When it last became the active version.
    pub published_at: Option<DateTime<Utc>>,
    /// When its row last changed.
    pub updated_at: DateTime<Utc>,
}

/// What became of a document that was imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It is a new draft.
    New {
        /// Its version.
        version: i32,
    },
    /// The newest version was a draft, and is this now.
    Updated {
        /// Its version.
        version: i32,
    },
    /// The newest version is the same already.
    Same {
        /// Its version.
        version: i32,
        /// Where it is in its life.
        status: DefinitionStatus,
    },
}

/// What became of a version that was to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// New runs start with it from now on; `instead` was active before.
    Now {
        /// The version that is deprecated with it.
        instead: Option<i32>,
    },
    /// It was active before.
    Before,
    /// It has changed since it was read, or is gone.
    Changed,
}

const COLUMNS: &str = "id, name, version, status, definition";

/// The newest version of a name is what is imported into, unless it was published. Without a change nothing is written.
const IMPORT: &str = "
    WITH newest AS (
        SELECT id, version, status, definition FROM workflow_definition WHERE name = $1
        ORDER BY version DESC LIMIT 1 FOR UPDATE
    ), same AS (
        SELECT version, status FROM newest WHERE definition = $3
    ), updated AS (
        UPDATE workflow_definition d SET definition = $3, category = $2 FROM newest n
            WHERE d.id = n.id AND n.status = 'draft' AND NOT EXISTS (SELECT FROM same)
            RETURNING d.version
    ), made AS (
        INSERT INTO workflow_definition (name, version, category, definition)
            SELECT $1, coalesce((SELECT version FROM newest), 0) + 1, $2, $3
            WHERE NOT EXISTS (SELECT FROM newest WHERE status = 'draft') AND NOT EXISTS (SELECT FROM same)
            RETURNING version
    )
    SELECT 'same' AS what, version, status FROM same
    UNION ALL SELECT 'updated', version, 'draft' FROM updated
    UNION ALL SELECT 'new', version, 'draft' FROM made";

/// Only what was looked at is published, in case its draft has changed since.
const PUBLISH: &str = "
    WITH former AS (
        SELECT version FROM workflow_definition
        WHERE status = 'active' AND id <> $1 AND name = (SELECT name FROM workflow_definition WHERE id = $1)
    ), known AS (
        SELECT status FROM workflow_definition WHERE id = $1 AND definition = $2
    ), published AS (
        UPDATE workflow_definition SET status = 'active' WHERE id = $1 AND definition = $2 AND status <> 'active'
            RETURNING id
    )
    SELECT EXISTS (SELECT FROM published) AS now, (SELECT status FROM known) AS status,
        (SELECT version FROM former) AS instead";

/// `unique_violation`: somebody else was faster.
const TAKEN: &str = "23505";

impl Store {
    /// The version with this id, if there is one.
    pub async fn definition(&self, id: Uuid) -> Result<Option<StoredDefinition>, StoreError> {
        let client = self.client().await?;
        let sql = format!("SELECT {COLUMNS} FROM workflow_definition WHERE id = $1");
        client.query_opt(&sql, &[&id]).await?.as_ref().map(read).transpose()
    }

    /// The versions that a reference may mean: one, or all of a name, newest first.
    pub async fn definitions(&self, reference: &Reference) -> Result<Vec<StoredDefinition>, StoreError> {
        let client = self.client().await?;
        let (name, version, id) = reference.parts();
        let sql = format!(
            "SELECT {COLUMNS} FROM workflow_definition
                WHERE id = $3 OR name = $1::text AND ($2::int IS NULL OR version = $2) ORDER BY version DESC"
        );
        client.query(&sql, &[&name, &version, &id]).await?.iter().map(read).collect()
    }

    /// All versions of all definitions, or of those of one name, by name and newest first.
    pub async fn list_definitions(&self, name: Option<&str>, limit: i64) -> Result<Vec<ListedDefinition>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT name, version, status, category, published_at, updated_at FROM workflow_definition
            WHERE $1::text IS NULL OR name = $1 ORDER BY name, version DESC LIMIT $2";
        let rows = client.query(sql, &[&name, &limit]).await?;
        let line = |row: &Row| {
            Ok(ListedDefinition {
                name: row.try_get("name")?,
                version: row.try_get("version")?,
                status: DefinitionStatus::of(row.try_get("status")?),
                category: row.try_get("category")?,
                published_at: row.try_get("published_at")?,
                updated_at: row.try_get("updated_at")?,
            })
        };
        rows.iter().map(line).collect()
    }

    /// Makes a document the newest version of a name, as a draft: the one that is there changes, or a new one is made.
    pub async fn import_definition(
        &self,
        name: &str,
        category: Option<&str>,
        document: &Value,
    ) -> Result<Imported, StoreError> {
        let client = self.client().await?;
        let mut tries = 0;
        let row = loop {
            match client.query_one(IMPORT, &[&name, &category, document]).await {
                // Another import has made the same version: it is the newest now.
                Err(StoreError::Query { code, .. }) if code == TAKEN && tries < 5 => tries += 1,
                answer => break answer?,
            }
        };
        let version = row.try_get("version")?;
        Ok(match row.try_get("what")? {
            "new" => Imported::New { version },
            "updated" => Imported::Updated { version },
            _ => Imported::Same { version, status: DefinitionStatus::of(row.try_get("status")?) },
        })
    }

    /// Publishes a version as it was read: new runs start with it. The one that was active is deprecated with it.
    pub async fn publish_definition(&self, version: &StoredDefinition) -> Result<Published, StoreError> {
        let client = self.client().await?;
        let row = client.query_one(PUBLISH, &[&version.id, &version.document]).await?;
        Ok(match (row.try_get("now")?, row.try_get::<_, Option<&str>>("status")?) {
            (true, _) => Published::Now { instead: row.try_get("instead")? },
            (false, Some("active")) => Published::Before,
            (false, _) => Published::Changed,
        })
    }
}

fn read(row: &Row) -> Result<StoredDefinition, StoreError> {
    Ok(StoredDefinition {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        version: row.try_get("version")?,
        status: DefinitionStatus::of(row.try_get("status")?),
        document: row.try_get("definition")?,
    })
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
