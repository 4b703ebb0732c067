//! What the data of a `trigger-workflow` job may say: our own scheduler's, and what others write.

use crate::{
    engine::run::storable,
    store::{definition::Reference, run::NewRun},
};
use serde_json::{Map, Value};
use uuid::Uuid;

/// How others call the definition: by its name, or by the id of a version.
const DEFINITION: [&str; 7] =
    ["definition", "definitionName", "definitionId", "workflow", "workflowName", "workflowId", "workflowDefinitionId"];
/// How others call whoever starts the run.
const SUBMITTER: [&str; 4] = ["submitterId", "submitter", "triggeredBy", "userId"];

/// What is to be started.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Request {
    /// A run of this schedule.
    Schedule(Uuid),
    /// A run of this definition, in a queue that is not said.
    Definition(NewRun),
}

impl Request {
    /// Reads a job's data. What is not known is left alone.
    ///
    /// # Errors
    /// A sentence for the job's failed reason.
    pub(super) fn read(data: &Value) -> Result<Request, String> {
        const WANTED: &str = "a trigger-workflow job says what to start: {\"scheduleId\": UUID}, or {\"definition\": NAME, \
            \"variables\": {…}, \"submitterId\": ID, \"useMocks\": true or false}";
        let Value::Object(fields) = data else { return Err(format!("{WANTED}; its data is no object")) };
        if let Some((name, value)) = given(fields, &["scheduleId"]) {
            let id = value.as_str().and_then(|text| text.parse().ok());
            return id.map(Request::Schedule).ok_or_else(|| format!("{WANTED}; its `{name}` is no UUID"));
        }
        let Some((name, value)) = given(fields, &DEFINITION) else {
            return Err(format!("{WANTED}; its data has neither"));
        };
        let Some(definition) = value.as_str().filter(|text| !text.trim().is_empty()) else {
            return Err(format!("{WANTED}; its `{name}` is neither a definition's name nor a version's id"));
        };
        let unstorable = |name: &str, why: &str| format!("{WANTED}; its `{name}` cannot be stored: {why}");
        if let Some(why) = storable::refusal_of_text(definition) {
            return Err(unstorable(name, why));
        }
        let variables = match given(fields, &["variables"]) {
            None => Map::new(),
            Some((name, Value::Object(variables))) => match storable::unstorable(variables) {
                None => variables.clone(),
                Some((_, why)) => return Err(unstorable(name, why)),
            },
            Some(_) => return Err(format!("{WANTED}; its `variables` are no object")),
        };
        let use_mocks = match given(fields, &["useMocks"]) {
            None => false,
            Some((_, Value::Bool(use_mocks))) => *use_mocks,
            Some(_) => return Err(format!("{WANTED}; its `useMocks` is neither true nor false")),
        };
        let submitter_id = submitter(fields).map_err(|name| {
            format!("{WANTED}; its `{name}` is neither a person's id or address nor an object with one")
        })?;
        if let Some(why) = submitter_id.as_deref().and_then(storable::refusal_of_text) {
            return Err(unstorable("submitterId", why));
        }
        let Ok(definition) = definition.trim().parse::<Reference>();
        Ok(Request::Definition(NewRun { variables, submitter_id, use_mocks, ..NewRun::new(definition, "") }))
    }
}

/// The first of these fields that says something.
fn given<'a>(fields: &'a Map<String, Value>, names: &[&'a str]) -> Option<(&'a str, &'a Value)> {
    names.iter().find_map(|name| fields.get(*name).filter(|value| !value.is_null()).map(|value| (*name, value)))
}

fn submitter(fields: &Map<String, Value>) -> Result<Option<String>, &'static str> {
    let named = SUBMITTER.iter().find(|name| fields.get(**name).is_some_and(|value| !value.is_null()));
    let Some(name) = named else { return Ok(None) };
    let text = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let value = &fields[*name];
    let person = text(value).or_else(|| ["id", "email"].iter().find_map(|field| text(value.get(field)?)));
    person.map(Some).ok_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::hostile::json_with;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_schedule_or_a_definition_in_the_spellings_that_people_use() {
        let id = "6f1c0d3a-0000-4000-8000-000000000000";
        assert_eq!(Request::read(&json!({"scheduleId": id})), Ok(Request::Schedule(id.parse().unwrap())));
        let read = |data: Value| match Request::read(&data) {
            Ok(Request::Definition(run)) => {
                (run.definition, run.submitter_id, Value::Object(run.variables), run.use_mocks)
            }
            other => panic!("{data}: {other:?}"),
        };
        let nothing = || json!({});
        let name = |text: &str| Reference::Name(text.into());
        assert_eq!(read(json!({"definition": " onboarding"})), (name("onboarding"), None, nothing(), false));
        assert_eq!(read(json!({"workflow": "onboarding@3"})).0, Reference::Version("onboarding".into(), 3));
        assert_eq!(
            read(
                json!({"workflowId": id, "variables": {"a": 1}, "submitter": {"id": "u-1"}, "useMocks": true, "x": []})
            ),
            (Reference::Id(id.parse().unwrap()), Some("u-1".into()), json!({"a": 1}), true)
        );
        let some = |text: &str| Some(text.to_string());
        assert_eq!(read(json!({"workflowName": "a", "triggeredBy": "ada@example.org"})).1, some("ada@example.org"));
        assert_eq!(read(json!({"definitionId": "a", "userId": 7, "scheduleId": null})).1, some("7"));
        assert_eq!(
            read(json!({"workflow": "a", "submitter": {"email": "ada@example.org"}})).1,
            some("ada@example.org")
        );
    }

    #[test]
    fn anything_else_is_refused_in_one_sentence() {
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        for (data, says) in [
            (json!([]), "its data is no object"),
            (json!({}), "its data has neither"),
            (json!({"scheduleId": "daily"}), "its `scheduleId` is no UUID"),
            (json!({"scheduleId": 7}), "its `scheduleId` is no UUID"),
            (json!({"definition": {"steps": []}}), "its `definition` is neither"),
            (json!({"workflowId": " "}), "its `workflowId` is neither"),
            (json!({"definition": "a", "variables": []}), "its `variables` are no object"),
            (json!({"definition": "a", "useMocks": "yes"}), "its `useMocks` is neither"),
            (json!({"definition": "a", "submitter": {}}), "its `submitter` is neither"),
            (json!({"workflow": "a\u{0}"}), "its `workflow` cannot be stored: it has the character U+0000"),
            (json!({"definition": "a", "submitter": {"id": "\u{0}"}}), "its `submitterId` cannot be stored"),
            (json!({"definition": "a", "variables": {"b": ["\u{0}"]}}), "its `variables` cannot be stored"),
            (json!({"definition": "a", "variables": {"\u{0}": 1}}), "its `variables` cannot be stored"),
            (json!({"definition": "a", "variables": {"b": deep}}), "nested deeper than 64 levels"),
        ] {
            let why = Request::read(&data).unwrap_err();
            assert!(why.starts_with("a trigger-workflow job says what to start: ") && why.contains(says), "{why}");
        }
    }

    const NAMES: [&str; 8] =
        ["scheduleId", "definition", "workflowId", "variables", "submitter", "submitterId", "useMocks", "id"];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn hostile_data_is_read_or_refused(data in json_with(&NAMES)) {
            if let Err(why) = Request::read(&data) {
                prop_assert!(!why.contains('\n') && why.len() < 400, "{}", why);
            }
        }
    }
}
