//! Who is told: people by id, address or snapshot, each once.

use crate::{
    engine::people,
    mail::address,
    store::{Store, StoreError},
};
use lettre::message::Mailbox;
use serde_json::{Value, json};

/// The most people that one step tells something.
const MOST: usize = 200;

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipient {
    /// The person's id, unless it is nobody whom the system knows.
    pub id: Option<String>,
    /// The person's address.
    pub email: Option<String>,
    /// What templates know of the person.
    pub person: Value,
}

/// The recipients in the order of the list, without those that are in it before. An element may be a list itself: a variable.
/// Where they are `asked` something, they have to be people who can answer.
///
/// # Errors
/// Only what PostgreSQL said; a sentence where somebody is not known.
pub async fn find(
    store: &Store,
    to: Option<&Value>,
    asked: bool,
) -> Result<Result<Vec<Recipient>, String>, StoreError> {
    let named: Vec<&Value> = to.and_then(Value::as_array).into_iter().flatten().flat_map(each).collect();
    if named.is_empty() {
        return Ok(Err("`to` names nobody".to_string()));
    }
    if named.len() > MOST {
        return Ok(Err(format!(
            "`to` names {} people, and {MOST} are the most that one step tells something",
            named.len()
        )));
    }
    let mut recipients: Vec<Recipient> = Vec::with_capacity(named.len());
    for one in named {
        let recipient = match people::snapshot(store, one).await? {
            Ok(person) if asked => people::asked(store, one).await?.and_then(|_| Recipient::known(person)),
            Ok(person) => Recipient::known(person),
            // Mail goes to people whom the system does not know, too.
            Err(why) => match one.as_str().map(address::parse) {
                Some(Ok(mailbox)) => Ok(Recipient::stranger(&mailbox)),
                Some(Err(wrong)) if one.as_str().is_some_and(|text| text.contains('@')) => Err(wrong),
                _ => Err(why),
            },
        };
        match recipient {
            Ok(recipient) if recipients.iter().any(|before| before.is_same(&recipient)) => {}
            Ok(recipient) => recipients.push(recipient),
            Err(why) => return Ok(Err(format!("`to`: {why}"))),
        }
    }
    Ok(Ok(recipients))
}

fn each(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    }
}

impl Recipient {
    fn known(mut person: Value) -> Result<Recipient, String> {
        let text = |name: &str| person.get(name).and_then(Value::as_str).map(str::to_string).filter(|s| !s.is_empty());
        let (id, email, name) = (text("id"), text("email"), text("displayName"));
        let mailbox = email.as_deref().map(address::parse).transpose()?;
        if id.is_none() && mailbox.is_none() {
            return Err("a person without an id and without an address cannot be told anything".to_string());
        }
        // `Ada <ada@example.org>` is a name and an address.
        let email = mailbox.as_ref().map(|mailbox| mailbox.email.to_string());
        let shown = mailbox.and_then(|mailbox| mailbox.name).filter(|_| name.is_none() || name == text("email"));
        if let Some(members) = person.as_object_mut() {
            members.extend(shown.map(|shown| ("displayName".to_string(), json!(shown))));
            members.extend(email.as_ref().map(|email| ("email".to_string(), json!(email))));
        }
        Ok(Recipient { id, email, person })
    }

    fn stranger(mailbox: &Mailbox) -> Recipient {
        let email = mailbox.email.to_string();
        let name = mailbox.name.as_deref().unwrap_or(&email);
        let person = json!({"id": null, "email": email, "displayName": name, "manager": null});
        Recipient { id: None, email: Some(email), person }
    }

    fn is_same(&self, other: &Recipient) -> bool {
        let same_id = self.id.is_some() && self.id == other.id;
        let emails = self.email.as_ref().zip(other.email.as_ref());
        same_id || emails.is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
    }

    /// Where mail goes.
    ///
    /// # Errors
    /// A sentence that names who has no address.
    pub fn mailbox(&self) -> Result<Mailbox, String> {
        let name = self.person.get("displayName").and_then(Value::as_str);
        let Some(email) = &self.email else {
            let who = name.or(self.id.as_deref()).unwrap_or_default();
            return Err(format!("`to`: `{who}` has no mail address"));
        };
        let mailbox = address::parse(email)?;
        Ok(match name.filter(|name| name != email) {
            Some(name) => address::named(&mailbox, name),
            None => mailbox,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_by_name_and_address() {
        let ada = json!({"id": "7", "email": "ada@example.org", "displayName": "Ada, L", "manager": null});
        let ada = Recipient::known(ada).unwrap();
        assert_eq!(ada.mailbox().unwrap().to_string(), "\"Ada, L\" <ada@example.org>");
        let known_by_address =
            json!({"id": null, "email": "Bob <bob@example.org>", "displayName": "Bob <bob@example.org>"});
        let bob = Recipient::known(known_by_address).unwrap();
        assert_eq!((bob.email.as_deref(), &bob.person["displayName"]), (Some("bob@example.org"), &json!("Bob")));
        let stranger = Recipient::stranger(&address::parse("eve@example.org").unwrap());
        assert_eq!(stranger.mailbox().unwrap().to_string(), "eve@example.org");
    }

    #[test]
    fn nobody_is_told_twice() {
        let person = |id: Value, email: Value| Recipient::known(json!({"id": id, "email": email})).unwrap();
        let ada = person(json!("7"), json!("ada@example.org"));
        assert!(ada.is_same(&person(json!("7"), json!("other@example.org"))));
        assert!(ada.is_same(&person(Value::Null, json!("ADA@example.org"))));
        assert!(!ada.is_same(&person(json!("8"), Value::Null)));
        assert!(!person(json!("8"), Value::Null).is_same(&person(json!("9"), Value::Null)));
    }

    #[test]
    fn who_cannot_be_told_is_named() {
        let nobody = Recipient::known(json!({"id": null, "email": null})).unwrap_err();
        assert!(nobody.contains("without an id and without an address"), "{nobody}");
        let grace = Recipient::known(json!({"id": "9", "email": null, "displayName": "Grace"})).unwrap();
        assert_eq!(grace.mailbox().unwrap_err(), "`to`: `Grace` has no mail address");
        assert!(Recipient::known(json!({"id": "9", "email": "a b"})).is_err());
    }
}
