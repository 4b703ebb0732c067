//! PostgreSQL's group of variables, and `DATABASE_URL`, which overrides them.

use super::{
    reader::{Reader, authorities, host_name, quoted, whole},
    table::DATABASE_GROUP,
    types::{DatabaseConfig, DatabaseHost, SslMode},
    url::{self, ServiceUrl},
};
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;

const PORT: std::ops::RangeInclusive<u16> = 1..=u16::MAX;

/// PostgreSQL cuts identifiers, role and database names at 63 bytes.
const LONGEST_NAME: usize = 63;

/// Our schema's name leaves room for what is derived from it.
const LONGEST_SCHEMA: usize = 48;

pub(super) fn read(reader: &mut Reader) -> DatabaseConfig {
    let schema = reader.checked("DB_SCHEMA", "floh_worker".to_string(), schema);
    let mut config = if reader.is_given("DATABASE_URL") {
        let url = reader.secret("DATABASE_URL");
        url.map_or_else(|| defaults(schema.clone()), |url| from_url(reader, &url, schema.clone()))
    } else {
        from_variables(reader, schema)
    };
    if matches!(config.host, DatabaseHost::Socket(_)) {
        // PostgreSQL does not speak TLS over Unix sockets; libpq ignores the wish as well.
        config.ssl = SslMode::Disable;
    }
    if config.ssl_ca.is_some() && !["DB_SSL", "DATABASE_URL"].iter().any(|name| reader.is_wrong(name)) {
        tell_unused_authorities(reader, &config);
    }
    config
}

/// Whoever names authorities wants them to be asked, and two of the modes ask none.
fn tell_unused_authorities(reader: &mut Reader, config: &DatabaseConfig) {
    let by_url = reader.is_given("DATABASE_URL");
    let (name, mode) = if by_url { ("DATABASE_URL", "sslmode") } else { ("DB_SSL_CA", "DB_SSL") };
    let what = if by_url { "its sslrootcert is not used" } else { "not used" };
    let why = match (config.ssl, &config.host) {
        (SslMode::Require | SslMode::VerifyFull, _) => return,
        (SslMode::Disable, DatabaseHost::Socket(_)) => "over a socket there is no TLS".to_string(),
        (SslMode::Disable, DatabaseHost::Tcp(_)) => format!("{mode} is disable"),
        (SslMode::Prefer, _) => format!("{mode} is prefer, which takes any certificate: set {mode}=verify-full"),
    };
    reader.warn(name, &format!("{what}, because {why}"));
}

fn defaults(schema: String) -> DatabaseConfig {
    DatabaseConfig {
        host: DatabaseHost::Tcp("localhost".to_string()),
        port: 5432,
        name: "floh".to_string(),
        user: "floh".to_string(),
        password: None,
        ssl: SslMode::Prefer,
        ssl_ca: None,
        schema,
    }
}

fn from_variables(reader: &mut Reader, schema: String) -> DatabaseConfig {
    let default = defaults(schema);
    DatabaseConfig {
        host: reader.checked("DB_HOST", default.host, host),
        port: reader.checked("DB_PORT", default.port, whole(PORT, "a port")),
        name: reader.checked("DB_NAME", default.name, name),
        user: reader.checked("DB_USER", default.user, name),
        password: reader.secret("DB_PASSWORD"),
        ssl: reader.checked("DB_SSL", default.ssl, ssl_mode),
        ssl_ca: reader.checked("DB_SSL_CA", None, authorities),
        schema: default.schema,
    }
}

/// A host name or address, or the folder of a Unix socket.
fn host(text: &str) -> Result<DatabaseHost, String> {
    if text.starts_with('/') {
        return Ok(DatabaseHost::Socket(PathBuf::from(text)));
    }
    let expected = |reason| format!("{reason} (or a socket folder that begins with /)");
    host_name(text).map(DatabaseHost::Tcp).map_err(expected)
}

/// PostgreSQL's names may hold blanks, but no control characters.
fn name(text: &str) -> Result<String, String> {
    if text.len() > LONGEST_NAME || text.chars().any(char::is_control) {
        return Err(format!("a name of at most {LONGEST_NAME} bytes is expected"));
    }
    Ok(text.to_string())
}

fn schema(text: &str) -> Result<String, String> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let rest = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let reserved = text.starts_with("pg_") || text == "information_schema";
    if first && rest && !reserved && text.len() <= LONGEST_SCHEMA {
        return Ok(text.to_string());
    }
    Err(format!(
        "a plain identifier is expected: lower-case letters, digits and _, at most {LONGEST_SCHEMA} characters, not pg_…"
    ))
}

fn ssl_mode(text: &str) -> Result<SslMode, String> {
    match text {
        "disable" => Ok(SslMode::Disable),
        "prefer" => Ok(SslMode::Prefer),
        "require" => Ok(SslMode::Require),
        "verify-full" => Ok(SslMode::VerifyFull),
        _ => Err("disable, prefer, require or verify-full is expected".to_string()),
    }
}

