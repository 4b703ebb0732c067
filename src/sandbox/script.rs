//! One script in QuickJS: a runtime of its own, so that nothing of it is left for the next one.

use super::{
    Kind, LARGEST_VARIABLES, LONGEST_CODE, MOST_MEMORY, Position, bounded, console,
    console::Log,
    values::{Reader, Trouble},
    wire::{Answer, Failure, Request},
};
use rquickjs::{
    Context, Ctx, Error, Function, Object, Runtime, Value as JsValue, context::EvalOptions, object::Property,
};
use serde_json::{Map, Value};
use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

/// The stack of scripts. The parser's recursion is bounded by it too.
pub const STACK: usize = 512 * 1024;

/// What stack traces call the code.
const FILE: &str = "transform";

/// What QuickJS says when the memory is used up: by itself, where it compiles a regular expression and where it runs one. The
/// name alone where there was no memory for the message either.
const OUT_OF_MEMORY: [&str; 4] = [
    "InternalError: out of memory",
    "SyntaxError: out of memory",
    "InternalError: out of memory in regexp execution",
    "InternalError",
];

/// What stands before the code on its first line.
const BEFORE: &str = "(function () {";

/// Globals of QuickJS that are not the language's own.
const FOREIGN: [&str; 5] = ["performance", "atob", "btoa", "DOMException", "queueMicrotask"];

/// Makes `floh`. A function of its own, so that it leaves no name behind.
const PRELUDE: &str = "(function (variables, log, uuid, now) {
    const todo = [variables];
    while (todo.length > 0) {
        const value = todo.pop();
        if (value === null || typeof value !== 'object') continue;
        Object.freeze(value);
        for (const key of Object.keys(value)) todo.push(value[key]);
    }
    return Object.freeze({ variables, log: Object.freeze(log), uuid: Object.freeze(uuid), now: Object.freeze(now) });
})";

/// Runs a script to its end. The engine is given back for its end to come after the answer is safe: it insists that
/// nothing was forgotten, and ends the process where a fault of its own left something.
pub fn run(request: &Request) -> (Answer, Option<Runtime>) {
    let started = Instant::now();
    let log = Log::default();
    let mut engine = None;
    let result = fits(request).and_then(|()| {
        let runtime =
            new_runtime().map_err(|_| Failure::new(Kind::Machine, "there is no memory for the script's engine"))?;
        let late = watch(&runtime, started + Duration::from_millis(request.limit_ms));
        let result = within(engine.insert(runtime), request, &log);
        if late.get() { Err(timed_out(request.limit_ms)) } else { result }
    });
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    (Answer { result, logs: log.take(), took_ms }, engine)
}

/// Whether a script is small enough to be tried.
///
/// # Errors
/// What is too large.
pub fn fits(request: &Request) -> Result<(), Failure> {
    if request.code.len() > LONGEST_CODE {
        return Err(Failure::new(Kind::Refused, format!("the code is longer than {LONGEST_CODE} bytes")));
    }
    if request.variables.len() > LARGEST_VARIABLES {
        let message =
            format!("the run's variables are larger than {LARGEST_VARIABLES} bytes, too large for a transform");
        return Err(Failure::new(Kind::Refused, message));
    }
    Ok(())
}

/// The sentence for a script that took too long.
pub fn timed_out(limit_ms: u64) -> Failure {
    #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
    let seconds = limit_ms as f64 / 1000.0;
    Failure::new(Kind::TimedOut, format!("the script was not done after {seconds} s and was stopped"))
}

/// An engine with the limits of a script.
pub fn new_runtime() -> Result<Runtime, Error> {
    let runtime = Runtime::new()?;
    runtime.set_memory_limit(MOST_MEMORY);
    runtime.set_max_stack_size(STACK);
    Ok(runtime)
}

/// Interrupts the script at its deadline; the flag then says so.
fn watch(runtime: &Runtime, deadline: Instant) -> Rc<Cell<bool>> {
    let late = Rc::new(Cell::new(false));
    let flag = Rc::clone(&late);
    runtime.set_interrupt_handler(Some(Box::new(move || {
        if Instant::now() >= deadline {
            flag.set(true);
        }
        flag.get()
    })));
    late
}

fn within(runtime: &Runtime, request: &Request, log: &Log) -> Result<Map<String, Value>, Failure> {
    let context = Context::full(runtime).map_err(|_| out_of_memory())?;
    context.with(|ctx| {
        evaluate(&ctx, request, log).map_err(|trouble| match trouble {
            Trouble::Js(error) => explain(&ctx, &request.code, &error),
            Trouble::Failure(mut failure) => {
                failure.message = bounded(&failure.message);
                failure
            }
        })
    })
}

fn evaluate<'js>(ctx: &Ctx<'js>, request: &Request, log: &Log) -> Result<Map<String, Value>, Trouble> {
    for name in FOREIGN {
        ctx.globals().remove(name)?;
    }
    let mut reader = Reader::new(ctx)?;
    let floh = floh(ctx, request, log)?;
    // Neither to be written nor to be deleted.
    ctx.globals().prop("floh", Property::from(floh).enumerable())?;
    let function: Function<'_> = ctx.eval_with_options(format!("{BEFORE}{}\n}})", request.code), options())?;
    let result: JsValue<'_> = function.call(())?;
    reader.outputs(&result, &request.outputs)
}

