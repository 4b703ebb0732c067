//! How large values are.

use serde_json::Value;

/// About how many bytes a value is as JSON, without writing it.
#[must_use]
pub fn of(value: &Value) -> usize {
    let (mut open, mut size) = (vec![value], 0);
    while let Some(value) = open.pop() {
        size += match value {
            Value::Null | Value::Bool(_) => 5,
            Value::Number(_) => 8,
            Value::String(text) => text.len() + 3,
            Value::Array(list) => {
                open.extend(list);
                list.len() + 2
            }
            Value::Object(members) => {
                open.extend(members.values());
                members.keys().map(|name| name.len() + 4).sum::<usize>() + 2
            }
        };
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_about_as_large_as_its_json() {
        let value = json!({"list": [1, true, null, "text", [], {}], "name": {"a": "x".repeat(1000)}});
        assert!((1..2).contains(&(of(&value) / value.to_string().len())), "{}", of(&value));
    }
}
