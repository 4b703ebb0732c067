//! Whether the parts of a definition fit together: its graph, its templates and its variables.

mod ways;

use super::{
    condition::Condition,
    definition::{Definition, Step, read},
    fields::Fields,
    finding::{Finding, Findings, Place, Severity},
    path::Path,
    run::storable::NUL,
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
    ways::check(document, &definition, &mut findings);
    check_texts(document, &mut findings);
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

/// Every variable that is asked for is declared, built in, or set by a step; and no step sets one that is built in.
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
        let outputs: BTreeSet<String> = step.kind.outputs(&step.config).into_iter().collect();
        for name in outputs.iter().filter(|name| BUILT_IN.contains(&name.as_str())) {
            let message = format!("every run has a variable `{name}`, which no step can set; choose another name");
            findings.error("BAD_NAME", &place_of_output(step, name), message);
        }
        for (name, value) in step.config.iter().filter(|(name, _)| !step.kind.plain().contains(&name.as_str())) {
            check_templates(value, &step.place.field("config").field(name), &known, findings);
        }
        for (condition, place) in conditions(step) {
            check_condition(condition, &place, &known, findings);
        }
        for (name, variable) in step.kind.asks(&step.config) {
            if !known.contains(variable.as_str()) {
                let message = format!("`{variable}` is neither declared nor set by a step");
                findings.error("UNDECLARED_VARIABLE", &step.place.field("config").field(name), message);
            }
        }
    }
}

/// Where a step says that it sets this variable.
fn place_of_output(step: &Step, name: &str) -> Place {
    let place = step.place.field("config");
    let index = |list: &str, is_it: &dyn Fn(&Value) -> bool| {
        step.config
            .get(list)
            .and_then(Value::as_array)?
            .iter()
            .position(is_it)
            .map(|index| place.field(list).index(index))
    };
    if step.config.get("output").is_some_and(|output| output == name) {
        return place.field("output");
    }
    if step.config.get("outputs").is_some_and(|outputs| outputs.get(name).is_some()) {
        return place.field("outputs").field(name);
    }
    index("outputs", &|one| one == name)
        .or_else(|| Some(index("fields", &|one| one.get("name").is_some_and(|one| one == name))?.field("name")))
        .unwrap_or(place)
}

/// The conditions of a step. An object that looks like one elsewhere, in what is sent to another system, is none.
fn conditions(step: &Step) -> Vec<(&Value, Place)> {
    let place = step.place.field("config");
    match step.kind.name() {
        "condition" => step.config.get("if").map(|one| (one, place.field("if"))).into_iter().collect(),
        "case" => {
            let cases = step.config.get("cases").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let place = |index| place.field("cases").index(index).field("when");
            cases.iter().enumerate().filter_map(|(index, case)| Some((case.get("when")?, place(index)))).collect()
        }
        _ => Vec::new(),
    }
}

/// A condition names its variables outright, and not by templates.
fn check_condition(value: &Value, place: &Place, known: &BTreeSet<&str>, findings: &mut Findings) {
    let Some(members) = value.as_object() else { return };
    if members.contains_key("variable") {
        let mut paths = Vec::new();
        // What is wrong with it otherwise is found already.
        if let Some(condition) = Condition::read(value, place, &mut Findings::default()) {
            condition.paths(&mut paths);
            paths.into_iter().for_each(|path| check_path(path, &place.field("variable"), known, findings));
        }
        return;
    }
    for (name, parts) in members {
        let place = place.field(name);
        match (name.as_str(), parts) {
            ("and" | "or", Value::Array(parts)) => parts
                .iter()
                .enumerate()
                .for_each(|(index, part)| check_condition(part, &place.index(index), known, findings)),
            ("not", part) => check_condition(part, &place, known, findings),
            _ => {}
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

/// PostgreSQL keeps every character but one. Where something else is wrong with a text, that is all that is said of it.
fn check_texts(document: &Value, findings: &mut Findings) {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let known: BTreeSet<String> = errors.map(|finding| finding.place.clone()).collect();
    let mut open = vec![(document, Place::default())];
    while let Some((value, place)) = open.pop() {
        let has_it = |text: &str| text.contains('\0') && !known.contains(&place.to_string());
        match value {
            Value::String(text) if has_it(text) => findings.error("WRONG_VALUE", &place, NUL),
            Value::Array(list) => {
                open.extend(list.iter().enumerate().map(|(index, value)| (value, place.index(index))).rev());
            }
            Value::Object(members) => {
                for (name, value) in members.iter().rev() {
                    let place = place.field(name);
                    if name.contains('\0') {
                        findings.error("WRONG_VALUE", &place, NUL);
                    }
                    open.push((value, place));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
