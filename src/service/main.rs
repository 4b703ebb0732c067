//! From the command line and the environment to the daemon.

use super::{daemon, exit::Exit, journal, predecessor};
use crate::config::{Config, LogLevel, ProcessEnvironment};
use clap::Parser;

/// Background worker of the Floh workflow engine: consumes BullMQ jobs from Redis, keeps its truth in PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "floh-worker", version = crate::VERSION, after_help = "Settings come from the environment: see floh-env(5).")]
struct Arguments {
    /// Name of this instance on this host, such as 1: letters, digits, '.', '_' and '-'
    instance: String,

    /// Write down how systemd saw the instance end, and nothing else: the unit's ExecStopPost=
    #[arg(long, hide = true)]
    record_end: bool,
}

/// The whole daemon; returns how it ended.
pub fn main() -> Exit {
    let exit = run();
    // The rest has been running for long enough to be known.
    if matches!(exit, Exit::Usage | Exit::Config) {
        journal::linger();
    }
    exit
}

fn run() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Clean };
        }
    };
    let log = journal::init(LogLevel::Info, Some(&arguments.instance));
    if let Err(why) = check_instance(&arguments.instance) {
        // The record of an end follows a start that has said so.
        if !arguments.record_end {
            tracing::error!("{why}");
        }
        return Exit::Usage;
    }
    if arguments.record_end {
        return match predecessor::record_end(&arguments.instance) {
            Ok(()) => Exit::Clean,
            Err(error) => {
                tracing::warn!("how the instance ended was not written down: {error}");
                Exit::Internal
            }
        };
    }
    let config = match Config::load(&ProcessEnvironment) {
        Ok((config, notices)) => {
            log.set_level(config.log_level);
            journal::tell_notices(&notices);
            config
        }
        Err(errors) => {
            journal::tell_mistakes(&errors);
            return Exit::Config;
        }
    };
    crate::queue::panics::install_hook();
    // Both TLS users take the provider that is installed; the error is that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(daemon::run(&arguments.instance, config));
            // A handler that never yields must not hold the end.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            tracing::error!("no runtime: {error}");
            Exit::Internal
        }
    }
}

/// A plain name: what systemd passes for a quoted brace expression is not one.
fn check_instance(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.len() <= 64 && name.chars().all(plain) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    let hint = if name.contains("\\x7b") || name.contains('{') {
        "the braces reached systemd unexpanded: type systemctl start floh-worker@{1..4} in bash, without quotes"
    } else {
        "use letters, digits, '.', '_' and '-', such as floh-worker@1"
    };
    Err(format!("the instance name {name:?} is not a plain one; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::check_instance;

    #[test]
    fn plain_names_pass_and_brace_expressions_are_explained() {
        for name in ["1", "blue-2", "a.b_c"] {
            assert_eq!(check_instance(name), Ok(()));
        }
        assert!(check_instance("\\x7b1..4\\x7d").unwrap_err().contains("without quotes"));
        assert!(check_instance("{1..4}").unwrap_err().contains("without quotes"));
        for name in ["", "a b", "-x", "../x", "ä"] {
            assert!(check_instance(name).unwrap_err().contains("not a plain one"), "{name}");
        }
    }
}
