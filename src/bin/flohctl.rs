//! flohctl
fn main() {}
