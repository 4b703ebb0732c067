//! Connections to Redis that never go silent: every call has a deadline, and past it the socket is dropped and rebuilt
//! with a fresh look-up of the name.
//!
//! A [`Link`] is one such connection with one purpose (commands, the blocked read, lock renewal). Links of one process
//! share a [`Fate`]: when one of them times out, the others are rebuilt too, because a half-open path is seldom alone.

use super::error::Error;
use crate::config::{RedisConfig, RedisEndpoint};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo,
    TlsCertificates,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use secrecy::ExposeSecret;
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// How long a connection may take, look-up and handshake included, and how long a fetch may take.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// How long any other command may take. A worker with one job at a time meets a half-open connection in the finish, and
/// has to fetch again within 5 s: so it is shorter than that, with time left for the second try.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(3);

/// A counter that all links of a process share; raising it condemns every connection made before.
#[derive(Debug, Clone, Default)]
pub struct Fate(Arc<AtomicU64>);

impl Fate {
    fn current(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn condemn(&self, generation: u64) {
        #[cfg(feature = "test-jobs")]
        if crate::switches::off("reconnect") {
            return;
        }
        // Only the first of many timeouts of one generation counts.
        let _ = self.0.compare_exchange(generation, generation + 1, Ordering::AcqRel, Ordering::Acquire);
    }
}

struct Live {
    connection: MultiplexedConnection,
    generation: u64,
    serial: u64,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    serial: u64,
    failed: Option<(Instant, String, bool)>,
}

/// One self-healing connection.
pub struct Link {
    client: Client,
    place: String,
    name: Option<String>,
    fate: Fate,
    state: Mutex<State>,
}

impl Link {
    /// A link to the configured server; nothing is opened yet. `name` is what `CLIENT LIST` shows.
    pub fn new(config: &RedisConfig, fate: Fate, name: Option<String>) -> Result<Self, Error> {
        Ok(Link { client: client(config)?, place: place(config), name, fate, state: Mutex::default() })
    }

    /// Host and port, or socket, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Sends one command and reads its answer.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd, name: &str, deadline: Duration) -> Result<T, Error> {
        self.with(name, deadline, async |mut connection: MultiplexedConnection| {
            command.query_async(&mut connection).await
        })
        .await
    }

    /// Runs `work` over the connection, opened first if need be, within the deadline.
    pub async fn with<T, F>(
        &self,
        name: &str,
        deadline: Duration,
        work: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = redis::RedisResult<T>>,
    {
        let (connection, generation, serial) = self.connection().await?;
        #[cfg(feature = "test-jobs")]
        let deadline = if crate::switches::off("deadlines") { Duration::from_secs(3600) } else { deadline };
        match tokio::time::timeout(deadline, work(connection)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let error = Error::from_redis(&self.place, name, &error);
                if error.is_unavailable() {
                    self.drop_connection(serial).await;
                }
                Err(error)
            }
            Err(_) => {
                self.fate.condemn(generation);
                self.drop_connection(serial).await;
                Err(Error::timeout(&self.place, name, deadline))
            }
        }
    }

    /// Closes the connection, if one is open.
    pub async fn close(&self) {
        self.state.lock().await.live = None;
    }

