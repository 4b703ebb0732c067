//! Whether the parts of a definition fit together: its graph, its templates and its variables.

use super::{
    condition::Condition,
    definition::{Definition, Step, read},
    fields::Fields,
    finding::{Finding, Findings, Place},
    graph::Graph,
    path::Path,
    template::Template,
};
use serde_json::Value;
use std::{cell::RefCell, collections::BTreeSet};

/// Variables that every run has.
pub const BUILT_IN: [&str; 2] = ["submitter", "run"];

/// Reads a definition and finds everything that is wrong with it.
#[must_use]
pub fn validate(document: &Value) -> (Definition, Vec<Finding>) {
    let findings = RefCell::new(Findings::default());
    let definition = read(document, &findings);
    for step in &definition.steps {
        check_config(step, &findings);
    }
    let mut findings = findings.into_inner();
    check_ids(&definition, &mut findings);
    check_edges(&definition, &mut findings);
    check_variables(&definition, &mut findings);
    check_graph(document, &definition, &mut findings);
    (definition, findings.into_list())
}

fn check_config(step: &Step, findings: &RefCell<Findings>) {
    let config = Value::Object(step.config.clone());
    let Some(fields) = Fields::of(&config, step.place.field("config"), findings) else { return };
    step.kind.check(&fields);
    fields.done();
}

fn check_ids(definition: &Definition, findings: &mut Findings) {
    let mut ids = BTreeSet::new();
    for (id, place) in &definition.ids {
        if !ids.insert(id) {
            findings.error("DUPLICATE_STEP", place, format!("another step has the id `{id}`"));
        }
    }
    let mut names = BTreeSet::from(BUILT_IN);
    for (index, variable) in definition.variables.iter().enumerate() {
        if !names.insert(&variable.name) {
            let place = Place::default().field("variables").index(index).field("name");
            findings.error("DUPLICATE_VARIABLE", &place, format!("there is a variable `{}` already", variable.name));
        }
    }
}

fn check_edges(definition: &Definition, findings: &mut Findings) {
    let ids: BTreeSet<&str> = definition.ids.iter().map(|(id, _)| id.as_str()).collect();
    for step in &definition.steps {
        let outcomes = step.kind.outcomes(&step.config);
        let mut failures = step.kind.failures(&step.config);
        if step.timeout.is_some() {
            failures.push("timeout");
        }
        let mut used = BTreeSet::new();
        for transition in &step.transitions {
            let Step { kind, .. } = step;
            let (on, to) = (&transition.on, &transition.to);
            if !ids.contains(to.as_str()) {
                findings.error("UNKNOWN_STEP", &transition.place.field("to"), format!("there is no step `{to}`"));
            }
            if !outcomes.contains(on) && !failures.contains(&on.as_str()) {
                let known: Vec<&str> = outcomes.iter().map(String::as_str).chain(failures.iter().copied()).collect();
                let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
                let message =
                    format!("a step of type `{}` has no outcome `{on}` here; its outcomes are: {known}", kind.name());
                findings.error("BAD_OUTCOME", &transition.place.field("on"), message);
            }
            if !used.insert(on) {
                findings.error("DUPLICATE_EDGE", &transition.place, format!("another edge is for `{on}`"));
            }
        }
        for missing in outcomes.iter().filter(|outcome| !used.contains(outcome)) {
            let message = format!("the outcome `{missing}` of `{}` leads nowhere", step.id);
            findings.error("MISSING_EDGE", &step.place.field("transitions"), message);
        }
    }
}

/// Every variable that is asked for is declared, built in, or set by a step.
fn check_variables(definition: &Definition, findings: &mut Findings) {
    let set: Vec<String> = definition.steps.iter().flat_map(|step| step.kind.outputs(&step.config)).collect();
    let known: BTreeSet<&str> = BUILT_IN
        .into_iter()
        .chain(definition.variables.iter().map(|variable| variable.name.as_str()))
        .chain(set.iter().map(String::as_str))
        .collect();
    if let Some(subject) = definition.subject.as_deref().filter(|subject| !known.contains(subject)) {
        let message = format!("there is no variable `{subject}`");
        findings.error("UNDECLARED_VARIABLE", &Place::default().field("subjectVariable"), message);
    }
    for step in &definition.steps {
        for (name, value) in step.config.iter().filter(|(name, _)| !step.kind.plain().contains(&name.as_str())) {
            check_templates(value, &step.place.field("config").field(name), &known, findings);
        }
        for (name, variable) in step.kind.asks(&step.config) {
            if !known.contains(variable.as_str()) {
                let message = format!("`{variable}` is neither declared nor set by a step");
                findings.error("UNDECLARED_VARIABLE", &step.place.field("config").field(name), message);
            }
        }
    }
}

