//! `flohctl run start`: a new run, once its variables fit what its definition declares.

use crate::{
    cli::{Answer, CONFIG, NO, complain, complain_store, say, workflow},
    config::Config,
    engine::{
        self,
        definition::{Definition, VariableType},
        run::{misfit, storable},
    },
    store::{
        Store,
        definition::{DefinitionStatus, Reference, StoredDefinition},
        run::{NewRun, Refusal, Started, start_run},
    },
};
use clap::Args;
use serde_json::{Map, Value};
use std::{convert::Infallible, path::Path, process::ExitCode, str::FromStr};

/// Start a run, and print its id
///
/// The variables are checked against the definition first, and nothing is started if something is wrong with them (exit
/// code 1). Whether the run goes well is not waited for: `flohctl run show` tells.
#[derive(Debug, Args)]
pub struct Arguments {
    /// NAME (its active version), NAME@VERSION, or the id of a version
    definition: String,
    /// A variable: JSON, or a text where the definition declares a text, a date or a person; may be repeated
    #[arg(long = "var", value_name = "NAME=VALUE")]
    variables: Vec<Given>,
    /// A file with a JSON object of variables, - for standard input; --var comes before it
    #[arg(long = "variables", value_name = "FILE")]
    file: Option<String>,
    /// Who starts it: a person's id or address
    #[arg(long, value_name = "WHO")]
    submitter: Option<String>,
    /// Let the connectors' mocks answer, except in steps with `mock: false`; mail is sent
    #[arg(long)]
    mocks: bool,
}

/// A variable of the command line.
#[derive(Debug, Clone)]
struct Given {
    name: String,
    text: String,
}

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Given, String> {
        match text.split_once('=') {
            Some((name, text)) if !name.is_empty() => Ok(Given { name: name.into(), text: text.into() }),
            _ => Err("expected NAME=VALUE".into()),
        }
    }
}

pub async fn run(arguments: &Arguments, config: &Config, store: &Store) -> Answer {
    let reference = arguments.definition.parse().unwrap_or_else(|never: Infallible| match never {});
    let stored = find(store, &reference).await?;
    // What is wrong with the definition itself is the run's own business, where it gets there.
    let (definition, _) = engine::validate(&stored.document);
    let mut variables = match &arguments.file {
        None => Map::new(),
        Some(file) => read(file)?,
    };
    for given in &arguments.variables {
        variables.insert(given.name.clone(), value(&definition, given));
    }
    let wrong = misfits(&definition, &variables);
    if !wrong.is_empty() {
        return Err(complain(NO, &format_args!("{}: {}", arguments.definition, wrong.join("; "))));
    }
    let new = NewRun {
        variables,
        submitter_id: arguments.submitter.clone(),
        use_mocks: arguments.mocks,
        // The version that the variables were checked against.
        ..NewRun::new(Reference::Id(stored.id), format!("{}:{}", config.queue.prefix, config.queue.name))
    };
    let client = store.client().await.map_err(|error| complain_store(&error))?;
    match start_run(&client, &new).await.map_err(|error| complain_store(&error))? {
        Started::Run { id, .. } => {
            say(id);
            Ok(ExitCode::SUCCESS)
        }
        Started::Refused(refusal) => Err(complain(NO, &refusal)),
    }
}

/// The version that a run would start with.
async fn find(store: &Store, reference: &Reference) -> Result<StoredDefinition, ExitCode> {
    let mut found = store.definitions(reference).await.map_err(|error| complain_store(&error))?;
    if let Reference::Name(name) = reference {
        let Some(first) = found.first().cloned() else {
            return Err(complain(NO, &Refusal::Unknown(reference.clone())));
        };
        found.retain(|version| version.status == DefinitionStatus::Active);
        if found.is_empty() {
            let refusal = match first.status {
                DefinitionStatus::Draft => Refusal::Draft { name: name.clone(), version: first.version },
                _ => Refusal::NoActiveVersion(name.clone()),
            };
            return Err(complain(NO, &refusal));
        }
    }
    found.into_iter().next().ok_or_else(|| complain(NO, &Refusal::Unknown(reference.clone())))
}

