//! Who can be asked: the people whom a step names, as they are known now.

use crate::{
    engine::{people, run::Visit},
    store::{Store, StoreError, approval::Approver},
};
use serde_json::{Map, Value, json};

/// More people than anybody asks.
const MOST_APPROVERS: usize = 1000;

/// Who is asked, each person once. A template may stand for a list.
pub async fn approvers(
    visit: &Visit<'_>,
    config: &Map<String, Value>,
) -> Result<Result<Vec<Approver>, String>, StoreError> {
    let named = config.get("approvers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let named = named.iter().flat_map(|one| one.as_array().map_or(std::slice::from_ref(one), Vec::as_slice));
    let mut approvers: Vec<Approver> = Vec::new();
    for one in named {
        let person = match approver(visit.store, one).await? {
            Ok(person) => person,
            Err(why) => return Ok(Err(format!("`approvers`: {why}"))),
        };
        if approvers.len() >= MOST_APPROVERS {
            return Ok(Err(format!("`approvers`: more than {MOST_APPROVERS} people cannot be asked in one step")));
        }
        if !approvers.iter().any(|other| other.is(&person)) {
            approvers.push(person);
        }
    }
    Ok(if approvers.is_empty() { Err("`approvers` names nobody".into()) } else { Ok(approvers) })
}

/// The person whom a step has named, as known now, if they can still be asked; or why not. The id that they had then says who
/// it is, because by now the address may be another one's; whoever had none is looked up by the name again.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn known_now(store: &Store, named: &Approver) -> Result<Result<Approver, String>, StoreError> {
    let Some(id) = &named.approver_id else {
        return approver(store, &json!(named.approver)).await;
    };
    let known = approver(store, &json!({"id": id})).await?;
    Ok(known.map(|known| Approver { approver: named.approver.clone(), ..known }))
}

/// The person who is named, as known now, if they can be asked; or why not.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn approver(store: &Store, named: &Value) -> Result<Result<Approver, String>, StoreError> {
    Ok(people::asked(store, named).await?.map(|asked| Approver {
        approver: named
            .as_str()
            .map(str::to_string)
            .or_else(|| asked.id.clone())
            .unwrap_or_else(|| asked.email.clone()),
        approver_id: asked.id,
        approver_email: Some(asked.email).filter(|email| !email.is_empty()),
        approver_name: Some(asked.display_name).filter(|name| !name.is_empty()),
    }))
}
