//! What scripts may return, what they are told, and what is said of those that fail.

use super::*;
use crate::sandbox::{LARGEST_RESULT, Level, MOST_LOGS};
use serde_json::json;

/// Runs code with some variables in this process.
fn run_for(code: &str, outputs: &[&str], limit_ms: u64) -> Answer {
    let variables = json!({
        "user": {"email": "ada@example.org", "tags": ["a", "b"]}, "count": 3, "__proto__": {"polluted": true}, "nul": "a\u{0}b"
    });
    run(&Request {
        code: code.to_string(),
        variables: variables.to_string(),
        outputs: outputs.iter().map(ToString::to_string).collect(),
        now: "2026-03-29T01:30:00.000Z".to_string(),
        limit_ms,
    })
    .0
}

/// The output `out`.
fn out(code: &str) -> Value {
    match run_for(code, &["out"], 60_000).result {
        Ok(mut values) => values.remove("out").unwrap(),
        Err(failure) => panic!("{code}: {failure:?}"),
    }
}

fn failure(code: &str) -> Failure {
    failure_within(code, 60_000)
}

fn failure_within(code: &str, limit_ms: u64) -> Failure {
    match run_for(code, &["out"], limit_ms).result {
        Ok(values) => panic!("{code} gave {values:?}"),
        Err(failure) => failure,
    }
}

#[test]
fn declared_outputs_are_kept_and_no_others() {
    let answer = run_for("return {a: 1, b: 2, get c() { throw 1 }}", &["a", "b"], 60_000);
    assert_eq!(Value::from(answer.result.unwrap()), json!({"a": 1, "b": 2}));
    assert_eq!(Value::from(run_for("return {a: 1}", &[], 5000).result.unwrap()), json!({}));
}

#[test]
fn what_json_has_comes_out_as_json() {
    for (code, value) in [
        ("null", json!(null)),
        ("true", json!(true)),
        ("3.0", json!(3)),
        ("-0", json!(0)),
        ("2 ** 53 - 1", json!(9_007_199_254_740_991_i64)),
        ("0.5", json!(0.5)),
        ("1e300", json!(1e300)),
        ("'é\\u0000😀'", json!("é\u{0}😀")),
        ("'half \\ud83d'", json!("half \u{fffd}")),
        ("[1, [], {}]", json!([1, [], {}])),
        ("{a: undefined, b: {c: 1}}", json!({"b": {"c": 1}})),
        ("JSON.parse('{\"__proto__\": 1, \"\": 2}')", json!({"__proto__": 1, "": 2})),
        ("new Date(0)", json!("1970-01-01T00:00:00.000Z")),
        ("new Date(2026, 6, 1)", json!("2026-07-01T00:00:00.000Z")),
        ("{toJSON() { return {x: 1} }}", json!({"x": 1})),
        ("new (class Point { x = 1; #y = 2 })", json!({"x": 1})),
        ("(a => [a, a])({same: 1})", json!([{"same": 1}, {"same": 1}])),
        ("new Proxy([1, 2], {})", json!([1, 2])),
        ("Object.create(null)", json!({})),
    ] {
        assert_eq!(out(&format!("return {{out: {code}}}")), value, "{code}");
    }
}

