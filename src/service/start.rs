//! The start: waits for what may come (Redis, PostgreSQL, the schema), ends for what cannot heal.

use super::{exit::Exit, systemd::Manager};
use crate::{
    events,
    queue::{self, Queue, connection::Backoff, connection::COMMAND_DEADLINE, pulse::Pulse},
    store::{SchemaState, Store, StoreError, Version},
};
use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

/// Each message keeps the start alive for this long; it is repeated well before.
const EXTENSION: Duration = Duration::from_secs(30);
/// How often the status is told while the first fetch has not come back.
const STATUS_PERIOD: Duration = Duration::from_secs(1);
/// While we wait for the same thing, the log is told this often.
const REMINDER: Duration = Duration::from_secs(30);

/// Why a dependency cannot be used.
enum Obstacle {
    /// It may come: wait.
    Wait(String),
    /// The schema is missing or too old; somebody may migrate it: wait.
    Schema(String),
    /// It will not: end. With the kind of event that this is.
    Fatal(&'static str, String),
}

impl From<queue::Error> for Obstacle {
    fn from(error: queue::Error) -> Obstacle {
        if error.is_fatal() {
            Obstacle::Fatal(events::WORKER_FAILED, error.to_string())
        } else {
            Obstacle::Wait(error.to_string())
        }
    }
}

impl From<StoreError> for Obstacle {
    fn from(error: StoreError) -> Obstacle {
        match error.policy() {
            crate::store::Policy::Fatal => Obstacle::Fatal(events::WORKER_FAILED, error.to_string()),
            _ => Obstacle::Wait(error.to_string()),
        }
    }
}

/// Keeps a start alive that takes long, for ever: to be run beside it. It is a ticker of its own because a single probe
/// may take longer than systemd's patience.
pub async fn stay_alive(manager: &Manager) -> Infallible {
    let mut tick = tokio::time::interval(EXTENSION / 10);
    loop {
        tick.tick().await;
        manager.extend_start(EXTENSION);
    }
}

/// Returns when Redis and PostgreSQL answered and the schema fits.
///
/// # Errors
/// The exit code, after the reason was logged.
pub async fn wait_for_dependencies(manager: &Manager, queue: &Queue, store: &Store) -> Result<(), Exit> {
    let mut backoff = Backoff::default();
    let mut told = (String::new(), Instant::now());
    loop {
        let (redis, database) = tokio::join!(redis_answers(queue), database_fits(store));
        let obstacles: Vec<Obstacle> = [redis.err(), database.err()].into_iter().flatten().collect();
        if obstacles.is_empty() {
            return Ok(());
        }
        let mut waits = Vec::new();
        let mut fatal = false;
        // What is missing first names the kind: without a server nobody can migrate.
        let mut event = events::SCHEMA_WAITING;
        for obstacle in obstacles {
            match obstacle {
                Obstacle::Wait(why) => {
                    event = events::DEPENDENCY_DOWN;
                    waits.push(why);
                }
                Obstacle::Schema(why) => waits.push(why),
                Obstacle::Fatal(event, why) => {
                    tracing::error!(message_id = event, "{why}");
                    manager.status(&why);
                    fatal = true;
                }
            }
        }
        if fatal {
            return Err(Exit::Config);
        }
        let sentence = format!("waiting: {}", waits.join("; "));
        manager.status(&sentence);
        if told.0 != sentence {
            tracing::error!(message_id = event, "{sentence}");
            told = (sentence, Instant::now());
        } else if told.1.elapsed() >= REMINDER {
            tracing::warn!(message_id = event, "still {sentence}");
            told.1 = Instant::now();
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Tells systemd READY when the first fetch came back, empty or not, and keeps the start alive until then.
pub async fn wait_for_first_fetch(manager: &Manager, pulse: &Pulse) {
    let tell = async {
        let mut tick = tokio::time::interval(STATUS_PERIOD);
        loop {
            tick.tick().await;
            manager.status(&format!("waiting for the first fetch: {}", pulse.condition()));
        }
    };
    tokio::select! {
        () = pulse.first_round_trip() => {}
        never = stay_alive(manager) => match never {},
        () = tell => {}
    }
    manager.ready(&pulse.condition().to_string());
}

/// How often a running worker asks whether the schema still fits.
const SCHEMA_PERIOD: Duration = Duration::from_secs(60);

/// Returns when a migration has excluded this release: a worker that would do harm stops.
pub async fn schema_excludes_us(store: &Store) {
    loop {
        tokio::time::sleep(SCHEMA_PERIOD.mul_f64(rand::random_range(0.5..=1.0))).await;
        if let Ok(SchemaState::TooNew { compatible_from }) = store.check_schema(Version::ours()).await {
            tracing::error!(
                message_id = events::WORKER_FAILED,
                "the schema {} now needs floh-worker {compatible_from} or newer and this is {}; upgrade the package",
                store.schema(),
                Version::ours()
            );
            return;
        }
    }
}

async fn redis_answers(queue: &Queue) -> Result<(), Obstacle> {
    let _: String = queue.link.query(&redis::cmd("PING"), "PING", COMMAND_DEADLINE).await?;
    Ok(())
}

async fn database_fits(store: &Store) -> Result<(), Obstacle> {
    match store.check_schema(Version::ours()).await? {
        SchemaState::Ready { .. } => Ok(()),
        SchemaState::NotMigrated => {
            Err(Obstacle::Schema(format!("the schema {} is not there; run `flohctl migrate`", store.schema())))
        }
        SchemaState::OlderThanNeeded { found, needed } => Err(Obstacle::Schema(format!(
            "the schema {} has version {found} and this worker needs {needed}; run `flohctl migrate`",
            store.schema()
        ))),
        SchemaState::TooNew { compatible_from } => Err(Obstacle::Fatal(
            events::SCHEMA_REFUSED,
            format!(
                "the schema {} needs floh-worker {compatible_from} or newer and this is {}; upgrade the package",
                store.schema(),
                Version::ours()
            ),
        )),
    }
}
