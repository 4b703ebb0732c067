//! `profile_update`: changes what is known of a person.

use super::{StepType, words};
use crate::engine::fields::Fields;
use serde_json::{Map, Value};

/// A person's new attributes.
pub struct ProfileUpdate;

impl StepType for ProfileUpdate {
    fn name(&self) -> &'static str {
        "profile_update"
    }

    fn check(&self, config: &Fields<'_>) {
        let _ = config.text("user");
        match config.need("set") {
            Some(Value::Object(set)) if !set.is_empty() => {}
            Some(_) => config.wrong("WRONG_KIND", "set", "`set` is an object with at least one attribute"),
            None => {}
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }
}
