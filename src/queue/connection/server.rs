//! One server, opened: address, TLS, login, the settings of the socket, and whether it serves.

use crate::{config::RedisConfig, queue::error::Error};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError, RedisResult,
    TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

/// What it takes to be let in, by whichever server.
#[derive(Clone)]
pub(super) struct Access {
    login: RedisConnectionInfo,
    tls: Option<TlsCertificates>,
}

impl Access {
    /// The access to Redis itself.
    pub(super) fn to_redis(config: &RedisConfig) -> Result<Access, Error> {
        let login = login(config.username.as_deref(), config.password.as_ref()).set_db(config.database);
        Ok(Access { login, tls: certificates(config)? })
    }

    /// The access to the sentinels, which have a login of their own and the same TLS.
    pub(super) fn to_sentinels(config: &RedisConfig) -> Result<Access, Error> {
        let login = login(config.sentinel_username.as_deref(), config.sentinel_password.as_ref());
        Ok(Access { login, tls: certificates(config)? })
    }

    /// A client for a host, by name or address; nothing is opened or looked up yet.
    pub(super) fn client(&self, host: &str, port: u16) -> Result<Client, Error> {
        let host = host.to_string();
        self.client_of(match self.tls {
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, port),
        })
    }

    /// A client for any kind of address.
    pub(super) fn client_of(&self, address: ConnectionAddr) -> Result<Client, Error> {
        let settings = |error: RedisError| Error::Settings(format!("the settings for Redis do not work: {error}"));
        let plain = matches!(address, ConnectionAddr::Unix(_));
        let info = address.into_connection_info().map_err(settings)?;
        let info = info.set_redis_settings(self.login.clone()).set_tcp_settings(tcp_settings());
        match &self.tls {
            Some(certificates) if !plain => Client::build_with_tls(info, certificates.clone()).map_err(settings),
            _ => Client::open(info).map_err(settings),
        }
    }
}

fn login(username: Option<&str>, password: Option<&SecretString>) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default();
    if let Some(username) = username {
        login = login.set_username(username);
    }
    if let Some(password) = password {
        login = login.set_password(password.expose_secret());
    }
    login
}

fn certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>, Error> {
    if !config.tls {
        return Ok(None);
    }
    let read = |path: &std::path::PathBuf| {
        let unreadable = |error| Error::Settings(format!("REDIS_TLS_CA={}: cannot be read: {error}", path.display()));
        std::fs::read(path).map_err(unreadable)
    };
    let root_cert = config.tls_ca.as_ref().map(read).transpose()?;
    Ok(Some(TlsCertificates { client_tls: None, root_cert }))
}

/// A peer that vanished is noticed by the kernel, too, where nothing of ours waits for an answer.
fn tcp_settings() -> TcpSettings {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5)).with_retries(3);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(Duration::from_secs(20))
}

/// Opens a socket with a fresh look-up of the name, and logs in. It has no deadline: that is the caller's.
pub(super) async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    // The deadlines are ours, per call; the library's would cut the blocked read short.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// The same, and sees that the server serves. `name` is what `CLIENT LIST` shows.
pub(super) async fn open(client: &Client, name: Option<&str>) -> RedisResult<MultiplexedConnection> {
    let mut connection = connect(client).await?;
    let mut setup = redis::pipe();
    if let Some(name) = name {
        setup.cmd("CLIENT").arg("SETNAME").arg(name);
    }
    // A server that is loading, or a replica that lost its primary, accepts connections and serves nothing.
    setup.cmd("PING");
    let answers = connection.req_packed_commands(&setup, 0, setup.len()).await?;
    // The name is for people: a login that may not set it works all the same. The PING's answer is the last.
    answers.into_iter().next_back().map_or(Ok(()), |answer| answer.extract_error().map(drop))?;
    Ok(connection)
}

/// What a server is in its replication, for a sentence: `None` if it is a primary.
pub(super) async fn other_role(connection: &mut MultiplexedConnection) -> RedisResult<Option<String>> {
    let Value::Array(parts) = redis::cmd("ROLE").query_async(connection).await? else {
        return Ok(Some("gives no role".to_string()));
    };
    let text = |index: usize| parts.get(index).and_then(|part| redis::from_redis_value_ref::<String>(part).ok());
    Ok(match text(0).as_deref() {
        Some("master") => None,
        Some("slave") => {
            let of = text(1).zip(text(2)).map(|(host, port)| format!(" of {}", super::address(&host, port)));
            Some(format!("is a replica{}", of.unwrap_or_default()))
        }
        Some("sentinel") => Some("is a sentinel".to_string()),
        other => Some(format!("has the role {other:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::tcp_settings;
    use std::time::Duration;

    #[test]
    fn a_vanished_peer_is_noticed_by_the_kernel() {
        let settings = tcp_settings();
        assert!(settings.keepalive().is_some() && settings.nodelay());
        assert_eq!(settings.user_timeout(), Some(Duration::from_secs(20)));
    }
}
