//! The stalled check: jobs that are active and that nobody holds wait again.

use super::{Queue, connection::COMMAND_DEADLINE, error::Error, scripts};
use std::time::Duration;

/// How often a worker checks, plus jitter.
pub const STALLED_PERIOD: Duration = Duration::from_secs(30);
/// How long one worker's check spares the others theirs. Shorter than the period: with both equal, half of the checks
/// would find the guard of the one before and do nothing.
const GUARD: Duration = Duration::from_secs(25);
/// Whether a job is poison is not this check's question, so its limit is never reached.
const UNREACHABLE_LIMIT: &[u8] = b"2000000000";

impl Queue {
    /// Runs the check; says which jobs stalled. A job is marked by one check and put back by the next, unless its lock
    /// was renewed in between.
    pub async fn check_stalled(&self) -> Result<Vec<String>, Error> {
        let keys = &self.keys;
        let guard = GUARD.as_millis().to_string();
        scripts::MOVE_STALLED_JOBS_TO_WAIT
            .call(
                &self.link,
                COMMAND_DEADLINE,
                &[
                    &keys.stalled,
                    &keys.wait,
                    &keys.active,
                    &keys.stalled_check,
                    &keys.meta,
                    &keys.paused,
                    &keys.marker,
                    &keys.events,
                    &keys.repeat,
                ],
                self.settle(),
                &[UNREACHABLE_LIMIT, keys.base.as_bytes(), b"", guard.as_bytes()],
            )
            .await
    }
}
