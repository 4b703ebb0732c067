//! Takes variables out of an answer's data, each by its path.

use super::Failure;
use crate::values::path::Path;
use serde_json::{Map, Value};

/// The values at the paths, by their variables' names.
///
/// # Errors
/// A sentence about the first path that is none, or that leads nowhere.
pub fn take(outputs: &Map<String, Value>, data: &Value) -> Result<Map<String, Value>, Failure> {
    let nothing = Map::new();
    let data = data.as_object().unwrap_or(&nothing);
    let one = |(name, path): (&String, &Value)| {
        let wrong = |why: String| Failure::new("MISSING_OUTPUT", format!("the answer has nothing for `{name}`: {why}"));
        let path = path.as_str().ok_or_else(|| wrong("its path is no text".to_string()))?;
        let value = Path::parse(path).map_err(wrong)?.find(data).map_err(|missing| wrong(missing.to_string()))?;
        Ok((name.clone(), value.clone()))
    };
    outputs.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_found_by_their_paths_and_what_is_missing_is_named() {
        let data = json!({"user": {"id": 7}, "rows": [{"a": null}]});
        let outputs = |value: Value| take(value.as_object().unwrap(), &data);
        assert_eq!(
            outputs(json!({"id": "user.id", "a": "rows[0].a"})).map(Value::Object),
            Ok(json!({"id": 7, "a": null}))
        );
        for (path, words) in [(json!("user.name"), "`user.name` has no value"), (json!(5), "no text")] {
            let failure = outputs(json!({"id": path})).unwrap_err();
            assert!(failure.message.contains(words) && failure.message.contains("`id`"), "{failure}");
        }
        assert!(take(json!({"a": "b"}).as_object().unwrap(), &json!([1])).is_err());
    }
}
