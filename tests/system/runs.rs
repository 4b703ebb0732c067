//! A run as an operator starts it on a machine: published, started and decided with flohctl, executed under the unit.

use crate::{
    floh::{ready_machine, sql, start},
    support::wait_for,
};
use std::time::Duration;

/// A script, which the worker runs in a process of its own, and a decision about what came of it.
const DEFINITION: &str = r#"{
    "name": "A loan",
    "variables": [{"name": "days", "type": "number", "required": true}],
    "steps": [
        {"id": "start", "type": "start", "transitions": [{"on": "success", "to": "compute"}]},
        {"id": "compute", "type": "transform",
         "config": {"code": "return {hours: floh.variables.days * 24}", "outputs": ["hours"]},
         "transitions": [{"on": "success", "to": "long"}]},
        {"id": "long", "type": "condition", "config": {"if": {"variable": "hours", "greaterThan": 100}},
         "transitions": [{"on": "true", "to": "ask"}, {"on": "false", "to": "end"}]},
        {"id": "ask", "type": "approval", "config": {"approvers": ["mo@example.org"], "title": "{{hours}} hours"},
         "transitions": [{"on": "approved", "to": "end"}]},
        {"id": "end", "type": "end"}
    ]
}"#;

#[test]
fn a_run_with_a_script_and_an_approval_completes_under_the_unit() {
    let machine = ready_machine();
    start(&machine, "1");
    machine.ok(&format!("cat >/root/loan.json <<'JSON'\n{DEFINITION}\nJSON\nflohctl workflow publish /root/loan.json"));
    let run = machine.ok("flohctl run start 'A loan' --var days=20");
    assert_eq!(machine.fails("flohctl run start 'A loan'").0, 1, "a variable that is required is missing");

    let asked = format!("SELECT id FROM approval WHERE run_id = '{run}' AND status = 'pending'");
    let id = wait_for("the approval is asked for", Duration::from_secs(30), || {
        Some(sql(&machine, &asked)).filter(|id| !id.is_empty())
    });
    let listed = machine.ok("flohctl approval list");
    assert!(listed.starts_with(&id) && listed.ends_with("step ask: 480 hours"), "{listed}");
    machine.ok(&format!("flohctl approval approve {id} --as mo@example.org"));
    let status = format!("SELECT status FROM workflow_run WHERE id = '{run}'");
    let ended = wait_for("the run ends", Duration::from_secs(30), || {
        Some(sql(&machine, &status)).filter(|status| !["pending", "running", "waiting"].contains(&status.as_str()))
    });
    let shown = machine.ok(&format!("flohctl run show {run}"));
    assert_eq!(ended, "completed", "{shown}");
    assert!(shown.contains("hours = 480"), "{shown}");
    // The next one needs nobody.
    let short = machine.ok("flohctl run start 'A loan' --var days=1");
    wait_for("the short one ends", Duration::from_secs(30), || {
        let status = sql(&machine, &format!("SELECT status FROM workflow_run WHERE id = '{short}'"));
        (status == "completed").then_some(())
    });
}
