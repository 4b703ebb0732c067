//! `document_submission`: asks a person for a document, and others to look at it.

use super::{StepType, check_question, failures_of_question, words};
use crate::engine::fields::Fields;
use serde_json::{Map, Value};

/// A document to be handed in.
pub struct DocumentSubmission;

impl StepType for DocumentSubmission {
    fn name(&self) -> &'static str {
        "document_submission"
    }

    fn check(&self, config: &Fields<'_>) {
        check_question(config);
        let _ = (config.text("assignee"), config.text("documentType"), config.texts("reviewers"));
        let _ = config.span("validFor");
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn failures(&self, config: &Map<String, Value>) -> Vec<&'static str> {
        let reviewed = config.get("reviewers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        failures_of_question(config, if reviewed { &["rejected"] } else { &[] })
    }

    fn waits(&self, _config: &Map<String, Value>) -> bool {
        true
    }
}
