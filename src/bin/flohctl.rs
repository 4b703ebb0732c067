//! flohctl: looks after floh-worker.

use std::process::ExitCode;

fn main() -> ExitCode {
    floh_worker::cli::main()
}
