//! `approval`: asks one or more people to approve or reject.

use super::{StepType, check_question, failures_of_question, words};
use crate::engine::fields::Fields;
use serde_json::{Map, Value};

/// A decision.
pub struct Approval;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Single,
    Sequential,
    Parallel,
}

const MODES: [(&str, Mode); 3] =
    [("single", Mode::Single), ("sequential", Mode::Sequential), ("parallel", Mode::Parallel)];

impl StepType for Approval {
    fn name(&self) -> &'static str {
        "approval"
    }

    fn check(&self, config: &Fields<'_>) {
        check_question(config);
        let approvers = config.full_list("approvers").len();
        let _ = config.texts("approvers");
        let mode = config.word("mode", &MODES).unwrap_or(Mode::Single);
        let most = u64::try_from(approvers).unwrap_or(u64::MAX).max(1);
        if config.number("quorum", 1..=most).is_some() && mode != Mode::Parallel {
            config.wrong(
                "WRONG_VALUE",
                "quorum",
                "only a parallel approval has a `quorum`; without one all must approve",
            );
        }
        if let Some(escalation) = config.fields("escalation") {
            check_escalation(&escalation);
            escalation.done();
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["approved", "rejected"])
    }

    fn failures(&self, config: &Map<String, Value>) -> Vec<&'static str> {
        failures_of_question(config, &[])
    }

    fn waits(&self, _config: &Map<String, Value>) -> bool {
        true
    }
}

fn check_escalation(escalation: &Fields<'_>) {
    let after = escalation.span("remindAfter");
    let every = escalation.span("remindEvery");
    let most = escalation.number("maxReminders", 1..=100);
    if after.is_none() && (every.is_some() || most.is_some()) {
        escalation.wrong("MISSING", "remindAfter", "reminders begin after some time: `remindAfter` is missing");
    }
    let reassign = (escalation.span("reassignAfter").is_some(), escalation.maybe_text("reassignTo").is_some());
    match reassign {
        (true, false) => escalation.wrong("MISSING", "reassignTo", "`reassignTo` says who decides then"),
        (false, true) => escalation.wrong("MISSING", "reassignAfter", "`reassignAfter` says when"),
        _ => {}
    }
}
