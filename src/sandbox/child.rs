//! The process that runs scripts: reads one from its standard input, says what became of it, and waits for the next.
//!
//! It is our own program once more, with a first argument that nothing else has. It is started as `/proc/self/exe`, so
//! that it speaks the same protocol as its worker also while a newer package has replaced the file.

use super::{
    confine::{allow_cpu, confine, peak_kib},
    script,
    wire::{self, Message, Request},
};
use std::{
    env,
    io::{self, stdin, stdout},
    process::ExitCode,
};

/// The first argument that makes a program of ours run scripts.
pub const ARGUMENT: &str = "--sandbox";

/// Runs scripts if the program was started for that, until its worker has gone. Has to come before anything else that a
/// program does: this process must not read the configuration, write to the journal or start a thread, because all of
/// that would lie in reach of scripts.
pub fn serve_if_asked() -> Option<ExitCode> {
    if env::args_os().nth(1)? != ARGUMENT {
        return None;
    }
    // Nobody reads what we would say: the pipes are broken.
    Some(if serve().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serve() -> io::Result<()> {
    let (mut from, mut to) = (stdin().lock(), stdout().lock());
    if let Err(error) = confine() {
        let why = format!("the process for scripts cannot give up its rights: {error}");
        return wire::write(&mut to, &Message::Unfit(why));
    }
    loop {
        wire::write(&mut to, &Message::Ready(peak_kib()))?;
        let Some(request) = wire::read::<Request>(&mut from)? else { return Ok(()) };
        wire::write(&mut to, &Message::Begun)?;
        allow_cpu(request.limit_ms.div_ceil(1000) + 2)?;
        let (answer, engine) = script::run(&request);
        wire::write(&mut to, &Message::Answer(answer))?;
        drop(engine);
    }
}
