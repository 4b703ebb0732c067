//! What is said about a configuration: mistakes, which stop the program, and notices, which do not.

use std::fmt;

/// Values longer than this are cut in messages.
const SHOWN_CHARACTERS: usize = 80;

/// One mistake: which variable, what it says, and what is expected instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The variable, or the file that names it.
    pub variable: String,
    /// The value, unless it is a secret.
    pub value: Option<String>,
    /// What is expected, as a phrase.
    pub expected: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={}: {}", self.variable, shown(value), self.expected),
            None => write!(f, "{}: {}", self.variable, self.expected),
        }
    }
}

/// A value as it appears in a message: on one line, quoted, without control characters, and not endless.
pub(super) fn shown(value: &str) -> String {
    let cut: String = value.chars().take(SHOWN_CHARACTERS).collect();
    let dots = if cut.len() < value.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_debug())
}

/// How much a notice matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Probably not what was meant.
    Warning,
    /// Good to know.
    Info,
}

/// Something worth a log line that does not stop the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub severity: Severity,
    /// The variable it is about, as it stands in the environment.
    pub variable: String,
    /// The sentence.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.text)
    }
}

/// Every mistake of a configuration at once. The program ends with exit code 78 (`EX_CONFIG`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// At least one.
    pub mistakes: Vec<Mistake>,
    /// What was noticed beside them: often the reason of a mistake, such as a misspelt name.
    pub notices: Vec<Notice>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in self.mistakes.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_one_line_whatever_the_value() {
        let value = format!("a\nb\u{1b}[31m\"{}", "x".repeat(200));
        let mistake = Mistake { variable: "DB_PORT".into(), value: Some(value), expected: "a port".into() };
        let line = mistake.to_string();
        assert!(!line.contains('\n') && !line.contains('\u{1b}'), "{line}");
        assert!(line.len() < 150 && line.contains('…') && line.ends_with(": a port"), "{line}");
    }
}
