//! `transform`: computes variables in JavaScript.

use super::{StepType, words};
use crate::{
    engine::{
        definition::{Retry, is_name},
        fields::Fields,
        finding::UNCHECKED,
        run::{Ending, Visit},
    },
    sandbox::{self, Kind, LONGEST_CODE, Level, Logs, Script, check::Unfit},
    store::StoreError,
};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// A piece of JavaScript.
pub struct Transform;

impl StepType for Transform {
    fn name(&self) -> &'static str {
        "transform"
    }

    fn check(&self, config: &Fields<'_>) {
        if let Some(code) = config.text("code") {
            if code.len() > LONGEST_CODE {
                config.wrong("TOO_MANY", "code", format!("the code is longer than {LONGEST_CODE} bytes"));
            } else if let Err(unfit) = sandbox::check(code) {
                config.wrong(name_of(&unfit), "code", unfit.to_string());
            }
        }
        for (value, place) in config.full_list("outputs") {
            if !value.as_str().is_some_and(is_name) {
                config.findings().borrow_mut().error("BAD_NAME", &place, format!("{value} is no name of a variable"));
            }
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn outputs(&self, config: &Map<String, Value>) -> Vec<String> {
        let outputs = config.get("outputs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        outputs.iter().filter_map(Value::as_str).map(str::to_string).collect()
    }

    fn plain(&self) -> &'static [&'static str] {
        &["code", "outputs"]
    }

    /// The machine may have had no process for it.
    fn retry(&self) -> Option<Retry> {
        Some(Retry { attempts: 4, delay: Duration::from_secs(1), doubles: true })
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async {
            let config = &visit.step.config;
            let Some(code) = config.get("code").and_then(Value::as_str) else {
                return Ok(Ending::failed("`code` is missing"));
            };
            let outputs = self.outputs(config);
            // The step's own timeout drops this future, which ends the script.
            let script = Script { code, variables: visit.variables, outputs: &outputs, now: visit.now, deadline: None };
            Ok(match visit.tools.sandbox.run(&script).await {
                Ok(done) => {
                    tell(&done.logs);
                    let mut result = shown(&done.logs);
                    result.insert("durationMs".to_string(), json!(done.duration.as_millis()));
                    Ending::Done {
                        outcome: "success".to_string(),
                        set: done.values,
                        result: Some(result.into()),
                        effects: Vec::new(),
                    }
                }
                Err(failure) => {
                    tell(&failure.logs);
                    let mut result = shown(&failure.logs);
                    if let Some(position) = failure.position {
                        result.insert("line".to_string(), json!(position.line));
                        result.insert("column".to_string(), json!(position.column));
                    }
                    Ending::Failed {
                        reason: failure.to_string(),
                        outcome: "error",
                        set: Map::new(),
                        result: Some(result.into()),
                        passing: failure.kind == Kind::Machine,
                        effects: Vec::new(),
                    }
                }
            })
        })
    }
}

/// What a finding about code is called.
fn name_of(unfit: &Unfit) -> &'static str {
    match unfit {
        Unfit::Bad(_) => "BAD_CODE",
        Unfit::Unchecked(_) => UNCHECKED,
    }
}

/// A script's log as the step's result has it.
fn shown(logs: &Logs) -> Map<String, Value> {
    let mut result = Map::new();
    if !logs.lines.is_empty() {
        result.insert("logs".to_string(), json!(logs.lines));
    }
    if logs.dropped > 0 {
        result.insert("logsDropped".to_string(), json!(logs.dropped));
    }
    result
}

/// A script's log in the journal. What it says may be about people, so it is no more than debugging, except for what its
/// author calls a warning or an error.
fn tell(logs: &Logs) {
    for line in &logs.lines {
        match line.level {
            Level::Error | Level::Warn => tracing::warn!("the script says: {}", line.text),
            Level::Info | Level::Debug | Level::Trace => tracing::debug!("the script says: {}", line.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::check::BadCode;

    #[test]
    fn code_that_is_wrong_is_told_from_code_that_was_not_checked() {
        assert_eq!(name_of(&Unfit::Bad(BadCode { message: "SyntaxError".into(), position: None })), "BAD_CODE");
        assert_eq!(name_of(&Unfit::Unchecked("it did not compile within 3 s".into())), "UNCHECKED_CODE");
    }
}
