//! The daemon's life under systemd: start, ready, watch, drain, stop, journal.

pub mod journal;
mod text;