fn read(file: &str) -> Result<Map<String, Value>, ExitCode> {
    let complain = |what: String| complain(CONFIG, &format_args!("{file}: {what}"));
    let text = workflow::text(Path::new(file)).map_err(|error| complain(error.to_string()))?;
    match serde_json::from_str(&text).map_err(|error| complain(format!("it is not JSON: {error}")))? {
        Value::Object(members) => Ok(members),
        _ => Err(complain("a JSON object is expected, a member for each variable".into())),
    }
}

/// What a text of the command line means. Where a text is declared, 007 is one; elsewhere what is no JSON is a text.
fn value(definition: &Definition, given: &Given) -> Value {
    let declared = definition.variables.iter().find(|variable| variable.name == given.name);
    let json = serde_json::from_str(&given.text).ok();
    let text = || Value::String(given.text.clone());
    match declared.map(|variable| variable.kind) {
        Some(VariableType::String | VariableType::Date) => json.filter(Value::is_string).unwrap_or_else(text),
        Some(VariableType::User) => {
            json.filter(|json: &Value| json.is_string() || json.is_object()).unwrap_or_else(text)
        }
        _ => json.unwrap_or_else(text),
    }
}

/// Everything that is wrong with the variables that a run of this definition is to begin with.
pub fn misfits(definition: &Definition, variables: &Map<String, Value>) -> Vec<String> {
    let mut wrong = Vec::new();
    for variable in &definition.variables {
        match variables.get(&variable.name).filter(|value| !value.is_null()) {
            None if variable.required => {
                wrong.push(format!("the variable `{}` ({}) is required", variable.name, variable.kind.name()));
            }
            None => {}
            Some(value) => wrong.extend(misfit(variable, value)),
        }
    }
    let declared: Vec<&str> = definition.variables.iter().map(|variable| variable.name.as_str()).collect();
    for name in variables.keys().filter(|name| !declared.contains(&name.as_str())) {
        let known =
            if declared.is_empty() { "it declares none".into() } else { format!("it has {}", declared.join(", ")) };
        wrong.push(format!("the definition declares no variable `{}`: {known}", name.escape_debug()));
    }
    wrong.extend(storable::refusal_of(variables, &Map::new()));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition() -> Definition {
        let variables = json!([
            {"name": "employee", "type": "user", "required": true},
            {"name": "number", "type": "string"},
            {"name": "count", "type": "number"},
            {"name": "tags", "type": "array"},
        ]);
        engine::validate(&json!({"name": "x", "variables": variables, "steps": []})).0
    }

    #[test]
    fn a_text_is_json_or_itself_as_the_declaration_says() {
        let definition = definition();
        for (given, expected) in [
            ("employee=17", json!("17")),
            ("employee=ada@example.test", json!("ada@example.test")),
            ("employee={\"id\": \"u-1\"}", json!({"id": "u-1"})),
            ("number=007", json!("007")),
            ("number=\"quoted\"", json!("quoted")),
            ("number=", json!("")),
            ("count=3", json!(3)),
            ("count=three", json!("three")),
            ("tags=[\"a\"]", json!(["a"])),
            ("other=true", json!(true)),
            ("other=a=b", json!("a=b")),
        ] {
            assert_eq!(value(&definition, &given.parse().unwrap()), expected, "{given}");
        }
        assert!("=x".parse::<Given>().is_err() && "x".parse::<Given>().is_err());
    }

    #[test]
    fn all_that_does_not_fit_is_said_at_once() {
        let given = json!({"number": 7, "count": null, "numbr": "x"});
        let wrong = misfits(&definition(), given.as_object().unwrap());
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert_eq!(wrong[0], "the variable `employee` (user) is required");
        assert!(wrong[1].starts_with("the variable `number` is of type string"));
        assert!(wrong[2].ends_with("declares no variable `numbr`: it has employee, number, count, tags"));
    }

    #[test]
    fn what_postgresql_does_not_store_is_said_before_it_is_asked() {
        let given = json!({"employee": "u-1", "number": "a\u{0}b"});
        let wrong = misfits(&definition(), given.as_object().unwrap());
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].starts_with("the variable `number` cannot be stored: it has the character U+0000"));
    }
}
