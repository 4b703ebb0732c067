//! What PostgreSQL can store of a step's values, asked before it is told to.

use crate::values::size;
use serde_json::{Map, Value};

/// The deepest nesting: beyond it readers of the rows give up.
const DEEPEST: usize = 64;
/// The largest variables of a run, as JSON text, bytes: what a wake-up's data and a job's may have, too.
const LARGEST: usize = 1024 * 1024;

/// Why a value cannot be stored.
#[must_use]
pub fn refusal(value: &Value) -> Option<&'static str> {
    let mut open = vec![(value, 1)];
    while let Some((value, depth)) = open.pop() {
        if depth > DEEPEST {
            return Some("it is nested deeper than 64 levels");
        }
        match value {
            Value::String(text) if text.contains('\0') => return Some(NUL),
            Value::Array(list) => open.extend(list.iter().map(|one| (one, depth + 1))),
            Value::Object(members) => {
                if members.keys().any(|name| name.contains('\0')) {
                    return Some(NUL);
                }
                open.extend(members.values().map(|one| (one, depth + 1)));
            }
            _ => {}
        }
    }
    None
}

/// What is said of a text that has it.
pub const NUL: &str = "it has the character U+0000 in it, which PostgreSQL does not store";

/// The first variable that cannot be stored, and why: its name counts, too.
#[must_use]
pub fn unstorable(variables: &Map<String, Value>) -> Option<(&str, &'static str)> {
    let why = |name: &str, value| refusal(value).or_else(|| refusal_of_text(name));
    variables.iter().find_map(|(name, value)| Some((name.as_str(), why(name, value)?)))
}

/// Why a text cannot be stored.
#[must_use]
pub fn refusal_of_text(text: &str) -> Option<&'static str> {
    text.contains('\0').then_some(NUL)
}

/// Why variables cannot be set on top of those that are there.
#[must_use]
pub fn refusal_of(set: &Map<String, Value>, variables: &Map<String, Value>) -> Option<String> {
    if let Some((name, why)) = unstorable(set) {
        return Some(format!("the variable `{}` cannot be stored: {why}", name.escape_debug()));
    }
    if set.is_empty() {
        return None;
    }
    let kept = variables.iter().filter(|(name, _)| !set.contains_key(*name));
    let size: usize = kept.chain(set).map(|(name, value)| name.len() + size::of(value)).sum();
    (size > LARGEST)
        .then(|| format!("the run's variables would be {size} bytes, more than the {LARGEST} that are allowed"))
}

/// A sentence without what cannot be stored, and not endless.
#[must_use]
pub fn sentence(text: &str) -> String {
    const LONGEST: usize = 2000;
    let mut text = text.replace('\0', "\u{fffd}");
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_postgresql_refuses_is_found_wherever_it_is() {
        assert_eq!(refusal(&json!({"a": [1, "b", null]})), None);
        for value in [json!("a\u{0}"), json!([{"a": "\u{0}"}]), json!({"\u{0}": 1})] {
            assert_eq!(refusal(&value), Some(NUL), "{value}");
        }
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        assert!(refusal(&deep).unwrap().contains("64 levels"));
    }

    #[test]
    fn variables_have_a_size_that_counts_what_is_there_already() {
        let of = |name: &str, bytes: usize| Map::from_iter([(name.to_string(), json!("x".repeat(bytes)))]);
        assert_eq!(refusal_of(&of("a", 1000), &of("b", 1000)), None);
        assert!(refusal_of(&of("a", 600_000), &of("b", 600_000)).unwrap().contains("more than"));
        assert_eq!(refusal_of(&of("a", 600_000), &of("a", 600_000)), None);
        assert_eq!(refusal_of(&Map::new(), &of("b", 2_000_000)), None);
        let why = refusal_of(&of("a\0", 1), &Map::new()).unwrap();
        assert!(why.starts_with("the variable `a\\0` cannot be stored: it has the character U+0000"), "{why}");
    }

    #[test]
    fn a_sentence_ends() {
        assert_eq!(sentence("a\0b"), "a\u{fffd}b");
        assert_eq!(sentence(&"é".repeat(3000)).chars().count(), 1001);
    }
}
