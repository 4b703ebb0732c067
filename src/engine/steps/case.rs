//! `case`: goes the way of the first condition that holds.

use super::{StepType, condition};
use crate::{
    engine::{
        condition::Condition,
        fields::Fields,
        run::{Ending, Visit},
    },
    store::StoreError,
};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// A fork with many ways.
pub struct Case;

/// Outcomes that mean something else.
const TAKEN: [&str; 8] = ["success", "error", "approved", "rejected", "expired", "timeout", "true", "false"];

impl StepType for Case {
    fn name(&self) -> &'static str {
        "case"
    }

    fn check(&self, config: &Fields<'_>) {
        let mut labels = BTreeSet::from(["default"]);
        for (value, place) in config.full_list("cases") {
            let Some(case) = Fields::of(value, place, config.findings()) else { continue };
            if let Some(label) = case.text("label") {
                if TAKEN.contains(&label) {
                    case.wrong(
                        "BAD_LABEL",
                        "label",
                        format!("`{label}` is an outcome of other steps; choose another word"),
                    );
                } else if !labels.insert(label) {
                    case.wrong(
                        "BAD_LABEL",
                        "label",
                        format!("`{label}` is the label of a case before, or of what is left over"),
                    );
                }
            }
            if let Some(condition) = case.need("when") {
                let _ = Condition::read(condition, &case.place_of("when"), &mut case.findings().borrow_mut());
            }
            case.done();
        }
    }

    fn outcomes(&self, config: &Map<String, Value>) -> Vec<String> {
        let cases = config.get("cases").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let labels = cases.iter().filter_map(|case| case.get("label")?.as_str()).map(str::to_string);
        labels.chain(["default".to_string()]).collect()
    }

    fn carries_on(&self, _config: &Map<String, Value>) -> Option<String> {
        Some("default".into())
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async {
            let cases = visit.step.config.get("cases").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for case in cases {
                let Some(label) = case.get("label").and_then(Value::as_str) else { continue };
                let condition = case.get("when").and_then(condition::read);
                match condition.map(|condition| condition.holds(visit.variables)) {
                    Some(Ok(true)) => return Ok(Ending::done(label)),
                    Some(Ok(false)) => {}
                    Some(Err(why)) => return Ok(Ending::failed(format!("case `{label}`: {why}"))),
                    None => return Ok(Ending::failed(format!("`when` of the case `{label}` is no condition"))),
                }
            }
            Ok(Ending::done("default"))
        })
    }
}
