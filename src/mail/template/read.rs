//! Makes a template's parts out of what the crate `handlebars` read, and refuses what is not filled in here.

use super::{
    Block, BlockKind, Expression, From, Node, Path, TemplateError,
    helpers::{self, Helper},
};
use handlebars::{
    Path as CratePath, PathSeg, Template as CrateTemplate, TemplateErrorReason,
    template::{BlockParam, HelperTemplate, Parameter, TemplateElement},
};
use std::panic::catch_unwind;

const BLOCKS: &str = "#if, #unless, #each, #with";

/// Reads a text that was scanned before.
pub(super) fn read(text: &str) -> Result<Vec<Node>, TemplateError> {
    // The crate's reader assumes here and there that its grammar leaves it no choice. Where that is wrong it panics, and the
    // template is what is wrong.
    let read = catch_unwind(|| CrateTemplate::compile(text))
        .map_err(|_| TemplateError::new(1, "the template cannot be read: is a `{{…}}` misplaced?"))?;
    let template = read.map_err(|error| {
        let line = error.pos().map_or(1, |(line, _)| line);
        TemplateError::new(line, sentence(error.reason()))
    })?;
    nodes(&template, 1)
}

/// The reader's errors in words for people who write templates.
fn sentence(reason: &TemplateErrorReason) -> String {
    match reason {
        TemplateErrorReason::MismatchingClosedHelper(opened, closed) => {
            format!("`{{{{#{opened}}}}}` is closed by `{{{{/{closed}}}}}`")
        }
        TemplateErrorReason::InvalidSyntax(_) => {
            "this is no Handlebars: is a `{{…}}` or a block not closed, or a path not written like user.email or rows.[0]?"
                .to_string()
        }
        other => other.to_string(),
    }
}

fn nodes(template: &CrateTemplate, outer_line: usize) -> Result<Vec<Node>, TemplateError> {
    let mut nodes = Vec::with_capacity(template.elements.len());
    for (index, element) in template.elements.iter().enumerate() {
        // An `else if` has no line of its own.
        let line = template.mapping.get(index).map_or(outer_line, |mapping| mapping.0);
        match element {
            TemplateElement::RawString(text) if text.is_empty() => {}
            TemplateElement::RawString(text) => nodes.push(Node::Text(text.clone())),
            TemplateElement::Comment(_) => {}
            TemplateElement::Expression(tag) => {
                nodes.push(Node::Value { line, value: expression(tag, line)?, raw: false });
            }
            TemplateElement::HtmlExpression(tag) => {
                nodes.push(Node::Value { line, value: expression(tag, line)?, raw: true });
            }
            TemplateElement::HelperBlock(tag) => nodes.push(Node::Block(block(tag, line)?)),
            _ => return Err(TemplateError::new(line, "templates cannot include or change others")),
        }
    }
    Ok(nodes)
}

fn block(tag: &HelperTemplate, line: usize) -> Result<Block, TemplateError> {
    let wrong = |why: String| TemplateError::new(line, why);
    let name = tag.name.as_name().unwrap_or_default();
    let mut zero_counts = false;
    for (key, value) in &tag.hash {
        match (name, key.as_str(), value) {
            ("if" | "unless", "includeZero", Parameter::Literal(flag)) => zero_counts = flag.as_bool() == Some(true),
            _ => return Err(wrong(format!("`#{name}` takes no `{key}=`"))),
        }
    }
    let kind = match name {
        "if" => BlockKind::If { zero_counts },
        "unless" => BlockKind::Unless { zero_counts },
        "each" => BlockKind::Each,
        "with" => BlockKind::With,
        _ if helpers::find(name).is_some() => {
            return Err(wrong(format!("`{name}` is no block; write {{{{#if ({name} …)}}}}")));
        }
        _ => return Err(wrong(format!("there is no block `#{name}`; known are: {BLOCKS}"))),
    };
    let [value] = &tag.params[..] else {
        return Err(wrong(format!("`#{name}` takes one value, and has {}", tag.params.len())));
    };
    let names: Vec<String> = match &tag.block_param {
        None => Vec::new(),
        Some(BlockParam::Single(one)) => [one.as_name()].into_iter().flatten().map(str::to_string).collect(),
        Some(BlockParam::Pair((one, two))) => {
            [one.as_name(), two.as_name()].into_iter().flatten().map(str::to_string).collect()
        }
        Some(_) => return Err(wrong(format!("`#{name}` names at most a value and a key"))),
    };
    let most = match kind {
        BlockKind::Each => 2,
        BlockKind::With => 1,
        BlockKind::If { .. } | BlockKind::Unless { .. } => 0,
    };
    if names.len() > most {
        return Err(wrong(format!("`#{name}` gives its value no {} names", names.len())));
    }
    let branch = |template: &Option<CrateTemplate>| template.as_ref().map(|template| nodes(template, line)).transpose();
    Ok(Block {
        line,
        kind,
        value: parameter(value, line)?,
        names,
        then: branch(&tag.template)?.unwrap_or_default(),
        otherwise: branch(&tag.inverse)?,
    })
}

