//! `transform`: computes variables in JavaScript.

use super::{StepType, words};
use crate::engine::{definition::is_name, fields::Fields};
use serde_json::{Map, Value};

/// A piece of JavaScript.
pub struct Transform;

/// The longest code, bytes.
const LONGEST: usize = 64 * 1024;

impl StepType for Transform {
    fn name(&self) -> &'static str {
        "transform"
    }

    fn check(&self, config: &Fields<'_>) {
        if config.text("code").is_some_and(|code| code.len() > LONGEST) {
            config.wrong("TOO_MANY", "code", format!("the code is longer than {LONGEST} bytes"));
        }
        for (value, place) in config.full_list("outputs") {
            if !value.as_str().is_some_and(is_name) {
                config.findings().borrow_mut().error("BAD_NAME", &place, format!("{value} is no name of a variable"));
            }
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn outputs(&self, config: &Map<String, Value>) -> Vec<String> {
        let outputs = config.get("outputs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        outputs.iter().filter_map(Value::as_str).map(str::to_string).collect()
    }

    fn plain(&self) -> &'static [&'static str] {
        &["code", "outputs"]
    }
}
