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

/// What is wanted of the recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// They are asked something, so they have to be people who can answer.
    pub answers: bool,
    /// They get mail, so their addresses have to be some that mail takes. What is shown in the application goes to any.
    pub mail: bool,
}

/// The recipients in the order of the list, without those that are in it before. An element may be a list itself: a variable.
///
/// # Errors
/// Only what PostgreSQL said; a sentence where somebody is not known.
pub async fn find(
    store: &Store,
    to: Option<&Value>,
    wanted: Wanted,
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
        match recipient(store, one, wanted).await? {
            Ok(recipient) if recipients.iter().any(|before| before.is_same(&recipient)) => {}
            Ok(recipient) => recipients.push(recipient),
            Err(why) => return Ok(Err(format!("`to`: {why}"))),
        }
    }
    Ok(Ok(recipients))
}

/// The one who is named. `Ada <ada@example.org>` is whoever has the address, as the address alone is; the name that is written
/// there is for somebody whom the system does not know.
async fn recipient(store: &Store, named: &Value, wanted: Wanted) -> Result<Result<Recipient, String>, StoreError> {
    let person = people::snapshot(store, named).await?;
    let unknown = match &person {
        Ok(person) if person["id"].is_null() => person["email"].as_str(),
        Ok(_) => None,
        Err(_) => named.as_str(),
    };
    if let Some((_, address)) = unknown.and_then(name_and_address) {
        let address = json!(address);
        if let Ok(person) = people::snapshot(store, &address).await?
            && !person["id"].is_null()
        {
            return of_person(store, &address, person, wanted).await;
        }
    }
    let why = match person {
        Ok(person) => return of_person(store, named, person, wanted).await,
        Err(why) => why,
    };
    // Mail goes to people whom the system does not know, too.
    Ok(match named.as_str() {
        Some(text) => Recipient::stranger(text, wanted).map_err(|wrong| if text.contains('@') { wrong } else { why }),
        None => Err(why),
    })
}

/// The recipient who is named so, and of whom this is the snapshot.
async fn of_person(
    store: &Store,
    named: &Value,
    person: Value,
    wanted: Wanted,
) -> Result<Result<Recipient, String>, StoreError> {
    if wanted.answers
        && let Err(why) = people::asked(store, named).await?
    {
        return Ok(Err(why));
    }
    Ok(Recipient::known(person, wanted))
}

/// The name, if there is one, and the address of a text such as `Ada <ada@example.org>`; nothing of an address alone. The
/// address is as it is written: mail may not take it, and it may be a person's here all the same.
fn name_and_address(text: &str) -> Option<(Option<String>, String)> {
    let (name, address) = text.trim().strip_suffix('>')?.rsplit_once('<')?;
    // The name is read as mail reads it, beside an address that mail takes.
    let name = address::parse(&format!("{name}<a@example.org>")).ok()?.name;
    let address = address.trim();
    people::is_address(address).then(|| (name, address.to_string()))
}

/// The name, if there is one, and the address of a text, in the form that mail takes.
fn for_mail(text: &str) -> Result<(Option<String>, String), String> {
    let mailbox = address::parse(text)?;
    Ok((mailbox.name, mailbox.email.to_string()))
}

fn each(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    }
}

impl Recipient {
    fn known(mut person: Value, wanted: Wanted) -> Result<Recipient, String> {
        let text = |name: &str| person.get(name).and_then(Value::as_str).map(str::to_string).filter(|s| !s.is_empty());
        let (id, email, name) = (text("id"), text("email"), text("displayName"));
        if id.is_none() && email.is_none() {
            return Err("a person without an id and without an address cannot be told anything".to_string());
        }
        // `Ada<ada@example.org>` is a name and an address.
        let (shown, address) = match email.as_deref() {
            None => (None, None),
            Some(email) => {
                let alone = || (None, email.trim().to_string());
                let parts = if wanted.mail { for_mail(email)? } else { name_and_address(email).unwrap_or_else(alone) };
                (parts.0, Some(parts.1))
            }
        };
        let shown = shown.filter(|_| name.is_none() || name == email);
        if let Some(members) = person.as_object_mut() {
            members.extend(shown.map(|shown| ("displayName".to_string(), json!(shown))));
            members.extend(address.as_ref().map(|address| ("email".to_string(), json!(address))));
        }
        Ok(Recipient { id, email: address, person })
    }

    /// Somebody whom the system does not know, by an address with a name or without one.
    fn stranger(text: &str, wanted: Wanted) -> Result<Recipient, String> {
        let (name, email) = match name_and_address(text).filter(|_| !wanted.mail) {
            Some(parts) => parts,
            None => for_mail(text)?,
        };
        let name = name.as_deref().unwrap_or(&email);
        let person = json!({"id": null, "email": email, "displayName": name, "manager": null});
        Ok(Recipient { id: None, email: Some(email), person })
    }

