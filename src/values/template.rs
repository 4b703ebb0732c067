//! Texts with values in them: `Dear {{user.displayName}}`. A value is data: what looks like a template in it stays as it is.

use super::{
    path::{Missing, Path, kind},
    size,
};
use serde_json::{Map, Value};

/// The most that all values which are put into one document have together, bytes of JSON. A path may stand in a document any
/// number of times, so that a few kilobytes with a large variable in them would come to more than the machine's memory.
pub const MOST_FILLED: usize = 4 * 1024 * 1024;

/// Why a template is not filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfilled {
    /// A path leads nowhere, or to null within a text.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The values would take too much memory.
    #[error("the values that are put into templates have more than {} MiB together", MOST_FILLED / (1024 * 1024))]
    TooMuch,
}

/// How many bytes of values may still be put in.
#[derive(Debug)]
pub struct Budget(usize);

impl Default for Budget {
    /// All of [`MOST_FILLED`].
    fn default() -> Budget {
        Budget(MOST_FILLED)
    }
}

impl Budget {
    fn spend(&mut self, bytes: usize) -> Result<(), Unfilled> {
        self.0 = self.0.checked_sub(bytes).ok_or(Unfilled::TooMuch)?;
        Ok(())
    }
}

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

    /// Its text with the same value in place of each path.
    #[must_use]
    pub fn with_each(&self, value: &str) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(plain) => plain.clone(),
            Piece::Value(_) => value.to_string(),
        };
        self.0.iter().map(piece).collect()
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
    /// A path leads nowhere, or to null within a text; or the budget is used up.
    pub fn fill(&self, variables: &Map<String, Value>, budget: &mut Budget) -> Result<Value, Unfilled> {
        if let [Piece::Value(path)] = &self.0[..] {
            let value = path.find(variables)?;
            budget.spend(size::of(value))?;
            return Ok(value.clone());
        }
        self.text(variables, budget, |value| value.to_string()).map(Value::String)
    }

    /// Fills it in as a text, where each value goes through `encode`.
    ///
    /// # Errors
    /// A path leads nowhere, or to null; or the values have more than [`MOST_FILLED`].
    pub fn fill_text(
        &self,
        variables: &Map<String, Value>,
        encode: impl Fn(&str) -> String,
    ) -> Result<String, Unfilled> {
        self.text(variables, &mut Budget::default(), encode)
    }

    fn text(
        &self,
        variables: &Map<String, Value>,
        budget: &mut Budget,
        encode: impl Fn(&str) -> String,
    ) -> Result<String, Unfilled> {
        let mut text = String::new();
        for piece in &self.0 {
            let path = match piece {
                Piece::Text(plain) => {
                    text.push_str(plain);
                    continue;
                }
                Piece::Value(path) => path,
            };
            let value = match path.find(variables)? {
                Value::String(value) => encode(value),
                Value::Null => {
                    return Err(Missing { path: path.to_string(), why: format!("it is {}", kind(&Value::Null)) }.into());
                }
                other => encode(&other.to_string()),
            };
            budget.spend(value.len())?;
            text.push_str(&value);
        }
        Ok(text)
    }
}

/// Fills in every text of a JSON document, with a budget of its own. Names of members are not templates.
///
/// # Errors
/// The first sentence about a text that is no template, or whose path leads nowhere; or that the values have more than
/// [`MOST_FILLED`].
pub fn fill_all(document: &Value, variables: &Map<String, Value>) -> Result<Value, String> {
    fill_within(document, variables, &mut Budget::default())
}

/// The same for a part of a document, with what the parts before it have left of the budget.
///
/// # Errors
/// As [`fill_all`].
pub fn fill_within(document: &Value, variables: &Map<String, Value>, budget: &mut Budget) -> Result<Value, String> {
    Ok(match document {
        Value::String(text) => {
            Template::parse(text)?.fill(variables, budget).map_err(|unfilled| unfilled.to_string())?
        }
        Value::Array(list) => {
            let filled = list.iter().map(|value| fill_within(value, variables, budget));
            Value::Array(filled.collect::<Result<_, _>>()?)
        }
        Value::Object(members) => {
            let filled = members.iter().map(|(name, value)| Ok((name.clone(), fill_within(value, variables, budget)?)));
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

    #[test]
    fn values_that_are_put_in_again_and_again_come_to_an_end() {
        let text = "x".repeat(100 * 1024);
        let list: Vec<Value> = (0..10_000).map(|number| json!(number)).collect();
        let all = json!({"text": text, "list": list, "quotes": "\"".repeat(100 * 1024)});
        let variables = all.as_object().unwrap();
        let body = |template: &str, times: usize| {
            fill_all(&json!({"body": vec![template; times]}), variables).map(|_| "filled in")
        };
        let much = "the values that are put into templates have more than 4 MiB together";
        for (template, most) in
            [("{{text}}", 40), ("a {{text}}", 40), ("{{list}}", 40), ("b {{list}}", 40), ("c {{quotes}}", 40)]
        {
            assert!(body(template, most).is_ok(), "{template}");
            assert_eq!(body(template, 1000), Err(much.to_string()), "{template}");
        }
        assert_eq!(body(&"{{text}}".repeat(1000), 1), Err(much.to_string()));
        let path = Template::parse(&"/{{text}}".repeat(25)).unwrap();
        assert_eq!(
            path.fill_text(variables, |value| value.to_string()).map(|path| path.len()),
            Ok(25 * (text.len() + 1))
        );
        assert_eq!(path.fill_text(variables, |value| value.repeat(2)), Err(Unfilled::TooMuch), "what is put in counts");
        // What the document has itself is there already.
        let plain = json!(["y".repeat(MOST_FILLED), "{{text}}"]);
        assert_eq!(fill_all(&plain, variables).unwrap()[1], json!(text));
    }

    #[test]
    fn the_parts_of_a_document_share_a_budget() {
        let variables = Map::from_iter([("a".to_string(), json!("x".repeat(MOST_FILLED / 2)))]);
        let mut budget = Budget::default();
        assert!(fill_within(&json!("{{a}} "), &variables, &mut budget).is_ok());
        assert!(fill_within(&json!([" {{a}}"]), &variables, &mut budget).is_ok());
        assert!(fill_within(&json!(5), &variables, &mut budget).is_ok());
        assert!(fill_within(&json!(" {{a}}"), &variables, &mut budget).unwrap_err().contains("more than 4 MiB"));
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
