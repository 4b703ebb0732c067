//! Answers instead of calls. What is nearest to the call decides: the step, the run, the connector, the worker.

use super::{Answer, Failure, Reply, outputs};
use crate::store::connector::ConnectorRow;
use serde_json::{Map, Value};
use std::time::Duration;

/// Whether a call is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mock<'a> {
    /// It is.
    No,
    /// This is the answer.
    Given(&'a Value),
    /// The connector has the answer.
    OfConnector,
}

/// Decides. A step's `mock` may be `false` (make the call, whatever the others say), `true` (take the connector's) or the
/// answer's data.
pub(super) fn choose<'a>(step: Option<&'a Value>, use_mocks: bool, row: Option<&ConnectorRow>, mode: bool) -> Mock<'a> {
    match step {
        Some(Value::Bool(false)) => Mock::No,
        Some(Value::Bool(true)) => Mock::OfConnector,
        Some(value) if !value.is_null() => Mock::Given(value),
        _ if use_mocks || mode || row.is_some_and(|row| row.mock_enabled) => Mock::OfConnector,
        _ => Mock::No,
    }
}

/// The answer that the connector has for a command. Without one the call fails: to make it after all would be worse.
pub(super) fn of_connector(row: Option<&ConnectorRow>, command: &str) -> Result<Reply, Failure> {
    match row.and_then(|row| row.mocks.get(command)) {
        Some(value) => answer(value, command, row),
        None => {
            let name = row.map_or(super::HTTP, |row| &row.name);
            let message = format!("connectors are mocked, and `{name}` has no mock for `{command}`");
            Err(Failure::new("NO_MOCK", message))
        }
    }
}

/// Makes an answer of a mock: of its data, or, where it has a `success`, of the whole answer that it describes.
pub(super) fn answer(value: &Value, command: &str, row: Option<&ConnectorRow>) -> Result<Reply, Failure> {
    let whole = value.as_object().and_then(|members| Some((members, members.get("success")?.as_bool()?)));
    let data = match whole {
        Some((members, false)) => return Err(failure(members)),
        Some((members, true)) => members.get("data").cloned().unwrap_or_else(|| Value::Object(Map::new())),
        None => value.clone(),
    };
    let declared = row.and_then(|row| row.config.get("commands")?.get(command)?.get("outputs")?.as_object());
    let mut output_variables = match declared {
        Some(declared) => outputs::take(declared, &data)?,
        None => Map::new(),
    };
    if let Some(given) = whole.and_then(|(members, _)| members.get("outputVariables")?.as_object()) {
        output_variables.extend(given.clone());
    }
    Ok(Reply::Done(Answer { data, output_variables, duration: Duration::ZERO }))
}

fn failure(members: &Map<String, Value>) -> Failure {
    let text = |name: &str| members.get("error").and_then(|error| error.get(name)?.as_str()).map(str::to_string);
    let message = text("message").unwrap_or_else(|| "the mock says that it failed".to_string());
    Failure::new(text("code").unwrap_or_else(|| "MOCK".to_string()), message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use uuid::Uuid;

    fn row(mock_enabled: bool, mocks: Value) -> ConnectorRow {
        ConnectorRow {
            id: Uuid::nil(),
            name: "crm".to_string(),
            kind: "http".to_string(),
            config: json!({"commands": {"add": {"outputs": {"id": "user.id"}}}}).as_object().cloned().unwrap(),
            mock_enabled,
            mocks: mocks.as_object().cloned().unwrap(),
            enabled: true,
        }
    }

    #[test]
    fn what_is_nearest_to_the_call_decides() {
        let (data, off, on) = (json!({"a": 1}), json!(false), json!(true));
        let (quiet, mocked) = (row(false, json!({})), row(true, json!({})));
        for (step, use_mocks, row, mode, expected) in [
            (None, false, &quiet, false, Mock::No),
            (None, false, &quiet, true, Mock::OfConnector),
            (None, false, &mocked, false, Mock::OfConnector),
            (None, true, &quiet, false, Mock::OfConnector),
            (Some(&Value::Null), false, &quiet, false, Mock::No),
            (Some(&data), false, &quiet, false, Mock::Given(&data)),
            (Some(&data), true, &mocked, true, Mock::Given(&data)),
            (Some(&on), false, &quiet, false, Mock::OfConnector),
            (Some(&off), true, &mocked, true, Mock::No),
        ] {
            assert_eq!(choose(step, use_mocks, Some(row), mode), expected, "{step:?} {use_mocks} {mode}");
        }
    }

    #[test]
    fn a_mock_is_data_or_a_whole_answer() {
        let row = row(
            true,
            json!({
                "add": {"user": {"id": 7}},
                "whole": {"success": true, "data": {"x": 1}, "outputVariables": {"y": 2}},
                "fails": {"success": false, "error": {"message": "it exists already", "code": "EXISTS"}},
                "odd": {"success": "yes"},
            }),
        );
        let done = |command| match of_connector(Some(&row), command) {
            Ok(Reply::Done(answer)) => (answer.data, Value::Object(answer.output_variables)),
            other => panic!("{other:?}"),
        };
        assert_eq!(done("add"), (json!({"user": {"id": 7}}), json!({"id": 7})));
        assert_eq!(done("whole"), (json!({"x": 1}), json!({"y": 2})));
        assert_eq!(done("odd"), (json!({"success": "yes"}), json!({})));
        let failure = of_connector(Some(&row), "fails").unwrap_err();
        assert_eq!((failure.message.as_str(), &*failure.code), ("it exists already", "EXISTS"));
        assert_eq!(of_connector(Some(&row), "none").unwrap_err().code, "NO_MOCK");
    }
}
