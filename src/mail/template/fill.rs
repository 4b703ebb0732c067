//! Puts values into a template, and counts what that costs.

use super::{Block, BlockKind, Expression, From, Kind, LONGEST_TEXT, Node, Path, TemplateError, helpers};
use serde_json::Value;
use std::borrow::Cow;

/// The most steps, each of which takes less than a microsecond: a loop in a loop in a loop ends here.
const MOST_STEPS: usize = 200_000;

/// Why there is no value.
pub(super) enum No {
    /// A path leads nowhere. Where a value may be missing this is no error.
    Missing(String),
    /// An error anyway.
    Wrong(String),
}

impl No {
    fn at(self, line: usize) -> TemplateError {
        let (No::Missing(why) | No::Wrong(why)) = self;
        TemplateError::new(line, why)
    }
}

/// A value: one of those that were given, or a new one, which is neither list nor object.
pub(super) type Found<'a> = Cow<'a, Value>;

/// The work that may be done.
pub(super) struct Budget(usize);

impl Budget {
    /// Takes steps off.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), No> {
        match self.0.checked_sub(steps) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(No::Wrong(format!("the template takes more than {MOST_STEPS} steps to fill in"))),
        }
    }
}

/// The value of a block, by which the paths in it begin.
struct Scope<'a> {
    value: Found<'a>,
    names: &'a [String],
    key: Option<Found<'a>>,
    index: usize,
    last: bool,
}

struct Filler<'a> {
    root: &'a Value,
    scopes: Vec<Scope<'a>>,
    kind: Kind,
    budget: Budget,
    text: String,
    /// The line of the part that was last looked at.
    line: usize,
}

/// Fills in all parts.
pub(super) fn fill(nodes: &[Node], kind: Kind, values: &Value) -> Result<String, TemplateError> {
    let budget = Budget(MOST_STEPS);
    let mut filler = Filler { root: values, scopes: Vec::new(), kind, budget, text: String::new(), line: 1 };
    filler.nodes(nodes)?;
    Ok(filler.text)
}

