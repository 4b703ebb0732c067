//! Waiting between attempts.

use std::time::Duration;

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
