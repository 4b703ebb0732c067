//! Whether a script compiles, without running it.
//!
//! This happens in our own process, because it has to work wherever definitions are read, and a parser is no interpreter:
//! its recursion is bounded by QuickJS's stack limit on a thread with room to spare, its memory by the limit of scripts,
//! its time by the code's length. A thread that takes too long all the same is not waited for.

use super::{
    LONGEST_CODE, Position, bounded,
    script::{message_of, new_runtime, options, place_in_code, position_of},
};
use rquickjs::{Context, Ctx, Error, Value as JsValue};
use std::{fmt, sync::mpsc, thread, time::Duration};

/// The thread's stack: a multiple of what QuickJS uses before it stops by itself.
const STACK: usize = 8 * super::script::STACK;

/// How long to wait for the answer.
const LONGEST: Duration = Duration::from_secs(3);

/// The `throw` comes before everything, so that nothing is ever executed, whatever the code makes of the brackets.
const BEFORE: &str = "throw 0; (function () {";

/// Two ways to hold a function's body. Code that closes the one by a bracket of its own does not fit into the other.
const FRAMES: [(&str, &str); 2] = [(BEFORE, "\n})"), ("throw 0; ({ body() {", "\n} })")];

/// Why a script does not compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadCode {
    /// One sentence.
    pub message: String,
    /// Where in the code, if that is known.
    pub position: Option<Position>,
}

impl fmt::Display for BadCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "{} ({position})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Whether the code is the body of a function.
///
/// # Errors
/// What is wrong with it.
pub fn check(code: &str) -> Result<(), BadCode> {
    let bad = |message: String| BadCode { message, position: None };
    if code.len() > LONGEST_CODE {
        return Err(bad(format!("the code is longer than {LONGEST_CODE} bytes")));
    }
    if code.contains('\0') {
        return Err(bad("the code has the character U+0000".to_string()));
    }
    let (say, said) = mpsc::channel();
    let code = code.to_string();
    thread::Builder::new()
        .name("script-check".to_string())
        .stack_size(STACK)
        .spawn(move || {
            // Nobody may be waiting any more.
            let _ = say.send(compile(&code));
        })
        .map_err(|error| bad(format!("the code was not checked, because no thread could be started: {error}")))?;
    match said.recv_timeout(LONGEST) {
        Ok(verdict) => verdict,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(bad(format!("the code did not compile within {} s", LONGEST.as_secs())))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(bad("the code was not checked: the check ended early".to_string()))
        }
    }
}

fn compile(code: &str) -> Result<(), BadCode> {
    let no_memory = |_| BadCode { message: "there is no memory to compile the code".to_string(), position: None };
    let runtime = new_runtime().map_err(no_memory)?;
    let context = Context::full(&runtime).map_err(no_memory)?;
    context.with(|ctx| FRAMES.iter().try_for_each(|(before, after)| compile_within(&ctx, code, before, after)))
}

fn compile_within(ctx: &Ctx<'_>, code: &str, before: &str, after: &str) -> Result<(), BadCode> {
    let evaluated = ctx.eval_with_options::<JsValue<'_>, _>(format!("{before}{code}{after}"), options());
    let thrown = match evaluated {
        Err(Error::Exception) => ctx.catch(),
        other => return Err(BadCode { message: format!("the code was not checked: {other:?}"), position: None }),
    };
    // What stands before the code was reached: it compiles.
    if thrown.as_int() == Some(0) {
        return Ok(());
    }
    let message = message_of(ctx, &thrown).unwrap_or_else(|| "the code does not compile".to_string());
    let position = position_of(ctx, &thrown).map(|place| place_in_code(place, before, code));
    Err(BadCode { message: bounded(&message), position })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_functions_compile() {
        for code in [
            "",
            "return {a: 1}",
            "return {a: 1} // the end",
            "'use strict'; return {}",
            "var x = 1; function x() {} return {x}",
            "with ({a: 1}) { return {a} }",
            "function f() {} function f() {} return {f: arguments.length}",
            "/* é\u{2028} */ return {'😀': `${1}`}",
        ] {
            assert_eq!(check(code), Ok(()), "{code}");
        }
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        for (code, says, line) in [
            ("return {", "SyntaxError", 1),
            ("const a = ;", "SyntaxError", 1),
            ("const a = 1;\n\n  const = 2;", "SyntaxError", 3),
            ("const a = 1;\nif (a) {", "SyntaxError", 2),
            ("await x", "SyntaxError", 1),
            ("import x from 'y'", "SyntaxError", 1),
            ("let a; let a", "SyntaxError", 1),
            ("return {} }), (function () { return {}", "SyntaxError", 1),
            ("return {} }, other() { return {}", "SyntaxError", 1),
        ] {
            let bad = check(code).unwrap_err();
            assert!(bad.message.contains(says), "{code}: {bad}");
            assert_eq!(bad.position.map(|position| position.line), Some(line), "{code}: {bad}");
        }
        assert!(check("/(/").unwrap_err().message.contains("SyntaxError"));
        assert_eq!(check("const a = ;").unwrap_err().position, Some(Position { line: 1, column: 11 }));
        assert!(check("\0").unwrap_err().message.contains("U+0000"));
        assert!(check(&"x".repeat(LONGEST_CODE + 1)).unwrap_err().message.contains("longer than"));
    }

    #[test]
    fn nothing_runs() {
        // Were it to run, it would never end.
        let started = std::time::Instant::now();
        assert_eq!(check("for (;;) {}"), Ok(()));
        assert!(check("} for (;;) {} {").is_err());
        assert!(check("}); for (;;) {} (function () {").is_err());
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn however_deep_it_nests_the_parser_stops() {
        for (open, close) in [
            ("(", ")"),
            ("[", "]"),
            ("{", "}"),
            ("!", ""),
            ("a=>", "a"),
            ("if(a)", ";"),
            ("a?b:", "c"),
            ("`${", "}`"),
            ("new ", "a"),
            ("function f(){", "}"),
            ("({a:", "})"),
            ("class A extends ", "B{}"),
            ("a=", "1"),
            ("2**", "1"),
            ("async()=>", "1"),
            ("x:", ";"),
            ("((", "))"),
            ("a(", ")"),
            ("[a]=", "1"),
            ("({a=", "1})"),
            ("do ", "while(0)"),
            ("try{", "}finally{}"),
            ("-", "1"),
            ("/(", "/"),
        ] {
            let times = LONGEST_CODE / (open.len() + close.len());
            let code = format!("{}{}", open.repeat(times), close.repeat(times));
            let started = std::time::Instant::now();
            assert!(check(&code).is_err(), "{open}");
            assert!(started.elapsed() < Duration::from_secs(2), "{open}: {:?}", started.elapsed());
        }
        let regex = format!("/{}{}/", "(".repeat(30_000), ")".repeat(30_000));
        assert!(check(&regex).is_err());
    }
}
