//! `user_create`: makes an account for a person.

use super::{StepType, check_output, kept, output, question, words};
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

/// A new person.
pub struct UserCreate;

impl StepType for UserCreate {
    fn name(&self) -> &'static str {
        "user_create"
    }

    fn check(&self, config: &Fields<'_>) {
        let _ = (config.text("email"), config.text("displayName"), config.maybe_text("manager"));
        if let Some(attributes) = config.get("attributes") {
            match attributes.as_object().map(attribute_of_own) {
                None => config.wrong("WRONG_KIND", "attributes", "`attributes` is an object"),
                Some(Some(name)) => config.wrong("BAD_NAME", "attributes", not_an_attribute(name)),
                Some(None) => {}
            }
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
            let person = match new_person(visit, &config).await? {
                Ok(person) => person,
                Err(why) => return Ok(Ending::failed(why)),
            };
            let shown = people::of(&person);
            let set = kept(&config, &shown);
            let effects: Vec<Box<dyn Effect>> = vec![Box::new(CreatePerson { run: visit.run, person })];
            Ok(Ending::Done { outcome: "success".into(), set, result: Some(shown), effects })
        })
    }
}

/// The first attribute that would be called like something that every person has.
pub fn attribute_of_own(attributes: &Map<String, Value>) -> Option<&'static str> {
    people::OWN.into_iter().find(|name| attributes.contains_key(*name))
}

/// Why that is none.
pub fn not_an_attribute(name: &str) -> String {
    format!("`{name}` is no attribute: every person has one of that name")
}

/// The manager that a configuration names; null names none.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn manager(visit: &Visit<'_>, named: &Value) -> Result<Result<Option<Manager>, String>, StoreError> {
    if named.is_null() {
        return Ok(Ok(None));
    }
    Ok(match people::known(visit.store, named).await? {
        Ok(person) => Ok(Some(Manager {
            id: person.id,
            email: person.email,
            display_name: person.display_name,
            status: person.status,
        })),
        Err(why) => Err(format!("`manager`: {why}")),
    })
}

async fn new_person(visit: &Visit<'_>, config: &Map<String, Value>) -> Result<Result<Person, String>, StoreError> {
    let text = |name: &str| config.get(name).map(question::written).unwrap_or_default().trim().to_string();
    let (email, display_name) = (text("email"), text("displayName"));
    if !people::is_address(&email) {
        return Ok(Err(format!("`email`: `{email}` is no address")));
    }
    if display_name.is_empty() {
        return Ok(Err("`displayName` is empty".to_string()));
    }
    let attributes = config.get("attributes").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(name) = attribute_of_own(&attributes) {
        return Ok(Err(not_an_attribute(name)));
    }
    let manager = match manager(visit, config.get("manager").unwrap_or(&Value::Null)).await? {
        Ok(manager) => manager,
        Err(why) => return Ok(Err(why)),
    };
    let id = Uuid::new_v4().to_string();
    Ok(Ok(Person { id, email, display_name, status: person::ACTIVE.to_string(), attributes, manager }))
}

/// There is such a person from now on.
struct CreatePerson {
    run: Uuid,
    person: Person,
}

impl Effect for CreatePerson {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            let person = &self.person;
            if !person::create(transaction, person).await? {
                let whose = person::by_email(transaction, &person.email).await?;
                let whose = whose.map(|one| format!(": it is {}'s (id {})", one.display_name, one.id));
                let why = format!("the address {} is taken{}", person.email, whose.unwrap_or_default());
                return Err(EffectError::Refused(why));
            }
            let audited = Audited {
                entity: "user",
                entity_id: &person.id,
                action: "user.created",
                run: self.run,
                previous: None,
                new: Some(people::of(person)),
            };
            Ok(audit_write::write(transaction, &audited).await?)
        })
    }
}
