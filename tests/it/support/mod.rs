//! What the tests start and talk to: throw-away servers, Node peers, the daemon itself.
#![allow(dead_code, reason = "not every test module uses every helper")]

pub mod child;
pub mod node;
