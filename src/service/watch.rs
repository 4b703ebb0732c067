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
        let (mut fetches, mut renewals) = (0, 0);
        loop {
            ticks.tick().await;
            let draining = self.draining.is_cancelled();
            let (turned, renewed) = (self.pulse.turns(), self.leases.turns());
            if (turned != fetches || draining) && renewed != renewals {
                (fetches, renewals) = (turned, renewed);
                self.manager.watchdog();
            }
            let sentence = status::sentence(&self.pulse, &self.leases);
            self.manager.status(&if draining { format!("draining: {sentence}") } else { sentence });
        }
    }
}
