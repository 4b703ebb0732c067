//! Whether the schema in the database and this worker fit.
//!
//! Each schema version says from which worker version on it may be used, so that workers of the version before go on
//! while a fleet is upgraded, and those that would do harm stop.

use super::{Client, Store, StoreError, migrate};
use std::{fmt, str::FromStr};

/// A release, `major.minor.patch`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// This program's.
    pub fn ours() -> Version {
        env!("CARGO_PKG_VERSION").parse().unwrap_or(Version(0, 0, 0))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl FromStr for Version {
    type Err = String;

    /// A pre-release or build suffix (`-rc.1`, `+abc`) does not count.
    fn from_str(text: &str) -> Result<Version, String> {
        let plain = text.split(['-', '+']).next().unwrap_or_default();
        let parts: Option<Vec<u32>> = plain.split('.').map(|part| part.parse().ok()).collect();
        match parts.as_deref() {
            Some([major, minor, patch]) => Ok(Version(*major, *minor, *patch)),
            _ => Err(format!("{text:?} is not a version such as 1.2.3")),
        }
    }
}

/// What [`Store::check_schema`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SchemaState {
    /// It fits.
    Ready {
        /// Its version, which may be newer than this worker's own.
        version: i32,
    },
    /// There is none.
    NotMigrated,
    /// This worker needs a newer one.
    OlderThanNeeded {
        /// What is there.
        found: i32,
        /// What this worker was built for.
        needed: i32,
    },
    /// A newer version made it, and excludes this worker.
    TooNew {
        /// The oldest worker that may use it.
        compatible_from: Version,
    },
}

impl Store {
    /// Compares the schema with a worker of the given version (normally [`Version::ours`]).
    pub async fn check_schema(&self, worker: Version) -> Result<SchemaState, StoreError> {
        let client = self.client().await?;
        if !schema_is_there(self, &client).await? {
            return Ok(SchemaState::NotMigrated);
        }
        let mut found = 0;
        let mut oldest = Version(0, 0, 0);
        for row in client.query("SELECT version, compatible_from FROM schema_version", &[]).await? {
            let compatible_from: &str = row.try_get(1)?;
            let compatible_from = compatible_from.parse().map_err(|message| StoreError::Query {
                code: "schema_version".into(),
                message,
                transient: false,
            })?;
            found = found.max(row.try_get(0)?);
            oldest = oldest.max(compatible_from);
        }
        let needed = migrate::newest_version();
        Ok(if oldest > worker {
            SchemaState::TooNew { compatible_from: oldest }
        } else if found == 0 {
            SchemaState::NotMigrated
        } else if found < needed {
            SchemaState::OlderThanNeeded { found, needed }
        } else {
            SchemaState::Ready { version: found }
        })
    }

    /// The same as an error where it does not fit: [`StoreError::NotMigrated`] (waiting helps) or
    /// [`StoreError::SchemaTooNew`] (it does not). Returns the schema's version.
    pub async fn require_schema(&self, worker: Version) -> Result<i32, StoreError> {
        let place = self.place().clone();
        let schema = self.schema();
        match self.check_schema(worker).await? {
            SchemaState::Ready { version } => Ok(version),
            SchemaState::NotMigrated => {
                Err(StoreError::NotMigrated { place, reason: format!("the schema {schema} is not there yet") })
            }
            SchemaState::OlderThanNeeded { found, needed } => Err(StoreError::NotMigrated {
                place,
                reason: format!("the schema {schema} is at version {found} and this worker needs version {needed}"),
            }),
            SchemaState::TooNew { compatible_from } => Err(StoreError::SchemaTooNew {
                place,
                schema: schema.to_string(),
                needs: compatible_from,
                ours: worker,
            }),
        }
    }
}

/// True if the schema is there and holds our table of versions; an error if it is there and we may not use it.
async fn schema_is_there(store: &Store, client: &Client) -> Result<bool, StoreError> {
    let sql = "SELECT has_schema_privilege(n.oid, 'USAGE'),
            EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'schema_version')
        FROM pg_namespace n WHERE n.nspname = $1";
    let Some(row) = client.query_opt(sql, &[&store.schema()]).await? else { return Ok(false) };
    if !row.try_get::<_, bool>(0)? {
        return Err(StoreError::Rejected {
            place: store.place().clone(),
            reason: format!(
                "the role may not use the schema {}; grant it, or check DB_USER and DB_SCHEMA",
                store.schema()
            ),
        });
    }
    Ok(row.try_get(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number_and_ignore_suffixes() {
        let parse = |text: &str| text.parse::<Version>().unwrap();
        assert!(parse("0.10.0") > parse("0.9.9"));
        assert!(parse("1.0.0") > parse("0.99.99"));
        assert_eq!(parse("1.2.3-rc.1"), Version(1, 2, 3));
        for bad in ["", "1.2", "1.2.3.4", "a.b.c", "1..2"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?} was accepted");
        }
        assert!(Version::ours() > Version(0, 0, 0));
    }
}
