//! `condition`: goes one way or the other.

use super::{StepType, words};
use crate::engine::{condition::Condition, fields::Fields};
use serde_json::{Map, Value};

/// A fork with two ways.
pub struct If;

impl StepType for If {
    fn name(&self) -> &'static str {
        "condition"
    }

    fn check(&self, config: &Fields<'_>) {
        if let Some(condition) = config.need("if") {
            let _ = Condition::read(condition, &config.place_of("if"), &mut config.findings().borrow_mut());
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["true", "false"])
    }
}
