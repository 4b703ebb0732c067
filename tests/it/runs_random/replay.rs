//! A run as it has to be by its definition, its step rows, and what people said.

use super::people::Decisions;
use crate::support::{
    Fleet,
    runs::{RunRow, StepRow},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What was asked in each visit of a run's steps: the statuses, and the answer of a form.
type Asked = BTreeMap<(String, i32), Vec<(String, Value)>>;

/// What the people of a run's steps were asked, and how it ended.
pub fn asked(fleet: &Fleet, run: &str) -> Asked {
    let rows = fleet.sql(&format!(
        "SELECT step_id, visit, status, 'null' FROM floh_worker.approval WHERE run_id = '{run}' AND status <> 'reassigned'
        UNION ALL SELECT step_id, visit, status, coalesce(answer, 'null')::text FROM floh_worker.question WHERE run_id = '{run}'"
    ));
    let mut asked = Asked::new();
    for row in rows {
        let [step, visit, status, answer] = [0, 1, 2, 3].map(|column| row[column].clone().unwrap());
        let answer = serde_json::from_str(&answer).unwrap();
        asked.entry((step, visit.parse().unwrap())).or_default().push((status, answer));
    }
    asked
}

/// The step that follows, by the definition alone.
fn follower(definition: &Value, step: &Value, row: &StepRow) -> Option<String> {
    let edges = step["transitions"].as_array()?;
    let to = |on: &str| edges.iter().find(|edge| edge["on"] == on).map(|edge| edge["to"].as_str().unwrap().to_string());
    let own = to(row.outcome.as_deref()?);
    if row.status == "completed" {
        return own;
    }
    let carries_on = definition["onError"] == "continue";
    // As if it had succeeded; what could not be compared does not hold, and what nobody approved is not approved.
    let first = match step["type"].as_str()? {
        "condition" => Some("false"),
        "case" => Some("default"),
        _ => edges.first()?["on"].as_str().filter(|on| *on != "approved"),
    };
    own.or_else(|| to("error")).or_else(|| first.filter(|_| carries_on).and_then(to))
}

/// What a step comes to by what its people said: nothing, where only its timeout can end it.
fn verdict(step: &Value, asked: &[(String, Value)]) -> Option<&'static str> {
    let of = |status: &str| asked.iter().filter(|(one, _)| one == status).count();
    let (config, all) = (&step["config"], asked.len());
    let quorum = match config["mode"].as_str() {
        Some("parallel") => config["quorum"].as_u64().map_or(all, |quorum| usize::try_from(quorum).unwrap()),
        Some(_) => all,
        None => 1,
    };
    let people = config["approvers"].as_array().map_or(1, Vec::len);
    assert_eq!(all, people, "each is asked once: {asked:#?}");
    let most = if config["mode"].is_null() { 0 } else { all - quorum };
    if of("answered") > 0 {
        Some("success")
    } else if of("rejected") > most {
        Some("rejected")
    } else if of("approved") >= quorum {
        Some("approved")
    } else {
        (of("expired") > 0).then_some("expired")
    }
}

/// A step that asks people has come to what they said.
fn check_people(step: &Value, row: &StepRow, asked: &[(String, Value)]) {
    let outcome = row.outcome.as_deref().unwrap();
    let verdict = verdict(step, asked);
    let message = || format!("{step:#}\n{row:#?}\n{asked:#?}");
    if outcome == "timeout" {
        assert!(!step["timeout"].is_null(), "{}", message());
        // What was taken counts. A question that has expired as well, by the time its step ended, says so.
        let is_late = step["type"] != "approval" && verdict == Some("expired");
        assert!(verdict.is_none() || is_late, "{}", message());
        return;
    }
    assert_eq!(Some(outcome), verdict, "{}", message());
    let has = |on: &str| step["transitions"].as_array().unwrap().iter().any(|edge| edge["on"] == on);
    let is_done = outcome != "expired" && has(outcome);
    assert_eq!(row.status == "completed", is_done, "{}", message());
    let expected = match (&step["config"]["output"], step["type"].as_str()) {
        (_, Some("user_prompt")) if is_done => asked[0].1.clone(),
        // What others said is kept for the steps behind it, also where it is the way of a failure that leads there.
        (Value::String(output), _) if has(outcome) || has("error") => json!({ output: row.result }),
        _ => json!({}),
    };
    assert_eq!(row.set, expected, "{}", message());
    if step["type"] == "approval" {
        let decided = asked.iter().filter(|(status, _)| ["approved", "rejected"].contains(&status.as_str())).count();
        assert_eq!(row.result["outcome"], outcome, "{}", message());
        assert_eq!(row.result["decisions"].as_array().unwrap().len(), decided, "{}", message());
    }
}

