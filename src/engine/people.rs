//! People as runs know them: snapshots, taken when a run starts or a step names somebody.

use super::path::kind;
use crate::store::{
    Store, StoreError,
    person::{Manager, Person},
};
use serde_json::{Map, Value, json};

/// What a snapshot says itself: an attribute of one of these names is not seen.
pub const OWN: [&str; 5] = ["id", "email", "displayName", "status", "manager"];
/// The longest address that mail knows, bytes.
const LONGEST: usize = 254;

/// The snapshot of a person who is named by id or address, or given as an object with an `id` or an `email`: what the table
/// says of them now. Of an address that the table does not know, it is the snapshot of somebody outside, without an id.
/// Otherwise a sentence that says why that is nobody.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn snapshot(store: &Store, named: &Value) -> Result<Result<Value, String>, StoreError> {
    Ok(match find(store, named).await? {
        Err(why) => Err(why),
        Ok(Found::Known(person)) => Ok(of(&person)),
        Ok(Found::Outside(members)) => Ok(Value::Object(members)),
    })
}

/// A person whom the table knows, disabled or not.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn known(store: &Store, named: &Value) -> Result<Result<Person, String>, StoreError> {
    Ok(match find(store, named).await? {
        Err(why) => Err(why),
        Ok(Found::Known(person)) => Ok(person),
        Ok(Found::Outside(members)) => {
            let email = members.get("email").and_then(Value::as_str).unwrap_or_default();
            Err(format!("`{email}` is nobody's address here: there is no person with it in app_user"))
        }
    })
}

/// Somebody who can be asked something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The id; none of somebody outside.
    pub id: Option<String>,
    /// The address.
    pub email: String,
    /// The name, for people.
    pub display_name: String,
}

/// Somebody who can be asked: a person who is not disabled, or an address outside.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn asked(store: &Store, named: &Value) -> Result<Result<Asked, String>, StoreError> {
    Ok(match find(store, named).await? {
        Err(why) => Err(why),
        Ok(Found::Known(person)) if !person.is_active() => {
            Err(format!("{} ({}) is disabled and cannot answer", person.display_name, person.email))
        }
        Ok(Found::Known(person)) => {
            Ok(Asked { id: Some(person.id), email: person.email, display_name: person.display_name })
        }
        Ok(Found::Outside(members)) => {
            let text = |name: &str| members.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
            Ok(Asked { id: None, email: text("email"), display_name: text("displayName") })
        }
    })
}

/// The snapshot of a known person: the attributes, and what every person has.
#[must_use]
pub fn of(person: &Person) -> Value {
    let mut members = person.attributes.clone();
    let manager = person.manager.as_ref().map_or(Value::Null, of_manager);
    let own = [json!(person.id), json!(person.email), json!(person.display_name), json!(person.status), manager];
    members.extend(OWN.iter().map(ToString::to_string).zip(own));
    Value::Object(members)
}

/// Nobody: what is known of the submitter of a run that nobody has submitted.
#[must_use]
pub fn nobody() -> Value {
    Value::Object(whole(Map::new()))
}

/// Without a manager of its own: a snapshot goes one level up and no further, so that a path beyond is an error and not
/// "nobody".
fn of_manager(manager: &Manager) -> Value {
    json!({"id": manager.id, "email": manager.email, "displayName": manager.display_name, "status": manager.status})
}

/// Whom a name led to.
enum Found {
    /// A row of the table.
    Known(Person),
    /// An address that the table does not know, as a snapshot.
    Outside(Map<String, Value>),
}

async fn find(store: &Store, named: &Value) -> Result<Result<Found, String>, StoreError> {
    match named {
        Value::String(text) => by_text(store, text.trim()).await,
        Value::Object(members) => by_object(store, members).await,
        other => Ok(Err(format!("a person is named by id or address, and here is {}", kind(other)))),
    }
}

async fn by_text(store: &Store, text: &str) -> Result<Result<Found, String>, StoreError> {
    // PostgreSQL does not take it as a text, so nobody is called that.
    if text.contains('\0') {
        return Ok(Err("a person is named by id or address, and here is a text with U+0000 in it".to_string()));
    }
    Ok(match store.person_named(text).await? {
        Some(person) => Ok(Found::Known(person)),
        None if is_address(text) => Ok(Found::Outside(whole(Map::from_iter([("email".to_string(), json!(text))])))),
        None => Err(format!("there is no person `{text}`")),
    })
}

async fn by_object(store: &Store, members: &Map<String, Value>) -> Result<Result<Found, String>, StoreError> {
    if let Some(id) = members.get("id").filter(|id| !id.is_null()) {
        let person = match id.as_str().filter(|id| !id.contains('\0')) {
            Some(id) => store.person(id).await?,
            None => None,
        };
        return Ok(person.map(Found::Known).ok_or_else(|| format!("there is no person with the id {id}")));
    }
    let Some(email) = members.get("email").and_then(Value::as_str).map(str::trim) else {
        return Ok(Err("an object without an `id` or an `email` names nobody".to_string()));
    };
    if !is_address(email) {
        return Ok(Err(format!("`{email}` is no address")));
    }
    Ok(Ok(match store.person_at(email).await? {
        Some(person) => Found::Known(person),
        None => Found::Outside(whole(members.clone())),
    }))
}

/// With every member that a snapshot has. Who is outside is called by the address, if by nothing else.
fn whole(mut members: Map<String, Value>) -> Map<String, Value> {
    let has_name = members.get("displayName").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if let (false, Some(email)) = (has_name, members.get("email").cloned()) {
        members.insert("displayName".into(), email);
    }
    for name in OWN {
        members.entry(name).or_insert(Value::Null);
    }
    members
}

/// Whether this can be an address: the table takes it, too.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part.chars().all(|one| one != '@' && !one.is_whitespace() && !one.is_control())
    };
    text.len() <= LONGEST && text.split_once('@').is_some_and(|(name, host)| plain(name) && plain(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_name_and_a_host() {
        for good in ["a@b", "ada.l+x@example.org", "é@例.org"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b\n", "a@b\0", &format!("{}@b", "a".repeat(300))] {
            assert!(!is_address(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_snapshot_has_the_attributes_and_its_own_members_win() {
        let attributes = json!({"department": "IT", "id": "x", "manager": "y"});
        let person = Person {
            id: "u-1".into(),
            email: "ada@example.org".into(),
            display_name: "Ada".into(),
            status: "active".into(),
            attributes: attributes.as_object().cloned().unwrap(),
            manager: Some(Manager {
                id: "u-2".into(),
                email: "m@example.org".into(),
                display_name: "M".into(),
                status: "disabled".into(),
            }),
        };
        let expected = json!({"id": "u-1", "email": "ada@example.org", "displayName": "Ada", "status": "active",
            "department": "IT",
            "manager": {"id": "u-2", "email": "m@example.org", "displayName": "M", "status": "disabled"}});
        assert_eq!(of(&person), expected);
    }

    #[test]
    fn somebody_outside_has_a_name_and_no_id() {
        let outside = whole(Map::from_iter([("email".to_string(), json!("a@b"))]));
        let expected = json!({"id": null, "email": "a@b", "displayName": "a@b", "status": null, "manager": null});
        assert_eq!(Value::Object(outside), expected);
        assert_eq!(nobody()["displayName"], Value::Null);
    }
}
