//! `connector`: calls another system, or waits.

use super::{StepType, needed, words};
use crate::{
    connectors::{Answer, Call, DELAY, Failure, HTTP, REQUEST, Reply, Request, check_request, delay, outputs},
    engine::{
        definition::{Retry, is_name},
        fields::Fields,
        path::Path,
        run::{Ending, Visit, storable},
    },
    store::{StoreError, connector, run::StepStatus},
};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// A command of a connector.
pub struct Connector;

/// No call takes longer; a step's `timeout` may end it sooner.
const LONGEST_CALL: Duration = Duration::from_secs(300);

/// An answer with more data than this is not kept with the step, only what was taken out of it.
const LARGEST_RESULT: usize = 256 * 1024;

impl StepType for Connector {
    fn name(&self) -> &'static str {
        "connector"
    }

    fn check(&self, config: &Fields<'_>) {
        let (connector, command) = (config.text("connectorId"), config.text("command"));
        let mock = config.get("mock");
        let _ = config.get("params").is_some_and(|params| {
            let wrong = !params.is_object();
            if wrong {
                config.wrong("WRONG_KIND", "params", "`params` is an object");
            }
            wrong
        });
        if let Some(command) = command.filter(|_| connector == Some(DELAY) && !is_data(mock)) {
            check_delay(config, command);
        }
        if let Some(command) = command.filter(|_| connector == Some(HTTP) && !is_data(mock)) {
            check_http(config, command);
        }
        let of_mock = mock.and_then(|mock| mock.get("outputVariables")).and_then(Value::as_object);
        for name in of_mock.into_iter().flat_map(Map::keys).filter(|name| !is_name(name)) {
            let place = config.place_of("mock").field("outputVariables").field(name);
            let message = format!("`{name}` is no name of a variable");
            config.findings().borrow_mut().error("BAD_NAME", &place, message);
        }
        let Some(outputs) = config.fields("outputs") else { return };
        for (name, path) in outputs.all() {
            if !is_name(name) {
                outputs.wrong("BAD_NAME", name, format!("`{name}` is no name of a variable"));
            }
            match path.as_str().map(Path::parse) {
                Some(Ok(_)) => {}
                Some(Err(why)) => outputs.wrong("BAD_PATH", name, why),
                None => outputs.wrong("BAD_PATH", name, "a path into the answer's data is a text, such as user.id"),
            }
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn waits(&self, config: &Map<String, Value>) -> bool {
        config.get("connectorId").and_then(Value::as_str) == Some(DELAY) && !is_data(config.get("mock"))
    }

    fn outputs(&self, config: &Map<String, Value>) -> Vec<String> {
        let of_mock = config.get("mock").and_then(|mock| mock.get("outputVariables"));
        let both = [config.get("outputs"), of_mock].into_iter().flatten().filter_map(Value::as_object);
        both.flat_map(|outputs| outputs.keys().cloned()).collect()
    }

    fn plain(&self) -> &'static [&'static str] {
        &["outputs"]
    }

    /// As the queue tries jobs again: three times, after 5, 10 and 20 s.
    fn retry(&self) -> Option<Retry> {
        Some(Retry { attempts: 4, delay: Duration::from_secs(5), doubles: true })
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async {
            let config = match visit.config() {
                Ok(config) => config,
                Err(why) => return Ok(Ending::failed(why)),
            };
            let reply = match waits_until(visit) {
                Some(due) => Ok(Reply::Later(due)),
                None => call(visit, &config).await?,
            };
            Ok(match reply {
                Ok(Reply::Later(due)) if due > visit.now => wait(due),
                Ok(Reply::Later(due)) => done(&config, over(due)),
                Ok(Reply::Done(answer)) => done(&config, answer),
                Err(failure) => failed(&failure),
            })
        })
    }
}

