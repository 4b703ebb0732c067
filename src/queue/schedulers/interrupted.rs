//! Schedulers of ours whose chains have ended, seen before they are mended: what came due since is to be found out first,
//! because afterwards nothing shows it.

use super::{
    ensure::{Builtin, is_foreign, same_schedule},
    repeat::{Next, Repeat},
};
use crate::queue::{Error, Queue};

/// Of the wanted schedulers, those that are missing or have no next iteration, each with the time (milliseconds) of the
/// iteration that [`super::ensure()`] would make now. One that is to be another schedule than before is not among them:
/// its times never came due.
pub async fn interrupted<'a>(queue: &Queue, wanted: &'a [Builtin]) -> Result<Vec<(&'a Builtin, i64)>, Error> {
    let stored = queue.stored_schedulers().await?;
    let now = queue.now_ms().await?;
    let is_interrupted = |builtin: &&Builtin| {
        let left_to_others =
            builtin.yields && stored.iter().any(|other| is_foreign(other, &builtin.name) && other.goes_on(now));
        let ours = stored.iter().find(|ours| ours.id == builtin.id);
        !left_to_others && ours.is_none_or(|ours| !ours.alive && same_schedule(ours, builtin))
    };
    let next = |builtin: &'a Builtin| match Repeat::in_zone(&builtin.zone).next_by_pattern(&builtin.pattern, now) {
        Next::At(next) => Some((builtin, next)),
        // Said when it is written.
        Next::Over | Next::Unreadable(_) => None,
    };
    Ok(wanted.iter().filter(is_interrupted).filter_map(next).collect())
}
