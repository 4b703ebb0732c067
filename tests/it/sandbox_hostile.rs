//! JavaScript that was put together at random out of what hurts: each script ends in time, in values or in a sentence, and
//! the next one runs.
//!
//! The release gate runs this with many more cases: a tenth of `PROPTEST_CASES`, because a script that has to be stopped
//! takes its time.

use chrono::{DateTime, Utc};
use floh_worker::sandbox::{Kind, Sandbox, Script, check};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The time of a script, with which an endless one is one too.
const TIME: Duration = Duration::from_millis(60);

const ATOMS: [&str; 52] = [
    "0",
    "-1",
    "1e9",
    "2 ** 32",
    "NaN",
    "10n ** 5000n",
    "null",
    "undefined",
    "'a'",
    "'\\u0000'",
    "'\\ud800'",
    "'x'.repeat(1e5)",
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaab'",
    "[]",
    "{}",
    "[1, [2, [3]]]",
    "new Array(1e6)",
    "Array(1e4).fill('y')",
    "floh",
    "floh.variables",
    "floh.variables.list",
    "floh.log.info",
    "globalThis",
    "this",
    "arguments",
    "Object.prototype",
    "Array.prototype",
    "Function.prototype",
    "Error.prototype",
    "Symbol.iterator",
    "Symbol.toPrimitive",
    "Reflect",
    "Proxy",
    "JSON",
    "eval",
    "Function",
    "Promise.resolve(1)",
    "new Map([[1, 2]])",
    "new WeakRef({})",
    "new Uint8Array(1e5)",
    "new ArrayBuffer(1e6, {maxByteLength: 1e7})",
    "new Date(NaN)",
    "new Error('boom')",
    "/(a+)+$/",
    "/(?<=(a|aa)*)b/y",
    "(function* () { for (;;) yield 1 })()",
    "(function f() { return f() })",
    "async () => 1",
    "class { static #x = 1; static [Symbol.hasInstance]() { throw 1 } }",
    "new Proxy([], {get: (t, k) => k === 'length' ? 5 : t[k]})",
    "x",
    "y",
];

const METHODS: [&str; 44] = [
    "toString",
    "valueOf",
    "toJSON",
    "concat",
    "map",
    "forEach",
    "sort",
    "flat",
    "fill",
    "push",
    "splice",
    "join",
    "reduce",
    "slice",
    "repeat",
    "padEnd",
    "replace",
    "replaceAll",
    "match",
    "matchAll",
    "split",
    "test",
    "exec",
    "normalize",
    "at",
    "set",
    "get",
    "then",
    "next",
    "call",
    "apply",
    "bind",
    "freeze",
    "create",
    "assign",
    "defineProperty",
    "setPrototypeOf",
    "stringify",
    "parse",
    "construct",
    "resize",
    "constructor",
    "__proto__",
    "length",
];

/// An expression; `$` stands for another one.
const SHAPES: [&str; 24] = [
    "($).M($)",
    "($).M($, $)",
    "($)[$]",
    "($).M",
    "new ($)($)",
    "[$, ...[$].flat()]",
    "{a: $, b: $}",
    "{__proto__: $, get M() { return $ }}",
    "{toJSON() { return $ }, [Symbol.toPrimitive]() { return $ }}",
    "(() => $)()",
    "((x, y) => $)($, $)",
    "new Proxy(Object($), {get: () => $, has: () => $, ownKeys: () => $})",
    "($) + ($)",
    "($) ?? ($)",
    "(x = $)",
    "(y = $, x)",
    "`${$}${$}`",
    "typeof ($)",
    "String($)",
    "eval(JSON.stringify($))",
    "Reflect.apply(Function.prototype.M, $, [$])",
    "Object.defineProperty(Object($), 'M', {get() { return $ }})",
    "Array.from({length: $}, () => $)",
    "JSON.stringify([$], (k, v) => v === '' ? $ : v)",
];

/// A statement; the last ones are rare, because they take the whole time.
const STATEMENTS: [&str; 16] = [
    "x = $;",
    "y = $;",
    "floh.log.error($, $);",
    "try { $ } catch (e) { y = e }",
    "try { throw $ } finally { x = $ }",
    "for (const z of [$, $]) { y = z }",
    "for (const k in Object($)) { x = k; break }",
    "if ($) { x = $ }",
    "Object.prototype.M = $;",
    "($).M = $;",
    "function M() { return $ }",
    "throw $;",
    "return $;",
    "label: { x = $; break label }",
    "for (const z of $) { x = z }",
    "while ($) { x = $ }",
];

