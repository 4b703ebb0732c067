//! Reads the members of an object, and notes everything that is wrong with them.

use super::{
    finding::{Findings, Place},
    path::kind,
    span,
};
use serde_json::{Map, Value};
use std::{cell::RefCell, collections::BTreeSet, time::Duration};

/// An object under the hands of its reader. Once it is dropped, members that nobody asked for are warned of.
pub struct Fields<'a> {
    members: &'a Map<String, Value>,
    place: Place,
    findings: &'a RefCell<Findings>,
    known: RefCell<BTreeSet<&'static str>>,
    wrong: RefCell<BTreeSet<String>>,
}

impl<'a> Fields<'a> {
    /// Of the value, if it is an object.
    pub fn of(value: &'a Value, place: Place, findings: &'a RefCell<Findings>) -> Option<Fields<'a>> {
        match value.as_object() {
            Some(members) => {
                Some(Fields { members, place, findings, known: RefCell::default(), wrong: RefCell::default() })
            }
            None => {
                findings.borrow_mut().error("WRONG_KIND", &place, format!("expected an object, found {}", kind(value)));
                None
            }
        }
    }

    /// Where the object is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where a member of it is.
    #[must_use]
    pub fn place_of(&self, name: &str) -> Place {
        self.place.field(name)
    }

    /// Notes what is wrong with a member. One of which something is wrong already is there, so it is not missing; and if it is
    /// read twice, its kind is wrong once.
    pub fn wrong(&self, code: &'static str, name: &str, message: impl Into<String>) {
        let is_first = self.wrong.borrow_mut().insert(name.to_string());
        if !is_first && ["MISSING", "WRONG_KIND"].contains(&code) {
            return;
        }
        self.findings.borrow_mut().error(code, &self.place_of(name), message);
    }

    /// A member, if it is there and not null.
    pub fn get(&self, name: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().insert(name);
        self.members.get(name).filter(|value| !value.is_null())
    }

    /// A member that has to be there.
    pub fn need(&self, name: &'static str) -> Option<&'a Value> {
        let value = self.get(name);
        if value.is_none() {
            self.wrong("MISSING", name, format!("`{name}` is missing"));
        }
        value
    }

    /// The text of a value of this object, which is not empty.
    fn as_text(&self, name: &str, value: &'a Value) -> Option<&'a str> {
        match value.as_str() {
            Some(text) if !text.trim().is_empty() => Some(text),
            Some(_) => {
                self.wrong("MISSING", name, format!("`{name}` is empty"));
                None
            }
            None => {
                self.wrong("WRONG_KIND", name, format!("`{name}` is a text, and here is {}", kind(value)));
                None
            }
        }
    }

    /// A text that has to be there and not to be empty.
    pub fn text(&self, name: &'static str) -> Option<&'a str> {
        self.need(name).and_then(|value| self.as_text(name, value))
    }

    /// A text that may be missing, but not empty.
    pub fn maybe_text(&self, name: &'static str) -> Option<&'a str> {
        self.get(name).and_then(|value| self.as_text(name, value))
    }

    /// One of these words; `None` if it is missing.
    pub fn word<T: Copy>(&self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.maybe_text(name)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.wrong("WRONG_VALUE", name, format!("`{text}` is none of: {}", known.join(", ")));
        }
        found
    }

    /// Whether; `otherwise` if it is missing.
    pub fn flag(&self, name: &'static str, otherwise: bool) -> bool {
        match self.get(name) {
            None => otherwise,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.wrong("WRONG_KIND", name, format!("`{name}` is true or false, and here is {}", kind(other)));
                otherwise
            }
        }
    }

    /// A whole number within bounds; `None` if it is missing.
    pub fn number(&self, name: &'static str, bounds: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = self.get(name)?;
        let number = value.as_u64().filter(|number| bounds.contains(number));
        if number.is_none() {
            let (least, most) = (bounds.start(), bounds.end());
            self.wrong(
                "WRONG_VALUE",
                name,
                format!("`{name}` is a whole number from {least} to {most}, and here is {value}"),
            );
        }
        number
    }

    /// A span of time; `None` if it is missing.
    pub fn span(&self, name: &'static str) -> Option<Duration> {
        match span::read(self.get(name)?) {
            Ok(span) => Some(span),
            Err(why) => {
                self.wrong("WRONG_VALUE", name, why);
                None
            }
        }
    }

    /// The elements of a list, each with its place; none if it is missing.
    pub fn list(&self, name: &'static str) -> Vec<(&'a Value, Place)> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let place = self.place_of(name);
        match value.as_array() {
            Some(list) => list.iter().enumerate().map(|(index, value)| (value, place.index(index))).collect(),
            None => {
                self.wrong("WRONG_KIND", name, format!("`{name}` is a list, and here is {}", kind(value)));
                Vec::new()
            }
        }
    }

    /// A list that has to be there and to have an element.
    pub fn full_list(&self, name: &'static str) -> Vec<(&'a Value, Place)> {
        if self.get(name).is_none() {
            self.wrong("MISSING", name, format!("`{name}` is missing"));
        }
        let list = self.list(name);
        if list.is_empty() && self.members.get(name).is_some_and(Value::is_array) {
            self.wrong("MISSING", name, format!("`{name}` is empty"));
        }
        list
    }

    /// A list of texts, none of them empty.
    pub fn texts(&self, name: &'static str) -> Vec<&'a str> {
        let mut texts = Vec::new();
        for (value, place) in self.list(name) {
            match value.as_str() {
                Some(text) if !text.trim().is_empty() => texts.push(text),
                _ => {
                    self.wrong.borrow_mut().insert(name.to_string());
                    let message = "a text is expected here, and not an empty one";
                    self.findings.borrow_mut().error("WRONG_KIND", &place, message);
                }
            }
        }
        texts
    }

    /// An object within this one; `None` if it is missing.
    pub fn fields(&self, name: &'static str) -> Option<Fields<'a>> {
        Fields::of(self.get(name)?, self.place_of(name), self.findings)
    }

    /// Its members, all of them, whatever their names are.
    #[must_use]
    pub fn all(&self) -> &'a Map<String, Value> {
        self.members
    }

    /// Where everything is noted.
    #[must_use]
    pub fn findings(&self) -> &'a RefCell<Findings> {
        self.findings
    }

    /// Warns of the members that nobody asked for: mostly they are misspelt.
    pub fn done(self) {
        let known = self.known.borrow();
        for name in self.members.keys().filter(|name| !known.contains(name.as_str())) {
            let message = format!(
                "`{name}` means nothing here; known are: {}",
                known.iter().copied().collect::<Vec<_>>().join(", ")
            );
            self.findings.borrow_mut().warning("UNKNOWN_FIELD", &self.place.field(name), message);
        }
    }
}
