//! What is wrong with a definition: all of it at once, each with a code, the place in the JSON and a sentence.

use std::fmt;

/// The code of what is not known to be wrong: the machine could not look. It forbids to publish, and no more.
pub const UNCHECKED: &str = "UNCHECKED_CODE";

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The definition cannot be published.
    Error,
    /// It can, and its author should know.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// For programs: `UNKNOWN_STEP` and the like; `docs/workflows.md` lists them.
    pub code: &'static str,
    /// Where it is: `steps[2].transitions[0].to`; empty for the whole.
    pub place: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let place = if self.place.is_empty() { "the definition" } else { &self.place };
        write!(f, "{severity} {} at {place}: {}", self.code, self.message)
    }
}

/// A place in a JSON document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place(String);

impl Place {
    /// The member `name` of the object here. A name that is no plain word is quoted.
    #[must_use]
    pub fn field(&self, name: &str) -> Place {
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        Place(match (plain, self.0.is_empty()) {
            (false, _) => format!("{}[{name:?}]", self.0),
            (true, true) => name.to_string(),
            (true, false) => format!("{}.{name}", self.0),
        })
    }

    /// The element `index` of the array here, from 0.
    #[must_use]
    pub fn index(&self, index: usize) -> Place {
        Place(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that was found so far.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Something that forbids to publish.
    pub fn error(&mut self, code: &'static str, place: &Place, message: impl Into<String>) {
        self.add(Severity::Error, code, place, message.into());
    }

    /// Something to know.
    pub fn warning(&mut self, code: &'static str, place: &Place, message: impl Into<String>) {
        self.add(Severity::Warning, code, place, message.into());
    }

    fn add(&mut self, severity: Severity, code: &'static str, place: &Place, message: String) {
        self.0.push(Finding { severity, code, place: place.to_string(), message });
    }

    /// Whether something forbids to publish.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// What was found so far, in the order in which it was found.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }

    /// The findings, errors first, each kind in the order in which they were found.
    #[must_use]
    pub fn into_list(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|finding| finding.severity);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_people_write_it() {
        let step = Place::default().field("steps").index(2);
        assert_eq!(step.field("transitions").index(0).field("to").to_string(), "steps[2].transitions[0].to");
        assert_eq!(step.field("config").field("a b").to_string(), "steps[2].config[\"a b\"]");
        assert_eq!(Place::default().field("").to_string(), "[\"\"]");
    }

    #[test]
    fn errors_come_before_warnings_and_forbid_to_publish() {
        let mut findings = Findings::default();
        findings.warning("W", &Place::default(), "a warning");
        assert!(!findings.has_errors());
        findings.error("E", &Place::default().field("name"), "an error");
        assert!(findings.has_errors());
        let lines: Vec<_> = findings.into_list().iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["error E at name: an error", "warning W at the definition: a warning"]);
    }
}
