//! What flohctl says on the terminal.
//!
//! Names, titles and reasons come from a database and a queue, where many may write: what would steer a terminal, or turn
//! the direction of what is read, is written out, and so is a line end, so that no foreign text can pass for a line of ours.

use serde::Serialize;
use std::{
    fmt::{Display, Write as _},
    io::{self, Write as _},
};

/// A line on standard output. Whoever reads it may stop doing so (`| head`): that is no mistake.
pub(super) fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{}", one_line(&line.to_string()));
}

/// A line on standard error, after the program's name.
pub(super) fn remark(line: impl Display) {
    let _ = writeln!(io::stderr(), "flohctl: {}", one_line(&line.to_string()));
}

/// A value as JSON on standard output, in one line.
pub(super) fn say_json(value: &impl Serialize) {
    print_json(&serde_json::to_value(value).unwrap_or_default().to_string());
}

/// The same in many lines, for people.
pub(super) fn say_pretty_json(value: &impl Serialize) {
    print_json(&serde_json::to_string_pretty(value).unwrap_or_default());
}

fn print_json(text: &str) {
    let _ = writeln!(io::stdout(), "{}", harmless_json(text));
}

/// Whether it does something else on a terminal than to be seen: control characters (C0, DEL, C1), and those that turn the
/// direction of what follows. Tabs are let through, as in the log.
fn acts(c: char) -> bool {
    c.is_control() && c != '\t' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text, with what acts written as Rust writes it.
fn one_line(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) { safe.extend(c.escape_debug()) } else { safe.push(c) }
    }
    safe
}

/// JSON that means the same. Within its texts anything may be written as `\u001b`, and outside of them nothing acts but the
/// line ends of JSON in many lines: those within texts are escaped already.
fn harmless_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) && c != '\n' {
            // Writing to a String cannot fail. All that act have four digits at most.
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn nothing_foreign_steers_the_terminal_or_makes_a_line() {
        for (text, expected) in [
            ("waits at ask (2) for Zoë, 山田 → 7 └─", "waits at ask (2) for Zoë, 山田 → 7 └─"),
            ("a\tb", "a\tb"),
            ("\u{1b}[2J\u{7}x\r\n  ended", r"\u{1b}[2J\u{7}x\r\n  ended"),
            ("\u{7f}\u{80}\u{85}\u{9b}31m\u{9f}", r"\u{7f}\u{80}\u{85}\u{9b}31m\u{9f}"),
            ("\u{202a}\u{202e}gpj\u{2066}\u{2069}", r"\u{202a}\u{202e}gpj\u{2066}\u{2069}"),
            ("\u{2029}\u{202f}\u{2065}\u{206a}", "\u{2029}\u{202f}\u{2065}\u{206a}"),
        ] {
            assert_eq!(one_line(text), expected);
        }
    }

    #[test]
    fn json_means_what_it_meant() {
        let every: String = (0..0x2100).filter_map(char::from_u32).collect();
        let value = json!({"a\u{9b}\n": [every, "\u{202e}", {"b": "\\u001b \u{1f600}"}], "c": 5});
        for text in [serde_json::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
            let safe = harmless_json(&text);
            assert_eq!(serde_json::from_str::<Value>(&safe).unwrap(), value);
            assert_eq!(safe.lines().count(), text.lines().count());
            assert!(!safe.chars().any(|c| acts(c) && c != '\n'), "{safe}");
        }
    }
}
