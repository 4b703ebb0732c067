//! A TCP proxy on 127.0.0.1 that breaks connections at a chosen moment: the faults a network has and a server has not.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What happens to the next chunk from the client that contains the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not delivered, and both sides see the connection end.
    CutBefore,
    /// It is delivered; the answer is not, and the client sees the connection end.
    CutAfter,
    /// It is not delivered, and nobody is told: a half-open connection.
    Swallow,
    /// It is delivered; neither the answer nor anything else passes on this connection any more, and nobody is told.
    Deafen,
    /// It is delivered, and every connection that exists now goes deaf in that way; new ones are fine.
    DeafenAll,
    /// The same, and it is not delivered.
    SwallowAll,
    /// The client sees the connection end at once; it is delivered two seconds later.
    Late,
    /// It waits, with all that follows on its connection, until [`Proxy::release`].
    Hold,
    /// It is delivered, and what follows it on its connection waits until [`Proxy::release`].
    HoldNext,
}

/// What all connections share.
struct Shared {
    traps: Mutex<Vec<(Vec<u8>, Fault)>>,
    /// When each trap was sprung, in milliseconds of the machine's clock.
    sprung: Mutex<Vec<u64>>,
    late: AtomicUsize,
    /// Connections are numbered; those below `deaf_below` are deaf.
    connections: AtomicU64,
    deaf_below: AtomicU64,
    released: watch::Sender<u64>,
}

/// The proxy; ends with its runtime.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _accept: JoinHandle<()>,
}

impl Proxy {
    /// Forwards to `target`.
    pub async fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            traps: Mutex::default(),
            sprung: Mutex::default(),
            late: AtomicUsize::default(),
            connections: AtomicU64::default(),
            deaf_below: AtomicU64::default(),
            released: watch::channel(0).0,
        });
        let inner = Arc::clone(&shared);
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = inner.connections.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&inner);
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(target).await {
                        Connection { number, client, server, shared }.forward().await;
                    }
                });
            }
        });
        Proxy { port, shared, _accept: accept }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets a trap, good for once: the next chunk from a client that contains `pattern` meets the fault.
    pub fn arm(&self, pattern: &str, fault: Fault) {
        self.shared.traps.lock().unwrap().push((pattern.as_bytes().to_vec(), fault));
    }

    /// Takes away the traps that were not sprung.
    pub fn disarm(&self) {
        self.shared.traps.lock().unwrap().clear();
    }

    /// Lets everything go on that a hold keeps waiting.
    pub fn release(&self) {
        self.shared.released.send_modify(|times| *times += 1);
    }

    /// How many chunks have been delivered late.
    pub fn delivered_late(&self) -> usize {
        self.shared.late.load(Ordering::SeqCst)
    }

    /// How many times a trap was sprung.
    pub fn sprung(&self) -> usize {
        self.shared.sprung.lock().unwrap().len()
    }

    /// When the last trap was sprung, in milliseconds of the machine's clock.
    pub fn last_sprung(&self) -> Option<u64> {
        self.shared.sprung.lock().unwrap().last().copied()
    }
}

/// One connection on its way through.
struct Connection {
    number: u64,
    client: TcpStream,
    server: TcpStream,
    shared: Arc<Shared>,
}

/// What a connection does with what it reads.
#[derive(Default)]
struct Mood {
    deaf: bool,
    /// What waits for a release, if the connection is held.
    held: Option<Vec<u8>>,
}

impl Connection {
    async fn forward(mut self) {
        let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
        let mut released = self.shared.released.subscribe();
        let mut mood = Mood::default();
        loop {
            tokio::select! {
                read = self.client.read(&mut up), if mood.held.is_none() => {
                    let Ok(length @ 1..) = read else { return };
                    if self.deliver(&up[..length], &mut mood, &mut down).await.is_none() { return }
                    released.mark_unchanged();
                }
                read = self.server.read(&mut down) => {
                    let Ok(length @ 1..) = read else { return };
                    if !self.is_deaf(&mood) && self.client.write_all(&down[..length]).await.is_err() { return }
                }
                _ = released.changed(), if mood.held.is_some() => {
                    let kept = mood.held.take().unwrap_or_default();
                    if self.server.write_all(&kept).await.is_err() { return }
                }
            }
        }
    }

    fn is_deaf(&self, mood: &Mood) -> bool {
        mood.deaf || self.number < self.shared.deaf_below.load(Ordering::SeqCst)
    }

    /// Passes a chunk on, or does what a trap says; `None` ends the connection.
    async fn deliver(&mut self, chunk: &[u8], mood: &mut Mood, answer: &mut [u8]) -> Option<()> {
        if self.is_deaf(mood) {
            return Some(());
        }
        match self.shared.spring(chunk) {
            None => self.server.write_all(chunk).await.ok()?,
            Some(Fault::CutBefore) => return None,
            Some(Fault::CutAfter) => {
                let _ = self.server.write_all(chunk).await;
                // The server answers before the client is told, so the effect is certain.
                let _ = self.server.read(answer).await;
                return None;
            }
            Some(Fault::Swallow) => mood.deaf = true,
            Some(Fault::Deafen) => {
                mood.deaf = true;
                self.server.write_all(chunk).await.ok()?;
            }
            Some(Fault::DeafenAll) => self.server.write_all(chunk).await.ok()?,
            Some(Fault::SwallowAll) => {}
            Some(Fault::Late) => {
                let _ = self.client.shutdown().await;
                tokio::time::sleep(Duration::from_secs(2)).await;
                let _ = self.server.write_all(chunk).await;
                let _ = self.server.read(answer).await;
                self.shared.late.fetch_add(1, Ordering::SeqCst);
                return None;
            }
            Some(Fault::Hold) => mood.held = Some(chunk.to_vec()),
            Some(Fault::HoldNext) => {
                mood.held = Some(Vec::new());
                self.server.write_all(chunk).await.ok()?;
            }
        }
        Some(())
    }
}

impl Shared {
    fn spring(&self, chunk: &[u8]) -> Option<Fault> {
        let mut traps = self.traps.lock().unwrap();
        let hit = traps.iter().position(|(pattern, _)| chunk.windows(pattern.len()).any(|window| window == pattern))?;
        let (_, fault) = traps.remove(hit);
        self.sprung.lock().unwrap().push(now_ms());
        if matches!(fault, Fault::DeafenAll | Fault::SwallowAll) {
            self.deaf_below.store(self.connections.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        Some(fault)
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
