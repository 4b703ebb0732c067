//! Near misses: an unknown variable that is probably a known one with a slip of the finger.
//!
//! The file is shared with the API server, whose variables are not ours to complain about. So a name is only taken for
//! a slip when exactly one known name is very near.

use super::table::{VARIABLES, find};

/// Names that mean one of ours in other programs, or in other versions of this file.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("DB_DATABASE", "DB_NAME"),
    ("DB_USERNAME", "DB_USER"),
    ("DB_PASS", "DB_PASSWORD"),
    ("DB_SSLMODE", "DB_SSL"),
    ("DB_SSL_MODE", "DB_SSL"),
    ("DB_TLS", "DB_SSL"),
    ("REDIS_USER", "REDIS_USERNAME"),
    ("REDIS_PASS", "REDIS_PASSWORD"),
    ("REDIS_DATABASE", "REDIS_DB"),
    ("REDIS_SSL", "REDIS_TLS"),
    ("REDIS_SENTINEL_HOSTS", "REDIS_SENTINELS"),
    ("REDIS_SENTINEL_NODES", "REDIS_SENTINELS"),
    ("REDIS_SENTINEL_NAME", "REDIS_SENTINEL_MASTER"),
    ("REDIS_SENTINEL_MASTER_NAME", "REDIS_SENTINEL_MASTER"),
    ("REDIS_MASTER_NAME", "REDIS_SENTINEL_MASTER"),
    ("STUCK_RUN_TIMEOUT", "STUCK_RUN_TIMEOUT_MINUTES"),
    ("SMTP_SERVER", "SMTP_HOST"),
    ("SMTP_HOSTNAME", "SMTP_HOST"),
    ("SMTP_SECURE", "SMTP_TLS"),
    ("SMTP_SSL", "SMTP_TLS"),
    ("SMTP_STARTTLS", "SMTP_TLS"),
    ("SMTP_ENCRYPTION", "SMTP_TLS"),
    ("SMTP_CA", "SMTP_TLS_CA"),
    ("SMTP_USERNAME", "SMTP_USER"),
    ("SMTP_PASS", "SMTP_PASSWORD"),
    ("SMTP_SENDER", "SMTP_FROM"),
    ("SMTP_FROM_ADDRESS", "SMTP_FROM"),
];

/// What an unknown name probably means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meant {
    /// A slip: this name was meant.
    Name(String),
    /// `NAME_FILE` of a variable that is not a secret, which nobody reads.
    FileOfSetting(&'static str),
}

/// What `name` was meant to be, or nothing if it is likely a variable of another program.
///
/// `is_set` tells which names are set besides.
pub(super) fn meant(name: &str, is_set: &dyn Fn(&str) -> bool) -> Option<Meant> {
    let known = known_names();
    if find(name).is_some() || known.iter().any(|k| k == name) {
        return None;
    }
    let bare = name.strip_prefix("export ").unwrap_or(name).trim();
    let folded = bare.to_ascii_uppercase().replace(['-', '.', ' '], "_");
    if let Some(same) = known.iter().find(|k| **k == folded) {
        return Some(Meant::Name(same.clone()));
    }
    if let Some(setting) = folded.strip_suffix("_FILE").and_then(find) {
        return Some(Meant::FileOfSetting(setting.name));
    }
    if let Some((_, ours)) = OTHER_NAMES.iter().find(|(other, _)| *other == folded) {
        // Where ours is set too, the other one belongs to the other program.
        return (!is_set(ours)).then(|| Meant::Name((*ours).to_string()));
    }
    nearest(&folded, &known).filter(|ours| !(folded.starts_with(ours) && is_set(ours))).map(Meant::Name)
}

/// The names that can be meant. Not the retention of logs: it is the API server's, and so are names like it.
fn known_names() -> Vec<String> {
    VARIABLES
        .iter()
        .filter(|v| v.name != "LOG_RETENTION_DAYS")
        .flat_map(|v| std::iter::once(v.name.to_string()).chain(v.secret.then(|| v.file_variable())))
        .collect()
}

/// The one known name within the distance that its length allows; nothing where two are equally near.
fn nearest(name: &str, known: &[String]) -> Option<String> {
    let mut best: Option<(usize, &String)> = None;
    let mut tied = false;
    for candidate in known {
        let distance = strsim::osa_distance(name, candidate);
        if distance > allowed(name, candidate) {
            continue;
        }
        match best {
            Some((least, _)) if distance > least => {}
            Some((least, _)) if distance == least => tied = true,
            _ => (best, tied) = (Some((distance, candidate)), false),
        }
    }
    best.filter(|_| !tied).map(|(_, candidate)| candidate.clone())
}

