//! Redis Sentinel: where the primary is, asked anew for each connection.
//!
//! What a sentinel names is only believed when the server itself says that it is a primary: a sentinel may be stale, and
//! what is written to a replica is lost.

use super::{
    CONNECT_DEADLINE, address,
    poll::{Address, Poll},
    server::{self, Access},
};
use crate::{
    config::RedisConfig,
    queue::error::{Error, LOGIN},
};
use futures_util::future::join_all;
use redis::{Client, aio::MultiplexedConnection};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout, timeout_at},
};

/// How long one sentinel may take to answer, connection included.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// How long others may still answer after the first, where no majority is found.
const GRACE: Duration = Duration::from_millis(200);
/// How long a connection to what a few of them name may take while there is somebody else to listen to.
const SHORT_TRY: Duration = Duration::from_millis(700);

const COMMAND: &str = "GET-MASTER-ADDR-BY-NAME";
/// Where the login to the sentinels stands, for messages.
const SENTINEL_LOGIN: &str = "REDIS_SENTINEL_USERNAME, REDIS_SENTINEL_PASSWORD and the sentinels' ACL";

/// Those who know where the primary is.
pub(super) struct Sentinels {
    sentinels: Vec<Sentinel>,
    access: Access,
    master: String,
    place: String,
    /// Whose word led to the primary the last time.
    favourite: AtomicUsize,
}

#[derive(Clone)]
struct Sentinel {
    client: Client,
    place: String,
}

impl Sentinels {
    /// Those of the configuration; nobody is asked yet.
    pub(super) fn new(config: &RedisConfig, sentinels: &[(String, u16)], master: &str) -> Result<Sentinels, Error> {
        let access = Access::to_sentinels(config)?;
        let named: Vec<String> = sentinels.iter().map(|(host, port)| address(host, port)).collect();
        let sentinel = |(host, port): &(String, u16)| {
            let place = format!("sentinel {}", address(host, port));
            access.client(host, *port).map(|client| Sentinel { client, place })
        };
        Ok(Sentinels {
            sentinels: sentinels.iter().map(sentinel).collect::<Result<_, _>>()?,
            access: Access::to_redis(config)?,
            master: master.to_string(),
            place: format!("Redis primary \"{master}\" (sentinels {})", named.join(", ")),
            favourite: AtomicUsize::new(0),
        })
    }

    /// The primary and who watches it, for messages.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// The same, with where it is.
    pub(super) fn place_at(&self, address: &str) -> String {
        format!("{} at {address}", self.place)
    }

    /// Asks all sentinels and connects to the primary, within [`CONNECT_DEADLINE`].
    pub(super) async fn open(&self, name: Option<&str>) -> Result<(MultiplexedConnection, String), Error> {
        let end = Instant::now() + CONNECT_DEADLINE;
        let mut asking = self.ask_all();
        let mut poll = Poll::new(self.sentinels.len());
        let (mut tried, mut failures) = (Vec::new(), Vec::new());
        loop {
            self.gather(&mut asking, &mut poll, &tried, end).await;
            let Some(candidate) = poll.leader(&tried, self.favourite.load(Ordering::Relaxed)).cloned() else {
                return Err(self.not_found(&poll, &failures));
            };
            let only = poll.is_complete() && !poll.has_other(&tried, &candidate);
            let last = only || poll.majority() == Some(&candidate);
            let limit = if last { end } else { end.min(Instant::now() + SHORT_TRY) };
            let place = address(&candidate.0, candidate.1);
            let opened = timeout_at(limit, self.open_primary(&candidate, name)).await;
            match opened.unwrap_or_else(|_| Err(Error::unavailable(&place, "did not accept a connection in time"))) {
                Ok(connection) => {
                    self.favourite.store(poll.voter(&candidate).unwrap_or_default(), Ordering::Relaxed);
                    return Ok((connection, place));
                }
                Err(error) => failures.push((place, error)),
            }
            tried.push(candidate);
        }
    }

    /// Collects answers until it is clear what to try next: a majority, all answers, or the end of the grace.
    async fn gather(
        &self,
        asking: &mut JoinSet<(usize, Result<Address, Error>)>,
        poll: &mut Poll,
        tried: &[Address],
        end: Instant,
    ) {
        let mut until = end;
        loop {
            if poll.majority().is_some_and(|address| !tried.contains(address)) {
                return;
            }
            if poll.leader(tried, 0).is_some() {
                until = until.min(Instant::now() + GRACE);
            }
            tokio::select! {
                answer = asking.join_next() => match answer {
                    Some(Ok((sentinel, answer))) => poll.record(sentinel, answer),
                    // A task that ended otherwise has no answer to give.
                    Some(Err(_)) => {}
                    None => return,
                },
                () = sleep_until(until) => return,
            }
        }
    }

    /// Asks each in a task of its own: they go on answering while one of the answers is tried.
    fn ask_all(&self) -> JoinSet<(usize, Result<Address, Error>)> {
        let mut asking = JoinSet::new();
        for (index, sentinel) in self.sentinels.iter().cloned().enumerate() {
            let master = self.master.clone();
            asking.spawn(async move { (index, sentinel.ask(&mut None, &master).await) });
        }
        asking
    }

