//! `profile_update`: changes what is known of a person.

use super::{
    StepType, check_output, kept, output, question,
    user_create::{attribute_of_own, manager, not_an_attribute},
    words,
};
use crate::{
    engine::{
        fields::Fields,
        people,
        run::{Effect, EffectError, Ending, Visit},
    },
    store::{
        FencedTransaction, StoreError,
        audit_write::{self, Audited},
        person::{self, Manager, Person},
    },
};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use uuid::Uuid;

/// A person's new attributes.
pub struct ProfileUpdate;

impl StepType for ProfileUpdate {
    fn name(&self) -> &'static str {
        "profile_update"
    }

    fn check(&self, config: &Fields<'_>) {
        let _ = config.text("user");
        match config.need("set") {
            Some(Value::Object(set)) if set.contains_key("id") => {
                config.wrong("BAD_NAME", "set", "`id` cannot be changed: it is who the person is");
            }
            Some(Value::Object(set)) if !set.is_empty() => {}
            Some(_) => config.wrong("WRONG_KIND", "set", "`set` is an object with at least one attribute"),
            None => {}
        }
        check_output(config);
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn outputs(&self, config: &Map<String, Value>) -> Vec<String> {
        output(config).map(str::to_string).into_iter().collect()
    }

    fn plain(&self) -> &'static [&'static str] {
        &["output"]
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async move {
            let config = match visit.config() {
                Ok(config) => config,
                Err(why) => return Ok(Ending::failed(why)),
            };
            let person = match people::known(visit.store, config.get("user").unwrap_or(&Value::Null)).await? {
                Ok(person) => person,
                Err(why) => return Ok(Ending::failed(format!("`user`: {why}"))),
            };
            let nothing = Map::new();
            let set = config.get("set").and_then(Value::as_object).unwrap_or(&nothing);
            let changes = match read(visit, set).await? {
                Ok(changes) => changes,
                Err(why) => return Ok(Ending::failed(format!("`set`: {why}"))),
            };
            let shown = people::of(&changes.on(&person));
            let set = kept(&config, &shown);
            let effects: Vec<Box<dyn Effect>> = vec![Box::new(UpdatePerson { run: visit.run, id: person.id, changes })];
            Ok(Ending::Done { outcome: "success".into(), set, result: Some(shown), effects })
        })
    }
}

/// What changes of a person.
#[derive(Default)]
struct Changes {
    email: Option<String>,
    display_name: Option<String>,
    status: Option<String>,
    /// `Some(None)`: there is none any more.
    manager: Option<Option<Manager>>,
    /// Null takes an attribute away.
    attributes: Map<String, Value>,
}

/// Reads the members of `set`: those of a person's own, and attributes.
async fn read(visit: &Visit<'_>, set: &Map<String, Value>) -> Result<Result<Changes, String>, StoreError> {
    let mut changes = Changes::default();
    for (name, value) in set {
        let text = question::written(value).trim().to_string();
        match name.as_str() {
            "id" => return Ok(Err("`id` cannot be changed".to_string())),
            "email" if people::is_address(&text) => changes.email = Some(text),
            "email" => return Ok(Err(format!("`email`: `{text}` is no address"))),
            "displayName" if !text.is_empty() => changes.display_name = Some(text),
            "displayName" => return Ok(Err("`displayName` is empty".to_string())),
            "status" if ["active", "disabled"].contains(&text.as_str()) => changes.status = Some(text),
            "status" => return Ok(Err(format!("`status` is active or disabled, and not `{text}`"))),
            "manager" => match manager(visit, value).await? {
                Ok(manager) => changes.manager = Some(manager),
                Err(why) => return Ok(Err(why)),
            },
            "attributes" => match value.as_object() {
                Some(several) => changes.attributes.extend(several.clone()),
                None => return Ok(Err("`attributes` is an object".to_string())),
            },
            _ => _ = changes.attributes.insert(name.clone(), value.clone()),
        }
    }
    Ok(match attribute_of_own(&changes.attributes) {
        Some(name) => Err(not_an_attribute(name)),
        None => Ok(changes),
    })
}

impl Changes {
    /// The person as changed.
    fn on(&self, person: &Person) -> Person {
        let mut person = person.clone();
        if let Some(email) = &self.email {
            person.email.clone_from(email);
        }
        if let Some(name) = &self.display_name {
            person.display_name.clone_from(name);
        }
        if let Some(status) = &self.status {
            person.status.clone_from(status);
        }
        if let Some(manager) = &self.manager {
            person.manager.clone_from(manager);
        }
        person.attributes.extend(self.attributes.clone());
        person.attributes.retain(|_, value| !value.is_null());
        person
    }
}

/// The person is changed.
struct UpdatePerson {
    run: Uuid,
    id: String,
    changes: Changes,
}

impl Effect for UpdatePerson {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            let Some(before) = person::locked(transaction, &self.id).await? else {
                return Err(EffectError::Refused(format!("the person {} is not there any more", self.id)));
            };
            let after = self.changes.on(&before);
            if after == before {
                return Ok(());
            }
            if after.manager.as_ref().is_some_and(|manager| manager.id == after.id) {
                return Err(EffectError::Refused("nobody is their own manager".to_string()));
            }
            if let Some(other) = person::by_email(transaction, &after.email).await?.filter(|one| one.id != after.id) {
                let why =
                    format!("the address {} is taken: it is {}'s (id {})", after.email, other.display_name, other.id);
                return Err(EffectError::Refused(why));
            }
            person::update(transaction, &after).await?;
            let (previous, new) = difference(people::of(&before), people::of(&after));
            let audited = Audited {
                entity: "user",
                entity_id: &after.id,
                action: "user.updated",
                run: self.run,
                previous: Some(previous),
                new: Some(new),
            };
            Ok(audit_write::write(transaction, &audited).await?)
        })
    }
}

/// The members that differ, before and after; null for one that is missing.
fn difference(before: Value, after: Value) -> (Value, Value) {
    let (Value::Object(mut before), Value::Object(mut after)) = (before, after) else {
        return (Value::Null, Value::Null);
    };
    let same: Vec<String> =
        before.iter().filter(|(name, value)| after.get(*name) == Some(*value)).map(|(name, _)| name.clone()).collect();
    for name in same {
        before.remove(&name);
        after.remove(&name);
    }
    (Value::Object(before), Value::Object(after))
}
