//! What we tell systemd: readiness, status, watchdog, longer starts. Without systemd all of it does nothing.

use sd_notify::NotifyState;
use std::{sync::Mutex, sync::PoisonError, time::Duration};

/// The manager's socket, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    status: Mutex<String>,
}

impl Manager {
    /// Whether there is one.
    pub fn is_there() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// The start is finished.
    pub fn ready(&self, status: &str) {
        let status = &one_line(status);
        self.remember(status);
        send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The stop has begun.
    pub fn stopping(&self, status: &str) {
        let status = &one_line(status);
        self.remember(status);
        send(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// One line for `systemctl status`; the same line twice is sent once.
    pub fn status(&self, status: &str) {
        let status = &one_line(status);
        if self.remember(status) {
            send(&[NotifyState::Status(status)]);
        }
    }

    /// The start may take this much longer, counted from now.
    pub fn extend_start(&self, by: Duration) {
        send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
    }

    /// We live.
    pub fn watchdog(&self) {
        send(&[NotifyState::Watchdog]);
    }

    /// How often [`Manager::watchdog`] is expected at the latest; `None` if nobody watches.
    pub fn watchdog_period() -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }

    fn remember(&self, status: &str) -> bool {
        let mut last = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *last != status;
        if news {
            *last = status.to_string();
        }
        news
    }
}

/// The longest status, in characters: more is of no use in one line.
const LONGEST: usize = 500;

/// A line of its own in a notification is another message, and job names come from anybody.
fn one_line(status: &str) -> String {
    let mut line: String = status.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if status.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

fn send(state: &[NotifyState<'_>]) {
    // sd_notify(3): the answer is to be ignored; a manager that does not listen is no reason to stop working.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd was not told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_whatever_a_job_is_called() {
        assert_eq!(one_line("x\nWATCHDOG=trigger 7\r for 2 s"), "x WATCHDOG=trigger 7  for 2 s");
        assert_eq!(one_line(&"é".repeat(600)).chars().count(), LONGEST + 1);
    }
}