#[test]
fn what_json_lacks_is_named() {
    for (code, says) in [
        ("NaN", "`out` is NaN"),
        ("[1, -Infinity]", "`out[1]` is Infinity"),
        ("() => 1", "`out` is a function"),
        ("{deep: {f() {}}}", "`out.deep.f` is a function"),
        ("Symbol('x')", "`out` is a symbol"),
        ("10n", "`out` is a BigInt"),
        ("[undefined]", "`out[0]` is undefined"),
        ("new Array(3)", "`out[0]` is undefined"),
        ("new Map([[1, 2]])", "`out` is a Map"),
        ("new Error('x')", "`out` is an Error"),
        ("/x/", "`out` is a RegExp"),
        ("new Uint8Array(4)", "`out` is a Uint8Array"),
        ("Promise.resolve(1)", "`out` is a Promise"),
        ("new Date('never')", "`out` is a Date without a time"),
        ("(a => { a.b = {a}; return a })({})", "`out.b.a` is an object that it is within"),
        ("(a => { a.push(a); return a })([])", "`out[0]` is an object that it is within"),
        ("{toJSON() { return {toJSON: 1, me: this} }}", "is an object that it is within"),
        ("(a => { for (let i = 0; i < 99; i++) a = [a]; return a })(1)", "nests deeper than 64"),
        ("'x'.repeat(2 ** 20)", "larger than 1048576 bytes"),
        ("new Array(2 ** 31).fill", "is a function"),
        ("(a => { for (let i = 0; i < 40; i++) a = [a, a]; return a })(1)", "larger than 1048576 bytes"),
        (
            "new Proxy([], {get: (t, name) => name === 'length' ? 1e300 : name === 'toJSON' ? undefined : 1})",
            "larger than",
        ),
        ("undefined", "no `out`"),
    ] {
        let failure = failure(&format!("return {{out: {code}}}"));
        assert_eq!(failure.kind, Kind::Refused, "{code}: {failure:?}");
        assert!(failure.message.contains(says), "{code}: {}", failure.message);
    }
    let most = LARGEST_RESULT - 16;
    assert_eq!(out(&format!("return {{out: 'x'.repeat({most})}}")).as_str().unwrap().len(), most);
}

#[test]
fn a_result_that_is_no_object_with_the_outputs_says_so() {
    for (code, says) in [
        ("", "returned nothing"),
        ("return", "returned nothing"),
        ("return 5", "returned a number"),
        ("return null", "returned null"),
        ("return [1]", "returned an Array"),
        ("return () => 1", "returned a function"),
        ("return new Map()", "returned a Map"),
        ("return new Error('x')", "returned an Error"),
        ("return (async () => ({out: 1}))()", "a transform cannot wait"),
        ("return Promise.reject(1)", "a transform cannot wait"),
        ("return {other: 1}", "returned no `out`"),
        ("return Object.create({out: 1})", "returned no `out`"),
        ("return {[Symbol.toStringTag]: '\\0' + 'x'.repeat(1e5)}", "returned a \u{fffd}xxx"),
    ] {
        let failure = failure(code);
        assert_eq!(failure.kind, Kind::Refused, "{code}: {failure:?}");
        assert!(failure.message.contains(says), "{code}: {}", failure.message);
    }
    let inherited = run_for("return {}", &["constructor"], 5000).result.unwrap_err();
    assert!(inherited.message.contains("no `constructor`"), "{inherited:?}");
}

#[test]
fn an_error_says_what_and_where() {
    for (code, message, place) in [
        ("throw new Error('no')", "Error: no", Some((1, 11))),
        ("\n\n  throw new TypeError('a\\0b')", "TypeError: a\u{fffd}b", Some((3, 13))),
        ("const a = 1;\nreturn b", "ReferenceError: b is not defined", None),
        ("return floh.variables.user.manager.email", "cannot read property 'email' of undefined", None),
        ("throw 'text'", "the script threw text", None),
        ("throw {code: 5}", "the script threw {\"code\":5}", None),
        ("throw undefined", "the script threw undefined", None),
        ("throw Symbol('s')", "the script threw [symbol]", None),
        ("throw new Error('x'.repeat(1e6))", "Error: xxx", None),
        ("throw new Error()", "Error", None),
        ("throw {get message() { throw 1 }, get stack() { throw 2 }}", "the script threw [object]", None),
        (
            "const e = new Error('m'); Object.defineProperty(e, 'stack', {get() { return {} }}); throw e",
            "Error: m",
            None,
        ),
        ("throw new Proxy({}, {get() { throw 1 }, ownKeys() { throw 2 }})", "the script threw [proxy]", None),
        ("(function f() { f() })()", "Maximum call stack size exceeded", None),
        ("return {out: eval('1 +')}", "SyntaxError", None),
    ] {
        let failure = failure(code);
        assert_eq!(failure.kind, Kind::Thrown, "{code}: {failure:?}");
        assert!(failure.message.contains(message), "{code}: {}", failure.message);
        if let Some((line, column)) = place {
            assert_eq!(failure.position, Some(Position { line, column }), "{code}");
        }
    }
    assert_eq!(failure("const a = 1;\n  a.b.c()").position.unwrap().line, 2);
    assert_eq!(failure("const a = 1;\n  const = 2").position.unwrap().line, 2);
}