/// `{{value}}` or `{{helper value …}}`.
fn expression(tag: &HelperTemplate, line: usize) -> Result<Expression, TemplateError> {
    if tag.params.is_empty() && tag.hash.is_empty() {
        return parameter(&tag.name, line);
    }
    let wrong = |why: String| TemplateError::new(line, why);
    let name = tag.name.as_name().unwrap_or_default();
    let helper = helpers::find(name)
        .ok_or_else(|| wrong(format!("there is no helper `{name}`; known are: {}", helpers::names().join(", "))))?;
    let arguments: Vec<Expression> =
        tag.params.iter().map(|one| parameter(one, line)).collect::<Result<_, TemplateError>>()?;
    if !helper.takes().contains(&arguments.len()) {
        let takes = helper.takes();
        let (least, most) = (takes.start(), takes.end());
        let expected = if least == most { format!("{least}") } else { format!("{least} or more") };
        return Err(wrong(format!("`{name}` takes {expected} values, and has {}", arguments.len())));
    }
    let mut zone = None;
    for (key, value) in &tag.hash {
        match (helper, key.as_str()) {
            (Helper::FormatDate, "zone") => zone = Some(Box::new(parameter(value, line)?)),
            _ => return Err(wrong(format!("`{name}` takes no `{key}=`"))),
        }
    }
    Ok(Expression::Call { helper, arguments, zone })
}

fn parameter(parameter: &Parameter, line: usize) -> Result<Expression, TemplateError> {
    match parameter {
        Parameter::Path(found) => path(found, line).map(Expression::Path),
        Parameter::Literal(value) => Ok(Expression::Literal(value.clone())),
        Parameter::Subexpression(inner) => match inner.as_element() {
            TemplateElement::Expression(tag) => expression(tag, line),
            _ => Err(TemplateError::new(line, "within brackets is a helper with its values")),
        },
        other => Err(TemplateError::new(line, format!("`{}` is no value", other.as_name().unwrap_or_default()))),
    }
}

fn path(path: &CratePath, line: usize) -> Result<Path, TemplateError> {
    let (segments, text) = match path {
        CratePath::Local((0, name, text)) if name == "root" => {
            return Ok(Path { text: text.clone(), from: From::Root, names: Vec::new() });
        }
        CratePath::Local((level, name, text)) => {
            if !["index", "key", "first", "last"].contains(&name.as_str()) {
                let why = format!("`{text}` is not known; known are: @index, @key, @first, @last, @root");
                return Err(TemplateError::new(line, why));
            }
            let from = From::Local(*level, name.clone());
            return Ok(Path { text: text.clone(), from, names: Vec::new() });
        }
        CratePath::Relative((segments, text)) => (segments, text),
    };
    let names = segments.iter().filter_map(|segment| match segment {
        PathSeg::Named(name) => Some(name.clone()),
        _ => None,
    });
    // Its marks have no public names; they stand at the start of the text, in this order.
    let marks = ["this.", "this/", "./"].iter().find_map(|mark| text.strip_prefix(mark)).unwrap_or(text);
    let root = ["@root.", "@root/"].iter().find_map(|mark| marks.strip_prefix(mark));
    let mut rest = root.unwrap_or(marks);
    let mut up = 0;
    while let Some(after) = ["../", ".."].iter().find_map(|mark| rest.strip_prefix(mark)) {
        (rest, up) = (after.strip_prefix('.').unwrap_or(after), up + 1);
    }
    let from = if root.is_some() { From::Root } else { From::Outer(up) };
    Ok(Path { text: text.clone(), from, names: names.collect() })
}

/// Collects the variables that paths begin with. `scopes` has an element with its names for each block around.
pub(super) fn variables<'t>(nodes: &'t [Node], scopes: &mut Vec<&'t [String]>, found: &mut Vec<(&'t str, usize)>) {
    for node in nodes {
        match node {
            Node::Text(_) => {}
            Node::Value { line, value, .. } => variables_of(value, *line, scopes, found),
            Node::Block(block) => {
                variables_of(&block.value, block.line, scopes, found);
                let inner = matches!(block.kind, BlockKind::Each | BlockKind::With);
                if inner {
                    scopes.push(&block.names);
                }
                variables(&block.then, scopes, found);
                if inner {
                    scopes.pop();
                }
                variables(block.otherwise.as_deref().unwrap_or_default(), scopes, found);
            }
        }
    }
}

fn variables_of<'t>(value: &'t Expression, line: usize, scopes: &[&[String]], found: &mut Vec<(&'t str, usize)>) {
    match value {
        Expression::Literal(_) => {}
        Expression::Call { arguments, zone, .. } => {
            for inner in arguments.iter().chain(zone.as_deref()) {
                variables_of(inner, line, scopes, found);
            }
        }
        Expression::Path(path) => {
            let Some(name) = path.names.first() else { return };
            let at_root = match path.from {
                From::Root => true,
                From::Outer(up) => up == scopes.len() && !(up == 0 && scopes.iter().any(|names| names.contains(name))),
                From::Local(..) => false,
            };
            if at_root && !found.iter().any(|(known, _)| known == name) {
                found.push((name, line));
            }
        }
    }
}