/// Makes the call, without holding a session of the database meanwhile.
async fn call(visit: &Visit<'_>, config: &Map<String, Value>) -> Result<Result<Reply, Failure>, StoreError> {
    let (connector, command) = match (needed(config, "connectorId"), needed(config, "command")) {
        (Ok(connector), Ok(command)) => (connector, command),
        (Err(why), _) => return Ok(Err(Failure::new("UNKNOWN_CONNECTOR", why))),
        (_, Err(why)) => return Ok(Err(Failure::new("UNKNOWN_COMMAND", why))),
    };
    let nothing = Map::new();
    let row = match connector.as_str() {
        DELAY => None,
        name => connector::find(&visit.store.client().await?, name).await?,
    };
    let request = Request {
        connector: &connector,
        call: Call {
            command: &command,
            params: config.get("params").and_then(Value::as_object).unwrap_or(&nothing),
            idempotency_key: &visit.idempotency_key(),
            deadline: Instant::now() + LONGEST_CALL,
            // As the step's `timeout` is, a wait is counted from when the step began.
            now: visit.started_at,
        },
        mock: config.get("mock"),
        use_mocks: visit.use_mocks,
    };
    Ok(visit.tools.connectors.call(row.as_ref(), &request).await)
}

/// Until when the visit waits, if it does so already.
fn waits_until(visit: &Visit<'_>) -> Option<DateTime<Utc>> {
    let until = visit.result.filter(|_| visit.waits)?.get("until")?.as_str()?;
    DateTime::parse_from_rfc3339(until).ok().map(|until| until.to_utc())
}

fn wait(due: DateTime<Utc>) -> Ending {
    Ending::Waits {
        status: StepStatus::WaitingResponse,
        until: Some(due),
        result: Some(json!({ "until": due })),
        assignment: None,
        effects: Vec::new(),
    }
}

/// The answer of a wait that is over.
fn over(due: DateTime<Utc>) -> Answer {
    Answer { data: json!({ "until": due }), output_variables: Map::new(), duration: Duration::ZERO }
}

/// The variables are the connector's own, and over them what the step takes out of the data.
fn done(config: &Map<String, Value>, answer: Answer) -> Ending {
    let nothing = Map::new();
    let declared = config.get("outputs").and_then(Value::as_object).unwrap_or(&nothing);
    let taken = match outputs::take(declared, &answer.data) {
        Ok(taken) => taken,
        Err(failure) => return failed(&failure),
    };
    let result = shown(&answer);
    let mut set = answer.output_variables;
    set.extend(taken);
    Ending::Done { outcome: "success".into(), set, result: Some(result), effects: Vec::new() }
}

/// What is kept of an answer with the step. The call has succeeded, and has had its effect: what is too large or cannot be
/// stored is left out, and fails nothing. What was taken out of it is among the variables.
fn shown(answer: &Answer) -> Value {
    let mut result = answer.to_json();
    let size = answer.data.to_string().len();
    if size > LARGEST_RESULT || storable::refusal(&json!({"data": answer.data})).is_some() {
        result["data"] = Value::Null;
        result["dataBytes"] = json!(size);
    }
    // Here they are nested deeper than as variables, which they may be all the same.
    if storable::refusal(&result).is_some() {
        result["outputVariables"] = Value::Null;
    }
    result
}

fn failed(failure: &Failure) -> Ending {
    Ending::Failed {
        reason: failure.message.clone(),
        outcome: "error",
        set: Map::new(),
        result: Some(failure.to_json()),
        passing: failure.passing,
        effects: Vec::new(),
    }
}

/// Whether a mock is the answer itself, and no switch.
fn is_data(mock: Option<&Value>) -> bool {
    mock.is_some_and(|mock| !mock.is_null() && !mock.is_boolean())
}

