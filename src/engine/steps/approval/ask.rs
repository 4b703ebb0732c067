//! The question: who is asked, in which order, until when, and what happens while nobody decides.

use super::{MODES, MOST_REMINDERS, Mode, word};
use crate::{
    engine::{
        people,
        run::{Effect, EffectError, Ending, Visit},
        span,
        steps::question,
    },
    store::{
        FencedTransaction, Store, StoreError,
        approval::{self, Approver, NewApproval, Place},
        run::StepStatus,
    },
};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// More people than anybody asks.
const MOST_APPROVERS: usize = 1000;

/// The questions of a visit, to be written.
struct Ask {
    place: Place,
    approvals: Vec<NewApproval>,
}

impl Effect for Ask {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async { Ok(approval::ask(transaction, &self.place, &self.approvals).await?) })
    }
}

/// Asks.
pub async fn ask(visit: &Visit<'_>) -> Result<Ending, StoreError> {
    let config = match visit.config() {
        Ok(config) => config,
        Err(why) => return Ok(Ending::failed(why)),
    };
    let approvers = match approvers(visit, &config).await? {
        Ok(approvers) => approvers,
        Err(why) => return Ok(Ending::failed(why)),
    };
    let escalation = match escalation(visit, config.get("escalation")).await? {
        Ok(escalation) => escalation,
        Err(why) => return Ok(Ending::failed(why)),
    };
    let mode = config.get("mode").and_then(Value::as_str);
    let mode = MODES.iter().find(|(word, _)| Some(*word) == mode).map_or(Mode::Single, |(_, mode)| *mode);
    let quorum = match quorum(mode, config.get("quorum"), approvers.len()) {
        Ok(quorum) => quorum,
        Err(why) => return Ok(Ending::failed(why)),
    };
    if let Some(Err(why)) = config.get("expiresAfter").filter(|value| !value.is_null()).map(span::read) {
        return Ok(Ending::failed(format!("`expiresAfter`: {why}")));
    }
    let due_at = question::due(visit, config.get("expiresAfter"));
    let text = |name: &str| config.get(name).and_then(text);
    let shown = ["title", "message"].into_iter().filter_map(text).map(|text| text.len()).sum::<usize>();
    if let Err(why) = question::fits(shown.saturating_mul(approvers.len())) {
        return Ok(Ending::failed(why));
    }
    let approvals = approvers.into_iter().zip(1..).map(|(who, position)| NewApproval {
        id: Uuid::new_v4(),
        position,
        mode: word(mode),
        quorum,
        who,
        title: text("title"),
        message: text("message"),
        status: if mode == Mode::Sequential && position > 1 { "waiting" } else { "pending" },
        due_at,
        notify: config.get("notify") != Some(&Value::Bool(false)),
        escalation: escalation.clone(),
    });
    let place = Place { run: visit.run, step: visit.step.id.clone(), visit: visit.number };
    Ok(Ending::Waits {
        status: StepStatus::WaitingApproval,
        until: due_at,
        result: None,
        assignment: Some("assigned".into()),
        effects: vec![Box::new(Ask { place, approvals: approvals.collect() })],
    })
}

/// A text; what a template made of it may be a number, say.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Who is asked, each person once. A template may stand for a list.
async fn approvers(
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
async fn approver(store: &Store, named: &Value) -> Result<Result<Approver, String>, StoreError> {
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

/// How many have to approve.
fn quorum(mode: Mode, wanted: Option<&Value>, approvers: usize) -> Result<i32, String> {
    let all = i32::try_from(approvers).unwrap_or(i32::MAX);
    let wanted = wanted.and_then(Value::as_i64);
    match (mode, wanted) {
        (Mode::Single, _) => Ok(1),
        (Mode::Parallel, Some(quorum)) if quorum > i64::from(all) => {
            Err(format!("`quorum` is {quorum}, and only {all} different people are asked"))
        }
        (Mode::Parallel, Some(quorum)) => Ok(i32::try_from(quorum).unwrap_or(all).max(1)),
        (Mode::Sequential | Mode::Parallel, _) => Ok(all),
    }
}

/// The escalation as the approvals keep it: spans in seconds, and who is asked then.
async fn escalation(visit: &Visit<'_>, config: Option<&Value>) -> Result<Result<Value, String>, StoreError> {
    let Some(config) = config.and_then(Value::as_object) else { return Ok(Ok(json!({}))) };
    let mut kept = Map::new();
    for name in ["remindAfter", "remindEvery", "reassignAfter"] {
        match config.get(name).filter(|value| !value.is_null()).map(span::read).transpose() {
            Ok(Some(time)) => _ = kept.insert(name.into(), json!(time.as_secs_f64())),
            Ok(None) => {}
            Err(why) => return Ok(Err(format!("`escalation.{name}`: {why}"))),
        }
    }
    let most = if kept.contains_key("remindEvery") { MOST_REMINDERS } else { 1 };
    let wanted = config.get("maxReminders").and_then(Value::as_u64).unwrap_or(most);
    kept.insert("maxReminders".into(), json!(wanted.min(most)));
    if let Some(to) = config.get("reassignTo").filter(|value| !value.is_null()) {
        match approver(visit.store, to).await? {
            Ok(person) => _ = kept.insert("reassignTo".into(), serde_json::to_value(person).unwrap_or_default()),
            Err(why) => return Ok(Err(format!("`escalation.reassignTo`: {why}"))),
        }
    }
    Ok(Ok(Value::Object(kept)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quorum_is_one_all_or_what_is_wanted_of_as_many_people() {
        let wanted = json!(2);
        assert_eq!(quorum(Mode::Single, None, 3), Ok(1));
        assert_eq!(quorum(Mode::Sequential, None, 3), Ok(3));
        assert_eq!(quorum(Mode::Parallel, None, 3), Ok(3));
        assert_eq!(quorum(Mode::Parallel, Some(&wanted), 3), Ok(2));
        let why = quorum(Mode::Parallel, Some(&wanted), 1).unwrap_err();
        assert_eq!(why, "`quorum` is 2, and only 1 different people are asked");
    }
}
