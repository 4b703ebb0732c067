//! People as runs know them: snapshots, taken when a run starts or a step names somebody.

use crate::store::{Store, StoreError};
use serde_json::{Map, Value, json};

/// The snapshot of a person who is named by id or address, or given as an object with an `email`; or a sentence that says
/// why that is nobody.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn snapshot(_store: &Store, named: &Value) -> Result<Result<Value, String>, StoreError> {
    Ok(match named {
        Value::Object(members) => match members.get("email").and_then(Value::as_str) {
            Some(_) => Ok(Value::Object(whole(members.clone()))),
            None => Err("an object without an `email` names nobody".to_string()),
        },
        Value::String(text) if text.contains('@') => {
            Ok(json!({"id": null, "email": text, "displayName": text, "manager": null}))
        }
        Value::String(text) => Err(format!("there is no person `{text}`")),
        _ => Err("a person is named by id or address".to_string()),
    })
}

/// Nobody: what is known of the submitter of a run that nobody has submitted.
#[must_use]
pub fn nobody() -> Value {
    json!({"id": null, "email": null, "displayName": null, "manager": null})
}

/// With every member that a snapshot has.
fn whole(mut members: Map<String, Value>) -> Map<String, Value> {
    for name in ["id", "displayName", "manager"] {
        members.entry(name).or_insert(Value::Null);
    }
    members
}
