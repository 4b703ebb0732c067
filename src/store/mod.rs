//! PostgreSQL, the truth: pool, migrations, ledger and fence, one file per aggregate. Knows no queue.

pub mod approval;
pub mod audit;
pub mod audit_write;
mod cancel;
mod client;
mod connect;
pub mod connector;
pub mod definition;
pub mod document;
mod error;
mod fence;
mod instance;
mod ledger;
mod listen;
mod migrate;
pub mod notification;
pub mod outbox;
pub mod person;
mod pooler;
pub mod question;
pub mod role;
pub mod run;
pub mod schedule;
mod schema;
pub mod suspicion;
mod tick;
mod tls;

pub use cancel::{Asked, CancelRequest, Meant};
pub use client::Client;
pub use error::{Place, Policy, StoreError};
pub use fence::{FencedTransaction, Outcome};
pub use instance::WorkerInstance;
pub use ledger::{Epoch, Identity, Lease, Release, Start, Take};
pub use listen::{Notice, Notices};
pub use migrate::{Migrated, MigrationStatus, migrate, migration_status};
pub use schema::{SchemaState, Version};
pub use tick::OpenTick;

use crate::config::DatabaseConfig;
use connect::{ANSWER_TIMEOUT, Connector, SESSION_TIMEOUT};
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Pool, PoolError, QueueMode, RecyclingMethod, Runtime, TimeoutType,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::OnceCell;

/// A session that has rested longer than this is asked whether it is still there before it is used.
const RESTED: Duration = Duration::from_secs(2);
/// How long the answer is waited for; without one the session is closed and another one opened.
const RECYCLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Access to one database: a pool that opens sessions when they are needed. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    schema: String,
    /// Set once two sessions have shown that they are two.
    sessions_kept: OnceCell<()>,
}

impl Store {
    /// For the given database, with at most `max_connections` sessions named `application`. Connects to nothing yet;
    /// fails only if TLS cannot be set up (unreadable authorities) or the schema's name is no plain identifier.
    pub fn open(database: &DatabaseConfig, max_connections: usize, application: &str) -> Result<Store, StoreError> {
        let connector = Connector::new(database, application)?;
        // Whether a session is alive is asked by our own hook, because most of the time it was used just now.
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(tokio_postgres::Config::new(), connector.clone(), recycling);
        let pool = Pool::builder(manager)
            .max_size(max_connections)
            .runtime(Runtime::Tokio1)
            // The session used last has its plans, its pages and its processor's caches warm; the one that rested longest has not.
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(ANSWER_TIMEOUT))
            .create_timeout(Some(SESSION_TIMEOUT))
            .recycle_timeout(Some(RECYCLE_TIMEOUT))
            .pre_recycle(Hook::async_fn(|session, metrics| {
                Box::pin(async move {
                    if metrics.last_used() <= RESTED {
                        return Ok(());
                    }
                    // The pool's own recycle timeout does not cover its hooks.
                    match tokio::time::timeout(RECYCLE_TIMEOUT, session.simple_query("")).await {
                        Ok(answer) => answer.map(drop).map_err(HookError::Backend),
                        Err(_) => Err(HookError::message("the session does not answer")),
                    }
                })
            }))
            .build()
            .map_err(|e| StoreError::Rejected { place: connector.place.clone(), reason: e.to_string() })?;
        let shared = Shared { connector, schema: database.schema.clone(), sessions_kept: OnceCell::new() };
        Ok(Store { pool, shared: Arc::new(shared) })
    }

    /// A session with our settings: `search_path` is our schema, statements and pauses in transactions end after 10 s.
    pub async fn client(&self) -> Result<Client, StoreError> {
        self.shared.sessions_kept.get_or_try_init(|| pooler::check(&self.shared.connector)).await?;
        self.pooled().await
    }

    async fn pooled(&self) -> Result<Client, StoreError> {
        let place = &self.shared.connector.place;
        let unavailable = |reason: String| StoreError::Unavailable { place: place.clone(), reason };
        match self.pool.get().await {
            Ok(object) => Ok(Client::new(object, place.clone())),
            Err(PoolError::Backend(error)) => Err(StoreError::sort(place, &error)),
            Err(PoolError::Timeout(TimeoutType::Wait)) => {
                Err(unavailable(format!("all {} sessions are in use", self.pool.status().max_size)))
            }
            Err(PoolError::Timeout(_)) => Err(unavailable(connect::no_session())),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }

    /// Where the database is, for messages.
    pub fn place(&self) -> &Place {
        &self.shared.connector.place
    }

    /// The name of our schema.
    pub fn schema(&self) -> &str {
        &self.shared.schema
    }

    /// Closes the pool: idle sessions now, the others when they are given back.
    pub fn close(&self) {
        self.pool.close();
    }
}
