//! `end`: where a run ends, and how.

use super::StepType;
use crate::engine::fields::Fields;
use serde_json::{Map, Value};

/// A last step.
pub struct End;

impl StepType for End {
    fn name(&self) -> &'static str {
        "end"
    }

    fn check(&self, config: &Fields<'_>) {
        let failed = config.word("status", &[("completed", false), ("failed", true), ("cancelled", true)]);
        if config.maybe_text("reason").is_none() && failed == Some(true) {
            config.wrong("MISSING", "reason", "a run that does not end as completed has a `reason`");
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        Vec::new()
    }

    fn failures(&self, _config: &Map<String, Value>) -> Vec<&'static str> {
        Vec::new()
    }
}
