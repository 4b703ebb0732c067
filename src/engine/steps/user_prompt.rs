//! `user_prompt`: asks a person for values.

use super::{StepType, check_question, failures_of_question, words};
use crate::engine::{
    definition::{VARIABLE_TYPES, is_name},
    fields::Fields,
};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// A form.
pub struct UserPrompt;

impl StepType for UserPrompt {
    fn name(&self) -> &'static str {
        "user_prompt"
    }

    fn check(&self, config: &Fields<'_>) {
        check_question(config);
        let _ = config.text("assignee");
        let mut names = BTreeSet::new();
        for (value, place) in config.full_list("fields") {
            let Some(field) = Fields::of(value, place, config.findings()) else { continue };
            if let Some(name) = field.text("name") {
                if !is_name(name) {
                    field.wrong("BAD_NAME", "name", format!("`{name}` is no name of a variable"));
                } else if !names.insert(name) {
                    field.wrong("BAD_NAME", "name", format!("`{name}` is asked for twice"));
                }
            }
            let _ = (field.word("type", &VARIABLE_TYPES), field.flag("required", false), field.maybe_text("label"));
            let _ = field.list("options");
            field.done();
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn failures(&self, config: &Map<String, Value>) -> Vec<&'static str> {
        failures_of_question(config, &[])
    }

    fn waits(&self, _config: &Map<String, Value>) -> bool {
        true
    }

    fn outputs(&self, config: &Map<String, Value>) -> Vec<String> {
        let fields = config.get("fields").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        fields.iter().filter_map(|field| field.get("name")?.as_str()).map(str::to_string).collect()
    }
}
