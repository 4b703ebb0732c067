//! The question: who is asked, in which order, until when, and what happens while nobody decides.

use super::{
    MODES, MOST_REMINDERS, Mode, settle,
    who::{approver, approvers},
    word,
};
use crate::{
    engine::{
        run::{Effect, EffectError, Ending, Visit},
        span,
        steps::question,
    },
    store::{
        FencedTransaction, StoreError,
        approval::{self, NewApproval, Place},
        run::StepStatus,
    },
};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use uuid::Uuid;

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
    let place = Place { run: visit.run, step: visit.step.id.clone(), visit: visit.number };
    let taken = taken(visit, &place).await?;
    let free = approvers.into_iter().zip(1..).filter(|(_, position)| !taken.contains(position));
    let approvals: Vec<NewApproval> = free
        .enumerate()
        .map(|(before, (who, position))| NewApproval {
            id: Uuid::new_v4(),
            position,
            mode: word(mode),
            quorum,
            who,
            title: text("title"),
            message: text("message"),
            status: if mode == Mode::Sequential && before > 0 { "waiting" } else { "pending" },
            due_at,
            notify: config.get("notify") != Some(&Value::Bool(false)),
            escalation: escalation.clone(),
        })
        .collect();
    if approvals.is_empty() {
        return settle::look(visit).await;
    }
    Ok(Ending::Waits {
        status: StepStatus::WaitingApproval,
        until: due_at,
        result: None,
        assignment: Some("assigned".into()),
        effects: vec![Box::new(Ask { place, approvals })],
    })
}

/// The places that the step's tries before this one have left behind, of which only what nobody decided is void: what was
/// decided stands, and the others are asked again.
async fn taken(visit: &Visit<'_>, place: &Place) -> Result<Vec<i32>, StoreError> {
    if visit.attempt == 1 {
        return Ok(Vec::new());
    }
    let before = visit.store.approvals_of(place).await?.approvals.into_iter();
    Ok(before.filter(|one| !matches!(one.status.as_str(), "void" | "reassigned")).map(|one| one.position).collect())
}

/// A text; what a template made of it may be a number, say.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
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
