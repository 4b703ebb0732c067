//! floh-worker
fn main() {}
