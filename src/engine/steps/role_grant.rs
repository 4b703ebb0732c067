//! `role_grant`: gives a person a role.

use super::{StepType, words};
use crate::engine::fields::Fields;
use serde_json::{Map, Value};

/// A role for a person.
pub struct RoleGrant;

impl StepType for RoleGrant {
    fn name(&self) -> &'static str {
        "role_grant"
    }

    fn check(&self, config: &Fields<'_>) {
        let _ = (config.text("user"), config.text("role"), config.maybe_text("reason"), config.span("expiresAfter"));
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }
}