/// How many slips are believed. Short names are near to each other by nature (`DB_HOST`, `GDB_HOST`), so they allow
/// one, and not in the first letter.
fn allowed(name: &str, candidate: &str) -> usize {
    if candidate.len() >= 10 {
        2
    } else if name.as_bytes().first() == candidate.as_bytes().first() {
        1
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant_alone(name: &str) -> Option<Meant> {
        meant(name, &|_| false)
    }

    #[test]
    fn slips_are_recognised() {
        for (slip, name) in [
            ("REDIS_HSOT", "REDIS_HOST"),
            ("WORKER_CONCURENCY", "WORKER_CONCURRENCY"),
            ("WORKER_CONCURRENCIES", ""),
            ("DB_PASWORD", "DB_PASSWORD"),
            ("DBHOST", "DB_HOST"),
            ("db_host", "DB_HOST"),
            ("DB-HOST", "DB_HOST"),
            ("export DB_HOST", "DB_HOST"),
            ("DATABSE_URL", "DATABASE_URL"),
            ("REDIS_URI", "REDIS_URL"),
            ("DB_PASSWORD_FLE", "DB_PASSWORD_FILE"),
            ("AUDIT_CHECKPOINT_KEYID", "AUDIT_CHECKPOINT_KEY_ID"),
            ("AUDIT_CHECKPIONT_KEY", "AUDIT_CHECKPOINT_KEY"),
            ("LOGLEVEL", "LOG_LEVEL"),
            ("QUEUE_NMAE", "QUEUE_NAME"),
            ("DB_PASS", "DB_PASSWORD"),
            ("REDIS_SSL", "REDIS_TLS"),
            ("STUCK_RUN_TIMEOUT_MINUTE", "STUCK_RUN_TIMEOUT_MINUTES"),
        ] {
            let expected = (!name.is_empty()).then(|| Meant::Name(name.to_string()));
            assert_eq!(meant_alone(slip), expected, "{slip}");
        }
    }

    #[test]
    fn the_api_servers_variables_are_left_alone() {
        for name in [
            "PORT",
            "HOST",
            "TZ",
            "PATH",
            "HOME",
            "USER",
            "LANG",
            "NODE_ENV",
            "NODE_OPTIONS",
            "DB_POOL_MIN",
            "DB_POOL_MAX",
            "DB_POOL_SIZE",
            "DB_POST",
            "DB_TYPE",
            "DB_DIALECT",
            "DB_LOGGING",
            "DB_SSL_CERT",
            "DB_SSL_KEY",
            "DB_URL",
            "DATABASE_NAME",
            "REDIS_PREFIX",
            "REDIS_TTL",
            "REDIS_CLUSTER",
            "REDIS_TLS_CERT",
            "REDIS_TLS_KEY",
            "REDIS_KEY_PREFIX",
            "REDIS_SENTINEL_DOWN_AFTER",
            "LOG_FORMAT",
            "LOG_FILE",
            "LOG_PRETTY",
            "SMTP_HOST",
            "SMTP_PORT",
            "SMTP_USER",
            "SMTP_PASSWORD",
            "SMTP_FROM",
            "MAIL_HOST",
            "JWT_SECRET",
            "SESSION_SECRET",
            "ENCRYPTION_KEY",
            "QUEUE_CONCURRENCY",
            "CONCURRENCY",
            "SHUTDOWN_TIMEOUT",
            "QUEUE_SIZE",
            "WORKER_ID",
            "WORKER_NAME",
            "WORKER_COUNT",
            "API_URL",
            "BASE_URL",
            "CORS_ORIGIN",
            "JOB_RETENTION_DAYS",
            "AUDIT_RETENTION_DAYS",
            "STUCK_JOB_TIMEOUT_MINUTES",
            "PGHOST",
            "PGPORT",
            "PGUSER",
            "PGPASSWORD",
            "PGDATABASE",
            "GDB_HOST",
            "SMB_HOST",
            "NOTIFY_SOCKET",
            "JOURNAL_STREAM",
            "INVOCATION_ID",
            "CREDENTIALS_DIRECTORY",
            "STATE_DIRECTORY",
            "WATCHDOG_USEC",
            "SYSTEMD_EXEC_PID",
            "RUST_LOG",
            "RUST_BACKTRACE",
            "LOGNAME",
            "SHELL",
            "LDAP_HOST",
            "LDAP_PORT",
            "LDAP_URL",
            "S3_HOST",
        ] {
            assert_eq!(meant_alone(name), None, "{name}");
        }
    }

    #[test]
    fn a_longer_name_beside_the_known_one_belongs_to_somebody_else() {
        assert_eq!(meant_alone("DB_HOSTS"), Some(Meant::Name("DB_HOST".into())));
        assert_eq!(meant("DB_HOSTS", &|name| name == "DB_HOST"), None);
        assert_eq!(meant("REDIS_USER", &|name| name == "REDIS_USERNAME"), None);
        let both = meant("WORKER_CONCURENCY", &|name| name == "WORKER_CONCURRENCY");
        assert_eq!(both, Some(Meant::Name("WORKER_CONCURRENCY".into())), "a slip counts beside the right name too");
    }

    #[test]
    fn a_file_for_what_is_no_secret_is_named() {
        assert_eq!(meant_alone("DB_HOST_FILE"), Some(Meant::FileOfSetting("DB_HOST")));
        assert_eq!(meant_alone("DB_PASSWORD_FILE"), None);
    }

    #[test]
    fn known_names_are_no_slips_of_each_other() {
        for variable in VARIABLES {
            assert_eq!(meant_alone(variable.name), None, "{}", variable.name);
        }
    }
}
