//! Paths to values among a run's variables: `user.manager.email`, `rows[2].name`.

use serde_json::{Map, Value};
use std::fmt;

/// A path, whose first part is a variable's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    variable: String,
    rest: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Field(String),
    Index(usize),
}

/// A path that leads nowhere: an error that names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` has no value: {why}")]
pub struct Missing {
    /// The whole path.
    pub path: String,
    /// Where it ended.
    pub why: String,
}

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Path, String> {
        let text = text.trim();
        let (variable, mut left) = word(text);
        if variable.is_empty() {
            return Err(format!("`{text}` is no path to a variable; write one such as user.email or rows[0].name"));
        }
        let mut rest = Vec::new();
        while !left.is_empty() {
            let (part, after) = part(left).ok_or_else(|| {
                format!("`{text}` is no path from `{left}` on; write one such as user.email or rows[0].name")
            })?;
            rest.push(part);
            left = after;
        }
        Ok(Path { variable: variable.to_string(), rest })
    }

    /// The variable that it begins with.
    #[must_use]
    pub fn variable(&self) -> &str {
        &self.variable
    }

    /// Whether it is the variable itself.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.rest.is_empty()
    }

    /// The value that it leads to.
    ///
    /// # Errors
    /// It leads nowhere.
    pub fn find<'a>(&self, variables: &'a Map<String, Value>) -> Result<&'a Value, Missing> {
        let missing = |why: String| Missing { path: self.to_string(), why };
        let mut value = variables
            .get(&self.variable)
            .ok_or_else(|| missing(format!("there is no variable `{}`", self.variable)))?;
        let mut before = self.variable.clone();
        for part in &self.rest {
            let next = match part {
                Part::Field(name) => value.get(name),
                Part::Index(index) => value.get(index),
            };
            value = next.ok_or_else(|| missing(format!("`{before}` is {} without `{part}`", kind(value))))?;
            before.push_str(&part.to_string());
        }
        Ok(value)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.variable)?;
        self.rest.iter().try_for_each(|part| write!(f, "{part}"))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Field(name) => write!(f, ".{name}"),
            Part::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A value's kind, for messages.
#[must_use]
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The letters, digits, `_` and `-` at the beginning, of which the first is no digit; and what follows.
fn word(text: &str) -> (&str, &str) {
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).unwrap_or(text.len());
    text.split_at(if first { end } else { 0 })
}

fn part(text: &str) -> Option<(Part, &str)> {
    if let Some(rest) = text.strip_prefix('.') {
        let (name, after) = word(rest);
        return (!name.is_empty()).then(|| (Part::Field(name.to_string()), after));
    }
    let (digits, after) = text.strip_prefix('[')?.split_once(']')?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?.map(|index| (Part::Index(index), after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn variables() -> Map<String, Value> {
        let all = json!({"user": {"email": "ada@example.org", "manager": null}, "rows": [{"name": "a"}], "n": 5});
        all.as_object().cloned().unwrap_or_default()
    }

    fn found(text: &str) -> Result<Value, String> {
        let path = Path::parse(text)?;
        assert_eq!(path.to_string(), text.trim());
        path.find(&variables()).cloned().map_err(|missing| missing.to_string())
    }

    #[test]
    fn paths_lead_into_objects_and_lists() {
        assert_eq!(found("user.email"), Ok(json!("ada@example.org")));
        assert_eq!(found(" rows[0].name "), Ok(json!("a")));
        assert_eq!(found("user.manager"), Ok(Value::Null));
        assert_eq!(found("n"), Ok(json!(5)));
    }

    #[test]
    fn a_path_that_leads_nowhere_is_named_with_where_it_ended() {
        for (path, why) in [
            ("nobody.email", "there is no variable `nobody`"),
            ("user.manager.email", "`user.manager` is null without `.email`"),
            ("rows[7].name", "`rows` is a list without `[7]`"),
            ("n.length", "`n` is a number without `.length`"),
        ] {
            assert_eq!(found(path), Err(format!("`{path}` has no value: {why}")));
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in
            ["", " ", "5x", ".a", "a.", "a..b", "a[", "a[]", "a[-1]", "a[1.0]", "a b", "a()", "a.b!", "a['b']", "é"]
        {
            assert!(Path::parse(text).is_err(), "{text}");
        }
    }
}
