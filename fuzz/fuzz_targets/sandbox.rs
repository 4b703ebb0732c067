//! Anything as the code of a transform: it is checked in this process, whose counters lead the fuzzer through QuickJS's parser,
//! and what compiles is run in a child as every script is. The child may have to be killed; it never ends by itself, and the
//! next script runs.
#![no_main]

use chrono::{DateTime, Utc};
use floh_worker::sandbox::{Kind, OURSELVES, Sandbox, Script, ScriptError, check, child};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::{Map, Value, json};
use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};
use tokio::runtime::{Builder, Runtime};

/// The time of a script, with which an endless one is one too.
const TIME: Duration = Duration::from_millis(60);

/// A machine may be busy, and a child that was killed is replaced first.
const PATIENCE: Duration = Duration::from_secs(30);

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));
static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new(OURSELVES.into(), 1));

/// The declared output of a script.
fn run(code: &str, time: Duration) -> Result<Value, ScriptError> {
    let variables = Map::from_iter([("list".to_string(), json!([1, "a", {"b": null}]))]);
    let outputs = ["out".to_string()];
    let deadline = Some(Instant::now() + time);
    let now = DateTime::<Utc>::UNIX_EPOCH;
    let script = Script { code, variables: &variables, outputs: &outputs, now, deadline };
    let mut values = RUNTIME.block_on(SANDBOX.run(&script))?.values;
    let value = values.remove("out").expect("a script that is done has its output");
    assert!(values.is_empty(), "{values:?}");
    Ok(value)
}

fuzz_target!(
    // Before anything else a program of ours asks whether it is such a child.
    init: if child::serve_if_asked().is_some() {
        std::process::exit(0)
    },
    |code: &str| -> Corpus {
        if let Err(unfit) = check(code) {
            assert!(!unfit.to_string().is_empty());
            // What goes on from here would be no code either.
            return Corpus::Reject;
        }
        if let Err(error) = run(code, TIME) {
            assert!(error.kind != Kind::Machine && !error.message.contains("engine down"), "{error:?}");
            assert!(!error.message.is_empty() && error.message.chars().count() <= 1100, "{error:?}");
        }
        assert_eq!(run("return {out: 'fine'}", PATIENCE), Ok(json!("fine")));
        Corpus::Keep
    }
);
