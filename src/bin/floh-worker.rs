//! The daemon: `floh-worker INSTANCE`.

fn main() -> std::process::ExitCode {
    floh_worker::service::main().into()
}
