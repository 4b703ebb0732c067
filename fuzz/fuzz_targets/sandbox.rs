//! Anything as the code of a transform: it is checked in this process, whose counters lead the fuzzer through QuickJS's parser,
//! and what compiles is run in a child as every script is. The child may have to be killed, but no script brings it down, and
//! the next one runs.
#![no_main]

use chrono::{DateTime, Utc};
use floh_worker::sandbox::{Kind, LONGEST_TEXT, OURSELVES, Sandbox, Script, ScriptError, check, child};
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

/// Checks and runs it. The fuzzer goes on from what compiles only, or it would gather nothing but mistakes.
fn try_out(code: &str) -> Corpus {
    if let Err(unfit) = check(code) {
        assert!(!unfit.to_string().is_empty());
        return Corpus::Reject;
    }
    if let Err(ScriptError { kind, message, .. }) = run(code, TIME) {
        let down = kind == Kind::Refused && message.starts_with("the script brought its JavaScript engine down");
        assert!(kind != Kind::Machine && !down, "{message}");
        assert!(message.chars().count() <= LONGEST_TEXT, "{message}");
    }
    assert_eq!(run("return {out: 'fine'}", PATIENCE), Ok(json!("fine")));
    Corpus::Keep
}

fuzz_target!(
    // Before anything else a program of ours asks whether it is such a child.
    init: if child::serve_if_asked().is_some() {
        std::process::exit(0)
    },
    |code: &str| -> Corpus { try_out(code) }
);
