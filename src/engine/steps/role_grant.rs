//! `role_grant`: gives a person a role.

use super::{StepType, question, words};
use crate::{
    engine::{
        fields::Fields,
        people,
        run::{Effect, EffectError, Ending, Visit},
        span,
    },
    store::{
        FencedTransaction, StoreError,
        audit_write::{self, Audited},
        person::{self, Person},
        role::{self, Doer, Grant, Granted, Role},
    },
};
use chrono::TimeDelta;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// A role for a person.
pub struct RoleGrant;

impl StepType for RoleGrant {
    fn name(&self) -> &'static str {
        "role_grant"
    }

    fn check(&self, config: &Fields<'_>) {
        let _ = (config.text("user"), config.text("role"), config.maybe_text("reason"), config.span("expiresAfter"));
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async move {
            let config = match visit.config() {
                Ok(config) => config,
                Err(why) => return Ok(Ending::failed(why)),
            };
            let (person, role) = match both(visit, &config).await? {
                Ok(both) => both,
                Err(why) => return Ok(Ending::failed(why)),
            };
            let span = config.get("expiresAfter").and_then(|value| span::read(value).ok());
            let expires_at = span.and_then(|span| visit.now.checked_add_signed(TimeDelta::from_std(span).ok()?));
            let result = json!({
                "userId": person.id, "roleId": role.id, "role": role.name, "expiresAt": expires_at.map(question::time),
            });
            let grant = Grant {
                id: Uuid::new_v4(),
                user_id: person.id,
                role_id: role.id.clone(),
                at: visit.now,
                expires_at,
                reason: config.get("reason").map(question::written),
                by: doer(visit),
            };
            let effects: Vec<Box<dyn Effect>> = vec![Box::new(GrantRole { grant, role })];
            Ok(Ending::Done { outcome: "success".into(), set: Map::new(), result: Some(result), effects })
        })
    }
}

/// Who does it.
pub fn doer(visit: &Visit<'_>) -> Doer {
    Doer { run: visit.run, step: visit.step.id.clone(), visit: visit.number }
}

/// The `user` and the `role` of a configuration, or a sentence that says which of them there is not.
///
/// # Errors
/// Only what PostgreSQL said.
pub async fn both(
    visit: &Visit<'_>,
    config: &Map<String, Value>,
) -> Result<Result<(Person, Role), String>, StoreError> {
    let person = match people::known(visit.store, config.get("user").unwrap_or(&Value::Null)).await? {
        Ok(person) => person,
        Err(why) => return Ok(Err(format!("`user`: {why}"))),
    };
    let named = config.get("role").map(question::written).unwrap_or_default();
    let role = if named.contains('\0') { None } else { visit.store.role_named(&named).await? };
    Ok(role.map(|role| (person, role)).ok_or_else(|| format!("`role`: there is no role `{named}`")))
}

/// The person has the role from now on.
struct GrantRole {
    grant: Grant,
    role: Role,
}

impl Effect for GrantRole {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            let GrantRole { grant, role } = self;
            let Some(person) = person::held(transaction, &grant.user_id).await? else {
                return Err(EffectError::Refused(format!("the person {} is not there any more", grant.user_id)));
            };
            let who = format!("{} ({})", person.display_name, person.email);
            if !person.is_active() {
                return Err(EffectError::Refused(format!("{who} is disabled and is given no role")));
            }
            let missing = role::missing_documents(transaction, &role.id, &person.id).await?;
            if !missing.is_empty() {
                return Err(EffectError::Refused(format!(
                    "the role `{}` requires documents that are approved and valid, and {who} has none of: {}",
                    role.name,
                    missing.join(", ")
                )));
            }
            match role::grant(transaction, grant).await? {
                Granted::Kept => Ok(()),
                Granted::Extended { id, from } => {
                    let before = json!({"expiresAt": from.map(question::time)});
                    self.audit(transaction, id, "role.extended", Some(before)).await
                }
                Granted::New { expired } => {
                    if let Some(id) = expired {
                        self.audit_end(transaction, id).await?;
                    }
                    self.audit(transaction, grant.id, "role.granted", None).await
                }
            }
        })
    }
}

impl GrantRole {
    async fn audit(
        &self,
        transaction: &FencedTransaction,
        id: Uuid,
        action: &str,
        previous: Option<Value>,
    ) -> Result<(), EffectError> {
        let GrantRole { grant, role } = self;
        let state = json!({
            "userId": grant.user_id, "roleId": role.id, "role": role.name, "reason": grant.reason,
            "expiresAt": grant.expires_at.map(question::time), "stepId": grant.by.step,
        });
        let id = id.to_string();
        let run = grant.by.run;
        let audited = Audited { entity: "role_assignment", entity_id: &id, action, run, previous, new: Some(state) };
        Ok(audit_write::write(transaction, &audited).await?)
    }

    /// The assignment before, whose time was over.
    async fn audit_end(&self, transaction: &FencedTransaction, id: Uuid) -> Result<(), EffectError> {
        let audited = Audited {
            entity: "role_assignment",
            entity_id: &id.to_string(),
            action: "role.expired",
            run: self.grant.by.run,
            previous: Some(json!({"status": "active"})),
            new: Some(json!({"status": "expired", "userId": self.grant.user_id, "roleId": self.role.id})),
        };
        Ok(audit_write::write(transaction, &audited).await?)
    }
}
