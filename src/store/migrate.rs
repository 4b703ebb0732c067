//! Makes and upgrades our schema, by refinery, from the files in `migrations/`, which are embedded.
//!
//! One session does it, under an advisory lock whose key comes from the schema's name. It has no statement timeout: a
//! migration may take its time.

use super::{
    connect::{self, Connector},
    error::StoreError,
    pooler,
};
use crate::config::DatabaseConfig;
use refinery::{Migration, Runner, error::Kind};
use std::{collections::BTreeSet, time::Duration};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// refinery's own table, in our schema.
const HISTORY: &str = "schema_migration";

/// How long another `migrate` on the same schema is waited for.
const LOCK_TIMEOUT_SECONDS: u32 = 300;

/// The oldest server that has all that the migrations use (functions with a body of SQL), as `server_version_num`.
const OLDEST_SERVER: i32 = 140_000;

/// How long the goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What [`migrate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The migrations applied now, `V1__ledger` and so on; none if the schema was up to date.
    pub applied: Vec<String>,
    /// The schema's version afterwards.
    pub version: i32,
    /// A newer flohctl had made the schema: nothing was done.
    pub newer_than_known: bool,
}

/// One line of [`migration_status`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Version number.
    pub version: i32,
    /// The file's name without its number; empty for a version newer than this program.
    pub name: String,
    /// When it was applied (RFC 3339), or not yet.
    pub applied_at: Option<String>,
}

/// The newest schema version that this program knows, and needs.
pub(super) fn newest_version() -> i32 {
    runner().get_migrations().iter().map(Migration::version).max().unwrap_or(0)
}

fn runner() -> Runner {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    runner
}

/// Brings the schema to this program's version. Harmless when it is there already, and when run twice at once.
///
/// Refuses a schema with tables that no migration made, and one whose history differs from the embedded files.
pub async fn migrate(database: &DatabaseConfig) -> Result<Migrated, StoreError> {
    let mut session = Session::open(database).await?;
    let result = async {
        // Before anything that an old one does not know.
        session.refuse_old_server().await?;
        session.lock().await?;
        session.migrate().await
    }
    .await;
    session.close().await;
    result
}

/// The known migrations and which of them the database has, oldest first; newer ones that it has and this program does
/// not know come last.
pub async fn migration_status(database: &DatabaseConfig) -> Result<Vec<MigrationStatus>, StoreError> {
    let session = Session::open(database).await?;
    let applied = session.applied().await;
    session.close().await;
    let applied = applied?;
    let runner = runner();
    let mut known: Vec<_> = runner.get_migrations().iter().collect();
    known.sort();
    let newest = newest_version();
    let when = |version| applied.iter().find(|(v, _)| *v == version).map(|(_, at)| at.clone());
    let mut lines: Vec<_> = known
        .into_iter()
        .map(|m| MigrationStatus { version: m.version(), name: m.name().into(), applied_at: when(m.version()) })
        .collect();
    lines.extend(applied.iter().filter(|(version, _)| *version > newest).map(|(version, at)| MigrationStatus {
        version: *version,
        name: String::new(),
        applied_at: Some(at.clone()),
    }));
    Ok(lines)
}

/// The one session that migrates.
struct Session {
    client: Client,
    task: JoinHandle<()>,
    connector: Connector,
    schema: String,
    quoted: String,
}

impl Session {
    async fn open(database: &DatabaseConfig) -> Result<Session, StoreError> {
        let connector = Connector::new(database, "flohctl migrate")?;
        let quoted = connect::quote_schema(&database.schema)
            .map_err(|reason| StoreError::Rejected { place: connector.place.clone(), reason })?;
        // Without a session of its own there is neither a lock nor a search path, and tables would go astray.
        pooler::check(&connector).await?;
        let (client, task) = connector.open_within().await?;
        Ok(Session { client, task, connector, schema: database.schema.clone(), quoted })
    }

