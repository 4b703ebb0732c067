//! `flohctl run show`: a run's story, as far as it got.

use super::{One, find, unknown};
use crate::{
    cli::{Answer, complain_store, say, say_json, time},
    connectors::secrets::hide,
    store::{
        Store,
        run::{ListedRun, ShownRun, ShownStep},
    },
};
use chrono::TimeDelta;
use clap::Args;
use serde_json::Value;
use std::process::ExitCode;

/// Show a run: its steps with their times and outcomes, what it waits for, and its variables
///
/// A step's line: its number, its id, its type, what came of it, when it began and how long it took; below it the result, or
/// why it failed. Variables and members that are called secrets (password, token, apiKey …) are hidden.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    one: One,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// The longest value that is shown in a line, characters.
const LONGEST: usize = 160;

pub async fn run(arguments: &Arguments, store: &Store) -> Answer {
    let id = find(store, &arguments.one.run).await?;
    let shown = store.show_run(id).await.map_err(|error| complain_store(&error))?;
    let Some(mut shown) = shown else { return Err(unknown(&id.to_string())) };
    if let Value::Object(variables) = hide(&Value::Object(std::mem::take(&mut shown.variables))) {
        shown.variables = variables;
    }
    for step in &mut shown.steps {
        step.result = step.result.as_ref().map(hide);
    }
    if arguments.json {
        say_json(&shown);
    } else {
        story(&shown).into_iter().for_each(say);
    }
    Ok(ExitCode::SUCCESS)
}

/// A run's status, with what may be remarkable about it.
pub fn status(run: &ListedRun) -> String {
    let live = matches!(run.status.as_str(), "pending" | "running" | "waiting");
    match (run.cancel_requested_at, run.held_back) {
        (Some(_), _) if live => format!("{} (to be cancelled)", run.status),
        (None, true) if live => format!("{} (held back)", run.status),
        _ => run.status.clone(),
    }
}

/// The run as lines of text.
fn story(shown: &ShownRun) -> Vec<String> {
    let ShownRun { run, now, .. } = shown;
    let mut lines = vec![format!("run {}: {}@{}, {}", run.id, run.definition, run.version, status(run))];
    let by = run.submitter_id.as_deref().map(|who| format!(" by {who}")).unwrap_or_default();
    let mocks = if run.use_mocks { ", with mocks for connectors" } else { "" };
    lines.push(format!("  started {}{by}{mocks}", time(run.created_at)));
    match (run.started_at, run.finished_at) {
        (Some(began), Some(end)) => lines.push(format!("  ended {}, after {}", time(end), span(end - began))),
        (None, Some(end)) => lines.push(format!("  ended {}", time(end))),
        (None, None) => lines.push("  no worker has begun with it yet".into()),
        (Some(began), None) => lines.push(format!("  begun {}, {} ago", time(began), span(*now - began))),
    }
    if let Some(why) = &run.failure_reason {
        lines.push(format!("  {why}"));
    }
    if let Some(worker) = &shown.worker {
        lines.push(format!("  floh-worker@{worker} works on it"));
    }
    if run.finished_at.is_none()
        && let Some(at) = run.wake_at
    {
        let late = if at <= *now { ", which is due" } else { "" };
        lines.push(format!("  next wake-up {}{late}", time(at)));
    }
    for asked in &shown.asked {
        lines.push(format!("  waits at {} for {}: {} {}", asked.step, asked.whom, asked.what, asked.id));
    }
    if !shown.steps.is_empty() {
        lines.push(String::new());
        steps(shown, &mut lines);
    }
    if !shown.variables.is_empty() {
        lines.push(String::new());
        lines.extend(shown.variables.iter().map(|(name, value)| format!("{name} = {}", short(value))));
    }
    lines
}

fn steps(shown: &ShownRun, lines: &mut Vec<String>) {
    let steps = &shown.steps;
    let name = |step: &ShownStep| match step.visit {
        1 => step.step_id.clone(),
        visit => format!("{} ({visit})", step.step_id),
    };
    let width = |of: &dyn Fn(&ShownStep) -> usize| steps.iter().map(of).max().unwrap_or(0);
    let number = steps.len().to_string().len();
    let names = width(&|step| name(step).chars().count());
    let kinds = width(&|step| step.kind.chars().count());
    let words = width(&|step| state(step, shown).chars().count());
    for (index, step) in steps.iter().enumerate() {
        let line = format!(
            "{:>number$}  {:names$}  {:kinds$}  {:words$}  {}",
            index + 1,
            name(step),
            step.kind,
            state(step, shown),
            times(step, shown)
        );
        lines.push(line.trim_end().to_string());
        let indent = " ".repeat(number + 2);
        if let Some(why) = &step.failure_reason {
            lines.push(format!("{indent}{why}"));
        }
        if let Some(result) = &step.result {
            lines.push(format!("{indent}result {}", short(result)));
        }
    }
}

/// Whether the next try of a step is under way: its row is that of the failed one until it has ended.
fn tries_again(step: &ShownStep, shown: &ShownRun) -> bool {
    let comes_later = step.due_at.is_some_and(|due| due > shown.now);
    step.status == "pending" && shown.run.status == "running" && !comes_later
}

/// What came of a step, or what it waits for.
fn state(step: &ShownStep, shown: &ShownRun) -> String {
    let word = match (step.status.as_str(), &step.outcome) {
        ("completed", Some(outcome)) => outcome.clone(),
        ("failed", Some(outcome)) if outcome != "error" => format!("failed: {outcome}"),
        ("pending", _) if tries_again(step, shown) => "trying again".to_string(),
        ("pending", _) => "to be tried again".to_string(),
        ("waiting_approval", _) => "waits for a decision".to_string(),
        ("waiting_response", _) if step.assignment_state.is_some() => "waits for an answer".to_string(),
        ("waiting_response", _) => "waits".to_string(),
        (other, _) => other.to_string(),
    };
    if step.attempt > 1 { format!("{word}, try {}", step.attempt) } else { word }
}

