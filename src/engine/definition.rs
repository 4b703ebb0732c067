//! A workflow definition as its JSON says it, checked for its form. Whether its parts fit together is for
//! [`super::validate()`] to say.

use super::{
    fields::Fields,
    finding::{Findings, Place},
    steps::{self, StepType},
};
use serde_json::{Map, Value};
use std::{cell::RefCell, time::Duration};

/// The longest id of a step and name of a variable, bytes.
const LONGEST_ID: usize = 64;
/// The most steps of a definition, and the most variables.
const MOST: usize = 1000;

/// What happens to a run when a step fails that has no edge for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// The run fails.
    #[default]
    Stop,
    /// It goes on as if the step had succeeded, without its results.
    Continue,
}

/// The type of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariableType {
    /// A text.
    String,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A date, with or without a time, as RFC 3339 writes it.
    Date,
    /// A person, resolved to a snapshot when the run starts.
    User,
    /// An object.
    Object,
    /// A list.
    Array,
}

/// The types by their names.
pub const VARIABLE_TYPES: [(&str, VariableType); 7] = [
    ("string", VariableType::String),
    ("number", VariableType::Number),
    ("boolean", VariableType::Boolean),
    ("date", VariableType::Date),
    ("user", VariableType::User),
    ("object", VariableType::Object),
    ("array", VariableType::Array),
];

impl VariableType {
    /// As definitions call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        VARIABLE_TYPES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// A declared variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: VariableType,
    /// Whether a run cannot start without it.
    pub required: bool,
    /// For people.
    pub description: Option<String>,
}

/// An edge of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The outcome that it is for.
    pub on: String,
    /// The step that it leads to.
    pub to: String,
    /// Where it stands.
    pub place: Place,
}

/// How often a step is tried, and how long is waited in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Tries in all.
    pub attempts: u32,
    /// Before the second try.
    pub delay: Duration,
    /// Whether each pause is twice as long as the one before.
    pub doubles: bool,
}

/// A step.
#[derive(Clone)]
pub struct Step {
    /// Its id, unique in the definition.
    pub id: String,
    /// For people.
    pub name: String,
    /// What it does.
    pub kind: &'static dyn StepType,
    /// How it does it: a type's own members.
    pub config: Map<String, Value>,
    /// Where it leads to.
    pub transitions: Vec<Transition>,
    /// How often it is tried.
    pub retry: Option<Retry>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// What happens when it fails; the definition's answer if it says nothing.
    pub on_error: Option<OnError>,
    /// Where it stands.
    pub place: Place,
}

/// A definition.
#[derive(Clone, Default)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// For people.
    pub category: Option<String>,
    /// The variable that says whom a run is about.
    pub subject: Option<String>,
    /// The steps that could be read, in the order of the file.
    pub steps: Vec<Step>,
    /// The ids of all steps with their places, those of unreadable ones too.
    pub ids: Vec<(String, Place)>,
    /// The variables.
    pub variables: Vec<Variable>,
    /// How runs may be started: `manual`, `schedule`, `api`.
    pub triggers: Vec<String>,
    /// What happens when a step fails.
    pub on_error: OnError,
}

const ON_ERROR: [(&str, OnError); 2] = [("stop", OnError::Stop), ("continue", OnError::Continue)];

/// Reads a definition, as far as it can be read: what cannot is left out, and found.
pub fn read(value: &Value, findings: &RefCell<Findings>) -> Definition {
    let Some(fields) = Fields::of(value, Place::default(), findings) else { return Definition::default() };
    let definition = Definition {
        name: fields.text("name").unwrap_or_default().to_string(),
        category: fields.maybe_text("category").map(str::to_string),
        subject: fields.maybe_text("subjectVariable").map(str::to_string),
        on_error: fields.word("onError", &ON_ERROR).unwrap_or_default(),
        variables: bounded(&fields, "variables").into_iter().filter_map(|one| variable(one, findings)).collect(),
        triggers: fields.fields("trigger").map(triggers).unwrap_or_default(),
        ids: bounded(&fields, "steps")
            .iter()
            .filter_map(|(step, place)| Some((id_of(step)?, place.field("id"))))
            .collect(),
        steps: fields.list("steps").into_iter().take(MOST).filter_map(|one| step(one, findings)).collect(),
    };
    let _ = fields.maybe_text("description");
    if fields.need("steps").is_some_and(|steps| steps.as_array().is_some_and(Vec::is_empty)) {
        fields.wrong("MISSING", "steps", "a definition has steps: at least `start` and `end`");
    }
    fields.done();
    definition
}

