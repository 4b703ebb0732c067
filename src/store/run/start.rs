//! A new run, in one statement.

use crate::store::{Client, StoreError, definition::Reference};
use serde_json::{Map, Value};
use std::fmt;
use uuid::Uuid;

/// A run to be started. What is checked here is the definition only: variables are checked when the run begins.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// Its definition.
    pub definition: Reference,
    /// The queue of its wake-ups: prefix and name with a colon between.
    pub queue: String,
    /// Its variables.
    pub variables: Map<String, Value>,
    /// Who starts it, by id or address.
    pub submitter_id: Option<String>,
    /// Whether connectors are not called.
    pub use_mocks: bool,
    /// Whether it waits for its turn, that is, until somebody takes `held_back` back.
    pub held_back: bool,
}

impl NewRun {
    /// A run without variables that begins at once.
    pub fn new(definition: Reference, queue: impl Into<String>) -> NewRun {
        NewRun {
            definition,
            queue: queue.into(),
            variables: Map::new(),
            submitter_id: None,
            use_mocks: false,
            held_back: false,
        }
    }
}

/// What became of a [`NewRun`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// It is there, and its wake-up with it.
    Run {
        /// Its id.
        id: Uuid,
        /// The version of the definition that it is pinned to.
        definition_id: Uuid,
        /// The definition's name.
        name: String,
        /// Its version.
        version: i32,
    },
    /// It is not.
    Refused(Refusal),
}

/// Why a run cannot be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such definition, or not this version of it.
    Unknown(Reference),
    /// The name is known, and none of its versions is active.
    NoActiveVersion(String),
    /// This version is not published.
    Draft {
        /// The definition's name.
        name: String,
        /// Its version.
        version: i32,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unknown(reference) => write!(f, "there is no workflow definition {reference}"),
            Refusal::NoActiveVersion(name) => {
                write!(f, "the workflow definition `{name}` has no active version; publish one")
            }
            Refusal::Draft { name, version } => {
                write!(f, "version {version} of the workflow definition `{name}` is a draft; publish it first")
            }
        }
    }
}

/// A name means its active version. A version that is named exactly may be a deprecated one, too: whoever names it wants
/// that one.
const START: &str = "
    WITH found AS (
        SELECT d.id, d.name, d.version, d.status,
            CASE WHEN $2::int IS NULL AND $3::uuid IS NULL THEN d.status = 'active' ELSE d.status <> 'draft' END AS good
        FROM workflow_definition d
        WHERE d.id = $3 OR d.name = $1::text AND ($2 IS NULL OR d.version = $2)
        ORDER BY d.status = 'active' DESC, d.version DESC LIMIT 1
    ), made AS (
        INSERT INTO workflow_run (definition_id, queue, variables, submitter_id, use_mocks, held_back)
            SELECT f.id, $4, $5, $6, $7, $8 FROM found f WHERE f.good
            RETURNING id
    )
    SELECT f.id AS definition_id, f.name, f.version, (SELECT m.id FROM made m) AS run FROM found f";

/// Starts a run: the row and, by trigger, its wake-up, in one statement. Within a transaction it is there with the rest.
///
/// # Errors
/// What PostgreSQL said. After an error that leaves its fate unknown, asking again would start another run.
pub async fn start_run(client: &Client, new: &NewRun) -> Result<Started, StoreError> {
    let (name, version, id) = new.definition.parts();
    let variables = Value::Object(new.variables.clone());
    let row = client
        .query_opt(
            START,
            &[&name, &version, &id, &new.queue, &variables, &new.submitter_id, &new.use_mocks, &new.held_back],
        )
        .await?;
    let Some(row) = row else { return Ok(Started::Refused(Refusal::Unknown(new.definition.clone()))) };
    let (definition, version) = (row.try_get("name")?, row.try_get("version")?);
    Ok(match row.try_get("run")? {
        Some(id) => Started::Run { id, definition_id: row.try_get("definition_id")?, name: definition, version },
        None if matches!(new.definition, Reference::Name(_)) => Started::Refused(Refusal::NoActiveVersion(definition)),
        None => Started::Refused(Refusal::Draft { name: definition, version }),
    })
}
