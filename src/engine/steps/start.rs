//! `start`: where a run begins.

use super::{StepType, words};
use crate::engine::fields::Fields;
use serde_json::{Map, Value};

/// The first step.
pub struct Start;

impl StepType for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    fn check(&self, _config: &Fields<'_>) {}

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn failures(&self, _config: &Map<String, Value>) -> Vec<&'static str> {
        Vec::new()
    }
}
