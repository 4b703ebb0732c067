//! Faults under load: two workers and a steady load by a real BullMQ client, a fault in the middle, and at the end the
//! count: no job lost, each effect committed once, and the next job picked up in time.
//!
//! `./tests/run faults` runs them and prints the table. Each row is a test `…::row`; `…::control` is the same row with a
//! part of the worker switched off (`src/switches.rs`), or with the check given something wrong, and has to fail.
//! `FLOH_FAULTS=full` makes the faults as long as they are meant to be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and clippy does not see helpers outside #[test] functions as tests"
)]

mod stage;
mod story;
#[path = "../it/support/mod.rs"]
mod support;
#[macro_use]
mod table;
mod wake_ups;

mod clock;
mod failover;
mod flushed;
mod frozen;
mod half_open;
mod handlers;
mod killed;
mod lost_answer;
mod margin;
mod postgres_down;
mod redis_down;
mod retried;
mod rolling;