#[test]
fn the_time_is_limited_whatever_the_script_catches() {
    for code in [
        "for (;;) {}",
        "try { for (;;) {} } catch { return {out: 1} } finally { for (;;) {} }",
        "for (;;) { try { for (;;) {} } catch {} }",
        "return {get out() { for (;;) {} }}",
        "return {out: {toJSON() { for (;;) {} }}}",
        "throw {get message() { for (;;) {} }}",
        "const e = new Error('x'); Object.defineProperty(e, 'stack', {get() { for (;;) {} }}); throw e",
        "floh.log.info({toJSON() { for (;;) {} }}); return {out: 1}",
        "return {out: /^(a+)+$/.test('a'.repeat(40) + 'b')}",
        "return new Proxy({}, {ownKeys() { for (;;) {} }, getOwnPropertyDescriptor() { for (;;) {} }})",
        "Error.prepareStackTrace = () => { for (;;) {} }; throw new Error('x')",
        "function* f() { for (;;) yield 1 } for (const x of f()); ",
        "eval('for (;;) {}')",
        "new Function('for (;;) {}')()",
        "Array.from({length: 1e9}, () => { for (;;) {} })",
    ] {
        let started = Instant::now();
        let failure = failure_within(code, 300);
        assert_eq!(failure.kind, Kind::TimedOut, "{code}: {failure:?}");
        assert!(failure.message.contains("0.3 s"), "{}", failure.message);
        assert!(started.elapsed() < Duration::from_secs(5), "{code}: {:?}", started.elapsed());
    }
}

#[test]
fn the_memory_is_limited() {
    for code in [
        "const a = []; for (;;) a.push(new Array(1000).fill(1))",
        "const a = []; for (let i = 0; ; i++) a.push('x'.repeat(1e6) + i)",
        "return {out: 'x'.repeat(2 ** 29)}",
        "return {out: new ArrayBuffer(1e9).byteLength}",
        "const m = new Map(); for (let i = 0; ; i++) m.set(i, {i})",
        "let a = []; for (;;) a = [a]",
        "new RegExp('[ab]'.repeat(2e6))",
        "throw null",
    ] {
        let failure = failure(code);
        assert!(failure.kind == Kind::OutOfMemory, "{code}: {failure:?}");
        assert!(failure.message.contains("16 MiB"), "{}", failure.message);
    }
}

#[test]
fn variables_are_frozen_to_the_bottom() {
    for code in [
        "floh.variables.count = 1",
        "floh.variables.user.tags.push('c')",
        "delete floh.variables.user",
        "floh = 1",
        "floh.now = 1",
    ] {
        assert!(failure(&format!("'use strict'; {code}")).message.starts_with("TypeError"), "{code}");
    }
    assert_eq!(out("floh.variables.count = 9; return {out: floh.variables.count}"), json!(3));
    // A variable of any name is data.
    assert_eq!(
        out(
            "return {out: [floh.variables.polluted, {}.polluted, floh.variables['__proto__'].polluted]}.out ? {out: 1} : 0"
        ),
        json!(1)
    );
    assert_eq!(out("return {out: String({}.polluted)}"), json!("undefined"));
    assert_eq!(out("return {out: floh.variables.nul}"), json!("a\u{0}b"));
}