fn check_templates(value: &Value, place: &Place, known: &BTreeSet<&str>, findings: &mut Findings) {
    match value {
        Value::String(text) => match Template::parse(text) {
            Ok(template) => template.paths().for_each(|path| check_path(path, place, known, findings)),
            Err(why) => findings.error("BAD_TEMPLATE", place, why),
        },
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(index, value)| check_templates(value, &place.index(index), known, findings)),
        Value::Object(members) => {
            // A condition names its variable outright.
            let mut ignored = Findings::default();
            if members.contains_key("variable")
                && let Some(condition) = Condition::read(value, place, &mut ignored)
            {
                let mut paths = Vec::new();
                condition.needed(&mut paths);
                paths.into_iter().for_each(|path| check_path(path, &place.field("variable"), known, findings));
            }
            members.iter().for_each(|(name, value)| check_templates(value, &place.field(name), known, findings));
        }
        _ => {}
    }
}

fn check_path(path: &Path, place: &Place, known: &BTreeSet<&str>, findings: &mut Findings) {
    let variable = path.variable();
    if !known.contains(variable) {
        let message = format!("`{path}` begins with `{variable}`, which is neither declared nor set by a step");
        findings.error("UNDECLARED_VARIABLE", place, message);
    }
}

/// What is wrong with a graph is said beside everything else, as far as it is known. Of one with holes the rest would be
/// guesses: a step that could not be read may be the start, and an edge that is wrong the only way.
fn check_graph(document: &Value, definition: &Definition, findings: &mut Findings) {
    let steps = &definition.steps;
    let written = document.get("steps").and_then(Value::as_array).map_or(0, Vec::len);
    if steps.is_empty() || steps.len() != written || findings.has_any_of(&["DUPLICATE_STEP"]) {
        return;
    }
    let graph = Graph::of(definition);
    let starts: Vec<usize> = (0..steps.len()).filter(|index| steps[*index].kind.name() == "start").collect();
    let place = Place::default().field("steps");
    match starts[..] {
        [] => findings.error("NO_START", &place, "there is no step of type `start`"),
        [_] => {}
        [_, second, ..] => findings.error("SEVERAL_STARTS", &steps[second].place, "a definition has one `start`"),
    }
    if !steps.iter().any(|step| step.kind.name() == "end") {
        findings.error("NO_END", &place, "there is no step of type `end`");
    }
    let is_whole = !findings.has_any_of(&["UNKNOWN_STEP", "BAD_OUTCOME", "MISSING_EDGE", "DUPLICATE_EDGE"]);
    if let [start] = starts[..]
        && is_whole
    {
        let reached = graph.reached_from(start);
        for (step, _) in steps.iter().zip(reached).filter(|(_, reached)| !reached) {
            findings.error("UNREACHABLE_STEP", &step.place, format!("no way leads from `start` to `{}`", step.id));
        }
    }
    // A step that waits does not do so where it fails.
    for cycle in graph.cycles(|from, on| on == "error" || !steps[from].kind.waits(&steps[from].config)) {
        let ids: Vec<&str> = cycle.iter().map(|index| steps[*index].id.as_str()).collect();
        let message = format!(
            "{} can go round for ever: somewhere on the way a step has to wait for a person or a time",
            ids.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ")
        );
        findings.error("CYCLE_WITHOUT_WAIT", &steps[cycle[0]].place, message);
    }
    check_provisioning(definition, &graph, findings);
}

/// A connector that runs after another one has changed something: where it fails, somebody has to know what to undo.
fn check_provisioning(definition: &Definition, graph: &Graph, findings: &mut Findings) {
    let steps = &definition.steps;
    let provisions = |step: &Step| step.kind.name() == "connector" && !step.kind.waits(&step.config);
    for (index, step) in steps.iter().enumerate() {
        let after_another = || graph.before(index).any(|(before, on)| on == "success" && provisions(&steps[before]));
        let has_edge = step.transitions.iter().any(|transition| transition.on == "error");
        if provisions(step) && !has_edge && after_another() {
            let message = format!(
                "`{}` follows another connector and has no edge for `error`: where it fails, what the one before has done stays",
                step.id
            );
            findings.warning("PROVISIONING_CHAIN_NO_ERROR_EDGE", &step.place, message);
        }
    }
}

#[cfg(test)]
mod tests;
