//! The types of steps, one file each.

pub mod approval;
mod case;
mod condition;
mod connector;
mod consent;
mod document_submission;
mod end;
mod notification;
mod profile_update;
pub mod question;
mod role_grant;
mod role_revoke;
mod start;
mod transform;
mod user_create;
mod user_prompt;

use super::{
    definition::{Retry, is_name},
    fields::Fields,
    run::{Ending, Visit},
};
use crate::store::StoreError;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

/// What a type of step asks of its configuration, where its edges may lead, and what it does.
pub trait StepType: Send + Sync {
    /// As definitions call it.
    fn name(&self) -> &'static str;

    /// Notes what is wrong with the configuration.
    fn check(&self, config: &Fields<'_>);

    /// The outcomes that lead on, each of which needs an edge. None for a type that ends a run.
    fn outcomes(&self, config: &Map<String, Value>) -> Vec<String>;

    /// Outcomes that may have an edge beside those; where they have none, the step fails.
    fn failures(&self, _config: &Map<String, Value>) -> Vec<&'static str> {
        vec!["error"]
    }

    /// Whether a run waits here, for a person or for a time.
    fn waits(&self, _config: &Map<String, Value>) -> bool {
        false
    }

    /// The variables that it sets.
    fn outputs(&self, _config: &Map<String, Value>) -> Vec<String> {
        Vec::new()
    }

    /// Members of the configuration that are no templates.
    fn plain(&self) -> &'static [&'static str] {
        &[]
    }

    /// The variables that members which are no templates of ours ask for, each with its member: they have to be known, too.
    fn asks(&self, _config: &Map<String, Value>) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The outcome whose edge a failed step goes by where the definition says `onError: continue`. None where that would say
    /// what nobody has said: a step that needs somebody's agreement does not go on without it.
    fn carries_on(&self, config: &Map<String, Value>) -> Option<String> {
        self.outcomes(config).into_iter().find(|outcome| outcome != "approved")
    }

    /// How failures that may pass are tried again where the step says nothing of `retry`.
    fn retry(&self) -> Option<Retry> {
        None
    }

    /// Does its work, or looks at what became of what it waits for. It may be called again for the same visit: after a
    /// crash, on a retry, and each time something woke the run while it waits ([`Visit::waits`]). The future may be dropped
    /// at any await; what it returns as effects is committed with its ending, or not at all.
    ///
    /// # Errors
    /// Only what PostgreSQL said: whatever is wrong with the step itself is an [`Ending::Failed`].
    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>>;
}

/// All types that are executed.
const TYPES: [&dyn StepType; 15] = [
    &start::Start,
    &end::End,
    &condition::If,
    &case::Case,
    &transform::Transform,
    &connector::Connector,
    &notification::Notification,
    &approval::Approval,
    &user_prompt::UserPrompt,
    &document_submission::DocumentSubmission,
    &role_grant::RoleGrant,
    &role_revoke::RoleRevoke,
    &user_create::UserCreate,
    &profile_update::ProfileUpdate,
    &consent::Consent,
];

/// Types of Floh that this worker does not execute.
const OTHERS: [&str; 4] = ["verify_contact", "first_password_invitation", "identity_link", "action"];

/// The type of this name, or the code of a finding and its sentence.
pub fn find(name: &str) -> Result<&'static dyn StepType, (&'static str, String)> {
    if let Some(found) = TYPES.iter().find(|one| one.name() == name) {
        return Ok(*found);
    }
    if OTHERS.contains(&name) {
        return Err(("UNSUPPORTED_TYPE", format!("steps of type `{name}` are not executed by floh-worker")));
    }
    let known: Vec<_> = TYPES.iter().map(|one| one.name()).collect();
    Err(("UNKNOWN_TYPE", format!("there is no step type `{name}`; known are: {}", known.join(", "))))
}

/// Words as outcomes.
fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// A type's check of `output`, the variable that a step keeps what it came to in.
fn check_output(config: &Fields<'_>) {
    if let Some(name) = config.maybe_text("output").filter(|name| !is_name(name)) {
        config.wrong("BAD_NAME", "output", format!("`{name}` is no name of a variable"));
    }
}

/// The name of that variable, if it is given.
fn output(config: &Map<String, Value>) -> Option<&str> {
    config.get("output").and_then(Value::as_str)
}

/// What a step sets that came to this.
fn kept(config: &Map<String, Value>, shown: &Value) -> Map<String, Value> {
    output(config).map(|name| (name.to_string(), shown.clone())).into_iter().collect()
}

/// The text of a member that has to come to one. What a template made of it may be a number, say, which is a text as well;
/// but nothing is none.
fn needed(config: &Map<String, Value>, name: &str) -> Result<String, String> {
    let text = config.get(name).map(question::written).unwrap_or_default();
    if text.trim().is_empty() { Err(format!("`{name}` comes to nothing, and has to be a text")) } else { Ok(text) }
}

/// What every step has that a person answers: for whom, what is shown, and until when.
fn check_question(config: &Fields<'_>) {
    let _ = (config.maybe_text("title"), config.maybe_text("message"), config.span("expiresAfter"));
}

/// The failures of such a step.
fn failures_of_question(config: &Map<String, Value>, others: &[&'static str]) -> Vec<&'static str> {
    let mut failures = others.to_vec();
    failures.push("error");
    if config.contains_key("expiresAfter") {
        failures.push("expired");
    }
    failures
}
