//! SIGTERM and SIGINT, counted: the first drains, the second hands back now, the third ends.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that stop us, and the one that stops us only where a terminal sent it.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    managed: bool,
}

impl Signals {
    /// From now on they are ours. `managed`: systemd looks after this process.
    pub fn new(managed: bool) -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            managed,
        })
    }

    /// Waits for the next one; its name.
    pub async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hang_up.recv() => {
                    // A terminal that was closed ends its programs. Nothing else has a reason to send it: by default the
                    // process would die without a drain, and systemd would call that a clean end.
                    if !self.managed {
                        return "SIGHUP";
                    }
                    tracing::warn!("SIGHUP: there is nothing to reload; settings are read at start, so restart the worker");
                }
            }
        }
    }
}
