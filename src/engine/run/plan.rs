//! A definition as runs need it: its steps by their ids, and what is wrong with those that cannot be executed.

use super::storable;
use crate::{
    engine::{
        Finding, Severity,
        definition::{Definition, OnError, Step, Transition},
        finding::UNCHECKED,
        validate,
    },
    store::{Store, StoreError, definition::StoredDefinition},
};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use uuid::Uuid;

/// A version of a definition, ready to be executed.
pub struct Plan {
    /// Its name, for people.
    pub name: String,
    /// Its version.
    pub version: i32,
    /// What could be read of it.
    pub definition: Definition,
    by_id: HashMap<String, usize>,
    /// The types as the document has them, by the steps' ids: also of steps that could not be read.
    kinds: HashMap<String, String>,
    /// Why a step cannot be executed, by its id.
    problems: HashMap<String, String>,
}

impl Plan {
    /// Of a stored definition. It may have been published by another program, so it may be wrong in any way: what is wrong
    /// with one step is a run's business only when it gets there.
    #[must_use]
    pub fn of(stored: StoredDefinition) -> Plan {
        let (definition, findings) = validate(&stored.document);
        Plan::with(stored, definition, &findings)
    }

    /// With what was found. What could not be looked at is not wrong: plans are kept for as long as the process lives, and the
    /// machine that had no time for it now may have it in a second. Whoever executes the step says what is wrong with it.
    fn with(stored: StoredDefinition, definition: Definition, findings: &[Finding]) -> Plan {
        let steps = stored.document.get("steps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let (mut problems, mut kinds) = (HashMap::new(), HashMap::new());
        for (index, step) in steps.iter().enumerate() {
            let Some(id) = step.get("id").and_then(Value::as_str) else { continue };
            if let Some(kind) = step.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty()) {
                kinds.entry(id.to_string()).or_insert_with(|| storable::sentence(kind));
            }
            let place = format!("steps[{index}]");
            let inside = |found: &str| {
                found.strip_prefix(&place).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            let is_error = |one: &Finding| one.severity == Severity::Error && one.code != UNCHECKED;
            let errors = findings.iter().filter(|one| is_error(one) && inside(&one.place));
            let message = errors.map(|one| one.message.clone()).collect::<Vec<_>>().join("; ");
            if !message.is_empty() {
                problems.entry(id.to_string()).or_insert(message);
            }
        }
        let by_id = definition.steps.iter().enumerate().rev().map(|(index, step)| (step.id.clone(), index)).collect();
        Plan { name: stored.name, version: stored.version, definition, by_id, kinds, problems }
    }

    /// The step of this id.
    ///
    /// # Errors
    /// A sentence: there is none, or it cannot be executed.
    pub fn step(&self, id: &str) -> Result<&Step, String> {
        if let Some(problem) = self.problems.get(id) {
            return Err(format!("the step `{id}` cannot be executed: {problem}"));
        }
        let step = self.by_id.get(id).and_then(|index| self.definition.steps.get(*index));
        step.ok_or_else(|| format!("the definition `{}` has no step `{id}` that can be executed", self.name))
    }

    /// The type of a step, as the definition calls it, executed here or not.
    #[must_use]
    pub fn kind(&self, id: &str) -> &str {
        self.kinds.get(id).map_or("unknown", String::as_str)
    }

    /// The step that a run begins with.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn start(&self) -> Result<&Step, String> {
        let mut starts = self.definition.steps.iter().filter(|step| step.kind.name() == "start");
        match (starts.next(), starts.next()) {
            (Some(start), None) => self.step(&start.id),
            _ => Err(format!("the definition `{}` does not have one step of type `start`", self.name)),
        }
    }

    /// What happens when a step fails that has no edge for it.
    #[must_use]
    pub fn on_error(&self, step: &Step) -> OnError {
        step.on_error.unwrap_or(self.definition.on_error)
    }
}

/// The edge of a step for an outcome.
#[must_use]
pub fn edge<'a>(step: &'a Step, outcome: &str) -> Option<&'a Transition> {
    step.transitions.iter().find(|transition| transition.on == outcome)
}

/// Definitions that are kept in memory. A version that runs exist of does not change.
const MOST: usize = 64;

/// The plans that were used last.
#[derive(Default)]
pub struct Plans(Mutex<Vec<(Uuid, Arc<Plan>)>>);

impl Plans {
    /// The plan of a version of a definition.
    pub async fn get(&self, store: &Store, id: Uuid) -> Result<Option<Arc<Plan>>, StoreError> {
        if let Some(plan) = self.known(id) {
            return Ok(Some(plan));
        }
        let Some(stored) = store.definition(id).await? else { return Ok(None) };
        let changeable = stored.is_draft();
        let plan = Arc::new(Plan::of(stored));
        if !changeable {
            let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            plans.truncate(MOST - 1);
            plans.insert(0, (id, Arc::clone(&plan)));
        }
        Ok(Some(plan))
    }

    fn known(&self, id: Uuid) -> Option<Arc<Plan>> {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = plans.iter().position(|(known, _)| *known == id)?;
        let found = plans.remove(index);
        let plan = Arc::clone(&found.1);
        plans.insert(0, found);
        Some(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::finding::Place, store::definition::DefinitionStatus};
    use serde_json::json;

    fn stored(code: &str) -> StoredDefinition {
        let to = |id: &str| json!([{"on": "success", "to": id}]);
        let document = json!({"name": "a", "steps": [
            {"id": "start", "type": "start", "transitions": to("t")},
            {"id": "t", "type": "transform", "config": {"code": code, "outputs": ["a"]}, "transitions": to("end")},
            {"id": "end", "type": "end"},
        ]});
        StoredDefinition { id: Uuid::nil(), name: "a".into(), version: 1, status: DefinitionStatus::Active, document }
    }

    #[test]
    fn what_is_wrong_with_a_step_is_said_when_a_run_gets_there() {
        let plan = Plan::of(stored("return {"));
        assert_eq!(plan.start().map(|step| step.id.as_str()), Ok("start"));
        let why = plan.step("t").map(|step| &step.id).unwrap_err();
        assert!(why.starts_with("the step `t` cannot be executed: SyntaxError"), "{why}");
    }

    #[test]
    fn what_could_not_be_checked_is_executed() {
        let stored = stored("return {}");
        let (definition, mut findings) = validate(&stored.document);
        let place = Place::default().field("steps").index(1).field("config").field("code").to_string();
        let message = "the code was not checked: it did not compile within 3 s".to_string();
        findings.push(Finding { severity: Severity::Error, code: UNCHECKED, place, message });
        let plan = Plan::with(stored, definition, &findings);
        assert_eq!(plan.step("t").map(|step| step.kind.name()), Ok("transform"));
    }
}
