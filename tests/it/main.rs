//! The integration tests: one binary, so that linking happens once. Each runs against real, private servers that
//! [`support`] starts on free ports and ends again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and clippy does not see helpers outside #[test] functions as tests"
)]

#[cfg(feature = "test-jobs")]
mod after_commit;
#[cfg(feature = "test-jobs")]
mod approval_reminders;
mod audit_chain;
mod audit_verify;
#[cfg(feature = "test-jobs")]
mod bull_board;
#[cfg(feature = "test-jobs")]
mod cancel;
mod config_check;
mod config_docs;
mod config_envfile;
mod connectors;
mod cron_parity;
#[cfg(feature = "test-jobs")]
mod daemon_jobs;
mod daemon_life;
#[cfg(feature = "test-jobs")]
mod deadlines;
#[cfg(feature = "test-jobs")]
mod failover;
mod flohctl_text;
mod harness;
#[cfg(feature = "test-jobs")]
mod interop;
mod job_size;
mod journal;
mod links;
#[cfg(feature = "test-jobs")]
mod lost_answers;
mod mail;
mod mail_outage;
#[cfg(feature = "test-jobs")]
mod memory;
#[cfg(feature = "test-jobs")]
mod missed_ticks;
#[cfg(feature = "test-jobs")]
mod outage;
#[cfg(feature = "test-jobs")]
mod outbox;
mod periodic_jobs;
mod published_scripts;
mod queue_recovery;
mod readme;
#[cfg(feature = "test-jobs")]
mod reclaim;
#[cfg(feature = "test-jobs")]
mod redis_reach;
#[cfg(not(feature = "test-jobs"))]
mod released_build;
mod run_wake_ups;
mod runs;
mod runs_acceptance;
mod runs_approvals;
mod runs_cli;
#[cfg(feature = "test-jobs")]
mod runs_cost;
#[cfg(feature = "test-jobs")]
mod runs_crash;
mod runs_documented;
mod runs_drain;
mod runs_examples;
mod runs_limits;
mod runs_mails;
mod runs_outages;
mod runs_people;
mod runs_random;
mod runs_retry;
#[cfg(feature = "test-jobs")]
mod runs_schedules;
mod sandbox;
mod sandbox_hostile;
mod schedulers;
mod sentinel;
mod store_approvals;
mod store_connect;
mod store_deaths;
mod store_definitions;
mod store_fence;
mod store_ledger;
mod store_migrate;
mod store_people;
mod store_questions;
mod store_runs;
mod store_tls;
mod stuck_run;
mod support;
#[cfg(feature = "test-jobs")]
mod suspects;
#[cfg(feature = "test-jobs")]
mod ticks;
mod transform;
mod workflow;
