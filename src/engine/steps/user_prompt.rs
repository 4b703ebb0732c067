//! `user_prompt`: asks a person for values.

use super::{StepType, check_question, failures_of_question, question, words};
use crate::{
    engine::{
        definition::{VARIABLE_TYPES, Variable, VariableType, is_name},
        fields::Fields,
        people,
        run::{Ending, Visit, misfit},
    },
    store::{
        StoreError,
        question::{Question, QuestionKind},
    },
};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// A form.
pub struct UserPrompt;

impl StepType for UserPrompt {
    fn name(&self) -> &'static str {
        "user_prompt"
    }

    fn check(&self, config: &Fields<'_>) {
        check_question(config);
        let _ = config.text("assignee");
        let mut names = BTreeSet::new();
        for (value, place) in config.full_list("fields") {
            let Some(field) = Fields::of(value, place, config.findings()) else { continue };
            if let Some(name) = field.text("name") {
                if !is_name(name) {
                    field.wrong("BAD_NAME", "name", format!("`{name}` is no name of a variable"));
                } else if !names.insert(name) {
                    field.wrong("BAD_NAME", "name", format!("`{name}` is asked for twice"));
                }
            }
            let kind = match field.get("type") {
                None => Some(VariableType::String),
                Some(_) => field.word("type", &VARIABLE_TYPES),
            };
            let _ = (field.flag("required", false), field.maybe_text("label"));
            for (option, _) in field.list("options") {
                kind.inspect(|kind| check_option(&field, *kind, option));
            }
            field.done();
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn failures(&self, config: &Map<String, Value>) -> Vec<&'static str> {
        failures_of_question(config, &[])
    }

    fn waits(&self, _config: &Map<String, Value>) -> bool {
        true
    }

    fn outputs(&self, config: &Map<String, Value>) -> Vec<String> {
        let fields = config.get("fields").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        fields.iter().filter_map(|field| field.get("name")?.as_str()).map(str::to_string).collect()
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async move {
            if !visit.waits {
                return ask(visit).await;
            }
            match question::answer(visit, QuestionKind::Prompt).await? {
                Ok(answered) => keep(visit, &answered).await,
                Err(ending) => Ok(ending),
            }
        })
    }
}

/// An answer of the field's type is to be one of the options: one of another type would never be. The others can still be
/// chosen, so that this forbids nothing.
fn check_option(field: &Fields<'_>, kind: VariableType, option: &Value) {
    // Of a list it is the elements that are.
    if kind == VariableType::Array || option.as_str().is_some_and(|text| text.contains("{{")) {
        return;
    }
    let answer = Variable { name: String::new(), kind, required: false, description: None };
    if misfit(&answer, option).is_some() {
        let message = format!("`{option}` is no answer of type {}: nobody can choose it", kind.name());
        field.findings().borrow_mut().warning("NEVER", &field.place_of("options"), message);
    }
}

async fn ask(visit: &Visit<'_>) -> Result<Ending, StoreError> {
    let config = match visit.config() {
        Ok(config) => config,
        Err(why) => return Ok(Ending::failed(why)),
    };
    let assignee = config.get("assignee").unwrap_or(&Value::Null);
    let asked = match people::asked(visit.store, assignee).await? {
        Ok(asked) => asked,
        Err(why) => return Ok(Ending::failed(format!("`assignee`: {why}"))),
    };
    let due = question::due(visit, config.get("expiresAfter"));
    let mut new = question::to(&asked, QuestionKind::Prompt, visit, &config, due);
    new.fields = config.get("fields").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(question::ask(visit, vec![new], "assigned"))
}

/// Every field is a variable, those that were left out are null. The database has checked the types; people become
/// snapshots.
async fn keep(visit: &Visit<'_>, answered: &Question) -> Result<Ending, StoreError> {
    let mut set = Map::new();
    for field in &answered.fields {
        let Some(name) = field.get("name").and_then(Value::as_str) else { continue };
        let mut value = answered.answer.get(name).cloned().unwrap_or_default();
        if field.get("type").and_then(Value::as_str) == Some("user") && !value.is_null() {
            value = match people::snapshot(visit.store, &value).await? {
                Ok(person) => person,
                Err(why) => return Ok(Ending::failed(format!("the answer `{name}`: {why}"))),
            };
        }
        set.insert(name.to_string(), value);
    }
    let result = Some(question::said(answered));
    Ok(Ending::Done { outcome: "success".into(), set, result, effects: Vec::new() })
}
