//! A workflow definition as its JSON says it, checked for its form. Whether its parts fit together is for
//! [`super::validate()`] to say.

use super::{
    fields::Fields,
    finding::{Findings, Place},
    steps::{self, StepType},
};
use crate::store::definition::Reference;
use serde_json::{Map, Value};
use std::{cell::RefCell, path::Path, time::Duration};

/// The longest id of a step and name of a variable, bytes.
const LONGEST_ID: usize = 64;
/// The longest name of a definition, bytes: it is a line's beginning in lists, and a key of the database's index.
const LONGEST_NAME: usize = 200;
/// The longest pause between two tries of a step, which runs do not exceed however often it doubles.
pub const LONGEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);
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
    /// How runs are meant to be started: `manual`, `schedule`, `api`. It is for people; nothing depends on it.
    pub triggers: Vec<String>,
    /// What happens when a step fails.
    pub on_error: OnError,
}

const ON_ERROR: [(&str, OnError); 2] = [("stop", OnError::Stop), ("continue", OnError::Continue)];

/// Reads a definition, as far as it can be read: what cannot is left out, and found.
pub fn read(value: &Value, findings: &RefCell<Findings>) -> Definition {
    let Some(fields) = Fields::of(value, Place::default(), findings) else { return Definition::default() };
    let name = fields.text("name");
    if let Some(why) = name.and_then(refusal_of_name) {
        fields.wrong("BAD_NAME", "name", why);
    }
    let steps = bounded(&fields, "steps");
    let definition = Definition {
        name: name.unwrap_or_default().to_string(),
        category: fields.maybe_text("category").map(str::to_string),
        subject: fields.maybe_text("subjectVariable").map(str::to_string),
        on_error: fields.word("onError", &ON_ERROR).unwrap_or_default(),
        variables: bounded(&fields, "variables").into_iter().filter_map(|one| variable(one, findings)).collect(),
        triggers: fields.fields("trigger").map(triggers).unwrap_or_default(),
        ids: steps.iter().filter_map(|(step, place)| Some((id_of(step)?, place.field("id")))).collect(),
        steps: steps.into_iter().filter_map(|one| step(one, findings)).collect(),
    };
    let _ = fields.maybe_text("description");
    if fields.need("steps").is_some_and(|steps| steps.as_array().is_some_and(Vec::is_empty)) {
        fields.wrong("MISSING", "steps", "a definition has steps: at least `start` and `end`");
    }
    fields.done();
    definition
}

/// Why a definition cannot have this name: whoever asks for it by it would get something else, or nothing.
fn refusal_of_name(name: &str) -> Option<String> {
    if let Some(control) = name.chars().find(|one| one.is_control()) {
        return Some(format!("the name has the control character U+{:04X} in it", u32::from(control)));
    }
    if name.len() > LONGEST_NAME {
        return Some(format!("the name has {} bytes, and {LONGEST_NAME} at most are allowed", name.len()));
    }
    if name == "-" || name.contains('/') || Path::new(name).extension().is_some_and(|ending| ending == "json") {
        return Some(format!(
            "a definition is not called `{name}`, because flohctl would look for a file: a name is not -, has no slash and \
             does not end in .json"
        ));
    }
    let is_name = matches!(name.parse(), Ok(Reference::Name(_)));
    (!is_name).then(|| {
        format!("`{name}`: a definition is not called like a version or an id, because it could not be asked for")
    })
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
    // Where a run begins and where it ends nothing is done that could fail.
    let is_inert = kind.is_some_and(|kind| ["start", "end"].contains(&kind.name()));
    if is_inert {
        warn_of_inert(&fields);
    }
    let (retry, timeout, on_error) = match is_inert {
        true => (None, None, None),
        false => (
            fields.fields("retry").map(|fields| retry(fields, kind)),
            fields.span("timeout"),
            fields.word("onError", &ON_ERROR),
        ),
    };
    let place = fields.place().clone();
    fields.done();
    let id = id.filter(|id| is_id(id))?.to_string();
    Some(Step { id, name, kind: kind?, config, transitions, retry, timeout, on_error, place })
}

fn warn_of_inert(fields: &Fields<'_>) {
    for name in ["retry", "timeout", "onError"].into_iter().filter(|name| fields.get(name).is_some()) {
        let message =
            format!("`{name}` means nothing for `start` and `end`: they are over at once, and are not tried again");
        fields.findings().borrow_mut().warning("UNKNOWN_FIELD", &fields.place_of(name), message);
    }
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

/// Where it does not say how often, a type that is tried again anyway is tried as often as that.
fn retry(fields: Fields<'_>, kind: Option<&dyn StepType>) -> Retry {
    let usual = kind.and_then(StepType::retry).map(|usual| usual.attempts);
    if let (None, None, Some(kind)) = (fields.get("attempts"), usual, kind) {
        let message = format!("`attempts` is missing: how often a step of type `{}` is tried in all", kind.name());
        fields.wrong("MISSING", "attempts", message);
    }
    let attempts = fields.number("attempts", 1..=20).and_then(|attempts| u32::try_from(attempts).ok());
    let delay = fields.span("delay");
    if delay.is_some_and(|delay| delay > LONGEST_DELAY) {
        fields.wrong("WRONG_VALUE", "delay", "`delay` is a day at most: no pause between two tries is longer");
    }
    let retry = Retry {
        attempts: attempts.or(usual).unwrap_or(1),
        delay: delay.unwrap_or(Duration::from_secs(5)),
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
