//! A TCP proxy on 127.0.0.1 that breaks connections at a chosen moment: the faults a network has and a server has not.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
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
    /// It is delivered; the answer is not, and nobody is told.
    Mute,
    /// The client sees the connection end at once; it is delivered two seconds later.
    Late,
}

type Trap = Arc<Mutex<Option<(Vec<u8>, Fault)>>>;

/// The proxy; ends with its runtime.
pub struct Proxy {
    port: u16,
    trap: Trap,
    sprung: Arc<AtomicUsize>,
    late: Arc<AtomicUsize>,
    _accept: JoinHandle<()>,
}

impl Proxy {
    /// Forwards to `target`.
    pub async fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let trap = Trap::default();
        let sprung = Arc::new(AtomicUsize::new(0));
        let late = Arc::default();
        let (inner_trap, inner_sprung, inner_late) = (Arc::clone(&trap), Arc::clone(&sprung), Arc::clone(&late));
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (trap, sprung, late) =
                    (Arc::clone(&inner_trap), Arc::clone(&inner_sprung), Arc::clone(&inner_late));
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(target).await {
                        forward(client, server, trap, sprung, late).await;
                    }
                });
            }
        });
        Proxy { port, trap, sprung, late, _accept: accept }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Arms it, once: the next chunk from a client that contains `pattern` meets the fault.
    pub fn arm(&self, pattern: &str, fault: Fault) {
        *self.trap.lock().unwrap() = Some((pattern.as_bytes().to_vec(), fault));
    }

    /// How many chunks have been delivered late.
    pub fn delivered_late(&self) -> usize {
        self.late.load(Ordering::SeqCst)
    }

    /// How many times it was sprung.
    pub fn sprung(&self) -> usize {
        self.sprung.load(Ordering::SeqCst)
    }
}

async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    trap: Trap,
    sprung: Arc<AtomicUsize>,
    late: Arc<AtomicUsize>,
) {
    let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
    let (mut deaf, mut mute) = (false, false);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(length @ 1..) = read else { return };
                let chunk = &up[..length];
                match spring(&trap, chunk) {
                    Some(fault) => {
                        sprung.fetch_add(1, Ordering::SeqCst);
                        match fault {
                            Fault::CutBefore => return,
                            Fault::CutAfter => {
                                let _ = server.write_all(chunk).await;
                                // The server answers before the client is told, so the effect is certain.
                                let _ = server.read(&mut down).await;
                                return;
                            }
                            Fault::Swallow => deaf = true,
                            Fault::Mute => {
                                mute = true;
                                if server.write_all(chunk).await.is_err() { return }
                            }
                            Fault::Late => {
                                drop(client);
                                tokio::time::sleep(Duration::from_secs(2)).await;
                                let _ = server.write_all(chunk).await;
                                let _ = server.read(&mut down).await;
                                late.fetch_add(1, Ordering::SeqCst);
                                return;
                            }
                        }
                    }
                    None if deaf => {}
                    None => if server.write_all(chunk).await.is_err() { return },
                }
            }
            read = server.read(&mut down) => {
                let Ok(length @ 1..) = read else { return };
                if !deaf && !mute && client.write_all(&down[..length]).await.is_err() { return }
            }
        }
    }
}

fn spring(trap: &Trap, chunk: &[u8]) -> Option<Fault> {
    let mut trap = trap.lock().unwrap();
    let (pattern, _) = trap.as_ref()?;
    let hit = chunk.windows(pattern.len()).any(|window| window == pattern);
    if hit { trap.take().map(|(_, fault)| fault) } else { None }
}
