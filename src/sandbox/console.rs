//! `floh.log`: what a script tells its author.

use super::{Level, LogLine, Logs, MOST_LOGS, bounded};
use rquickjs::{Coerced, Ctx, Function, Object, Result, Value, function::Rest};
use std::{cell::RefCell, rc::Rc};

/// The log of one script.
pub type Log = Rc<RefCell<Logs>>;

/// The object `floh.log`, which writes into `log`.
///
/// # Errors
/// There is no memory for it.
pub fn object<'js>(ctx: &Ctx<'js>, log: &Log) -> Result<Object<'js>> {
    let object = Object::new(ctx.clone())?;
    for level in Level::ALL {
        let log = Rc::clone(log);
        let function = Function::new(ctx.clone(), move |ctx: Ctx<'js>, parts: Rest<Value<'js>>| {
            // Asked first: what is not kept costs nothing.
            if log.borrow().lines.len() >= MOST_LOGS {
                log.borrow_mut().dropped += 1;
                return;
            }
            let texts: Vec<_> = parts.0.iter().map(|part| text(&ctx, part)).collect();
            // A part may have logged something itself, in its toJSON.
            let mut log = log.borrow_mut();
            if log.lines.len() < MOST_LOGS {
                log.lines.push(LogLine { level, text: bounded(&texts.join(" ")) });
            } else {
                log.dropped += 1;
            }
        })?;
        object.set(level.name(), function.with_name(level.name())?)?;
    }
    Ok(object)
}

/// A value as people read it: a text as it is, everything else as JSON, and where that is not possible, what it is.
pub fn text<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    if let Some(text) = value.as_string() {
        return super::values::text(ctx, text).unwrap_or_else(|_| unreadable(ctx, value));
    }
    if value.is_undefined() {
        return "undefined".to_string();
    }
    if value.is_error() {
        return super::script::message_of(ctx, value).unwrap_or_else(|| unreadable(ctx, value));
    }
    if value.is_big_int() {
        return value.get::<Coerced<String>>().map_or_else(|_| unreadable(ctx, value), |digits| digits.0);
    }
    match ctx.json_stringify(value.clone()) {
        Ok(Some(json)) => super::values::text(ctx, &json).unwrap_or_else(|_| unreadable(ctx, value)),
        Ok(None) | Err(_) => unreadable(ctx, value),
    }
}

/// The kind of a value whose reading went wrong; the script goes on.
fn unreadable<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    let _ = ctx.catch();
    format!("[{}]", value.type_name())
}
