//! Connections to Redis that never go silent: every call has a deadline, and past it the socket is dropped and rebuilt
//! with a fresh look-up of the name, or a fresh question to the sentinels.
//!
//! A [`Link`] is one such connection with one purpose (commands, the blocked read, lock renewal). Links of one process
//! share a [`Fate`]: when one of them times out, or hears that its server is no primary, the others are rebuilt too,
//! because a half-open path is seldom alone.

mod backoff;
mod fate;
mod poll;
mod sentinel;
mod server;

pub use backoff::Backoff;
pub use fate::Fate;

use super::error::Error;
use crate::{
    config::{RedisConfig, RedisEndpoint},
    events,
};
use redis::{Client, Cmd, ConnectionAddr, FromRedisValue, aio::MultiplexedConnection};
use sentinel::{Lookout, Sentinels};
use server::Access;
use std::{
    fmt::Display,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// How long a connection may take, look-up and handshake included, and how long a fetch may take.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// How long any other command may take. A worker with one job at a time meets a half-open connection in the finish, and
/// has to fetch again within 5 s: so it is shorter than that, with time left for the second try.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(3);
/// How often the sentinels are asked whether the primary is still the one that we are connected to: a primary that was
/// replaced while it was alive is told so only after many seconds, and takes writes until then that are lost.
const LOOKOUT_PERIOD: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Live {
    connection: MultiplexedConnection,
    generation: u64,
    serial: u64,
    /// Which server it is, for messages.
    place: Arc<str>,
    /// Where the primary is, if sentinels said it.
    primary: Option<Arc<str>>,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    serial: u64,
    failed: Option<(Instant, Error)>,
}

/// How long calls under way may still wait for their answers when the connections of the process are condemned.
const GRACE: Duration = Duration::from_millis(250);

/// What a link connects to.
enum Target {
    Server { client: Box<Client>, place: String },
    Primary(Box<Sentinels>),
}

/// One self-healing connection.
pub struct Link {
    target: Target,
    name: Option<String>,
    fate: Fate,
    state: Mutex<State>,
}

impl Link {
    /// A link to the configured server; nothing is opened yet. `name` is what `CLIENT LIST` shows.
    pub fn new(config: &RedisConfig, fate: Fate, name: Option<String>) -> Result<Self, Error> {
        let server = |address: ConnectionAddr, place: String| {
            let client = Box::new(Access::to_redis(config)?.client_of(address)?);
            Ok(Target::Server { client, place: format!("Redis at {place}") })
        };
        let target = match &config.endpoint {
            RedisEndpoint::Unix(path) => server(ConnectionAddr::Unix(path.clone()), path.display().to_string())?,
            RedisEndpoint::Tcp { host, port } => {
                let client = Box::new(Access::to_redis(config)?.client(host, *port)?);
                Target::Server { client, place: format!("Redis at {}", address(host, port)) }
            }
            RedisEndpoint::Sentinels { sentinels, master } => {
                Target::Primary(Box::new(Sentinels::new(config, sentinels, master)?))
            }
        };
        Ok(Link { target, name, fate, state: Mutex::default() })
    }

    /// Which server this is, for messages: host and port, or socket, or the primary and its sentinels.
    pub fn place(&self) -> &str {
        match &self.target {
            Target::Server { place, .. } => place,
            Target::Primary(sentinels) => sentinels.place(),
        }
    }

    /// Sends one command and reads its answer.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd, name: &str, deadline: Duration) -> Result<T, Error> {
        self.with(name, deadline, async |mut connection: MultiplexedConnection| {
            command.query_async(&mut connection).await
        })
        .await
    }

    /// The same for a read that only waits: it is given up as soon as the connections of this process are condemned.
    pub async fn wait<T: FromRedisValue>(&self, command: &Cmd, name: &str, deadline: Duration) -> Result<T, Error> {
        let condemned = self.fate.condemned();
        tokio::select! {
            biased;
            answer = self.query(command, name, deadline) => answer,
            () = condemned => {
                self.close().await;
                Err(Error::unavailable(self.place(), format!("was left, and {name} with it: it is connected to anew")))
            }
        }
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
        let Live { connection, generation, serial, place, .. } = self.connection().await?;
        #[cfg(feature = "test-jobs")]
        let deadline = if crate::switches::off("deadlines") { Duration::from_secs(3600) } else { deadline };
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout(deadline, work(connection)) => answer,
            // Another call found the connections dead: this one's answer is on its way, or never comes.
            () = async { self.fate.left(generation).await; tokio::time::sleep(GRACE).await } => {
                self.drop_connection(serial).await;
                return Err(Error::unavailable(&place, format!("was left, and {name} with it: it is connected to anew")));
            }
        };
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if Error::denies_primary(&error) && self.fate.condemn(generation) {
                    tracing::debug!("{place} answered {name} with {error}: all connections are rebuilt");
                }
                let error = Error::from_redis(&place, name, &error);
                if error.is_unavailable() {
                    self.drop_connection(serial).await;
                }
                Err(error)
            }
            Err(_) => {
                self.fate.condemn(generation);
                self.drop_connection(serial).await;
                Err(Error::timeout(&place, name, deadline))
            }
        }
    }

    /// Closes the connection, if one is open.
    pub async fn close(&self) {
        self.state.lock().await.live = None;
    }

    /// Asks the sentinels from time to time whether the primary is another one now, and condemns the connections of this
    /// process if so. Ends at once where there are no sentinels, and never where there are.
    pub async fn follow_primary(&self) {
        let Target::Primary(sentinels) = &self.target else { return };
        let mut lookout = Lookout::new(sentinels);
        loop {
            tokio::time::sleep(LOOKOUT_PERIOD.mul_f64(rand::random_range(0.75..=1.0))).await;
            let live = self.state.lock().await.live.as_ref().map(|live| (live.generation, live.primary.clone()));
            // Where no connection is open, the next one is made after asking.
            let Some((generation, Some(present))) = live else { continue };
            if let Some(other) = lookout.other_than(&present).await
                && self.fate.condemn(generation)
            {
                tracing::debug!("{} is at {other} now: the connections to {present} are left", self.place());
            }
        }
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

    async fn connection(&self) -> Result<Live, Error> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        let generation = self.fate.current();
        if let Some(live) = &state.live {
            if live.generation == generation {
                return Ok(live.clone());
            }
            state.live = None;
        }
        // Whoever queued behind a failed attempt shares its answer instead of waiting for one of its own.
        if let Some((when, error)) = &state.failed
            && *when > asked
        {
            return Err(error.clone());
        }
        match self.open().await {
            Ok((connection, primary)) => {
                state.serial += 1;
                state.failed = None;
                let place = match (&self.target, &primary) {
                    (Target::Primary(sentinels), Some(primary)) => sentinels.place_at(primary),
                    _ => self.place().to_string(),
                };
                let live = Live { connection, generation, serial: state.serial, place: place.into(), primary };
                state.live = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// A new connection, and where the primary is if sentinels said so.
    async fn open(&self) -> Result<(MultiplexedConnection, Option<Arc<str>>), Error> {
        match &self.target {
            Target::Server { client, place } => {
                let opened = tokio::time::timeout(CONNECT_DEADLINE, server::open(client, self.name.as_deref())).await;
                match opened {
                    Ok(Ok(connection)) => Ok((connection, None)),
                    Ok(Err(error)) => Err(match Error::from_redis(place, "connect", &error) {
                        // Whatever it answers to a greeting, it does not serve.
                        Error::Answer { what, .. } => Error::unavailable(place, format!("does not serve: {what}")),
                        other => other,
                    }),
                    Err(_) => {
                        let seconds = CONNECT_DEADLINE.as_secs();
                        Err(Error::unavailable(place, format!("did not accept a connection within {seconds} s")))
                    }
                }
            }
            Target::Primary(sentinels) => {
                let (connection, primary) = sentinels.open(self.name.as_deref()).await?;
                if let Some(before) = self.fate.connected_to(&primary) {
                    tracing::warn!(
                        message_id = events::PRIMARY_CHANGED,
                        "{} is at {primary} now; it was at {before}",
                        sentinels.place()
                    );
                }
                Ok((connection, Some(primary.into())))
            }
        }
    }
}

/// Host and port as people write them.
fn address(host: &str, port: impl Display) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