fn bounded<'a>(fields: &Fields<'a>, name: &'static str) -> Vec<(&'a Value, Place)> {
    let mut list = fields.list(name);
    if list.len() > MOST {
        fields.wrong("TOO_MANY", name, format!("{} {name} are more than the {MOST} that are allowed", list.len()));
        list.truncate(MOST);
    }
    list
}

fn triggers(fields: Fields<'_>) -> Vec<String> {
    const KNOWN: [&str; 3] = ["manual", "schedule", "api"];
    let types = fields.texts("types");
    for unknown in types.iter().filter(|one| !KNOWN.contains(one)) {
        let message = format!("`{unknown}` is none of: {}", KNOWN.join(", "));
        fields.findings().borrow_mut().warning("WRONG_VALUE", &fields.place_of("types"), message);
    }
    let types = types.into_iter().map(str::to_string).collect();
    fields.done();
    types
}

fn variable((value, place): (&Value, Place), findings: &RefCell<Findings>) -> Option<Variable> {
    let fields = Fields::of(value, place, findings)?;
    let name = fields.text("name");
    if let Some(name) = name.filter(|name| !is_name(name)) {
        fields.wrong(
            "BAD_NAME",
            "name",
            format!("`{name}` is no name: letters, digits and _, no digit first, {LONGEST_ID} at most"),
        );
    }
    if fields.get("type").is_none() {
        fields.wrong("MISSING", "type", "`type` is missing");
    }
    let kind = fields.word("type", &VARIABLE_TYPES);
    let required = fields.flag("required", false);
    let description = fields.maybe_text("description").map(str::to_string);
    fields.done();
    Some(Variable { name: name.filter(|name| is_name(name))?.to_string(), kind: kind?, required, description })
}

fn step((value, place): (&Value, Place), findings: &RefCell<Findings>) -> Option<Step> {
    let fields = Fields::of(value, place, findings)?;
    let id = fields.text("id");
    if let Some(id) = id.filter(|id| !is_id(id)) {
        fields.wrong("BAD_ID", "id", format!("`{id}` is no id: letters, digits, _ and -, {LONGEST_ID} at most"));
    }
    let kind = fields.text("type").and_then(|name| match steps::find(name) {
        Ok(kind) => Some(kind),
        Err((code, why)) => {
            fields.wrong(code, "type", why);
            None
        }
    });
    let name = fields.maybe_text("name").or(id).unwrap_or_default().to_string();
    let transitions = fields.list("transitions").into_iter().filter_map(|one| transition(one, findings)).collect();
    let config = match fields.get("config") {
        None => Map::new(),
        Some(Value::Object(members)) => members.clone(),
        Some(_) => {
            fields.wrong("WRONG_KIND", "config", "`config` is an object");
            Map::new()
        }
    };
    let step = Step {
        id: id.filter(|id| is_id(id))?.to_string(),
        name,
        kind: kind?,
        config,
        transitions,
        retry: fields.fields("retry").map(retry),
        timeout: fields.span("timeout"),
        on_error: fields.word("onError", &ON_ERROR),
        place: fields.place().clone(),
    };
    fields.done();
    Some(step)
}

fn id_of(step: &Value) -> Option<String> {
    step.get("id")?.as_str().filter(|id| !id.is_empty()).map(str::to_string)
}

fn transition((value, place): (&Value, Place), findings: &RefCell<Findings>) -> Option<Transition> {
    let fields = Fields::of(value, place, findings)?;
    let (on, to) = (fields.text("on"), fields.text("to"));
    let transition = Transition { on: on?.to_string(), to: to?.to_string(), place: fields.place().clone() };
    fields.done();
    Some(transition)
}

fn retry(fields: Fields<'_>) -> Retry {
    let retry = Retry {
        attempts: fields.number("attempts", 1..=20).and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(1),
        delay: fields.span("delay").unwrap_or(Duration::from_secs(5)),
        doubles: fields.word("backoff", &[("fixed", false), ("exponential", true)]).unwrap_or(true),
    };
    fields.done();
    retry
}

/// Whether this can be a step's id.
fn is_id(text: &str) -> bool {
    text.len() <= LONGEST_ID && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Whether this can be a variable's name: the beginning of a path.
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.len() <= LONGEST_ID
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && text.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}