    fn is_same(&self, other: &Recipient) -> bool {
        let same_id = self.id.is_some() && self.id == other.id;
        let emails = self.email.as_ref().zip(other.email.as_ref());
        same_id || emails.is_some_and(|(one, other)| one.to_lowercase() == other.to_lowercase())
    }

    /// Where mail goes.
    ///
    /// # Errors
    /// A sentence that names who has no address, or the address that mail does not take.
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

    const MAIL: Wanted = Wanted { answers: false, mail: true };
    const IN_APP: Wanted = Wanted { answers: false, mail: false };

    #[test]
    fn a_person_is_told_by_name_and_address() {
        let ada = json!({"id": "7", "email": "ada@example.org", "displayName": "Ada, L", "manager": null});
        let ada = Recipient::known(ada, MAIL).unwrap();
        assert_eq!(ada.mailbox().unwrap().to_string(), "\"Ada, L\" <ada@example.org>");
        let known_by_address =
            json!({"id": null, "email": "Bob <bob@example.org>", "displayName": "Bob <bob@example.org>"});
        for wanted in [MAIL, IN_APP] {
            let bob = Recipient::known(known_by_address.clone(), wanted).unwrap();
            assert_eq!((bob.email.as_deref(), &bob.person["displayName"]), (Some("bob@example.org"), &json!("Bob")));
        }
        let stranger = Recipient::stranger("eve@example.org", MAIL).unwrap();
        assert_eq!(stranger.mailbox().unwrap().to_string(), "eve@example.org");
    }

    #[test]
    fn nobody_is_told_twice() {
        let person = |id: Value, email: Value| Recipient::known(json!({"id": id, "email": email}), MAIL).unwrap();
        let ada = person(json!("7"), json!("ada@example.org"));
        assert!(ada.is_same(&person(json!("7"), json!("other@example.org"))));
        assert!(ada.is_same(&person(Value::Null, json!("ADA@example.org"))));
        assert!(!ada.is_same(&person(json!("8"), Value::Null)));
        assert!(!person(json!("8"), Value::Null).is_same(&person(json!("9"), Value::Null)));
    }

    #[test]
    fn who_cannot_be_told_is_named() {
        let nobody = Recipient::known(json!({"id": null, "email": null}), IN_APP).unwrap_err();
        assert!(nobody.contains("without an id and without an address"), "{nobody}");
        let grace = Recipient::known(json!({"id": "9", "email": null, "displayName": "Grace"}), MAIL).unwrap();
        assert_eq!(grace.mailbox().unwrap_err(), "`to`: `Grace` has no mail address");
        assert!(Recipient::known(json!({"id": "9", "email": "a b"}), MAIL).is_err());
    }

    #[test]
    fn an_address_that_mail_does_not_take_is_one_in_the_application() {
        let person = json!({"id": "9", "email": "jörg@example.org", "displayName": "Jörg"});
        let words = "beyond ASCII before its @";
        assert!(Recipient::known(person.clone(), MAIL).unwrap_err().contains(words));
        let shown = Recipient::known(person, IN_APP).unwrap();
        assert_eq!(shown.email.as_deref(), Some("jörg@example.org"));
        assert!(shown.mailbox().unwrap_err().contains(words));
        assert!(Recipient::stranger("Åsa <åsa@example.org>", MAIL).unwrap_err().contains(words));
        let shown = Recipient::stranger("Åsa <åsa@example.org>", IN_APP).unwrap();
        assert_eq!((shown.email.as_deref(), &shown.person["displayName"]), (Some("åsa@example.org"), &json!("Åsa")));
    }

    #[test]
    fn a_name_and_an_address_are_told_apart() {
        for (text, name, address) in [
            (" Ada Lovelace <ada@example.org> ", Some("Ada Lovelace"), "ada@example.org"),
            ("\"Lovelace, Ada\" < ADA@example.org >", Some("Lovelace, Ada"), "ADA@example.org"),
            ("Ada<a..da@bücher.example>", Some("Ada"), "a..da@bücher.example"),
            ("<ada@example.org>", None, "ada@example.org"),
        ] {
            assert_eq!(name_and_address(text), Some((name.map(str::to_string), address.to_string())), "{text}");
        }
        // Of several nobody is left out.
        let several = "ada@example.org, Bob <bob@example.org>";
        for text in ["ada@example.org", several, "Ada <ada>", "Ada <>", "A\r\n <a@b>", "Ada <ada@example.org"] {
            assert_eq!(name_and_address(text), None, "{text}");
        }
    }
}
