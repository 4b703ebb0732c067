//! `condition`: goes one way or the other.

use super::{StepType, words};
use crate::{
    engine::{
        condition::Condition,
        fields::Fields,
        finding::{Findings, Place},
        run::{Ending, Visit},
    },
    store::StoreError,
};
use futures_util::future::BoxFuture;
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

    /// What could not be compared does not hold.
    fn carries_on(&self, _config: &Map<String, Value>) -> Option<String> {
        Some("false".into())
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async {
            let condition = visit.step.config.get("if").and_then(read);
            Ok(match condition.map(|condition| condition.holds(visit.variables)) {
                Some(Ok(holds)) => Ending::done(if holds { "true" } else { "false" }),
                Some(Err(why)) => Ending::failed(why),
                None => Ending::failed("`if` is no condition"),
            })
        })
    }
}

/// A condition of a checked definition. What it compares with is filled in when it is asked, and never read as a template
/// again.
pub fn read(value: &Value) -> Option<Condition> {
    Condition::read(value, &Place::default(), &mut Findings::default())
}
