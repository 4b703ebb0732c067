//! Log lines for people: time, level, message, then the event's fields and those of the spans around it.
//!
//! Job names and data come from Redis, where anybody may have written them: control characters never reach the terminal,
//! and a line break in a message is indented, so that no foreign text can pass for a line of its own.

use chrono::{SecondsFormat, Utc};
use std::fmt::{self, Write};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::Record,
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

/// How a line begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Line {
    /// With time (UTC) and level, for a terminal, a file or a pipe.
    Dated {
        /// Whether the level is coloured.
        colour: bool,
    },
    /// With `<priority>`, as journald reads it from a stream; it knows the time itself.
    Prefixed,
}

/// Writes fields as ` name=value`.
#[derive(Debug)]
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut parts = Parts::default();
        fields.record(&mut parts);
        writer.write_str(&parts.fields)
    }

    fn add_fields(&self, current: &'w mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        self.format_fields(current.as_writer(), fields)
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        let mut parts = Parts::default();
        event.record(&mut parts);
        let mut indented = String::from("\n");
        match *self {
            Self::Dated { colour } => {
                let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
                let (on, off) = if colour { (colour_of(level), "\u{1b}[0m") } else { ("", "") };
                let padding = if level.as_str().len() == 4 { " " } else { "" };
                write!(out, "{now} {on}{level}{off}{padding} ")?;
            }
            Self::Prefixed => {
                write!(out, "<{}>", priority_of(level))?;
                write!(indented, "<{}>", priority_of(level))?;
            }
        }
        indented.push_str("    ");
        out.write_str(&parts.message.replace('\n', &indented))?;
        out.write_str(&parts.fields)?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                out.write_str(fields)?;
            }
        }
        out.write_char('\n')
    }
}

fn colour_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        _ => "\u{1b}[2m",
    }
}

fn priority_of(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// An event's message and its other fields.
#[derive(Default)]
struct Parts {
    message: String,
    fields: String,
}

impl Parts {
    fn put(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = harmless(value),
            "message_id" => {}
            name => {
                let name = name.strip_prefix("floh_").unwrap_or(name);
                let plain =
                    !value.is_empty() && value.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '"');
                // Writing to a String cannot fail.
                let _ = if plain {
                    write!(self.fields, " {name}={value}")
                } else {
                    write!(self.fields, " {name}=\"{}\"", value.escape_debug())
                };
            }
        }
    }
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

/// Control characters are written out, line breaks and tabs excepted.
fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        if c.is_control() && c != '\n' && c != '\t' { safe.extend(c.escape_debug()) } else { safe.push(c) }
    }
    safe
}
