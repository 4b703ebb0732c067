//! `consent`: asks a person to agree to a text.

use super::{StepType, check_question, failures_of_question, words};
use crate::engine::fields::Fields;
use serde_json::{Map, Value};

/// A person's consent.
pub struct Consent;

impl StepType for Consent {
    fn name(&self) -> &'static str {
        "consent"
    }

    fn check(&self, config: &Fields<'_>) {
        check_question(config);
        let _ = (config.text("user"), config.text("text"));
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["approved", "rejected"])
    }

    fn failures(&self, config: &Map<String, Value>) -> Vec<&'static str> {
        failures_of_question(config, &[])
    }

    fn waits(&self, _config: &Map<String, Value>) -> bool {
        true
    }
}
