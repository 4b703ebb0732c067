//! Job schedulers and legacy repeatables.

use super::{Error, Job, Queue};

/// Adds the next iteration of the scheduler that the job belongs to.
pub async fn continue_chain(_queue: &Queue, _job: &Job) -> Result<(), Error> {
    Ok(())
}

/// A job scheduler that this program keeps.
#[derive(Debug, Clone)]
pub struct Builtin {
    /// Id.
    pub id: String,
    /// Job name.
    pub name: String,
    /// Cron expression.
    pub pattern: String,
}

/// Registers the built-in schedulers.
pub async fn ensure(_queue: &Queue, _builtins: &[Builtin]) -> Result<(), Error> {
    Ok(())
}