impl<'a> Filler<'a> {
    fn nodes(&mut self, nodes: &'a [Node]) -> Result<(), TemplateError> {
        for node in nodes {
            match node {
                Node::Text(text) => self.write(text).map_err(|no| no.at(self.line))?,
                Node::Value { line, value, raw } => {
                    self.line = *line;
                    self.value(value, *raw).map_err(|no| no.at(*line))?;
                }
                Node::Block(block) => self.block(block)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), No> {
        self.budget.spend(1)?;
        if self.text.len() + text.len() > LONGEST_TEXT {
            return Err(No::Wrong(format!("the text becomes longer than {LONGEST_TEXT} bytes")));
        }
        self.text.push_str(text);
        Ok(())
    }

    fn value(&mut self, value: &'a Expression, raw: bool) -> Result<(), No> {
        let found = self.find(value)?;
        let text = match &*found {
            Value::String(text) => Cow::Borrowed(text.as_str()),
            Value::Null => return Err(No::Missing(format!("{} has no value: it is null", describe(value)))),
            other => {
                let cost = size(other, &mut self.budget)?;
                self.budget.spend(cost)?;
                Cow::Owned(other.to_string())
            }
        };
        if self.kind == Kind::Text || raw {
            return self.write(&text);
        }
        if text.len() > LONGEST_TEXT {
            // Escaping would only make it longer.
            return self.write(&text);
        }
        let escaped = handlebars::html_escape(&text);
        self.write(&escaped)
    }

    fn block(&mut self, block: &'a Block) -> Result<(), TemplateError> {
        let at = |no: No| no.at(block.line);
        self.line = block.line;
        self.budget.spend(1).map_err(at)?;
        let found = match self.find(&block.value) {
            Err(No::Missing(_)) if block.otherwise.is_some() || is_question(block.kind) => Cow::Owned(Value::Null),
            other => other.map_err(at)?,
        };
        let otherwise = block.otherwise.as_deref().unwrap_or_default();
        match block.kind {
            BlockKind::If { zero_counts } | BlockKind::Unless { zero_counts } => {
                let holds = helpers::is_true(&found, zero_counts) != matches!(block.kind, BlockKind::Unless { .. });
                self.nodes(if holds { &block.then } else { otherwise })
            }
            BlockKind::With if helpers::is_true(&found, true) => self.scope(block, found, None, 0, true),
            BlockKind::With => self.nothing(block, otherwise),
            BlockKind::Each => self.each(block, &found, otherwise),
        }
    }

    fn each(&mut self, block: &'a Block, found: &Found<'a>, otherwise: &'a [Node]) -> Result<(), TemplateError> {
        match found {
            Cow::Borrowed(Value::Array(list)) if !list.is_empty() => {
                for (index, value) in list.iter().enumerate() {
                    self.scope(block, Cow::Borrowed(value), None, index, index + 1 == list.len())?;
                }
                Ok(())
            }
            Cow::Borrowed(Value::Object(members)) if !members.is_empty() => {
                for (index, (key, value)) in members.iter().enumerate() {
                    let key = Cow::Owned(Value::String(key.clone()));
                    self.scope(block, Cow::Borrowed(value), Some(key), index, index + 1 == members.len())?;
                }
                Ok(())
            }
            Cow::Borrowed(Value::Array(_) | Value::Object(_)) => self.nodes(otherwise),
            _ => self.nothing(block, otherwise),
        }
    }

    /// There is nothing to go through, or to go into.
    fn nothing(&mut self, block: &'a Block, otherwise: &'a [Node]) -> Result<(), TemplateError> {
        if block.otherwise.is_some() {
            return self.nodes(otherwise);
        }
        let expected = if block.kind == BlockKind::Each { "a list or an object" } else { "a value" };
        let why = format!("{} is not {expected}; write an {{{{else}}}} for that", describe(&block.value));
        Err(TemplateError::new(block.line, why))
    }

    /// The parts of a block with its value.
    fn scope(
        &mut self,
        block: &'a Block,
        value: Found<'a>,
        key: Option<Found<'a>>,
        index: usize,
        last: bool,
    ) -> Result<(), TemplateError> {
        // A key is copied, so that it costs what it is long.
        let cost = 1 + key.as_ref().and_then(|key| key.as_str()).map_or(0, |key| key.len() / 64);
        self.budget.spend(cost).map_err(|no| no.at(block.line))?;
        self.scopes.push(Scope { value, names: &block.names, key, index, last });
        self.nodes(&block.then)?;
        self.scopes.pop();
        Ok(())
    }

    fn find(&mut self, value: &'a Expression) -> Result<Found<'a>, No> {
        self.budget.spend(1)?;
        match value {
            Expression::Literal(value) => Ok(Cow::Borrowed(value)),
            Expression::Path(path) => self.path(path),
            Expression::Call { helper, arguments, zone } => {
                let mut found = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    found.push(match self.find(argument) {
                        Err(No::Missing(_)) if helper.may_miss() => Cow::Owned(Value::Null),
                        // What is missing here is missing, even where the result may be.
                        Err(No::Missing(why)) => return Err(No::Wrong(why)),
                        other => other?,
                    });
                }
                let zone = zone.as_deref().map(|zone| self.find(zone)).transpose()?;
                helpers::call(*helper, found, zone.as_deref(), &mut self.budget)
            }
        }
    }

    fn path(&mut self, path: &'a Path) -> Result<Found<'a>, No> {
        let outer = |up: usize| self.scopes.len().checked_sub(up + 1).and_then(|index| self.scopes.get(index));
        let missing = |why: String| No::Missing(format!("`{}` has no value: {why}", path.text));
        let mut start = 0;
        let mut value: Found<'a> = match &path.from {
            From::Root => Cow::Borrowed(self.root),
            From::Local(up, name) => {
                let scope = outer(*up).ok_or_else(|| missing("there is no block around it".to_string()))?;
                return local(scope, name).ok_or_else(|| missing(format!("this block has no `@{name}`")));
            }
            From::Outer(up) => match path.names.first().filter(|_| *up == 0).and_then(|name| self.named(name)) {
                Some(named) => {
                    start = 1;
                    named
                }
                None if *up == self.scopes.len() => Cow::Borrowed(self.root),
                None => {
                    let scope = outer(*up).ok_or_else(|| missing("there are fewer blocks around it".to_string()))?;
                    scope.value.clone()
                }
            },
        };
        for (index, name) in path.names.iter().enumerate().skip(start) {
            self.budget.spend(1)?;
            value = member(&value, name).ok_or_else(|| {
                let at_root = path.from == From::Root || path.from == From::Outer(self.scopes.len());
                missing(match (&path.names[..index], at_root) {
                    ([], true) => format!("there is no variable `{name}`"),
                    ([], false) => format!("the value of the block is {} without `{name}`", kind(&value)),
                    (before, _) => format!("`{}` is {} without `{name}`", before.join("."), kind(&value)),
                })
            })?;
        }
        Ok(value)
    }

    /// The value that a block around gave this name.
    fn named(&self, name: &str) -> Option<Found<'a>> {
        self.scopes.iter().rev().find_map(|scope| match scope.names {
            [value, ..] if value == name => Some(scope.value.clone()),
            [_, key] if key == name => local(scope, if scope.key.is_some() { "key" } else { "index" }),
            _ => None,
        })
    }
}

/// Whether a block only asks whether something is there.
fn is_question(kind: BlockKind) -> bool {
    matches!(kind, BlockKind::If { .. } | BlockKind::Unless { .. })
}

fn local<'a>(scope: &Scope<'a>, name: &str) -> Option<Found<'a>> {
    match name {
        "key" => Some(scope.key.clone().unwrap_or_else(|| Cow::Owned(scope.index.into()))),
        "index" => Some(Cow::Owned(scope.index.into())),
        "first" => Some(Cow::Owned((scope.index == 0).into())),
        "last" => Some(Cow::Owned(scope.last.into())),
        _ => None,
    }
}

