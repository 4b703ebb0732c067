//! Workflow runs: started, taken for a job, carried on step by step, recovered where they are stuck, looked at.

mod admin;
mod advance;
mod start;
mod stuck;

pub use admin::{Asked, ListedRun, RunFilter, ShownRun, ShownStep, Wish};
pub use advance::{
    Change, Commit, CommitOutcome, NextStep, RunChange, RunStatus, StepChange, StepStatus, TakenRun, TakenStep,
    Untaken, commit_in,
};
pub use start::{NewRun, Refusal, Started, start_run};
pub use stuck::{StuckCursor, StuckPage, recover_stuck_runs};

/// The value of `workflow_run.engine` that means us. Runs of another engine are never touched.
pub const ENGINE: &str = "floh-worker";