/// Sloppy, as a function's body is by itself; `'use strict'` at its beginning works.
pub fn options() -> EvalOptions {
    let mut options = EvalOptions::default();
    options.strict = false;
    options.filename = Some(FILE.to_string());
    options
}

/// The global `floh`.
fn floh<'js>(ctx: &Ctx<'js>, request: &Request, log: &Log) -> Result<Object<'js>, Error> {
    let variables = ctx.json_parse(request.variables.as_str())?;
    let uuid = Function::new(ctx.clone(), || uuid::Uuid::new_v4().to_string())?.with_name("uuid")?;
    let text = request.now.clone();
    let now = Function::new(ctx.clone(), move || text.clone())?.with_name("now")?;
    let prelude: Function<'_> = ctx.eval(PRELUDE)?;
    prelude.call((variables, console::object(ctx, log)?, uuid, now))
}

fn out_of_memory() -> Failure {
    let most = MOST_MEMORY / (1024 * 1024);
    Failure::new(Kind::OutOfMemory, format!("the script and its variables needed more than {most} MiB of memory"))
}

/// What happened in QuickJS, for people.
fn explain<'js>(ctx: &Ctx<'js>, code: &str, error: &Error) -> Failure {
    match error {
        Error::Exception => thrown(ctx, code, &ctx.catch()),
        Error::Allocation => out_of_memory(),
        Error::InvalidString(_) => Failure::new(Kind::Refused, "the code has the character U+0000"),
        // A conversion that gave no exception has failed for want of memory, or returned what it may not.
        other => {
            let pending = ctx.catch();
            if pending.is_null() || pending.is_undefined() {
                Failure::new(Kind::Refused, bounded(&format!("the script's result cannot be read: {other}")))
            } else {
                thrown(ctx, code, &pending)
            }
        }
    }
}

/// What a script threw, or what QuickJS threw at it. Reading an error may run code of the script again (`message` and
/// `stack` can be getters), for which the deadline goes on.
fn thrown<'js>(ctx: &Ctx<'js>, code: &str, value: &JsValue<'js>) -> Failure {
    // With no memory left even for an error, QuickJS throws null.
    if value.is_null() {
        let Failure { kind, message, .. } = out_of_memory();
        return Failure::new(kind, format!("{message} (or it threw null, which looks the same)"));
    }
    if !value.is_object() {
        return Failure::new(Kind::Thrown, bounded(&format!("the script threw {}", console::text(ctx, value))));
    }
    let message = match message_of(ctx, value) {
        Some(message) if says_out_of_memory(&message) => return out_of_memory(),
        Some(message) => bounded(&message),
        None => bounded(&format!("the script threw {}", console::text(ctx, value))),
    };
    let position = position_of(ctx, value).map(|place| place_in_code(place, BEFORE, code));
    Failure { kind: Kind::Thrown, message, position }
}

/// Whether an error with this text is QuickJS's own for want of memory.
pub fn says_out_of_memory(message: &str) -> bool {
    OUT_OF_MEMORY.contains(&message)
}

/// What an error says, `None` for what is no error or has no message that can be read.
pub fn message_of<'js>(ctx: &Ctx<'js>, value: &JsValue<'js>) -> Option<String> {
    let object = value.as_object()?;
    let message = member(ctx, object, "message")?;
    match member(ctx, object, "name").filter(|name| !name.is_empty()) {
        Some(name) if message.is_empty() => Some(name),
        Some(name) => Some(format!("{name}: {message}")),
        None => Some(message),
    }
}

/// A text of an object; `None` if it is none, or if its getter throws.
fn member<'js>(ctx: &Ctx<'js>, object: &Object<'js>, name: &str) -> Option<String> {
    let read =
        object.get::<_, JsValue<'_>>(name).ok().and_then(|value| super::values::text(ctx, value.as_string()?).ok());
    if read.is_none() {
        let _ = ctx.catch();
    }
    read
}

/// The first place that an error's stack trace names in what was evaluated, from the code's file on.
pub fn position_of<'js>(ctx: &Ctx<'js>, error: &JsValue<'js>) -> Option<Position> {
    position_in(&member(ctx, error.as_object()?, "stack")?)
}

fn position_in(stack: &str) -> Option<Position> {
    let (_, after) = stack.split_once(&format!("{FILE}:"))?;
    let mut numbers = after.split(|c: char| !c.is_ascii_digit());
    Some(Position { line: numbers.next()?.parse().ok()?, column: numbers.next()?.parse().ok()? })
}

/// A place in the evaluated text as one in the code, which begins after `before`. What is missing at the code's end is
/// missed behind it, where its author sees nothing.
pub fn place_in_code(place: Position, before: &str, code: &str) -> Position {
    let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let lines = size(code.split('\n').count());
    if place.line > lines {
        let last = code.rsplit('\n').next().unwrap_or_default();
        return Position { line: lines, column: size(last.chars().count()) + 1 };
    }
    let shift = if place.line == 1 { size(before.len()) } else { 0 };
    Position { line: place.line, column: place.column.saturating_sub(shift).max(1) }
}

#[cfg(test)]
mod tests;
