//! `connector`: calls another system.

use super::{StepType, words};
use crate::engine::{definition::is_name, fields::Fields, path::Path};
use serde_json::{Map, Value};

/// A command of a connector.
pub struct Connector;

/// The built-in connector that waits.
const DELAY: &str = "delay";

impl StepType for Connector {
    fn name(&self) -> &'static str {
        "connector"
    }

    fn check(&self, config: &Fields<'_>) {
        let _ = (config.text("connectorId"), config.text("command"), config.get("mock"));
        let _ = config.get("params").is_some_and(|params| {
            let wrong = !params.is_object();
            if wrong {
                config.wrong("WRONG_KIND", "params", "`params` is an object");
            }
            wrong
        });
        let Some(outputs) = config.fields("outputs") else { return };
        for (name, path) in outputs.all() {
            if !is_name(name) {
                outputs.wrong("BAD_NAME", name, format!("`{name}` is no name of a variable"));
            }
            match path.as_str().map(Path::parse) {
                Some(Ok(_)) => {}
                Some(Err(why)) => outputs.wrong("BAD_PATH", name, why),
                None => outputs.wrong("BAD_PATH", name, "a path into the answer's data is a text, such as user.id"),
            }
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn waits(&self, config: &Map<String, Value>) -> bool {
        config.get("connectorId").and_then(Value::as_str) == Some(DELAY)
    }

    fn outputs(&self, config: &Map<String, Value>) -> Vec<String> {
        let outputs = config.get("outputs").and_then(Value::as_object);
        outputs.map(|outputs| outputs.keys().cloned().collect()).unwrap_or_default()
    }

    fn plain(&self) -> &'static [&'static str] {
        &["outputs"]
    }
}