/// What can be known of a wait beforehand: a template in a parameter stands for a right value.
fn check_delay(config: &Fields<'_>, command: &str) {
    let is_template = |value: &Value| value.as_str().is_some_and(|text| text.contains("{{"));
    if command.contains("{{") || config.get("params").is_some_and(|params| !params.is_object()) {
        return;
    }
    let params = config.fields("params");
    let mut assumed = params.as_ref().map(|params| params.all().clone()).unwrap_or_default();
    for (name, value) in assumed.iter_mut().filter(|(_, value)| is_template(value)) {
        *value = match name.as_str() {
            "duration" => json!(1),
            "time" => json!("2026-01-01"),
            _ => Value::Null,
        };
    }
    let known: &[&'static str] = if command == "until" { &["time", "zone"] } else { &["duration"] };
    let result = delay::due(command, &assumed, Utc::now());
    match (result, params) {
        (Err(wrong), Some(params)) if wrong.param.is_some() => {
            params.wrong(wrong.code, wrong.param.unwrap_or_default(), wrong.message);
        }
        (Err(wrong), None) if wrong.param.is_some() => config.wrong(wrong.code, "params", wrong.message),
        (Err(wrong), _) => config.wrong(wrong.code, "command", wrong.message),
        (Ok(_), Some(params)) => {
            known.iter().for_each(|name| _ = params.get(name));
            params.done();
        }
        (Ok(_), None) => {}
    }
}

/// What can be known of a call by the built-in beforehand: everything that is no template.
fn check_http(config: &Fields<'_>, command: &str) {
    if command.contains("{{") || config.get("params").is_some_and(|params| !params.is_object()) {
        return;
    }
    if command != REQUEST {
        let message = format!("`{HTTP}` has no command `{command}`; it has `{REQUEST}`");
        return config.wrong("UNKNOWN_COMMAND", "command", message);
    }
    let Some(params) = config.fields("params") else {
        return config.wrong("MISSING", "params", format!("`{REQUEST}` of `{HTTP}` needs `params` with an `url`"));
    };
    for wrong in check_request(params.all()) {
        params.wrong(wrong.code, &wrong.param, wrong.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::finding::{Findings, Place};
    use std::cell::RefCell;

    fn check(config: Value) -> Vec<String> {
        let findings = RefCell::new(Findings::default());
        let fields = Fields::of(&config, Place::default(), &findings).unwrap();
        Connector.check(&fields);
        fields.done();
        findings.into_inner().into_list().iter().map(|one| format!("{} {}", one.code, one.place)).collect()
    }

    #[test]
    fn what_can_be_known_of_a_wait_is_checked_beforehand() {
        let delay =
            |command: &str, params: Value| check(json!({"connectorId": "delay", "command": command, "params": params}));
        for (command, params) in [
            ("wait", json!({"duration": "14d"})),
            ("wait", json!({"duration": "{{days}}"})),
            ("until", json!({"time": "{{since}}", "zone": "{{zone}}"})),
            ("until", json!({"time": "2026-03-29", "zone": "Europe/Berlin"})),
            ("{{command}}", json!({"whatever": 1})),
        ] {
            assert_eq!(delay(command, params.clone()), Vec::<String>::new(), "{command} {params}");
        }
        for (command, params, found) in [
            ("wait", json!({}), "MISSING params.duration"),
            ("wait", Value::Null, "MISSING params"),
            ("wait", json!({"duration": "soon"}), "WRONG_VALUE params.duration"),
            ("wait", json!({"duration": 1, "time": "x"}), "UNKNOWN_FIELD params.time"),
            ("until", json!({"time": "{{since}}", "zone": "Mars"}), "WRONG_VALUE params.zone"),
            ("sleep", json!({}), "UNKNOWN_COMMAND command"),
            ("wait", json!([]), "WRONG_KIND params"),
        ] {
            assert_eq!(delay(command, params.clone()), [found], "{command} {params}");
        }
        // An answer that is given is not computed.
        assert_eq!(check(json!({"connectorId": "delay", "command": "wait", "mock": {}})), Vec::<String>::new());
    }

    #[test]
    fn what_can_be_known_of_a_request_is_checked_beforehand() {
        let http =
            |command: &str, params: Value| check(json!({"connectorId": "http", "command": command, "params": params}));
        for params in [
            json!({"url": "https://example.org/a", "method": "post", "body": [1], "expectedStatus": [200, "4xx"]}),
            json!({"url": "{{url}}", "method": "{{method}}", "headers": {"X-{{a}}": "{{b}}"}, "timeout": "{{t}}"}),
            json!({"url": "https://{{host}}/", "auth": {"type": "bearer", "token": "{{token}}"}, "query": {"a": [1, "b"]}}),
        ] {
            assert_eq!(http("request", params.clone()), Vec::<String>::new(), "{params}");
        }
        let url = "https://example.org/";
        for (params, found) in [
            (json!({}), "MISSING params.url"),
            (json!({"url": null}), "MISSING params.url"),
            (Value::Null, "MISSING params"),
            (json!("x"), "WRONG_KIND params"),
            (json!({"url": 5}), "WRONG_VALUE params.url"),
            (json!({"url": "example.org"}), "WRONG_VALUE params.url"),
            (json!({"url": url, "method": "fetch"}), "WRONG_VALUE params.method"),
            (json!({"url": url, "metod": "post"}), "UNKNOWN_FIELD params.metod"),
            (json!({"url": url, "path": "a"}), "WRONG_VALUE params.path"),
            (json!({"url": url, "headers": {"Host": "x"}}), "WRONG_VALUE params.headers"),
            (json!({"url": url, "auth": {"type": "key"}}), "WRONG_VALUE params.auth"),
            (json!({"url": url, "expectedStatus": "ok"}), "WRONG_VALUE params.expectedStatus"),
            (json!({"url": url, "timeout": "1h"}), "WRONG_VALUE params.timeout"),
        ] {
            assert_eq!(http("request", params.clone()), [found], "{params}");
        }
        assert_eq!(http("get", json!({"url": url})), ["UNKNOWN_COMMAND command"]);
        assert_eq!(http("{{command}}", json!({})), Vec::<String>::new());
        // An answer that is given asks for nothing; and its variables have names.
        let given = json!({"connectorId": "http", "command": "request", "mock": {"outputVariables": {"a b": 1}}});
        assert_eq!(check(given), ["BAD_NAME mock.outputVariables[\"a b\"]"]);
    }

    #[test]
    fn a_wait_waits_unless_its_answer_is_given_and_a_mock_sets_variables() {
        let waits = |mock: Value| {
            let config = json!({"connectorId": "delay", "command": "wait", "mock": mock});
            Connector.waits(config.as_object().unwrap())
        };
        assert!(waits(Value::Null) && waits(json!(true)) && waits(json!(false)));
        assert!(!waits(json!({})) && !waits(json!("x")));
        let config = json!({"outputs": {"a": "x"}, "mock": {"success": true, "outputVariables": {"b": 1}}});
        assert_eq!(Connector.outputs(config.as_object().unwrap()), ["a", "b"]);
    }

    #[test]
    fn data_that_is_too_large_is_not_kept_but_what_was_taken_out_of_it_is() {
        let answer = |bytes: usize| Answer {
            data: json!({"id": 7, "rest": "x".repeat(bytes)}),
            output_variables: json!({"id": "connector", "own": 1}).as_object().cloned().unwrap(),
            duration: Duration::from_millis(5),
        };
        let config = json!({"outputs": {"id": "id"}}).as_object().cloned().unwrap();
        for (bytes, kept) in [(10, true), (LARGEST_RESULT, false)] {
            let Ending::Done { set, result: Some(result), .. } = done(&config, answer(bytes)) else {
                panic!("not done")
            };
            assert_eq!(Value::Object(set), json!({"id": 7, "own": 1}));
            assert_eq!((result["data"].is_object(), result.get("dataBytes").is_some()), (kept, !kept));
            assert_eq!((&result["success"], &result["durationMs"]), (&json!(true), &json!(5)));
        }
        let config = json!({"outputs": {"id": "user.id"}}).as_object().cloned().unwrap();
        let Ending::Failed { reason, passing: false, .. } = done(&config, answer(1)) else { panic!("not failed") };
        assert!(reason.contains("nothing for `id`: `user.id` has no value"), "{reason}");
    }

    /// 64 levels are the most that can be stored: a variable has all of them, and two less where it is in the result.
    #[test]
    fn what_is_nested_too_deep_for_the_result_is_left_out_of_it_and_stays_a_variable() {
        let nested = |levels: usize| (1..levels).fold(json!(1), |inner, _| json!([inner]));
        let config = json!({"outputs": {"id": "id"}}).as_object().cloned().unwrap();
        for (rest, own, has_data, has_own) in
            [(62, 62, true, true), (63, 62, false, true), (62, 64, true, false), (63, 64, false, false)]
        {
            let answer = Answer {
                data: json!({"id": 7, "rest": nested(rest)}),
                output_variables: Map::from_iter([("own".to_string(), nested(own))]),
                duration: Duration::ZERO,
            };
            let Ending::Done { set, result: Some(result), .. } = done(&config, answer) else { panic!("not done") };
            assert_eq!((&set["id"], &set["own"]), (&json!(7), &nested(own)));
            assert_eq!(storable::unstorable(&set), None);
            assert_eq!((result["data"].is_object(), result.get("dataBytes").is_some()), (has_data, !has_data));
            assert_eq!(result["outputVariables"].is_object(), has_own);
            assert_eq!(storable::refusal(&result), None);
        }
    }
}
