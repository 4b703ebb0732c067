//! The package in a booted Debian: installed with apt beside Debian's own Redis and PostgreSQL, and then used, broken,
//! upgraded and removed as on a VM. Each test boots a machine of its own.
//!
//! `./tests/run system` prepares what they need (a Debian tree, three packages with the jobs for tests) and runs them; they
//! need root. They are no part of a plain `cargo test`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and clippy does not see helpers outside #[test] functions as tests"
)]

mod floh;
mod install;
mod life;
mod machine;
mod prepare;
mod refusals;
mod runs;
mod sandbox;
#[path = "../it/support/mod.rs"]
mod support;
mod upgrade;
mod waiting;
