//! Reads the members of an object. What is wrong is said without the values, which may be secrets.

use crate::{
    connectors::Failure,
    values::{path::kind, span},
};
use serde_json::{Map, Value};
use std::time::Duration;

/// An object, what it is called in messages, and the code of what is wrong with it.
pub(super) struct Members<'a> {
    members: &'a Map<String, Value>,
    what: &'a str,
    code: &'static str,
}

impl<'a> Members<'a> {
    /// An object that has no other members than these.
    pub(super) fn of(
        members: &'a Map<String, Value>,
        what: &'a str,
        code: &'static str,
        known: &[&str],
    ) -> Result<Members<'a>, Failure> {
        let members = Members { members, what, code };
        match members.members.keys().find(|name| !known.contains(&name.as_str())) {
            Some(unknown) => {
                Err(members.wrong(&format!("`{unknown}` means nothing there; known are: {}", known.join(", "))))
            }
            None => Ok(members),
        }
    }

    /// A sentence about it.
    pub(super) fn wrong(&self, why: &str) -> Failure {
        Failure::new(self.code, format!("{}: {why}", self.what))
    }

    /// A member that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, Failure> {
        let text = |value: &'a Value| match value.as_str() {
            Some(text) if !text.is_empty() => Ok(text),
            Some(_) => Err(self.wrong(&format!("`{name}` is empty"))),
            None => Err(self.wrong(&format!("`{name}` is a text, and here is {}", kind(value)))),
        };
        self.get(name).map(text).transpose()
    }

    /// A text that has to be there.
    pub(super) fn need(&self, name: &str) -> Result<&'a str, Failure> {
        self.text(name)?.ok_or_else(|| self.wrong(&format!("`{name}` is missing")))
    }

    /// An object.
    pub(super) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, Failure> {
        let object = |value: &'a Value| {
            value.as_object().ok_or_else(|| self.wrong(&format!("`{name}` is an object, and here is {}", kind(value))))
        };
        self.get(name).map(object).transpose()
    }

    /// A span of time of at most `longest`.
    pub(super) fn span(&self, name: &str, longest: Duration) -> Result<Option<Duration>, Failure> {
        let span = |value| match span::read(value) {
            Ok(span) if span <= longest => Ok(span),
            Ok(_) => Err(self.wrong(&format!("`{name}` is at most {} s", longest.as_secs()))),
            Err(why) => Err(self.wrong(&format!("`{name}`: {why}"))),
        };
        self.get(name).map(span).transpose()
    }

    /// A whole number from 1 to `most`.
    pub(super) fn number(&self, name: &str, most: u64) -> Result<Option<u64>, Failure> {
        let number = |value: &Value| {
            let number = value.as_u64().filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| self.wrong(&format!("`{name}` is a whole number from 1 to {most}")))
        };
        self.get(name).map(number).transpose()
    }
}
