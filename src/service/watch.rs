//! The watchdog's ping and the status line, from what the loops really did.

use super::{status, systemd::Manager};
use crate::queue::{lease::Leases, pulse::Pulse};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often the status line may change.
const STATUS_PERIOD: Duration = Duration::from_secs(2);

/// What is watched.
pub struct Watch {
    manager: Arc<Manager>,
    pulse: Arc<Pulse>,
    leases: Arc<Leases>,
    draining: CancellationToken,
}

impl Watch {
    /// Over the fetch loop (which `draining` ends) and the renewal thread.
    pub fn new(
        manager: &Arc<Manager>,
        pulse: &Arc<Pulse>,
        leases: &Arc<Leases>,
        draining: &CancellationToken,
    ) -> Watch {
        Watch {
            manager: Arc::clone(manager),
            pulse: Arc::clone(pulse),
            leases: Arc::clone(leases),
            draining: draining.clone(),
        }
    }

    /// Pings and tells for ever. The ping is sent only if the fetch loop and the renewal thread have both turned since
    /// the last one: a hung loop is to be killed, a patient one is not.
    pub async fn run(&self) {
        let period = Manager::watchdog_period().map_or(STATUS_PERIOD, |limit| (limit / 3).min(STATUS_PERIOD));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut progress = Progress::default();
        loop {
            ticks.tick().await;
            let draining = self.draining.is_cancelled();
            if progress.seen(self.pulse.turns(), self.leases.turns(), draining) {
                self.manager.watchdog();
            }
            let sentence = status::sentence(&self.pulse, &self.leases);
            self.manager.status(&if draining { format!("draining: {sentence}") } else { sentence });
        }
    }
}

/// How far the two had turned at the last ping.
#[derive(Default)]
struct Progress {
    fetches: u64,
    renewals: u64,
}

impl Progress {
    /// Whether both have turned since; the fetch loop has nothing to turn for in a drain.
    fn seen(&mut self, fetches: u64, renewals: u64, draining: bool) -> bool {
        let both = (fetches != self.fetches || draining) && renewals != self.renewals;
        if both {
            *self = Progress { fetches, renewals };
        }
        both
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_needs_a_turn_of_both_since_the_last_one_and_of_the_renewals_alone_in_a_drain() {
        let mut progress = Progress::default();
        let mut seen = |fetches, renewals, draining| progress.seen(fetches, renewals, draining);
        assert!(!seen(0, 0, false) && !seen(1, 0, false) && !seen(0, 1, false));
        assert!(seen(1, 1, false));
        assert!(!seen(1, 1, false) && !seen(9, 1, false) && !seen(1, 9, false));
        assert!(seen(2, 2, false), "what has turned meanwhile is not forgotten");
        assert!(seen(2, 3, true) && !seen(3, 3, true), "a drain needs its locks");
    }
}
