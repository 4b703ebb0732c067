//! Configuration: the environment, read once at the top into one typed [`Config`] and handed down as plain values.
//!
//! [`Config::load`] reads a [`Source`], collects every mistake and every notice, and gives either a `Config` in which
//! all is checked or [`ConfigErrors`] with one line per mistake. The variables are named once, in [`VARIABLES`].
//!
//! Secrets come from their variable, from the file that `NAME_FILE` names, or from a systemd credential
//! (`db-password` for `DB_PASSWORD`), from exactly one of them. They are [`secrecy::SecretString`]s and appear in no
//! message. An empty variable counts as absent.

mod connectors;
mod database;
pub mod envfile;
mod mail;
mod near;
mod reader;
mod redis;
mod report;
mod sentinels;
mod source;
mod table;
mod timeouts;
mod types;
mod url;
mod worker;

#[cfg(test)]
mod tests;

pub use report::{ConfigErrors, Mistake, Notice, Severity};
pub use source::{ProcessEnvironment, Source, Variables};
pub use table::{VARIABLES, Variable};
pub use types::{
    AuditConfig, CheckpointKey, Config, ConnectorsConfig, DatabaseConfig, DatabaseHost, HostRule, JobTimeouts,
    LogLevel, MailConfig, QueueConfig, RedisConfig, RedisEndpoint, SmtpServer, SmtpTls, SslMode, WorkerConfig,
};
pub use worker::{CLOSE_TIME, HAND_BACK_TIME, LONGEST_SHUTDOWN_TIMEOUT, UNIT_STOP_TIMEOUT};

use reader::Reader;

impl Config {
    /// Reads and checks everything. The notices are for the log: misspelt names, overridden variables, a missing key.
    ///
    /// # Errors
    /// Every mistake at once. Nothing but a changed configuration heals them: exit code 78.
    pub fn load(source: &dyn Source) -> Result<(Self, Vec<Notice>), ConfigErrors> {
        let mut reader = Reader::new(source);
        note_near_misses(&mut reader);
        let config = Self {
            database: database::read(&mut reader),
            redis: redis::read(&mut reader),
            queue: worker::queue(&mut reader),
            worker: worker::worker(&mut reader),
            audit: worker::audit(&mut reader),
            connectors: connectors::read(&mut reader),
            mail: mail::read(&mut reader),
            log_level: worker::log_level(&mut reader),
        };
        reader.finish(config)
    }
}

fn note_near_misses(reader: &mut Reader) {
    let names = reader.names();
    for name in &names {
        match near::meant(name, &|other| names.contains(other)) {
            Some(near::Meant::Name(ours)) => reader.warn(name, &format!("not known, is {ours} meant?")),
            Some(near::Meant::FileOfSetting(setting)) => {
                reader.warn(name, &format!("not read: only secrets can come from a file, {setting} cannot"));
            }
            None => {}
        }
    }
}
