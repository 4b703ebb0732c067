//! flohctl: looks after floh-worker.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(ended) = floh_worker::sandbox::child::serve_if_asked() {
        return ended;
    }
    floh_worker::cli::main()
}
