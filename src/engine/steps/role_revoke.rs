//! `role_revoke`: takes a role from a person.

use super::{
    StepType, question,
    role_grant::{both, doer},
    words,
};
use crate::{
    engine::{
        fields::Fields,
        run::{Effect, EffectError, Ending, Visit},
    },
    store::{
        FencedTransaction, StoreError,
        audit_write::{self, Audited},
        role::{self, Doer, Role},
    },
};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

/// A role that ends.
pub struct RoleRevoke;

impl StepType for RoleRevoke {
    fn name(&self) -> &'static str {
        "role_revoke"
    }

    fn check(&self, config: &Fields<'_>) {
        let _ = (config.text("user"), config.text("role"), config.maybe_text("reason"));
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
            // Whoever does not have the role is as the step wants it: that is no failure.
            let has = visit.store.has_role(&person.id, &role.id).await?;
            let result = json!({"userId": person.id, "roleId": role.id, "role": role.name, "revoked": has});
            let reason = config.get("reason").map(question::written);
            let effects: Vec<Box<dyn Effect>> =
                vec![Box::new(RevokeRole { user_id: person.id, role, at: visit.now, reason, by: doer(visit) })];
            Ok(Ending::Done { outcome: "success".into(), set: Map::new(), result: Some(result), effects })
        })
    }
}

/// The person does not have the role any more.
struct RevokeRole {
    user_id: String,
    role: Role,
    at: DateTime<Utc>,
    reason: Option<String>,
    by: Doer,
}

impl Effect for RevokeRole {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            let RevokeRole { user_id, role, at, reason, by } = self;
            let ended = role::revoke(transaction, user_id, &role.id, *at, reason.as_deref(), by).await?;
            let Some((id, until)) = ended else { return Ok(()) };
            let state = json!({
                "status": "revoked", "userId": user_id, "roleId": role.id, "role": role.name, "reason": reason,
                "stepId": by.step,
            });
            let audited = Audited {
                entity: "role_assignment",
                entity_id: &id.to_string(),
                action: "role.revoked",
                run: by.run,
                previous: Some(json!({"status": "active", "expiresAt": until.map(question::time)})),
                new: Some(state),
            };
            Ok(audit_write::write(transaction, &audited).await?)
        })
    }
}
