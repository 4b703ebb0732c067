//! Templates of messages, in Handlebars as Floh's are: `Dear {{user.displayName}}`, `{{#each items}}…{{/each}}`.
//!
//! The crate `handlebars` reads them, so that their language is Handlebars; what it read is filled in here, because
//! a template is a stranger's and the worker is everybody's: each step and each byte of the result is counted, a path that
//! leads nowhere is an error that names it, and values are data, never a part of the template. `scan` looks at a text
//! before it is read, so that no nesting is deeper than the reader's stack.

mod date;
mod fill;
mod helpers;
mod read;
mod scan;

use helpers::Helper;
use serde_json::Value;

/// The longest template, bytes.
pub const LONGEST_TEMPLATE: usize = 64 * 1024;
/// The longest text that can come out of one, bytes.
pub const LONGEST_TEXT: usize = 1024 * 1024;

/// What is wrong with a template, or with filling it in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct TemplateError {
    /// Where, from 1.
    pub line: usize,
    /// A sentence without its first word in upper case.
    pub why: String,
}

impl TemplateError {
    fn new(line: usize, why: impl Into<String>) -> TemplateError {
        TemplateError { line, why: why.into() }
    }
}

/// What values are put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Plain text, as it is.
    Text,
    /// HTML: what means something there is escaped, except by `{{{three braces}}}`.
    Html,
}

/// A template that was read once and can be filled in often.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    kind: Kind,
    nodes: Vec<Node>,
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// Itself.
    Text(String),
    /// `{{value}}`, or `{{{value}}}`, which is not escaped.
    Value { line: usize, value: Expression, raw: bool },
    /// `{{#if value}}then{{else}}otherwise{{/if}}` and its like.
    Block(Block),
}

/// A part of a template with parts.
#[derive(Debug, Clone, PartialEq)]
struct Block {
    line: usize,
    kind: BlockKind,
    value: Expression,
    /// The names of `as |value key|`.
    names: Vec<String>,
    then: Vec<Node>,
    otherwise: Option<Vec<Node>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlockKind {
    If { zero_counts: bool },
    Unless { zero_counts: bool },
    Each,
    With,
}

/// What has a value.
#[derive(Debug, Clone, PartialEq)]
enum Expression {
    Path(Path),
    Literal(Value),
    Call { helper: Helper, arguments: Vec<Expression>, zone: Option<Box<Expression>> },
}

/// `user.email`, `../title`, `@root.user`, `@index`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Path {
    /// As it is written.
    text: String,
    from: From,
    names: Vec<String>,
}

/// Where a path begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    /// At all values.
    Root,
    /// At the value of the block that is this many blocks further out.
    Outer(usize),
    /// At a variable of such a block: `@index`, `@key`, `@first`, `@last`.
    Local(usize, String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, and in which line.
    pub fn parse(text: &str, kind: Kind) -> Result<Template, TemplateError> {
        scan::scan(text)?;
        Ok(Template { kind, nodes: read::read(text)? })
    }

    /// Puts values in: the members of an object.
    ///
    /// # Errors
    /// A path leads nowhere, a helper cannot do with a value, or the work or the result would be too large.
    pub fn fill(&self, values: &Value) -> Result<String, TemplateError> {
        fill::fill(&self.nodes, self.kind, values)
    }

    /// The variables that it begins its paths with, each once, with the line where it is first asked for.
    #[must_use]
    pub fn variables(&self) -> Vec<(&str, usize)> {
        let mut found = Vec::new();
        read::variables(&self.nodes, &mut Vec::new(), &mut found);
        found
    }
}

#[cfg(test)]
mod tests;
