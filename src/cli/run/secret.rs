//! What of a run's variables and results is not shown: what is called a secret.

use serde_json::Value;

/// In place of a secret.
const HIDDEN: &str = "(hidden)";
/// A name with one of these in it, however it is written, is a secret's.
const WORDS: [&str; 8] =
    ["password", "passwd", "passphrase", "secret", "token", "credential", "privatekey", "authorization"];

/// The value without its secrets: members whose names say that they are some, at any depth.
pub fn without_secrets(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(without_secrets).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), member(name, value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

fn member(name: &str, value: &Value) -> Value {
    if is_secret(name) && !value.is_null() { Value::String(HIDDEN.into()) } else { without_secrets(value) }
}

/// Whether a name says that its value is a secret: `apiKey`, `client_secret`, `Password`; not `keyboard`.
fn is_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    WORDS.iter().any(|word| plain.contains(word)) || plain.ends_with("key") || plain == "pin"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_called_a_secret_is_hidden_at_any_depth() {
        let given = json!({
            "password": "x", "apiKey": "x", "API_KEY": 7, "clientSecret": {"a": "x"}, "accessTokens": ["x"],
            "user": {"email": "a@b", "pass-phrase": "x"}, "list": [{"pin": "x"}], "keyboard": "de", "token": null,
        });
        let hidden = json!({
            "password": HIDDEN, "apiKey": HIDDEN, "API_KEY": HIDDEN, "clientSecret": HIDDEN, "accessTokens": HIDDEN,
            "user": {"email": "a@b", "pass-phrase": HIDDEN}, "list": [{"pin": HIDDEN}], "keyboard": "de", "token": null,
        });
        assert_eq!(without_secrets(&given), hidden);
    }
}
