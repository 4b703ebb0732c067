//! The daemon's life under systemd: start, ready, watch, drain, stop, journal.

mod daemon;
pub mod exit;
pub mod journal;
mod listener;
mod main;
mod signals;
mod start;
mod status;
mod systemd;
mod text;
mod upkeep;
mod watch;

pub use main::main;
