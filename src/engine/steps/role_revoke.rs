//! `role_revoke`: takes a role from a person.

use super::{StepType, words};
use crate::engine::fields::Fields;
use serde_json::{Map, Value};

/// A role that ends.
pub struct RoleRevoke;

impl StepType for RoleRevoke {
    fn name(&self) -> &'static str {
        "role_revoke"
    }

    fn check(&self, config: &Fields<'_>) {
        let _ = (config.text("user"), config.text("role"), config.maybe_text("reason"));
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }
}