    /// Opens a connection to what should be the primary, and believes it only if the server says so.
    async fn open_primary(&self, (host, port): &Address, name: Option<&str>) -> Result<MultiplexedConnection, Error> {
        let place = address(host, port);
        let client = self.access.client(host, *port)?;
        let failed = |error: redis::RedisError| Error::from_redis(&place, "connect", &error);
        let mut connection = server::open(&client, name).await.map_err(failed)?;
        let role = server::other_role(&mut connection).await;
        match role.map_err(|error| Error::from_redis(&place, "ROLE", &error))? {
            None => Ok(connection),
            Some(role) => Err(Error::unavailable(&place, format!("{role} and not the primary"))),
        }
    }

    /// Why there is no connection. A refused login is one that waiting does not heal only where nobody was left to ask.
    fn not_found(&self, poll: &Poll, servers: &[(String, Error)]) -> Error {
        let rejected = |error: &Error| matches!(error, Error::Rejected { .. } | Error::Forbidden { .. });
        if let Some((at, error)) = servers.first()
            && servers.iter().all(|(_, error)| rejected(error))
        {
            return Error::Rejected { place: self.place_at(at), what: what(error), check: LOGIN };
        }
        let silent: Vec<_> = poll.failures().collect();
        if silent.len() == self.sentinels.len() && silent.iter().all(|(_, error)| rejected(error)) {
            let reasons: Vec<_> = silent.iter().map(|(index, error)| self.reason(*index, error)).collect();
            return Error::Rejected { place: self.place.clone(), what: reasons.join("; "), check: SENTINEL_LOGIN };
        }
        let servers = servers.iter().map(|(at, error)| format!("{at} {}", what(error)));
        let mut reasons: Vec<_> =
            servers.chain(silent.iter().map(|(index, error)| self.reason(*index, error))).collect();
        if reasons.is_empty() {
            reasons.push("no sentinel answered in time".to_string());
        }
        Error::unavailable(&self.place, format!("was not found: {}", reasons.join("; ")))
    }

    fn reason(&self, sentinel: usize, error: &Error) -> String {
        let place = self.sentinels.get(sentinel).map_or("a sentinel", |sentinel| sentinel.place.as_str());
        format!("{place} {}", what(error))
    }
}

impl Sentinel {
    /// Asks over `kept`, or over a new connection, which is kept there.
    async fn ask(&self, kept: &mut Option<MultiplexedConnection>, master: &str) -> Result<Address, Error> {
        let failed = |command: &str, error: redis::RedisError| Error::from_redis(&self.place, command, &error);
        let before = kept.take();
        let question = async {
            let mut connection = match before {
                Some(connection) => connection,
                None => server::connect(&self.client).await.map_err(|error| failed("connect", error))?,
            };
            let mut command = redis::cmd("SENTINEL");
            command.arg(COMMAND).arg(master);
            let named: Option<Address> =
                command.query_async(&mut connection).await.map_err(|error| failed(COMMAND, error))?;
            Ok((connection, named))
        };
        match timeout(ASK_DEADLINE, question).await {
            Ok(Ok((connection, named))) => {
                *kept = Some(connection);
                named.ok_or_else(|| Error::unavailable(&self.place, format!("knows no primary {master:?}")))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::timeout(&self.place, COMMAND, ASK_DEADLINE)),
        }
    }
}

/// A look at the sentinels from time to time, over connections that are kept.
pub(super) struct Lookout<'a> {
    sentinels: &'a Sentinels,
    kept: Vec<Option<MultiplexedConnection>>,
}

impl<'a> Lookout<'a> {
    pub(super) fn new(sentinels: &'a Sentinels) -> Lookout<'a> {
        Lookout { sentinels, kept: sentinels.sentinels.iter().map(|_| None).collect() }
    }

    /// Whether the primary is another one now: more than half of all sentinels say so, and that one agrees. A
    /// connection that works is not given up for less.
    pub(super) async fn other_than(&mut self, present: &str) -> Option<String> {
        let all = &self.sentinels.sentinels;
        let master = &self.sentinels.master;
        let asking = all.iter().zip(&mut self.kept).map(|(sentinel, kept)| sentinel.ask(kept, master));
        let mut poll = Poll::new(all.len());
        for (index, answer) in join_all(asking).await.into_iter().enumerate() {
            poll.record(index, answer);
        }
        let named = poll.majority()?;
        let place = address(&named.0, named.1);
        if place == present {
            return None;
        }
        let opened = timeout(CONNECT_DEADLINE, self.sentinels.open_primary(named, None)).await;
        matches!(opened, Ok(Ok(_))).then_some(place)
    }
}

/// The half of an error's sentence that says what happened.
fn what(error: &Error) -> String {
    match error {
        Error::Unavailable { what, .. } => what.clone(),
        Error::Rejected { what, .. } => format!("refuses us: {what}"),
        Error::Forbidden { command, what, .. } => format!("refuses {command}: {what}"),
        Error::Answer { command, what } => format!("answered {command} with: {what}"),
        Error::Settings(what) => what.clone(),
    }
}