    async fn drop_connection(&self, serial: u64) {
        #[cfg(feature = "test-jobs")]
        if crate::switches::off("reconnect") {
            return;
        }
        let mut state = self.state.lock().await;
        if state.live.as_ref().is_some_and(|live| live.serial == serial) {
            state.live = None;
        }
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64, u64), Error> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        let generation = self.fate.current();
        if let Some(live) = &state.live {
            if live.generation == generation {
                return Ok((live.connection.clone(), generation, live.serial));
            }
            state.live = None;
        }
        // Whoever queued behind a failed attempt shares its answer instead of waiting for one of its own.
        if let Some((when, what, fatal)) = &state.failed
            && *when > asked
        {
            return Err(self.failure(what.clone(), *fatal));
        }
        match tokio::time::timeout(CONNECT_DEADLINE, self.open()).await {
            Ok(Ok(connection)) => {
                state.serial += 1;
                state.failed = None;
                let serial = state.serial;
                state.live = Some(Live { connection: connection.clone(), generation, serial });
                Ok((connection, generation, serial))
            }
            Ok(Err(error)) => {
                let error = Error::from_redis(&self.place, "connect", &error);
                let (what, fatal) = match error {
                    Error::Rejected { what, .. } => (what, true),
                    Error::Unavailable { what, .. } | Error::Answer { what, .. } | Error::Settings(what) => {
                        (what, false)
                    }
                };
                state.failed = Some((Instant::now(), what.clone(), fatal));
                Err(self.failure(what, fatal))
            }
            Err(_) => {
                let what = format!("did not accept a connection within {} s", CONNECT_DEADLINE.as_secs());
                state.failed = Some((Instant::now(), what.clone(), false));
                Err(self.failure(what, false))
            }
        }
    }

    fn failure(&self, what: String, fatal: bool) -> Error {
        let place = self.place.clone();
        if fatal { Error::Rejected { place, what } } else { Error::Unavailable { place, what } }
    }

    async fn open(&self) -> redis::RedisResult<MultiplexedConnection> {
        // The deadlines are ours, per call; the library's would cut the blocked read short.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut setup = redis::pipe();
        if let Some(name) = &self.name {
            setup.cmd("CLIENT").arg("SETNAME").arg(name).ignore();
        }
        // A server that is loading, or a replica that lost its primary, accepts connections and serves nothing.
        setup.cmd("PING").ignore();
        connection.req_packed_commands(&setup, 0, setup.len()).await.and_then(|answers| {
            answers.into_iter().find_map(|answer| answer.extract_error().err()).map_or(Ok(()), Err)
        })?;
        Ok(connection)
    }
}

fn place(config: &RedisConfig) -> String {
    match &config.endpoint {
        RedisEndpoint::Tcp { host, port } => format!("{host}:{port}"),
        RedisEndpoint::Unix(path) => path.display().to_string(),
    }
}

fn client(config: &RedisConfig) -> Result<Client, Error> {
    let settings = |error: redis::RedisError| Error::Settings(format!("the settings for Redis do not work: {error}"));
    let mut redis = RedisConnectionInfo::default().set_db(config.database);
    if let Some(username) = &config.username {
        redis = redis.set_username(username);
    }
    if let Some(password) = &config.password {
        redis = redis.set_password(password.expose_secret());
    }
    let address = match &config.endpoint {
        RedisEndpoint::Unix(path) => ConnectionAddr::Unix(path.clone()),
        RedisEndpoint::Tcp { host, port } if config.tls => {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
        }
        RedisEndpoint::Tcp { host, port } => ConnectionAddr::Tcp(host.clone(), *port),
    };
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5)).with_retries(3);
    let tcp =
        TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(Duration::from_secs(20));
    let info = address.into_connection_info().map_err(settings)?.set_redis_settings(redis).set_tcp_settings(tcp);
    if !config.tls {
        return Client::open(info).map_err(settings);
    }
    let root_cert =
        match &config.tls_ca {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|error| {
                Error::Settings(format!("REDIS_TLS_CA={}: cannot be read: {error}", path.display()))
            })?),
        };
    Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert }).map_err(settings)
}

/// Waiting times between attempts: 50 ms to 1 s, doubling, with jitter so that a fleet does not return in step.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// The next waiting time.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = (50u64 << self.0.min(5)).min(1000);
        self.0 += 1;
        Duration::from_millis(rand::random_range(ceiling / 2..=ceiling))
    }

    /// Whether an attempt failed since the last reset.
    pub fn is_raised(&self) -> bool {
        self.0 > 0
    }

    /// Starts again from the shortest.
    pub fn reset(&mut self) {
        self.0 = 0;
    }
}