    /// Says goodbye and waits until it is said: the lock must not outlive the call.
    async fn close(self) {
        drop(self.client);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.task).await;
    }

    fn sort(&self, error: &tokio_postgres::Error) -> StoreError {
        StoreError::sort(&self.connector.place, error)
    }

    fn reject(&self, reason: String) -> StoreError {
        StoreError::Rejected { place: self.connector.place.clone(), reason }
    }

    /// Waits for the lock that keeps migrations of this schema apart; it lasts as long as the session.
    async fn lock(&self) -> Result<(), StoreError> {
        let sql = format!(
            "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0;
             SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s';
             SELECT pg_advisory_lock(hashtextextended('floh-worker migrate {}', 0));
             SET lock_timeout = '10s'",
            self.schema
        );
        self.client.batch_execute(&sql).await.map_err(|error| match self.sort(&error) {
            StoreError::Query { code, .. } if code == "55P03" => {
                self.reject(format!("another migration of {} is under way; try again later", self.schema))
            }
            other => other,
        })
    }

    async fn migrate(&mut self) -> Result<Migrated, StoreError> {
        let applied = self.applied().await?;
        let found = applied.iter().map(|(version, _)| *version).max().unwrap_or(0);
        if found > newest_version() {
            // A newer flohctl was here: what it made is not ours to judge.
            return Ok(Migrated { applied: Vec::new(), version: found, newer_than_known: true });
        }
        self.make_schema().await?;
        self.refuse_foreign_tables().await?;
        let report = runner().run_async(&mut self.client).await;
        match report {
            Ok(report) => Ok(Migrated {
                applied: report.applied_migrations().iter().map(ToString::to_string).collect(),
                version: newest_version(),
                newer_than_known: false,
            }),
            Err(error) => Err(self.sort_refinery(&error)),
        }
    }

    async fn refuse_old_server(&self) -> Result<(), StoreError> {
        let sql = "SELECT current_setting('server_version_num')::int, current_setting('server_version')";
        let row = self.client.query_one(sql, &[]).await.map_err(|e| self.sort(&e))?;
        match too_old(row.try_get(0)?, row.try_get(1)?) {
            Some(reason) => Err(self.reject(reason)),
            None => Ok(()),
        }
    }

    /// Versions in refinery's table, with the time of each; none if there is no such table.
    async fn applied(&self) -> Result<Vec<(i32, String)>, StoreError> {
        let there = self
            .client
            .query_one("SELECT to_regclass($1) IS NOT NULL", &[&format!("{}.{HISTORY}", self.quoted)])
            .await
            .map_err(|e| self.sort(&e))?;
        if !there.try_get::<_, bool>(0)? {
            return Ok(Vec::new());
        }
        let rows = self
            .client
            .query(&format!("SELECT version, applied_on FROM {HISTORY} ORDER BY version"), &[])
            .await
            .map_err(|e| self.sort(&e))?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// `CREATE SCHEMA IF NOT EXISTS` asks for the right to create even where the schema exists, so it is looked for.
    async fn make_schema(&self) -> Result<(), StoreError> {
        let there = self
            .client
            .query_opt("SELECT FROM pg_namespace WHERE nspname = $1", &[&self.schema])
            .await
            .map_err(|e| self.sort(&e))?;
        if there.is_some() {
            return Ok(());
        }
        self.client.batch_execute(&format!("CREATE SCHEMA {}", self.quoted)).await.map_err(|error| {
            match self.sort(&error) {
                StoreError::Query { code, .. } if code == "42501" => self.reject(format!(
                    "the role may not create the schema {0}; as superuser: CREATE SCHEMA {0} AUTHORIZATION role",
                    self.schema
                )),
                other => other,
            }
        })
    }

    /// Our schema holds our tables only: whoever shares it would one day collide with a migration.
    async fn refuse_foreign_tables(&self) -> Result<(), StoreError> {
        let runner = runner();
        let mut ours: BTreeSet<&str> =
            runner.get_migrations().iter().filter_map(Migration::sql).flat_map(created_tables).collect();
        ours.insert(HISTORY);
        // Made by a worker of such a build at its start, not by a migration.
        #[cfg(feature = "test-jobs")]
        ours.insert("test_effect");
        let sql = "SELECT relname FROM pg_class
            WHERE relnamespace = $1::text::regnamespace AND relkind IN ('r', 'p', 'f') ORDER BY relname";
        let rows = self.client.query(sql, &[&self.quoted]).await.map_err(|e| self.sort(&e))?;
        let names: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let history = names.iter().any(|name| name == HISTORY);
        // Without our history even a table with one of our names is somebody else's.
        let foreign: Vec<_> =
            names.iter().filter(|name| !history || !ours.contains(name.as_str())).map(String::as_str).collect();
        if foreign.is_empty() {
            return Ok(());
        }
        Err(self.reject(format!(
            "the schema {} holds tables that floh-worker did not make ({}); set DB_SCHEMA to a schema of its own",
            self.schema,
            foreign.join(", ")
        )))
    }

    fn sort_refinery(&self, error: &refinery::Error) -> StoreError {
        match error.kind() {
            Kind::DivergentVersion(applied, embedded) => self.reject(format!(
                "the migration {applied} in the schema {} is not the {embedded} of this flohctl; use the flohctl that \
                 made the schema, or a newer one",
                self.schema
            )),
            Kind::MissingVersion(missing) => self.reject(format!(
                "the history of the schema {} does not fit this flohctl: {missing} is missing on one side",
                self.schema
            )),
            Kind::Connection(what, cause) => match cause.downcast_ref::<tokio_postgres::Error>() {
                Some(error) => match self.sort(error) {
                    StoreError::Query { code, message, transient } => {
                        StoreError::Query { code, message: format!("{what}: {message}"), transient }
                    }
                    other => other,
                },
                None => StoreError::Query { code: "migration".into(), message: error.to_string(), transient: false },
            },
            _ => StoreError::Query { code: "migration".into(), message: error.to_string(), transient: false },
        }
    }
}

