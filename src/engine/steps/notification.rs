//! `notification`: tells people something, and may ask them to accept it.

use super::{StepType, words};
use crate::engine::fields::Fields;
use serde_json::{Map, Value};

/// A message.
pub struct Notification;

impl StepType for Notification {
    fn name(&self) -> &'static str {
        "notification"
    }

    fn check(&self, config: &Fields<'_>) {
        let by_mail = config.word("channel", &[("email", true), ("inApp", false)]).unwrap_or(true);
        let to = config.texts("to");
        if to.is_empty() {
            config.wrong("MISSING", "to", "`to` lists who is told: ids, addresses or templates of them");
        }
        let _ = if by_mail { config.text("subject") } else { config.maybe_text("subject") };
        let (text, html) = (config.maybe_text("text"), config.maybe_text("html"));
        if text.is_none() && html.is_none() {
            config.wrong("MISSING", "text", "a message has a `text`, or an `html`, or both");
        }
        if let Some(acceptance) = config.fields("acceptance") {
            let _ = acceptance.span("expiresAfter");
            acceptance.done();
        }
    }

    fn outcomes(&self, config: &Map<String, Value>) -> Vec<String> {
        words(if self.waits(config) { &["approved", "rejected"] } else { &["success"] })
    }

    fn failures(&self, config: &Map<String, Value>) -> Vec<&'static str> {
        let expires = config.get("acceptance").is_some_and(|acceptance| acceptance.get("expiresAfter").is_some());
        if expires { vec!["error", "expired"] } else { vec!["error"] }
    }

    fn waits(&self, config: &Map<String, Value>) -> bool {
        config.get("acceptance").is_some_and(|acceptance| !acceptance.is_null())
    }

    /// Messages have Handlebars templates, which are another language.
    fn plain(&self) -> &'static [&'static str] {
        &["subject", "text", "html"]
    }
}
