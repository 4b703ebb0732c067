//! floh-worker: the background worker of the Floh workflow engine, as a systemd-native service.
//!
//! The modules in the order in which a job travels through them:
//!
//! * [`config`]: the environment, read once into one typed [`config::Config`];
//! * [`service`]: the daemon's life under systemd: start, ready, watch, drain, stop, journal;
//! * [`cron`]: cron expressions with npm's meaning, for schedules in the configuration and in the queue;
//! * [`queue`]: BullMQ: connection, scripts, consumer, leases, schedulers; knows no job and no table;
//! * [`jobs`]: the registry from a job's name to its handler, and one file per job;
//! * [`engine`]: workflow definitions, read and checked, and the runs that execute them;
//! * [`sandbox`]: the JavaScript of transforms, in processes that can do nothing else;
//! * [`connectors`]: calls of other systems, and who may be called;
//! * [`values`]: paths and templates, which both read;
//! * [`mail`]: messages out of templates, and their way to an SMTP server;
//! * [`audit`]: checkpoints over the audit log's hash chain, and its verification;
//! * [`store`]: PostgreSQL: pool, migrations, ledger and fence, one file per aggregate; knows no queue;
//! * [`cli`]: `flohctl`, one file per command.
//!
//! Imports point one way: bin → service, cli → jobs → engine, audit → store, engine → connectors → values, engine →
//! sandbox, and beside them jobs, service, cli → queue.
//! [`config`] and [`queue`] read schedules with [`cron`]. Everything may use [`config`]'s plain values and log with the
//! ids of [`events`].

pub mod audit;
pub mod cli;
pub mod config;
pub mod connectors;
pub mod cron;
pub mod engine;
pub mod events;
#[cfg(feature = "test-jobs")]
pub mod fail_points;
pub mod jobs;
pub mod mail;
pub mod queue;
pub mod sandbox;
pub mod service;
pub mod store;
#[cfg(feature = "test-jobs")]
pub mod switches;
pub mod values;

/// What `--version` says: the package's version where a package build states one (`debian/rules`), else the crate's.
pub const VERSION: &str = match option_env!("FLOH_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
