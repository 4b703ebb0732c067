//! The beginning of a run: its variables are checked against their declarations, and people become snapshots.

use super::state::State;
use crate::{
    engine::{
        definition::{Variable, VariableType},
        path::kind,
        people,
    },
    store::{Store, StoreError},
};
use chrono::{DateTime, NaiveDate};
use serde_json::{Map, Value};

/// What the run's start sets: the variables that become something else by it, and `submitter`. Or everything that is wrong
/// with what it was given, in one text.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn begin(store: &Store, state: &State) -> Result<Result<Map<String, Value>, String>, StoreError> {
    let (mut set, mut wrong) = (Map::new(), Vec::new());
    for variable in &state.plan.definition.variables {
        let given = state.variables.get(&variable.name).filter(|value| !value.is_null());
        let Some(value) = given else {
            if variable.required {
                wrong.push(format!("the variable `{}` ({}) is required", variable.name, variable.kind.name()));
            } else {
                set.insert(variable.name.clone(), Value::Null);
            }
            continue;
        };
        if variable.kind == VariableType::User {
            match people::snapshot(store, value).await? {
                Ok(person) => _ = set.insert(variable.name.clone(), person),
                Err(why) => wrong.push(format!("the variable `{}`: {why}", variable.name)),
            }
        } else if let Some(why) = misfit(variable, value) {
            wrong.push(why);
        }
    }
    let submitter = match &state.submitter_id {
        None => people::nobody(),
        Some(id) => match people::snapshot(store, &Value::String(id.clone())).await? {
            Ok(person) => person,
            // Whoever submits is not the business of the definition: what is known is the id.
            Err(_) => {
                let mut nobody = people::nobody();
                nobody["id"] = Value::String(id.clone());
                nobody
            }
        },
    };
    set.insert("submitter".into(), submitter);
    Ok(if wrong.is_empty() { Ok(set) } else { Err(wrong.join("; ")) })
}

/// Why a value is not of a variable's type.
#[must_use]
pub fn misfit(variable: &Variable, value: &Value) -> Option<String> {
    let fits = match variable.kind {
        VariableType::String => value.is_string(),
        VariableType::Number => value.is_number(),
        VariableType::Boolean => value.is_boolean(),
        VariableType::Date => value.as_str().is_some_and(is_date),
        VariableType::User => value.is_string() || value.is_object(),
        VariableType::Object => value.is_object(),
        VariableType::Array => value.is_array(),
    };
    // The value itself is left out: it may be what nobody should read in a journal.
    (!fits).then(|| match (variable.kind, value) {
        (VariableType::Date, Value::String(_)) => format!(
            "the variable `{}` is a date such as 2026-03-29 or 2026-03-29T09:00:00Z, and here is another text",
            variable.name,
        ),
        _ => {
            format!("the variable `{}` is of type {}, and here is {}", variable.name, variable.kind.name(), kind(value))
        }
    })
}

/// In the forms that the database takes for an answer: chrono reads months of one digit, blanks, and the 60th second, too.
fn is_date(text: &str) -> bool {
    let is_day = |text: &str| text.len() == 10 && text.parse::<NaiveDate>().is_ok_and(|day| day.to_string() == text);
    let is_time = |text: &str| !text.contains(['t', 'z', ' ']) && text.get(17..19) != Some("60");
    is_day(text) || (DateTime::parse_from_rfc3339(text).is_ok() && is_time(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_fits_its_type_or_is_refused_in_a_sentence() {
        let of = |kind| Variable { name: "v".into(), kind, required: true, description: None };
        for (kind, good, bad) in [
            (VariableType::String, json!("a"), json!(1)),
            (VariableType::Number, json!(1.5), json!("1")),
            (VariableType::Boolean, json!(false), json!("false")),
            (VariableType::Date, json!("2026-03-29"), json!("29.3.2026")),
            (VariableType::Date, json!("2026-03-29T01:00:00Z"), json!(0)),
            (VariableType::Date, json!("2026-03-09"), json!("2026-3-9")),
            (VariableType::Date, json!("2026-03-29T09:00:00.5+02:00"), json!("2026-03-29 09:00:00Z")),
            (VariableType::Date, json!("2026-03-29"), json!("2026-3-29 ")),
            (VariableType::Date, json!("0001-01-01"), json!("+12345-06-07")),
            (VariableType::Object, json!({}), json!([])),
            (VariableType::Array, json!([]), json!({})),
        ] {
            assert_eq!(misfit(&of(kind), &good), None);
            assert!(misfit(&of(kind), &bad).unwrap().starts_with("the variable `v` is "), "{bad}");
        }
        assert_eq!(
            misfit(&of(VariableType::Date), &json!("29.3.2026")).unwrap(),
            "the variable `v` is a date such as 2026-03-29 or 2026-03-29T09:00:00Z, and here is another text"
        );
        assert!(misfit(&of(VariableType::Date), &json!(7)).unwrap().ends_with("is of type date, and here is a number"));
    }
}