/// Why a server of this version cannot have the schema.
fn too_old(number: i32, version: &str) -> Option<String> {
    (number < OLDEST_SERVER).then(|| format!("it is version {version}, and the schema needs PostgreSQL 14 or newer"))
}

/// The tables that a migration creates: the names after `CREATE TABLE` at the beginning of a line.
fn created_tables(sql: &str) -> impl Iterator<Item = &str> {
    sql.lines().filter_map(|line| {
        let rest = line.strip_prefix("CREATE TABLE ")?;
        let rest = rest.strip_prefix("IF NOT EXISTS ").unwrap_or(rest);
        let name = rest.split([' ', '(']).next()?;
        (!name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_refused_with_its_version() {
        assert_eq!(too_old(140_000, "14.0"), None);
        let reason = too_old(130_016, "13.16 (Debian 13.16-0+deb11u1)").unwrap();
        assert!(reason.starts_with("it is version 13.16 (Debian") && reason.contains("PostgreSQL 14"), "{reason}");
    }

    #[test]
    fn tables_are_found_in_a_migration() {
        let sql = "-- CREATE TABLE no (\nCREATE TABLE one (\n id int);\nCREATE TABLE IF NOT EXISTS two(id int);\n";
        assert_eq!(created_tables(sql).collect::<Vec<_>>(), ["one", "two"]);
    }

    #[test]
    fn each_migration_has_its_own_number_and_states_its_compatibility() {
        let runner = runner();
        let mut numbers = BTreeSet::new();
        for migration in runner.get_migrations() {
            let number = migration.version();
            assert!(numbers.insert(number), "{migration} has the number of another one");
            let states = format!("INSERT INTO schema_version (version, compatible_from) VALUES ({number}, '");
            assert!(migration.sql().unwrap().contains(&states), "{migration} does not insert its schema_version row");
        }
        // A number that was left out could never be used: refinery applies nothing below what is there.
        assert!(numbers.iter().copied().eq(1..=newest_version()), "{numbers:?}");
    }
}
