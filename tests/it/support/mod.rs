//! What the tests start and talk to (throw-away servers, Node peers, the daemon itself), and waiting with a deadline
//! instead of sleeping for luck.

#![allow(dead_code, reason = "not every test module uses every helper")]

pub mod child;
pub mod crew;
pub mod fleet;
pub mod http;
pub mod load;
pub mod node;
pub mod peer;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod runs;
pub mod sentinel;
pub mod smtp;
pub mod worker;

#[allow(unused_imports, reason = "the modules that need it are built with the feature test-jobs")]
pub use fleet::Fleet;
pub use postgres::PostgresServer;
pub use redis::RedisServer;

use std::{
    fmt::Debug,
    future::Future,
    net::TcpListener,
    time::{Duration, Instant},
};

/// A TCP port on 127.0.0.1 that nobody listens on. Another process may take it in between: who binds it retries.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Asks `probe` every 10 ms until it answers `Some`; panics with `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The same for asynchronous probes.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Fails unless `future` ends within `limit`; says what was awaited.
pub async fn within<T: Debug>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}