/// What Node's `pg` understands besides libpq's words, in the same file.
fn url_ssl_mode(text: &str) -> Result<SslMode, String> {
    if text == "no-verify" { Ok(SslMode::Require) } else { ssl_mode(text) }
}

/// Mistakes name the parameter at most: the URL as a whole is a secret.
fn from_url(reader: &mut Reader, text: &SecretString, schema: String) -> DatabaseConfig {
    const NAME: &str = "DATABASE_URL";
    let mut config = defaults(schema);
    let url = match url::parse(text.expose_secret().trim()) {
        Ok(url) if matches!(url.scheme.as_str(), "postgres" | "postgresql") => url,
        Ok(_) => {
            reader.mistake(NAME, None, "a URL that begins with postgres:// or postgresql:// is expected");
            return config;
        }
        Err(reason) => {
            reader.mistake(NAME, None, &format!("postgres://user:password@host:port/name is expected, but {reason}"));
            return config;
        }
    };
    let mut wrong = Vec::new();
    apply_pieces(&url, &mut config, &mut wrong);
    for (key, value) in &url.params {
        match parameter(key, value, &mut config) {
            Ok(true) => {}
            Ok(false) => reader.info(NAME, &format!("the worker does not use its parameter {}", quoted(key))),
            Err(expected) => wrong.push(format!("for its parameter {key} {expected}")),
        }
    }
    for expected in wrong {
        reader.mistake(NAME, None, &expected);
    }
    if says(&url, &["sslrootcert"]) && config.ssl_ca.is_none() && !says(&url, &["sslmode", "ssl"]) {
        // libpq's rule: who names the system's authorities wants them to be asked.
        config.ssl = SslMode::VerifyFull;
    }
    tell_overridden(reader, &url, &config);
    config
}

fn apply_pieces(url: &ServiceUrl, config: &mut DatabaseConfig, wrong: &mut Vec<String>) {
    if let Some(text) = &url.host {
        match host(text) {
            Ok(host) => config.host = host,
            Err(_) => wrong.push(
                "one host name or address is expected in it (is an @ : / or # of the password not percent-encoded?)"
                    .to_string(),
            ),
        }
    }
    match url.port {
        Some(0) => wrong.push("a port from 1 to 65535 is expected in it".to_string()),
        Some(port) => config.port = port,
        None => {}
    }
    for (piece, field, what) in [
        (url.user.as_deref(), &mut config.user, "user"),
        (url.path.strip_prefix('/').filter(|name| !name.is_empty()), &mut config.name, "database"),
    ] {
        match piece.map(name) {
            Some(Ok(name)) => *field = name,
            Some(Err(expected)) => wrong.push(format!("for its {what} {expected}")),
            None => {}
        }
    }
    config.password = url.password.clone().map(SecretString::from);
}

/// Applies one parameter of the URL: libpq's names, and `ssl` as Node's `pg` has it. False for one we have no use for.
fn parameter(key: &str, value: &str, config: &mut DatabaseConfig) -> Result<bool, String> {
    match key {
        "host" => config.host = host(value)?,
        "port" => config.port = whole(PORT, "a port")(value)?,
        "dbname" => config.name = name(value)?,
        "user" => config.user = name(value)?,
        "password" => config.password = Some(SecretString::from(value.to_string())),
        "sslmode" => config.ssl = url_ssl_mode(value)?,
        "sslrootcert" if value == "system" => config.ssl_ca = None,
        "sslrootcert" => config.ssl_ca = authorities(value)?,
        "ssl" => config.ssl = if super::reader::boolean(value)? { SslMode::Require } else { SslMode::Disable },
        _ => return Ok(false),
    }
    Ok(true)
}

/// Whether the URL has one of these parameters.
fn says(url: &ServiceUrl, keys: &[&str]) -> bool {
    url.params.iter().any(|(key, _)| keys.contains(&key.as_str()))
}

/// A URL overrides the whole group. Where it is silent about what the group says, that is probably not known.
fn tell_overridden(reader: &mut Reader, url: &ServiceUrl, config: &DatabaseConfig) {
    let overridden: Vec<&str> = DATABASE_GROUP.iter().copied().filter(|name| reader.is_given(name)).collect();
    if overridden.is_empty() {
        return;
    }
    let lost: Vec<&str> = overridden
        .iter()
        .copied()
        .filter(|name| match *name {
            "DB_PASSWORD" => config.password.is_none(),
            "DB_SSL" => !says(url, &["sslmode", "ssl"]),
            "DB_SSL_CA" => !says(url, &["sslrootcert"]),
            _ => false,
        })
        .collect();
    if lost.is_empty() {
        reader.info("DATABASE_URL", &format!("it overrides {}", overridden.join(", ")));
    } else {
        let text =
            format!("it overrides {} and says nothing instead: put it into the URL, or drop the URL", lost.join(", "));
        reader.warn("DATABASE_URL", &text);
    }
}
