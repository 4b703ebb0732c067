//! `approval`: asks one or more people to approve or reject.
//!
//! What is asked is written with the step's wait; what is decided is the database's business, which wakes the run. Here is
//! looked what it came to, the next one in a row asked, and what has expired noted.

mod ask;
mod settle;

pub use ask::known_now;

use super::{StepType, check_output, check_question, failures_of_question, output, words};
use crate::{
    engine::{
        fields::Fields,
        run::{Ending, Visit},
        span,
    },
    store::StoreError,
};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use std::time::Duration;

/// A decision.
pub struct Approval;

/// In which order people are asked, and how many have to agree.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// All are asked, and the first to decide decides.
    Single,
    /// One after the other, and all have to approve.
    Sequential,
    /// All at once, and a quorum has to approve.
    Parallel,
}

const MODES: [(&str, Mode); 3] =
    [("single", Mode::Single), ("sequential", Mode::Sequential), ("parallel", Mode::Parallel)];

/// Reminders where `remindEvery` is given and `maxReminders` is not.
const MOST_REMINDERS: u64 = 100;

impl StepType for Approval {
    fn name(&self) -> &'static str {
        "approval"
    }

    fn check(&self, config: &Fields<'_>) {
        check_question(config);
        let approvers = config.full_list("approvers").len();
        let texts = config.texts("approvers");
        let mode = config.word("mode", &MODES).unwrap_or(Mode::Single);
        // A template may stand for several people.
        let templates = texts.iter().any(|text| text.contains("{{"));
        let most = if templates { 1000 } else { u64::try_from(approvers).unwrap_or(u64::MAX).max(1) };
        if config.number("quorum", 1..=most).is_some() && mode != Mode::Parallel {
            config.wrong(
                "WRONG_VALUE",
                "quorum",
                "only a parallel approval has a `quorum`; without one all must approve",
            );
        }
        let _ = config.flag("notify", true);
        check_output(config);
        let expires = config.get("expiresAfter").and_then(|value| span::read(value).ok());
        if let Some(escalation) = config.fields("escalation") {
            check_escalation(&escalation, expires);
            escalation.done();
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["approved"])
    }

    /// Without an edge of its own a rejection is a failure, so that nothing that needs an approval is done without one.
    fn failures(&self, config: &Map<String, Value>) -> Vec<&'static str> {
        failures_of_question(config, &["rejected"])
    }

    fn waits(&self, _config: &Map<String, Value>) -> bool {
        true
    }

    fn outputs(&self, config: &Map<String, Value>) -> Vec<String> {
        output(config).map(str::to_string).into_iter().collect()
    }

    fn plain(&self) -> &'static [&'static str] {
        &["output"]
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async move { if visit.waits { settle::look(visit).await } else { ask::ask(visit).await } })
    }
}

fn check_escalation(escalation: &Fields<'_>, expires: Option<Duration>) {
    let after = escalation.span("remindAfter");
    let every = escalation.span("remindEvery");
    let most = escalation.number("maxReminders", 1..=MOST_REMINDERS);
    if after.is_none() && (every.is_some() || most.is_some()) {
        escalation.wrong("MISSING", "remindAfter", "reminders begin after some time: `remindAfter` is missing");
    }
    if every.is_none() && most.is_some_and(|most| most > 1) {
        escalation.wrong("MISSING", "remindEvery", "`remindEvery` says when the reminders after the first one come");
    }
    let reassign = escalation.span("reassignAfter");
    match (reassign.is_some(), escalation.maybe_text("reassignTo").is_some()) {
        (true, false) => escalation.wrong("MISSING", "reassignTo", "`reassignTo` says who decides then"),
        (false, true) => escalation.wrong("MISSING", "reassignAfter", "`reassignAfter` says when"),
        _ => {}
    }
    for (name, time) in [("remindAfter", after), ("reassignAfter", reassign)] {
        if let (Some(time), Some(expires)) = (time, expires)
            && time >= expires
        {
            let message = format!("`{name}` never comes: the approval expires before, by `expiresAfter`");
            escalation.findings().borrow_mut().warning("NEVER", &escalation.place_of(name), message);
        }
    }
    if let (Some(after), Some(reassign)) = (after, reassign)
        && after >= reassign
    {
        let message = "the first approver is never reminded: somebody else is asked before, by `reassignAfter`";
        escalation.findings().borrow_mut().warning("NEVER", &escalation.place_of("remindAfter"), message);
    }
}

/// The mode's word.
fn word(mode: Mode) -> &'static str {
    MODES.iter().find(|(_, one)| *one == mode).map_or("single", |(word, _)| *word)
}

#[cfg(test)]
mod tests {
    use crate::engine::validate;
    use serde_json::{Value, json};

    /// What is found in a definition whose approval has this configuration.
    fn found(config: Value) -> Vec<String> {
        let edges = json!([{"on": "approved", "to": "end"}, {"on": "rejected", "to": "end"}]);
        let ask = json!({"id": "ask", "type": "approval", "config": config, "transitions": edges});
        let start = json!({"id": "start", "type": "start", "transitions": [{"on": "success", "to": "ask"}]});
        let document = json!({"name": "x", "steps": [start, ask, {"id": "end", "type": "end"}]});
        validate(&document).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn times_that_never_come_are_warned_of() {
        let config = |expires: &str, remind: &str, reassign: &str| {
            json!({"approvers": ["a@example.org"], "expiresAfter": expires, "escalation": {
                "remindAfter": remind, "reassignAfter": reassign, "reassignTo": "b@example.org"}})
        };
        assert_eq!(found(config("3d", "1d", "2d")), Vec::<String>::new());
        let place = "at steps[1].config.escalation";
        let never = found(config("1d", "1h", "1d"));
        assert_eq!(never.len(), 1, "{never:?}");
        assert!(never[0].starts_with(&format!("warning NEVER {place}.reassignAfter: ")), "{never:?}");
        let never = found(config("3d", "2d", "2d"));
        assert!(never.len() == 1 && never[0].starts_with(&format!("warning NEVER {place}.remindAfter: ")), "{never:?}");
    }

    #[test]
    fn what_an_escalation_lacks_is_said() {
        for (escalation, words) in [
            (json!({"remindEvery": "1d"}), "`remindAfter` is missing"),
            (json!({"remindAfter": "1d", "maxReminders": 2}), "`remindEvery` says when"),
            (json!({"reassignAfter": "1d"}), "`reassignTo` says who"),
            (json!({"reassignTo": "b@example.org"}), "`reassignAfter` says when"),
            (json!({"remindAfter": "1d", "remindEvery": "1d", "maxReminders": 101}), "from 1 to 100"),
        ] {
            let lines = found(json!({"approvers": ["a@example.org"], "escalation": escalation}));
            assert!(lines.len() == 1 && lines[0].contains(words), "{words}: {lines:?}");
        }
        let quorum = |approvers: Value, quorum: u64| {
            found(json!({"approvers": approvers, "mode": "parallel", "quorum": quorum}))
        };
        assert_eq!(quorum(json!(["a@example.org", "b@example.org"]), 3).len(), 1);
        assert_eq!(quorum(json!(["{{submitter.deputies}}"]), 3), Vec::<String>::new());
    }
}