/// A shape with its holes filled in.
fn fill(shape: &str, parts: &[String], method: &str) -> String {
    let mut parts = parts.iter().cycle();
    shape
        .replace('M', method)
        .split('$')
        .map(str::to_string)
        .reduce(|text, rest| {
            // The hole of a template is `${$}`.
            if rest.starts_with('{') {
                text + "$" + &rest
            } else {
                text + parts.next().map_or("0", String::as_str) + &rest
            }
        })
        .unwrap_or_default()
}

fn expression() -> impl Strategy<Value = String> {
    select(&ATOMS[..]).prop_map(str::to_string).prop_recursive(4, 24, 3, |inner| {
        (select(&SHAPES[..]), vec(inner, 3), select(&METHODS[..]))
            .prop_map(|(shape, parts, method)| fill(shape, &parts, method))
    })
}

fn script() -> impl Strategy<Value = String> {
    let statement = (select(&STATEMENTS[..]), vec(expression(), 2), select(&METHODS[..]))
        .prop_map(|(shape, parts, method)| fill(shape, &parts, method));
    (vec(statement, 0..6), expression())
        .prop_map(|(statements, out)| format!("let x = 0, y = 0;\n{}\nreturn {{out: {out}}}", statements.join("\n")))
}

fn cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: (default.cases / 10).max(32), failure_persistence: None, max_shrink_iters: 200, ..default }
}

/// Runs one, and after it one that has to go well.
fn run_and_go_on(runtime: &Runtime, sandbox: &Sandbox, code: &str) -> Result<(), TestCaseError> {
    let variables = Map::from_iter([("list".to_string(), json!([1, "a", {"b": null}]))]);
    let outputs = ["out".to_string()];
    let script = |code, time| Script {
        code,
        variables: &variables,
        outputs: &outputs,
        now: DateTime::<Utc>::UNIX_EPOCH,
        deadline: Some(Instant::now() + time),
    };
    let started = Instant::now();
    match runtime.block_on(sandbox.run(&script(code, TIME))) {
        Ok(done) => {
            prop_assert_eq!(done.values.keys().collect::<Vec<_>>(), ["out"]);
            prop_assert!(Value::from(done.values).to_string().len() < 7 * 1024 * 1024);
        }
        Err(error) => {
            prop_assert!(error.kind != Kind::Machine && !error.message.contains("engine down"), "{:?}", error);
            prop_assert!(!error.message.is_empty() && error.message.chars().count() <= 1100, "{:?}", error);
        }
    }
    // Stopped by itself or killed, and on a busy machine.
    prop_assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let next = runtime.block_on(sandbox.run(&script("return {out: 'fine'}", Duration::from_secs(30))));
    prop_assert_eq!(next.map(|done| done.values["out"].clone()), Ok(json!("fine")));
    Ok(())
}

#[test]
fn scripts_of_anything_end_in_time_and_the_next_one_runs() {
    let runtime = Runtime::new().unwrap();
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_floh-worker").into(), 1);
    let mut runner = proptest::test_runner::TestRunner::new(cases());
    runner.run(&script(), |code| run_and_go_on(&runtime, &sandbox, &code)).unwrap();
}

#[test]
fn text_of_anything_is_checked_and_run() {
    let runtime = Runtime::new().unwrap();
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_floh-worker").into(), 1);
    let pieces = select(vec![
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "`",
        "${",
        "'",
        "\"",
        "/",
        "//",
        "/*",
        "*/",
        "\\",
        "\\u{",
        "\n",
        "=>",
        "...",
        "#x",
        "?.",
        "async ",
        "await ",
        "yield ",
        "class ",
        "return ",
        "function ",
        "*",
        "static ",
        "get ",
        "for ",
        "of ",
        "in ",
        "let ",
        "var ",
        "x",
        "0x",
        "1_",
        "n",
        "<!--",
        "new.target",
        "import.meta",
        "super",
        "using ",
        "=",
        ",",
        ";",
        ":",
        "@",
        "\u{2028}",
        "é",
        "😀",
        "\0",
    ]);
    let text =
        vec(prop_oneof![8 => pieces.prop_map(str::to_string), 1 => ".{0,5}"], 0..40).prop_map(|pieces| pieces.concat());
    let mut runner = proptest::test_runner::TestRunner::new(cases());
    runner
        .run(&text, |code| {
            let compiles = check(&code);
            if let Err(unfit) = &compiles {
                prop_assert!(!unfit.to_string().is_empty());
            }
            run_and_go_on(&runtime, &sandbox, &code)
        })
        .unwrap();
}
