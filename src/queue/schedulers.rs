//! Periodic jobs: the chains of job schedulers (BullMQ 6) and of repeatables (BullMQ 5 and older), and our own schedulers.
//!
//! A periodic job is a chain: whichever worker takes an iteration adds the next one, before it runs its own. So every
//! fetched job passes [`continue_chain`], whatever is wrong with it otherwise. [`ensure()`] makes the schedulers of the
//! built-in jobs; it is called when a worker starts, and may be called again at any time. [`interrupted()`] says before which
//! of them it would have to mend. A [`Family`] is all schedulers of one kind, of which those that nobody wants any more are
//! removed.

mod chain;
mod ensure;
mod family;
mod interrupted;
mod legacy;
mod repeat;
mod stored;

pub use chain::continue_chain;
pub use ensure::{Builtin, Done, ID_PREFIX, Outcome, ensure};
pub use family::Family;
pub use interrupted::interrupted;
