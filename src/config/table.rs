//! The table of known variables: the one place that names them. The example file and floh-env(5) are compared with it.

/// One variable that the worker knows.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// What holds when it is absent or empty; `None` where absence means something of its own.
    pub default: Option<&'static str>,
    /// Secrets are never printed, and can also come from `NAME_FILE` or from a systemd credential.
    pub secret: bool,
}

impl Variable {
    /// The variable with the path of a file that holds this secret.
    #[must_use]
    pub fn file_variable(&self) -> String {
        format!("{}_FILE", self.name)
    }

    /// The name of the systemd credential that holds this secret: lower case, with dashes.
    #[must_use]
    pub fn credential(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }
}

const fn setting(name: &'static str, default: Option<&'static str>) -> Variable {
    Variable { name, default, secret: false }
}

const fn secret(name: &'static str) -> Variable {
    Variable { name, default: None, secret: true }
}

/// Every variable that the worker knows, in the order of the documentation.
pub const VARIABLES: &[Variable] = &[
    secret("DATABASE_URL"),
    setting("DB_HOST", Some("localhost")),
    setting("DB_PORT", Some("5432")),
    setting("DB_NAME", Some("floh")),
    setting("DB_USER", Some("floh")),
    secret("DB_PASSWORD"),
    setting("DB_SSL", Some("prefer")),
    setting("DB_SSL_CA", None),
    setting("DB_SCHEMA", Some("floh_worker")),
    secret("REDIS_URL"),
    setting("REDIS_HOST", Some("localhost")),
    setting("REDIS_PORT", Some("6379")),
    setting("REDIS_USERNAME", None),
    secret("REDIS_PASSWORD"),
    setting("REDIS_DB", Some("0")),
    setting("REDIS_TLS", Some("false")),
    setting("REDIS_TLS_CA", None),
    setting("REDIS_SENTINELS", None),
    setting("REDIS_SENTINEL_MASTER", None),
    setting("REDIS_SENTINEL_USERNAME", None),
    secret("REDIS_SENTINEL_PASSWORD"),
    setting("QUEUE_NAME", Some("workflow-scheduler")),
    setting("QUEUE_PREFIX", Some("bull")),
    setting("WORKER_CONCURRENCY", Some("1")),
    setting("MAX_JOB_BYTES", Some("1048576")),
    setting("WORKER_MODE", None),
    setting("SHUTDOWN_TIMEOUT_SECONDS", Some("30")),
    setting("JOB_TIMEOUT_SECONDS", Some("900")),
    setting("JOB_TIMEOUTS", None),
    setting("STUCK_RUN_TIMEOUT_MINUTES", Some("30")),
    setting("AUDIT_CHECKPOINT_SCHEDULE", Some("0 * * * *")),
    secret("AUDIT_CHECKPOINT_KEY"),
    setting("AUDIT_CHECKPOINT_KEY_ID", Some("default")),
    setting("CONNECTOR_ALLOWED_HOSTS", Some("*")),
    secret("CONNECTOR_ENCRYPTION_KEY"),
    secret("CONNECTOR_ENCRYPTION_KEY_PREVIOUS"),
    setting("CONNECTOR_MOCK_MODE", Some("false")),
    setting("SMTP_HOST", None),
    setting("SMTP_PORT", None),
    setting("SMTP_TLS", Some("starttls")),
    setting("SMTP_TLS_CA", None),
    setting("SMTP_USER", None),
    secret("SMTP_PASSWORD"),
    setting("SMTP_FROM", None),
    setting("LOG_LEVEL", Some("info")),
    setting("LOG_RETENTION_DAYS", None),
];

/// The variables that `DATABASE_URL` overrides.
pub(super) const DATABASE_GROUP: &[&str] =
    &["DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD", "DB_SSL", "DB_SSL_CA"];

/// The variables that `REDIS_URL` overrides. `REDIS_TLS_CA` is not among them: no Redis URL can say it.
pub(super) const REDIS_GROUP: &[&str] =
    &["REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_DB", "REDIS_TLS"];

/// Finds a known variable by its exact name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_member_is_in_the_table() {
        for name in DATABASE_GROUP.iter().chain(REDIS_GROUP) {
            assert!(find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_credential_is_named_like_its_variable() {
        assert_eq!(find("AUDIT_CHECKPOINT_KEY").unwrap().credential(), "audit-checkpoint-key");
        assert_eq!(find("DB_PASSWORD").unwrap().file_variable(), "DB_PASSWORD_FILE");
    }
}
