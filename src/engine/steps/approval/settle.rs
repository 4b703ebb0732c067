//! What the decisions came to, whenever something wakes the run.

use super::known_now;
use crate::{
    engine::{
        run::{Effect, EffectError, Ending, Visit},
        steps::kept,
    },
    store::{
        FencedTransaction, StoreError,
        approval::{self, Approval, Place, Standing},
        run::StepStatus,
    },
};
use chrono::SecondsFormat;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use uuid::Uuid;

/// What is written of it beside the step.
enum Write {
    /// The next one in a row is asked.
    Next(Uuid),
    /// The time is over.
    Expire(Place),
    /// What is open of a settled step is void.
    Close(Place),
}

impl Effect for Write {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            match self {
                Write::Next(id) => approval::ask_next(transaction, *id).await?,
                Write::Expire(place) => approval::expire(transaction, place).await?,
                Write::Close(place) => approval::close(transaction, place).await?,
            }
            Ok(())
        })
    }
}

/// Looks what has been decided.
pub async fn look(visit: &Visit<'_>) -> Result<Ending, StoreError> {
    let place = Place { run: visit.run, step: visit.step.id.clone(), visit: visit.number };
    let standing = visit.store.approvals_of(&place).await?;
    let result = result(&standing);
    match standing.outcome.as_deref() {
        Some("approved") => Ok(decided(visit, "approved", result, place)),
        Some("rejected") if has_edge(visit, "rejected") => Ok(decided(visit, "rejected", result, place)),
        Some("rejected") => {
            Ok(failed(visit, "rejected", rejected(&standing.approvals), result, vec![Box::new(Write::Close(place))]))
        }
        Some(_) => Ok(failed(visit, "expired", expired(&standing.approvals), result, Vec::new())),
        None => open(visit, &standing.approvals, place).await,
    }
}

/// Nothing is settled: somebody may have to be asked, or the time is over.
async fn open(visit: &Visit<'_>, approvals: &[Approval], place: Place) -> Result<Ending, StoreError> {
    let of = |status: &str| approvals.iter().find(|one| one.status == status);
    let (asked, next) = (of("pending"), of("waiting"));
    let due_at = asked.or(next).and_then(|one| one.due_at);
    let write = match (asked, next) {
        (None, None) => return Ok(Ending::failed("the approvals of this step are gone: nobody can decide it")),
        // Its end wakes the run again, unless somebody decides before it is written.
        _ if due_at.is_some_and(|due| due <= visit.now) => Some(Write::Expire(place)),
        (Some(_), _) => None,
        (None, Some(next)) => {
            // Whoever could be asked when the step began may be disabled by now, and would never decide.
            if let Err(why) = known_now(visit.store, &next.who).await? {
                return Ok(Ending::failed(format!("`approvers`: {why}")));
            }
            Some(Write::Next(next.id))
        }
    };
    Ok(Ending::Waits {
        status: StepStatus::WaitingApproval,
        until: due_at,
        result: None,
        assignment: None,
        effects: write.map(|write| Box::new(write) as Box<dyn Effect>).into_iter().collect(),
    })
}

fn has_edge(visit: &Visit<'_>, outcome: &str) -> bool {
    visit.step.transitions.iter().any(|transition| transition.on == outcome)
}

/// Decided: its edge leads on.
fn decided(visit: &Visit<'_>, outcome: &str, result: Value, place: Place) -> Ending {
    let set = kept(&visit.step.config, &result);
    let effects: Vec<Box<dyn Effect>> = vec![Box::new(Write::Close(place))];
    Ending::Done { outcome: outcome.to_string(), set, result: Some(result), effects }
}

fn failed(
    visit: &Visit<'_>,
    outcome: &'static str,
    reason: String,
    result: Value,
    effects: Vec<Box<dyn Effect>>,
) -> Ending {
    let set = kept(&visit.step.config, &result);
    Ending::Failed { reason, outcome, set, result: Some(result), passing: false, effects }
}

/// Who rejected it, and why.
fn rejected(approvals: &[Approval]) -> String {
    let no = approvals.iter().filter(|one| one.status == "rejected");
    let no: Vec<String> = no
        .filter_map(|one| Some(format!("{}: {}", one.decided.as_ref()?.0, one.reason.as_deref().unwrap_or_default())))
        .collect();
    format!("rejected by {}", no.join("; "))
}

/// Who has not decided.
fn expired(approvals: &[Approval]) -> String {
    let silent = approvals.iter().filter(|one| one.status == "expired");
    let names: Vec<&str> = silent.clone().map(|one| one.who.label()).collect();
    let due = silent.filter_map(|one| one.due_at).max();
    let until = due.map(|due| due.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default();
    format!("not decided by {until}: {}", names.join(", "))
}

/// What people, and later steps, may want to see of it: who decided, when, how, and why.
fn result(standing: &Standing) -> Value {
    let decisions: Vec<Value> = standing
        .approvals
        .iter()
        .filter_map(|one| {
            let (by, at) = one.decided.as_ref()?;
            Some(json!({
                "approver": one.who.approver, "approverId": one.who.approver_id, "approverName": one.who.approver_name,
                "decision": one.status, "decidedBy": by, "reason": one.reason,
                "decidedAt": at.to_rfc3339_opts(SecondsFormat::Millis, true),
            }))
        })
        .collect();
    json!({"outcome": standing.outcome, "decisions": decisions})
}
