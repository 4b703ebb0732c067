//! Texts with values in them: `Dear {{user.displayName}}`. A value is data: what looks like a template in it stays as it is.

use super::path::{Missing, Path, kind};
use serde_json::{Map, Value};

/// A text that was read once and can be filled in often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Path),
}

impl Template {
    /// Reads a template. `\{{` stands for two braces that mean nothing, `\\{{` for a backslash and a value, and so on: two
    /// backslashes in front of braces are one, as in templates of mails.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Template, String> {
        let (mut pieces, mut plain, mut left) = (Vec::new(), String::new(), text);
        while let Some(start) = left.find("{{") {
            let before = &left[..start];
            let inside = &left[start + 2..];
            let backslashes = before.len() - before.trim_end_matches('\\').len();
            // Half as many, and the odd one is the braces'.
            plain.push_str(&before[..before.len() - backslashes.div_ceil(2)]);
            if backslashes % 2 == 1 {
                plain.push_str("{{");
                left = inside;
                continue;
            }
            let end = inside.find("}}").ok_or_else(|| format!("`{{{{{inside}` has no `}}}}`"))?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Value(Path::parse(&inside[..end])?));
            left = &inside[end + 2..];
        }
        plain.push_str(left);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Template(pieces))
    }

    /// The template of a text that is meant as it is, whatever it looks like.
    #[must_use]
    pub fn escape(text: &str) -> String {
        let (mut escaped, mut left) = (String::with_capacity(text.len()), text);
        while let Some((before, rest)) = left.split_once("{{") {
            let backslashes = before.len() - before.trim_end_matches('\\').len();
            escaped.push_str(before);
            escaped.extend(std::iter::repeat_n('\\', backslashes + 1));
            escaped.push_str("{{");
            left = rest;
        }
        escaped + left
    }

    /// The paths in it.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Value(path) => Some(path),
            Piece::Text(_) => None,
        })
    }

    /// Whether it is one path and nothing else, and so keeps the type of the value.
    #[must_use]
    pub fn is_value(&self) -> bool {
        matches!(self.0[..], [Piece::Value(_)])
    }

    /// Fills it in. A template that is one path and nothing else keeps the value's type; in a text, objects and lists are
    /// written as JSON.
    ///
    /// # Errors
    /// A path leads nowhere, or to null within a text.
    pub fn fill(&self, variables: &Map<String, Value>) -> Result<Value, Missing> {
        if let [Piece::Value(path)] = &self.0[..] {
            return path.find(variables).cloned();
        }
        self.fill_text(variables, |value| value.to_string()).map(Value::String)
    }

    /// Fills it in as a text, where each value goes through `encode`.
    ///
    /// # Errors
    /// A path leads nowhere, or to null.
    pub fn fill_text(
        &self,
        variables: &Map<String, Value>,
        encode: impl Fn(&str) -> String,
    ) -> Result<String, Missing> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Value(path) => match path.find(variables)? {
                    Value::String(value) => text.push_str(&encode(value)),
                    Value::Null => {
                        return Err(Missing { path: path.to_string(), why: format!("it is {}", kind(&Value::Null)) });
                    }
                    other => text.push_str(&encode(&other.to_string())),
                },
            }
        }
        Ok(text)
    }
}

/// Fills in every text of a JSON document. Names of members are not templates.
///
/// # Errors
/// The first sentence about a text that is no template, or whose path leads nowhere.
pub fn fill_all(document: &Value, variables: &Map<String, Value>) -> Result<Value, String> {
    Ok(match document {
        Value::String(text) => {
            Template::parse(text)?.fill(variables).map_err(|missing: Missing| missing.to_string())?
        }
        Value::Array(list) => {
            Value::Array(list.iter().map(|value| fill_all(value, variables)).collect::<Result<_, _>>()?)
        }
        Value::Object(members) => {
            let filled = members.iter().map(|(name, value)| Ok((name.clone(), fill_all(value, variables)?)));
            Value::Object(filled.collect::<Result<_, String>>()?)
        }
        plain => plain.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fill(text: &str) -> Result<Value, String> {
        let all = json!({"user": {"name": "Ada {{user.email}}", "tags": ["a", 1]}, "n": 5, "none": null});
        fill_all(&json!(text), all.as_object().unwrap())
    }

    #[test]
    fn values_are_put_into_texts_and_stay_data() {
        assert_eq!(
            fill("Dear {{user.name}}, {{ n }} of {{user.tags}}"),
            Ok(json!("Dear Ada {{user.email}}, 5 of [\"a\",1]"))
        );
        assert_eq!(fill("plain"), Ok(json!("plain")));
        assert_eq!(fill(""), Ok(json!("")));
    }

    #[test]
    fn a_template_that_is_one_path_keeps_the_type() {
        assert_eq!(fill("{{n}}"), Ok(json!(5)));
        assert_eq!(fill("{{user.tags}}"), Ok(json!(["a", 1])));
        assert_eq!(fill("{{none}}"), Ok(Value::Null));
        assert_eq!(fill(" {{n}}"), Ok(json!(" 5")));
    }

    #[test]
    fn escaped_braces_and_lone_ones_are_text() {
        assert_eq!(fill("\\{{n}} {n} }} {"), Ok(json!("{{n}} {n} }} {")));
    }

    #[test]
    fn two_backslashes_before_braces_are_one_and_a_value() {
        for (text, filled) in [
            (r"CORP\\{{n}}", r"CORP\5"),
            (r"CORP\\\\{{n}}", r"CORP\\5"),
            (r"CORP\\\{{n}}", r"CORP\{{n}}"),
            (r"{{n}}\\{{n}}\\", r"5\5\\"),
            (r"a\\b {n}", r"a\\b {n}"),
        ] {
            assert_eq!(fill(text), Ok(json!(filled)), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(fill("Dear {{user.mail}}").unwrap_err().contains("`user.mail` has no value"));
        assert!(fill("a {{none}}").unwrap_err().contains("`none` has no value: it is null"));
        assert!(fill("{{user.name").unwrap_err().contains("has no `}}`"));
        assert!(fill("{{}}").is_err() && fill("{{a b}}").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn hostile_templates_are_filled_or_refused_and_values_come_through(text in "([a-z.\\[\\]0-9 ]|\\{\\{|\\}\\}|\\\\|é){0,12}", value in ".{0,12}") {
            let variables = json!({"a": value}).as_object().cloned().unwrap();
            let _ = fill_all(&json!(text), &variables);
            prop_assert_eq!(fill_all(&json!("<{{a}}>"), &variables), Ok(json!(format!("<{value}>"))));
            prop_assert_eq!(fill_all(&json!(Template::escape(&text)), &variables), Ok(json!(text)));
        }
    }
}
