//! `user_create`: makes an account for a person.

use super::{StepType, words};
use crate::engine::{definition::is_name, fields::Fields};
use serde_json::{Map, Value};

/// A new person.
pub struct UserCreate;

impl StepType for UserCreate {
    fn name(&self) -> &'static str {
        "user_create"
    }

    fn check(&self, config: &Fields<'_>) {
        let _ = (config.text("email"), config.text("displayName"), config.maybe_text("manager"));
        if config.get("attributes").is_some_and(|attributes| !attributes.is_object()) {
            config.wrong("WRONG_KIND", "attributes", "`attributes` is an object");
        }
        if let Some(name) = config.maybe_text("output").filter(|name| !is_name(name)) {
            config.wrong("BAD_NAME", "output", format!("`{name}` is no name of a variable"));
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn outputs(&self, config: &Map<String, Value>) -> Vec<String> {
        config.get("output").and_then(Value::as_str).map(str::to_string).into_iter().collect()
    }

    fn plain(&self) -> &'static [&'static str] {
        &["output"]
    }
}
