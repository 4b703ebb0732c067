//! The status line: one sentence that an operator can use.

use crate::queue::{
    lease::{Leases, uptime_ms},
    pulse::{Condition, Pulse, Tally},
};
use std::fmt::Write;

/// How many running jobs the sentence names.
const NAMED: usize = 3;

/// `idle, 1204 done, 2 failed`, or `stuck-run-recovery 8842 for 12 s`, or `resume-run resume-6f1c…-3 for 2 s (run 6f1c0d3a…,
/// step grant)`, or why nothing is fetched.
pub fn sentence(pulse: &Pulse, leases: &Leases) -> String {
    let mut running = leases.held();
    running.sort_by_key(|lease| lease.since_ms);
    let condition = pulse.condition();
    let mut text = String::new();
    match (&condition, running.is_empty()) {
        (Condition::Fetching | Condition::Full | Condition::Maxed, false) => {}
        (Condition::Full, true) => text.push_str("idle"),
        (condition, _) => {
            let _ = write!(text, "{condition}");
        }
    }
    let now = uptime_ms();
    for lease in running.iter().take(NAMED) {
        let separator = if text.is_empty() { "" } else { "; " };
        let seconds = (now - lease.since_ms).max(0) / 1000;
        let _ = write!(text, "{separator}{} {} for {seconds} s", lease.job_name, lease.job_id);
        if let Some(about) = lease.about() {
            let _ = write!(text, " ({about})");
        }
    }
    if running.len() > NAMED {
        let _ = write!(text, "; and {} more", running.len() - NAMED);
    }
    let _ = write!(text, ", {} done, {} failed", pulse.total(Tally::Completed), pulse.total(Tally::Failed));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn an_idle_worker_says_so_and_a_busy_one_says_with_what() {
        let (pulse, leases) = (Pulse::default(), Leases::new(Uuid::new_v4()));
        pulse.turn(Condition::Fetching);
        pulse.count(Tally::Completed);
        assert_eq!(sentence(&pulse, &leases), "idle, 1 done, 0 failed");
        let lease = leases.fetched(&leases.begin_fetch(), "8842", "stuck-run-recovery", uptime_ms() - 12_000);
        assert_eq!(sentence(&pulse, &leases), "stuck-run-recovery 8842 for 12 s, 1 done, 0 failed");
        lease.set_about("run 6f1c0d3a…, step grant".into());
        let about = "stuck-run-recovery 8842 for 12 s (run 6f1c0d3a…, step grant), 1 done, 0 failed";
        assert_eq!(sentence(&pulse, &leases), about);
        pulse.turn(Condition::Disconnected("Redis at x is away".into()));
        assert!(sentence(&pulse, &leases).starts_with("not fetching: Redis at x is away; stuck-run-recovery 8842"));
        leases.ended(&lease);
    }
}
