//! Configuration: the environment, read once at the top into one typed [`Config`] and handed down as plain values.

mod types;

pub use types::{
    AuditConfig, CheckpointKey, Config, DatabaseConfig, DatabaseHost, LogLevel, QueueConfig, RedisConfig,
    RedisEndpoint, SslMode, WorkerConfig,
};
