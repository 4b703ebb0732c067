//! The ways through a definition: whether they begin, end, lead everywhere, and stop for somebody where they go round.
//!
//! What is wrong with them is said beside everything else. A step that could not be read hides what it alone could have said,
//! and nothing more.

use crate::{
    connectors::DELAY,
    engine::{
        Severity,
        definition::{Definition, OnError, Step},
        finding::{Findings, Place},
        graph::Graph,
    },
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Checks all of it.
pub fn check(document: &Value, definition: &Definition, findings: &mut Findings) {
    let written = document.get("steps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if written.is_empty() {
        return;
    }
    check_ends(written, definition, findings);
    let graph = Graph::of(definition);
    check_cycles(definition, &graph, findings);
    check_provisioning(definition, &graph, findings);
}

/// By what is written, so that a step with a mistake in it is still the start.
fn check_ends(written: &[Value], definition: &Definition, findings: &mut Findings) {
    let place = Place::default().field("steps");
    let of_type = |kind: &str| {
        let is_it = |step: &Value| step.get("type").is_some_and(|one| one == kind);
        (0..written.len()).filter(|index| is_it(&written[*index])).collect::<Vec<usize>>()
    };
    let starts = of_type("start");
    match starts[..] {
        [] => findings.error("NO_START", &place, "there is no step of type `start`"),
        [start] => check_reach(written, start, definition, findings),
        [_, second, ..] => findings.error("SEVERAL_STARTS", &place.index(second), "a definition has one `start`"),
    }
    if of_type("end").is_empty() {
        findings.error("NO_END", &place, "there is no step of type `end`");
    }
}

/// Whether a way leads to every step. Where a step on the way is unreadable, or something is wrong with its edges, that may be
/// where the others are reached from: then nothing is said.
fn check_reach(written: &[Value], start: usize, definition: &Definition, findings: &mut Findings) {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_string);
    let mut numbers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, step) in written.iter().enumerate() {
        text(step, "id").into_iter().for_each(|id| numbers.entry(id).or_default().push(index));
    }
    let read: BTreeSet<String> = definition.steps.iter().map(|step| step.place.to_string()).collect();
    let steps = Place::default().field("steps");
    let holes = with_bad_edges(findings);
    let mut reached = vec![false; written.len()];
    let mut open = vec![start];
    while let Some(index) = open.pop() {
        if std::mem::replace(&mut reached[index], true) {
            continue;
        }
        if holes.contains(&index) || !read.contains(&steps.index(index).to_string()) {
            return;
        }
        let edges = written[index].get("transitions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let targets = edges.iter().filter_map(|edge| numbers.get(&text(edge, "to")?));
        open.extend(targets.flatten().copied());
    }
    for index in (0..written.len()).filter(|index| !reached[*index]) {
        // What has no id is no step yet.
        if let Some(id) = text(&written[index], "id") {
            findings.error("UNREACHABLE_STEP", &steps.index(index), format!("no way leads from `start` to `{id}`"));
        }
    }
}

/// The numbers of the steps in whose edges something is wrong.
fn with_bad_edges(findings: &Findings) -> BTreeSet<usize> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let of_edges = errors.filter_map(|finding| {
        let (index, rest) = finding.place.strip_prefix("steps[")?.split_once(']')?;
        rest.starts_with(".transitions").then(|| index.parse().ok())?
    });
    of_edges.collect()
}

/// A loop has to stop for somebody, or for some time, whichever way it is gone round.
fn check_cycles(definition: &Definition, graph: &Graph, findings: &mut Findings) {
    let steps = &definition.steps;
    let fails: Vec<Option<String>> = steps.iter().map(|step| way_of_failure(definition, step)).collect();
    for cycle in graph.cycles(|from, on| !waits(&steps[from]) || fails[from].as_deref() == Some(on)) {
        let ids: Vec<&str> = cycle.iter().map(|index| steps[*index].id.as_str()).collect();
        let message = format!(
            "{} can go round for ever: somewhere on the way a step has to wait for a person or a time, and a step that fails \
             at once, or waits until a time that has passed, does not",
            ids.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ")
        );
        findings.error("CYCLE_WITHOUT_WAIT", &steps[cycle[0]].place, message);
    }
}

/// The outcome by whose edge a step goes on that fails before it has waited. A delay in which everything is known, and was
/// checked, does not fail before.
fn way_of_failure(definition: &Definition, step: &Step) -> Option<String> {
    if is_delay(step) && !step.config.values().any(|value| value.to_string().contains("{{")) {
        return None;
    }
    if step.transitions.iter().any(|transition| transition.on == "error") {
        return Some("error".to_string());
    }
    match step.on_error.unwrap_or(definition.on_error) {
        OnError::Stop => None,
        OnError::Continue => step.kind.carries_on(&step.config),
    }
}

/// Whether a run waits here each time that it comes. A time that stands in the definition comes once.
fn waits(step: &Step) -> bool {
    let text = |name: &str| step.config.get(name).and_then(Value::as_str);
    let time = step.config.get("params").and_then(|params| params.get("time")).and_then(Value::as_str);
    let comes_once =
        is_delay(step) && text("command") == Some("until") && time.is_some_and(|time| !time.contains("{{"));
    step.kind.waits(&step.config) && !comes_once
}

/// A connector that runs after another one has changed something: where it fails, somebody has to know what to undo.
fn check_provisioning(definition: &Definition, graph: &Graph, findings: &mut Findings) {
    let steps = &definition.steps;
    for (index, step) in steps.iter().enumerate() {
        let has_edge = step.transitions.iter().any(|transition| transition.on == "error");
        if !provisions(step) || has_edge {
            continue;
        }
        if let Some(before) = provisioned_before(definition, graph, index) {
            let message = format!(
                "`{}` comes after the connector `{}` and has no edge for `error`: where it fails, what the one before has \
                 done stays",
                step.id, steps[before].id
            );
            findings.warning("PROVISIONING_CHAIN_NO_ERROR_EDGE", &step.place, message);
        }
    }
}

/// Whether a step calls another system.
fn provisions(step: &Step) -> bool {
    step.kind.name() == "connector" && !is_delay(step)
}

/// Whether it is the connector that does nothing but wait.
fn is_delay(step: &Step) -> bool {
    step.kind.name() == "connector" && step.config.get("connectorId").is_some_and(|connector| connector == DELAY)
}

/// Another connector that may have done something when this one runs, whatever other steps are between them.
fn provisioned_before(definition: &Definition, graph: &Graph, index: usize) -> Option<usize> {
    let steps = &definition.steps;
    let mut seen = vec![false; steps.len()];
    let mut open = vec![index];
    while let Some(step) = open.pop() {
        for (before, on) in graph.before(step) {
            if before == index || on == "error" || seen[before] {
                continue;
            }
            if !provisions(&steps[before]) {
                seen[before] = true;
                open.push(before);
            } else if on == "success" {
                return Some(before);
            }
        }
    }
    None
}
