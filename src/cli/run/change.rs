//! `flohctl run cancel` and `flohctl run retry`.

use super::unknown;
use crate::{
    cli::{Answer, NO, complain, complain_store, say},
    store::{
        Store, StoreError,
        run::{ShownRun, Wish},
    },
};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long is waited for the run to be cancelled, so that what became of it can be said.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(200);

pub async fn cancel(id: Uuid, reason: Option<&str>, store: &Store) -> Answer {
    let wish = store.cancel_run(id, reason).await.map_err(|error| complain_store(&error))?;
    let again = match wish {
        None => return Err(unknown(&id.to_string())),
        Some(Wish::Not(status)) => {
            say(format_args!("run {id} is not cancelled: {}", ended(&status)));
            return Ok(ExitCode::from(NO));
        }
        Some(Wish::Granted(_)) => "",
        Some(Wish::Again) => ", as it was before",
    };
    let end = Instant::now() + PATIENCE;
    loop {
        let run = store.show_run(id).await.map_err(|error| complain_store(&error))?;
        let Some(run) = run else { return Err(unknown(&id.to_string())) };
        match run.run.status.as_str() {
            "cancelled" => {
                say(format_args!("run {id} is cancelled"));
                return Ok(ExitCode::SUCCESS);
            }
            "completed" | "failed" => {
                say(format_args!("run {id} is not cancelled: {}", ended(&run.run.status)));
                return Ok(ExitCode::from(NO));
            }
            _ if Instant::now() >= end => {
                say(format_args!("run {id} is asked to be cancelled{again}: {}", outlook(&run)));
                return Ok(ExitCode::SUCCESS);
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// When it will be cancelled.
fn outlook(run: &ShownRun) -> String {
    match (&run.worker, &run.run.current_step) {
        (Some(worker), Some(step)) => {
            format!("it ends when the step {step}, which is under way on floh-worker@{worker}, is done")
        }
        _ => "it ends when a worker takes it; none has done so yet".to_string(),
    }
}

fn ended(status: &str) -> String {
    match status {
        "completed" => "it has completed".into(),
        "failed" => "it has failed".into(),
        "cancelled" => "it was cancelled before".into(),
        other => format!("it is {other}"),
    }
}

pub async fn retry(id: Uuid, store: &Store) -> Answer {
    // Before that, because a worker may be quick.
    let failed = store.show_run(id).await.map_err(|error| complain_store(&error))?;
    let wish = match store.retry_run(id).await {
        // The database's own sentence about other runs of the schedule.
        Err(StoreError::Query { code, message, .. }) if code == "FL030" => return Err(complain(NO, &message)),
        wish => wish.map_err(|error| complain_store(&error))?,
    };
    match wish {
        None => Err(unknown(&id.to_string())),
        Some(Wish::Granted(_)) => {
            let run = store.show_run(id).await.map_err(|error| complain_store(&error))?;
            let turn = match run {
                Some(run) if run.run.held_back => ", once its turn comes: another run of its schedule has not ended",
                _ => "",
            };
            let step = failed.and_then(|run| run.run.current_step);
            let from = step.map_or_else(|| "from the beginning".to_string(), |step| format!("at the step {step}"));
            say(format_args!("run {id} goes on {from}{turn}"));
            Ok(ExitCode::SUCCESS)
        }
        Some(Wish::Again) => Ok(ExitCode::SUCCESS),
        Some(Wish::Not(status)) => {
            say(format_args!("run {id} is not tried again, because it has not failed: {}", ended(&status)));
            Ok(ExitCode::from(NO))
        }
    }
}