/// The run and its rows agree with each other and with the definition.
pub fn check_replay(definition: &Value, given: &Value, run: &RunRow, rows: &[StepRow], asked: &Asked) {
    let mut variables: Map<String, Value> = given.as_object().unwrap().clone();
    let mut visits: BTreeMap<&str, i32> = BTreeMap::new();
    let mut expected = Some("start".to_string());
    for row in rows {
        assert_eq!(expected.as_deref(), Some(row.id.as_str()), "{definition:#}\n{rows:#?}");
        let visit = visits.entry(&row.id).or_default();
        *visit += 1;
        assert_eq!(row.visit, *visit, "{rows:#?}");
        assert!(["completed", "failed"].contains(&row.status.as_str()), "{rows:#?}");
        let step = definition["steps"].as_array().unwrap().iter().find(|step| step["id"] == row.id.as_str()).unwrap();
        assert!(i64::from(row.attempt) <= step["retry"]["attempts"].as_i64().unwrap_or(1), "{rows:#?}");
        match asked.get(&(row.id.clone(), row.visit)) {
            Some(asked) => check_people(step, row, asked),
            None => {
                let asks = ["approval", "user_prompt", "consent"].contains(&step["type"].as_str().unwrap());
                assert!(!asks || row.outcome.as_deref() == Some("timeout"), "nobody was asked: {row:#?}");
            }
        }
        if row.outcome.as_deref() == Some("timeout") {
            let timeout = step["timeout"].as_f64().unwrap();
            let says = format!("it took longer than its timeout of {timeout} s");
            assert_eq!((row.status.as_str(), row.reason.as_deref()), ("failed", Some(says.as_str())), "{row:#?}");
        }
        variables.extend(row.set.as_object().unwrap().clone());
        expected = follower(definition, step, row);
    }
    assert_eq!(expected, None, "it ends where no way leads on: {rows:#?}");
    let last = rows.last().unwrap();
    let status = if last.id == "end" { "completed" } else { "failed" };
    assert_eq!(run.status, status, "{run:#?}\n{rows:#?}");
    assert_eq!(run.current_step.as_deref(), Some(last.id.as_str()));
    assert_eq!(run.variables, Value::Object(variables), "{rows:#?}");
}

/// What the database took is what is stored, once, and nothing else was decided.
pub fn check_decisions(fleet: &Fleet, decisions: &[Decisions]) {
    let stored = fleet.sql(
        "SELECT id, status, 'null' FROM floh_worker.approval WHERE decided_at IS NOT NULL
        UNION ALL SELECT id, status, coalesce(answer, 'null')::text FROM floh_worker.question WHERE answered_at IS NOT NULL",
    );
    let stored: BTreeMap<String, (String, Value)> = stored
        .into_iter()
        .map(|row| [0, 1, 2].map(|column| row[column].clone().unwrap()))
        .map(|[id, status, answer]| (id, (status, serde_json::from_str(&answer).unwrap())))
        .collect();
    let taken: Vec<_> = decisions.iter().flat_map(|one| one.taken.clone()).collect();
    assert_eq!(taken.len(), stored.len(), "nothing is decided twice");
    assert_eq!(BTreeMap::from_iter(taken), stored);
}