#[test]
fn floh_is_the_only_global_beside_the_languages_own() {
    let names = out("return {out: Object.getOwnPropertyNames(globalThis).sort()}");
    let known = "AggregateError Array ArrayBuffer AsyncDisposableStack Atomics BigInt BigInt64Array BigUint64Array Boolean DataView \
                 Date DisposableStack Error EvalError FinalizationRegistry Float16Array Float32Array Float64Array Function Infinity \
                 Int16Array Int32Array Int8Array InternalError Iterator JSON Map Math NaN Number Object Promise Proxy RangeError \
                 ReferenceError Reflect RegExp Set SharedArrayBuffer String SuppressedError Symbol SyntaxError TypeError URIError Uint16Array \
                 Uint32Array Uint8Array Uint8ClampedArray WeakMap WeakRef WeakSet decodeURI decodeURIComponent encodeURI \
                 encodeURIComponent escape eval floh globalThis isFinite isNaN parseFloat parseInt undefined unescape";
    let unknown: Vec<_> = names
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .filter(|name| !known.split_whitespace().any(|one| one == *name))
        .collect();
    assert_eq!(unknown, Vec::<&str>::new());
    assert!(
        failure("return {out: Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)}")
            .message
            .contains("TypeError")
    );
    assert!(failure("import('fs'); return {}").message.contains("no `out`"));
}

#[test]
fn floh_tells_the_time_and_makes_uuids() {
    assert_eq!(out("return {out: floh.now()}"), json!("2026-03-29T01:30:00.000Z"));
    let ids = out("return {out: [floh.uuid(), floh.uuid()]}");
    assert_ne!(ids[0], ids[1]);
    assert!(uuid::Uuid::parse_str(ids[0].as_str().unwrap()).is_ok());
}

#[test]
fn the_log_is_kept_and_bounded() {
    let answer = run_for(
        "floh.log.info('one', 2, {three: [3]}, null, undefined, true);
         floh.log.error(new Error('bad'), Symbol('s'), () => 1, 10n);
         floh.log.warn('x'.repeat(5000));
         floh.log.debug('a\\0b');
         const { trace } = floh.log; trace('\\ud83d');
         const cycle = {}; cycle.cycle = cycle; floh.log.info(cycle);
         throw new Error('the log stays')",
        &["out"],
        60_000,
    );
    assert!(answer.result.is_err());
    let lines: Vec<_> = answer.logs.lines.iter().map(|line| (line.level, line.text.as_str())).collect();
    assert_eq!(lines[0], (Level::Info, "one 2 {\"three\":[3]} null undefined true"));
    assert_eq!(lines[1], (Level::Error, "Error: bad [symbol] [function] 10"));
    assert_eq!(lines[2].1.chars().count(), 1000);
    assert_eq!(lines[3], (Level::Debug, "a\u{fffd}b"));
    assert_eq!(lines[4], (Level::Trace, "\u{fffd}"));
    assert_eq!(lines[5], (Level::Info, "[object]"));
    let answer = run_for("for (let i = 0; i < 1e5; i++) floh.log.info(i); return {out: 1}", &["out"], 60_000);
    assert_eq!((answer.logs.lines.len(), answer.logs.dropped), (MOST_LOGS, 100_000 - MOST_LOGS as u64));
    // What is logged while an entry is being made counts too; after the last one nothing is made.
    let inner = "const n = {toJSON() { floh.log.info('in'); return 1 }}; for (let i = 0; i < 99; i++) floh.log.info(n); return {out: 1}";
    let answer = run_for(inner, &["out"], 60_000);
    assert_eq!((answer.logs.lines.len(), answer.logs.dropped), (MOST_LOGS, 49));
}

#[test]
fn what_is_too_large_is_not_tried() {
    let failure = failure(&format!("return {{out: 1}} //{}", "x".repeat(LONGEST_CODE)));
    assert!(failure.message.contains("longer than 65536"), "{failure:?}");
    let variables = format!("{{\"a\": \"{}\"}}", "x".repeat(LARGEST_VARIABLES));
    let request =
        Request { code: "return {}".into(), variables, outputs: Vec::new(), now: String::new(), limit_ms: 1000 };
    assert!(run(&request).0.result.unwrap_err().message.contains("too large for a transform"));
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let request = Request { variables: deep, ..request };
    assert_eq!(run(&request).0.result.unwrap_err().kind, Kind::Thrown);
    assert!(self::failure("return {out: 1}\0").message.contains("U+0000"));
}
