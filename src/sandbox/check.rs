//! Whether a script compiles, without running it.
//!
//! This happens in our own process, because it has to work wherever definitions are read, and a parser is no interpreter:
//! its recursion is bounded by QuickJS's stack limit on a thread with room to spare, its memory by the limit of scripts,
//! its time by the code's length. A thread that takes too long all the same is not waited for: that may be the machine's
//! fault, which is stopped, crowded or full, and says nothing of the code.

use super::{
    LONGEST_CODE, Position, bounded,
    script::{message_of, new_runtime, options, place_in_code, position_of, says_out_of_memory},
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

/// Why code is not taken for the body of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It is none.
    Bad(BadCode),
    /// Nobody knows, and another time it may be known: there was no time, no thread or no memory to look. In a sentence.
    Unchecked(String),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Bad(bad) => bad.fmt(f),
            Unfit::Unchecked(why) => write!(f, "the code was not checked: {why}"),
        }
    }
}

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
/// What is wrong with it, or why that is not known.
pub fn check(code: &str) -> Result<(), Unfit> {
    check_on(STACK, code)
}

fn check_on(stack: usize, code: &str) -> Result<(), Unfit> {
    let bad = |message: String| Unfit::Bad(BadCode { message, position: None });
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
        .stack_size(stack)
        .spawn(move || {
            // Nobody may be waiting any more.
            let _ = say.send(compile(&code));
        })
        .map_err(|error| Unfit::Unchecked(format!("no thread could be started: {error}")))?;
    verdict(&said, LONGEST)
}

/// What the thread says, if it does in time.
fn verdict(said: &mpsc::Receiver<Result<(), Unfit>>, longest: Duration) -> Result<(), Unfit> {
    said.recv_timeout(longest).unwrap_or_else(|error| {
        Err(Unfit::Unchecked(match error {
            mpsc::RecvTimeoutError::Timeout => format!("it did not compile within {} s", longest.as_secs()),
            mpsc::RecvTimeoutError::Disconnected => "the check ended early".to_string(),
        }))
    })
}

fn compile(code: &str) -> Result<(), Unfit> {
    let runtime = new_runtime().map_err(|_| no_memory())?;
    let context = Context::full(&runtime).map_err(|_| no_memory())?;
    compile_in(&context, code)
}

fn compile_in(context: &Context, code: &str) -> Result<(), Unfit> {
    context.with(|ctx| FRAMES.iter().try_for_each(|(before, after)| compile_within(&ctx, code, before, after)))
}

fn compile_within(ctx: &Ctx<'_>, code: &str, before: &str, after: &str) -> Result<(), Unfit> {
    let evaluated = ctx.eval_with_options::<JsValue<'_>, _>(format!("{before}{code}{after}"), options());
    let thrown = match evaluated {
        Err(Error::Exception) => ctx.catch(),
        Err(Error::Allocation) => return Err(no_memory()),
        other => return Err(Unfit::Unchecked(format!("{other:?}"))),
    };
    // What stands before the code was reached: it compiles.
    if thrown.as_int() == Some(0) {
        return Ok(());
    }
    // The code may want more than scripts have, or the machine may have less. QuickJS says the same to both, and null where
    // there is none for saying it. Its errors have a text, except where there was none for that or for reading it.
    let message = message_of(ctx, &thrown).filter(|message| !says_out_of_memory(message)).ok_or_else(no_memory)?;
    let position = position_of(ctx, &thrown).map(|place| place_in_code(place, before, code));
    Err(Unfit::Bad(BadCode { message: bounded(&message), position }))
}

fn no_memory() -> Unfit {
    Unfit::Unchecked("there was not enough memory to compile it".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with code that was looked at.
    fn bad(code: &str) -> BadCode {
        match check(code) {
            Err(Unfit::Bad(bad)) => bad,
            other => panic!("{code}: {other:?}"),
        }
    }

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
            let bad = bad(code);
            assert!(bad.message.contains(says), "{code}: {bad}");
            assert_eq!(bad.position.map(|position| position.line), Some(line), "{code}: {bad}");
        }
        assert!(bad("/(/").message.contains("SyntaxError"));
        assert_eq!(bad("const a = ;").position, Some(Position { line: 1, column: 11 }));
        assert!(bad("\0").message.contains("U+0000"));
        assert!(bad(&"x".repeat(LONGEST_CODE + 1)).message.contains("longer than"));
    }

    #[test]
    fn what_the_machine_cannot_do_is_not_held_against_the_code() {
        // No machine has a stack of so much for a thread.
        let unfit = check_on(usize::MAX / 4, "return {a: 1}").unwrap_err();
        assert!(matches!(&unfit, Unfit::Unchecked(why) if why.starts_with("no thread could be started: ")), "{unfit}");
        let (say, said) = mpsc::channel();
        let late = verdict(&said, Duration::ZERO).unwrap_err();
        assert_eq!(late.to_string(), "the code was not checked: it did not compile within 0 s");
        assert!(matches!(late, Unfit::Unchecked(_)));
        drop(say);
        assert_eq!(verdict(&said, LONGEST), Err(Unfit::Unchecked("the check ended early".to_string())));
    }

    #[test]
    fn memory_that_is_used_up_is_not_held_against_the_code() {
        let code = format!("return [/{}/, {}]", "(a|b*){2}".repeat(30), "()=>1,".repeat(30));
        // From none at all to what it takes: in between there is enough for the error and not for its message, or for its
        // message and not for reading it.
        for room in (0..1_000_000).step_by(8) {
            let runtime = new_runtime().unwrap();
            let context = Context::full(&runtime).unwrap();
            runtime.set_memory_limit(usize::try_from(runtime.memory_usage().malloc_size).unwrap() + room);
            match compile_in(&context, &code) {
                Ok(()) if room > 0 => return,
                unfit => assert_eq!(unfit, Err(no_memory()), "{room}"),
            }
        }
        panic!("1 MB is not enough");
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
