//! Redis' group of variables, and `REDIS_URL`, which overrides them. Sentinels have a file of their own.

use super::{
    reader::{Reader, authorities, boolean, host_name, plain, quoted, whole},
    sentinels,
    table::REDIS_GROUP,
    types::{RedisConfig, RedisEndpoint},
    url::{self, ServiceUrl},
};
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;

pub(super) const PORT: std::ops::RangeInclusive<u16> = 1..=u16::MAX;
const DEFAULT_PORT: u16 = 6379;
const DATABASES: std::ops::RangeInclusive<i64> = 0..=65_535;
pub(super) const LONGEST_USER: usize = 255;

pub(super) fn read(reader: &mut Reader) -> RedisConfig {
    let mut config = if reader.is_given("REDIS_URL") {
        let url = reader.secret("REDIS_URL");
        url.map_or_else(defaults, |url| from_url(reader, &url))
    } else {
        from_variables(reader)
    };
    sentinels::read(reader, &mut config);
    config.tls_ca = reader.checked("REDIS_TLS_CA", None, authorities);
    if config.tls_ca.is_some() && !config.tls {
        reader
            .warn("REDIS_TLS_CA", "not used, because TLS is off (REDIS_TLS=true, or a URL that begins with rediss://)");
    }
    config
}

fn defaults() -> RedisConfig {
    RedisConfig {
        endpoint: RedisEndpoint::Tcp { host: "localhost".to_string(), port: DEFAULT_PORT },
        username: None,
        password: None,
        database: 0,
        sentinel_username: None,
        sentinel_password: None,
        tls: false,
        tls_ca: None,
    }
}

fn from_variables(reader: &mut Reader) -> RedisConfig {
    let config = RedisConfig {
        endpoint: tcp_endpoint(reader),
        username: reader.checked("REDIS_USERNAME", None, |text| plain(LONGEST_USER, "a user name")(text).map(Some)),
        password: reader.secret("REDIS_PASSWORD"),
        database: reader.checked("REDIS_DB", 0, whole(DATABASES, "a database number")),
        tls: reader.checked("REDIS_TLS", false, boolean),
        ..defaults()
    };
    if config.username.is_some() && config.password.is_none() {
        reader.warn("REDIS_USERNAME", "not used, because there is no REDIS_PASSWORD");
    }
    config
}

/// The one server, where no sentinels are asked: beside those its variables say nothing, and are not checked.
fn tcp_endpoint(reader: &mut Reader) -> RedisEndpoint {
    if reader.is_given("REDIS_SENTINELS") {
        for name in ["REDIS_HOST", "REDIS_PORT"].into_iter().filter(|name| reader.is_given(name)).collect::<Vec<_>>() {
            reader.info(name, "not used, because REDIS_SENTINELS is given: the sentinels say where the primary is");
        }
        return defaults().endpoint;
    }
    let host = reader.checked("REDIS_HOST", "localhost".to_string(), |text| {
        let socket = |reason| format!("{reason}; a Unix socket is REDIS_URL=unix:///path");
        host_name(text).map_err(socket)
    });
    let port = reader.checked("REDIS_PORT", DEFAULT_PORT, whole(PORT, "a port"));
    RedisEndpoint::Tcp { host, port }
}

/// Mistakes name the parameter at most: the URL as a whole is a secret.
fn from_url(reader: &mut Reader, text: &SecretString) -> RedisConfig {
    const NAME: &str = "REDIS_URL";
    let url = match url::parse(text.expose_secret().trim()) {
        Ok(url) => url,
        Err(reason) => {
            reader.mistake(NAME, None, &format!("redis://user:password@host:port/db is expected, but {reason}"));
            return defaults();
        }
    };
    let mut config = defaults();
    config.username.clone_from(&url.user);
    config.password = url.password.clone().map(SecretString::from);
    let mut wrong = match url.scheme.as_str() {
        "redis" | "rediss" => tcp_pieces(&url, &mut config),
        "unix" | "redis+unix" => unix_pieces(&url, &mut config),
        _ => vec!["a URL that begins with redis://, rediss:// or unix:// is expected".to_string()],
    };
    for (key, value) in &url.params {
        match key.as_str() {
            "db" => match whole(DATABASES, "a database number")(value) {
                Ok(number) => config.database = number,
                Err(expected) => wrong.push(format!("for its parameter db {expected}")),
            },
            "user" | "username" => config.username = Some(value.clone()),
            "pass" | "password" => config.password = Some(SecretString::from(value.clone())),
            _ => reader.info(NAME, &format!("the worker does not use its parameter {}", quoted(key))),
        }
    }
    for expected in wrong {
        reader.mistake(NAME, None, &expected);
    }
    tell_overridden(reader, &config);
    config
}

fn tcp_pieces(url: &ServiceUrl, config: &mut RedisConfig) -> Vec<String> {
    let mut wrong = Vec::new();
    config.tls = url.scheme == "rediss";
    let host = match url.host.as_deref().map(host_name) {
        Some(Ok(host)) => host,
        Some(Err(_)) => {
            wrong.push(
                "one host name or address is expected in it (is a character of the password not percent-encoded?)"
                    .to_string(),
            );
            "localhost".to_string()
        }
        None => "localhost".to_string(),
    };
    if url.port == Some(0) {
        wrong.push("a port from 1 to 65535 is expected in it".to_string());
    }
    config.endpoint = RedisEndpoint::Tcp { host, port: url.port.unwrap_or(DEFAULT_PORT) };
    let path = url.path.trim_start_matches('/');
    if !path.is_empty() {
        match whole(DATABASES, "a database number")(path) {
            Ok(number) => config.database = number,
            Err(expected) => wrong.push(format!("for its path {expected}")),
        }
    }
    wrong
}

fn unix_pieces(url: &ServiceUrl, config: &mut RedisConfig) -> Vec<String> {
    config.endpoint = RedisEndpoint::Unix(PathBuf::from(&url.path));
    if url.host.is_some() || url.port.is_some() || url.path.len() < 2 {
        return vec!["the absolute path of a socket is expected: unix:///run/redis/redis.sock".to_string()];
    }
    Vec::new()
}

/// A URL overrides the whole group. A password outside it is probably not known to be without effect.
fn tell_overridden(reader: &mut Reader, config: &RedisConfig) {
    let overridden: Vec<&str> = REDIS_GROUP.iter().copied().filter(|name| reader.is_given(name)).collect();
    if overridden.contains(&"REDIS_PASSWORD") && config.password.is_none() {
        let text = "it overrides REDIS_PASSWORD and has none itself: put it into the URL, or drop the URL";
        reader.warn("REDIS_URL", text);
    } else if !overridden.is_empty() {
        reader.info("REDIS_URL", &format!("it overrides {}", overridden.join(", ")));
    }
}