fn times(step: &ShownStep, shown: &ShownRun) -> String {
    let Some(began) = step.started_at else { return String::new() };
    let waits = step.finished_at.is_none() && !tries_again(step, shown);
    let until = step.due_at.filter(|_| waits).map(|due| format!(", until {}", time(due)));
    let took = match step.finished_at {
        Some(end) => format!("took {}", span(end - began)),
        None => format!("for {}", span(shown.now - began)),
    };
    format!("{}  {took}{}", time(began), until.unwrap_or_default())
}

/// A span of time as people say it.
fn span(span: TimeDelta) -> String {
    let millis = span.num_milliseconds().max(0);
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..60_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", millis / 60_000, millis % 60_000 / 1000),
        3_600_000..86_400_000 => format!("{} h {} min", millis / 3_600_000, millis % 3_600_000 / 60_000),
        _ => format!("{} d {} h", millis / 86_400_000, millis % 86_400_000 / 3_600_000),
    }
}

/// A value in one line.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::run::Asked;
    use chrono::{DateTime, Utc};
    use serde_json::json;
    use uuid::Uuid;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn step(id: &str, kind: &str, status: &str, outcome: Option<&str>, began: i64, end: Option<i64>) -> ShownStep {
        ShownStep {
            step_id: id.into(),
            kind: kind.into(),
            visit: 1,
            attempt: 1,
            status: status.into(),
            assignment_state: None,
            outcome: outcome.map(Into::into),
            result: None,
            failure_reason: None,
            started_at: Some(at(began)),
            finished_at: end.map(at),
            due_at: None,
        }
    }

    /// A run that waits, without steps.
    fn waiting() -> ListedRun {
        ListedRun {
            id: Uuid::nil(),
            definition: "Onboarding".into(),
            version: 2,
            status: "waiting".into(),
            current_step: Some("ask".into()),
            submitter_id: Some("u-17".into()),
            held_back: false,
            use_mocks: true,
            failure_reason: None,
            cancel_requested_at: None,
            wake_at: Some(at(86_400)),
            created_at: at(0),
            started_at: Some(at(1)),
            finished_at: None,
        }
    }

    #[test]
    fn a_run_is_told_in_the_order_of_its_steps() {
        let called = ShownStep {
            attempt: 3,
            failure_reason: Some("the server said 503".into()),
            result: Some(json!({"status": 503})),
            ..step("call", "connector", "failed", Some("error"), 2, Some(62))
        };
        let asked = ShownStep {
            visit: 2,
            due_at: Some(at(86_400)),
            ..step("ask", "approval", "waiting_approval", None, 62, None)
        };
        let shown = ShownRun {
            run: waiting(),
            variables: [("employee".to_string(), json!({"id": "u-3"}))].into_iter().collect(),
            worker: None,
            steps: vec![step("start", "start", "completed", Some("success"), 1, Some(1)), called, asked],
            asked: vec![Asked {
                what: "approval".into(),
                id: "7".into(),
                step: "ask".into(),
                whom: "ada@example.test".into(),
            }],
            now: at(3_662),
        };
        let day = time(at(0))[..10].to_string();
        let expected = format!(
            "run 00000000-0000-0000-0000-000000000000: Onboarding@2, waiting
  started {day} 08:00:00 UTC by u-17, with mocks for connectors
  begun {day} 08:00:01 UTC, 1 h 1 min ago
  next wake-up 2027-01-16 08:00:00 UTC
  waits at ask for ada@example.test: approval 7

1  start    start      success               {day} 08:00:01 UTC  took 0 ms
2  call     connector  failed, try 3         {day} 08:00:02 UTC  took 1 min 0 s
   the server said 503
   result {{\"status\":503}}
3  ask (2)  approval   waits for a decision  {day} 08:01:02 UTC  for 1 h 0 min, until 2027-01-16 08:00:00 UTC

employee = {{\"id\":\"u-3\"}}"
        );
        assert_eq!(story(&shown).join("\n"), expected);
    }

    /// Only the run and the time tell whether it waits for its next try or is at it.
    #[test]
    fn a_failed_try_waits_for_the_next_one_until_that_has_begun() {
        let due = Some(at(60));
        let step = ShownStep { attempt: 2, due_at: due, ..step("call", "connector", "pending", None, 2, None) };
        let mut shown = ShownRun {
            run: waiting(),
            variables: Default::default(),
            worker: None,
            steps: vec![],
            asked: vec![],
            now: at(0),
        };
        let until = format!("until {}", time(at(60)));
        for (status, now, word, waits) in [
            ("waiting", 59, "to be tried again, try 2", true),
            ("waiting", 61, "to be tried again, try 2", true),
            // Woken by something else, before the time of the try.
            ("running", 59, "to be tried again, try 2", true),
            ("running", 60, "trying again, try 2", false),
        ] {
            (shown.run.status, shown.now) = (status.into(), at(now));
            assert_eq!(state(&step, &shown), word, "{status} at {now}");
            assert_eq!(times(&step, &shown).contains(&until), waits, "{status} at {now}");
        }
    }

    #[test]
    fn spans_and_values_are_short() {
        for (millis, text) in
            [(5, "5 ms"), (-5, "0 ms"), (1_250, "1.2 s"), (61_000, "1 min 1 s"), (90_000_000, "1 d 1 h")]
        {
            assert_eq!(span(TimeDelta::milliseconds(millis)), text);
        }
        assert_eq!(short(&json!("é".repeat(500))).chars().count(), LONGEST + 1);
    }
}
