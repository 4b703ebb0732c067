//! Job schedulers and legacy repeatables.

use super::{Error, Job, Queue};

/// Adds the next iteration of the scheduler that the job belongs to.
pub async fn continue_chain(_queue: &Queue, _job: &Job) -> Result<(), Error> {
    Ok(())
}