/// A member of an object, an element of a list, or its length.
pub(super) fn member<'a>(value: &Found<'a>, name: &str) -> Option<Found<'a>> {
    let Cow::Borrowed(value) = value else { return None };
    match value {
        Value::Object(members) => members.get(name).map(Cow::Borrowed),
        Value::Array(list) if name == "length" => Some(Cow::Owned(list.len().into())),
        Value::Array(list) => name.parse().ok().and_then(|index: usize| list.get(index)).map(Cow::Borrowed),
        _ => None,
    }
}

/// A value's kind, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What an expression is called in messages.
fn describe(value: &Expression) -> String {
    match value {
        Expression::Path(path) => format!("`{}`", path.text),
        Expression::Literal(value) => {
            // Of the template's author, and no longer than the template.
            format!("`{}`", value.to_string().chars().take(40).collect::<String>())
        }
        Expression::Call { helper, .. } => format!("what `{}` gives", helper.name()),
    }
}

/// What a value costs to be written or compared: its parts and their texts. Each part is paid for before the next one.
pub(super) fn size(value: &Value, budget: &mut Budget) -> Result<usize, No> {
    budget.spend(1)?;
    Ok(match value {
        Value::String(text) => text.len() / 64,
        Value::Array(list) => {
            let mut sum = 0;
            for inner in list {
                sum += size(inner, budget)?;
            }
            sum
        }
        Value::Object(members) => {
            let mut sum = 0;
            for (key, inner) in members {
                sum += key.len() / 64 + size(inner, budget)?;
            }
            sum
        }
        _ => 0,
    })
}
