//! A look at a template before it is read: its size, how deep it is nested, and what is not allowed in one.
//!
//! The reader goes one level deeper into its stack for each block and each bracket. So this finds the ends of tags by the same
//! rules as the reader, and refuses what the two could see differently.

use super::{LONGEST_TEMPLATE, TemplateError};

/// The most `{{…}}` of a template: the reader's time grows with their square.
const MOST_TAGS: usize = 1000;
/// The most blocks within each other, each `else if` counted as one.
const DEEPEST_BLOCK: usize = 24;
/// The most brackets within each other.
const DEEPEST_BRACKET: usize = 8;

/// Whether the text can be read safely.
pub(super) fn scan(text: &str) -> Result<(), TemplateError> {
    if text.len() > LONGEST_TEMPLATE {
        let why = format!("{} bytes are more than the {LONGEST_TEMPLATE} that a template may have", text.len());
        return Err(TemplateError::new(1, why));
    }
    let mut scanner = Scanner { text, at: 0, tags: 0, blocks: Vec::new() };
    scanner.all().map_err(|why| TemplateError::new(line_at(text, scanner.at), why))
}

/// The number of the line that this byte is in.
fn line_at(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

struct Scanner<'a> {
    text: &'a str,
    /// The start of the tag that is looked at.
    at: usize,
    tags: usize,
    /// For each open block: how deep it is by itself, that is one, and one for each `else if`.
    blocks: Vec<usize>,
}

impl Scanner<'_> {
    fn all(&mut self) -> Result<(), String> {
        let mut from = 0;
        while let Some(found) = self.text[from..].find("{{") {
            self.at = from + found;
            let before = &self.text[from..self.at];
            let backslashes = before.len() - before.trim_end_matches('\\').len();
            if backslashes == 1 {
                // Escaped: two braces that mean nothing, or four.
                let four = self.text[self.at + 2..].starts_with("{{");
                from = self.at + if four { 4 } else { 2 };
                continue;
            }
            self.tags += 1;
            if self.tags > MOST_TAGS {
                return Err(format!("more than {MOST_TAGS} `{{{{…}}}}` are too many for a template"));
            }
            from = self.tag()?;
        }
        Ok(())
    }

    /// Looks at one tag and returns where it ends.
    fn tag(&mut self) -> Result<usize, String> {
        let inside = &self.text[self.at + 2..];
        if inside.starts_with("{{") {
            return Err("raw blocks of four braces are not known; write `\\{{` for two braces".to_string());
        }
        if let Some(comment) = inside.strip_prefix('!') {
            let long = blank(comment).strip_prefix("--").and_then(|rest| Some(&rest[rest.find("--}}")? + 4..]));
            let rest = long.or_else(|| Some(&comment[comment.find("}}")? + 2..]));
            return rest.map(|rest| self.text.len() - rest.len()).ok_or_else(unclosed);
        }
        let inside = blank(inside);
        let inside = blank(inside.strip_prefix('~').unwrap_or(inside));
        let inside = self.mark(inside)?;
        let inside = inside.strip_prefix('{').unwrap_or(inside);
        Ok(self.text.len() - end(inside)?.len())
    }

    /// The mark at the start of a tag, which opens a block, closes one, or begins its other branch. Returns what follows.
    fn mark<'t>(&mut self, inside: &'t str) -> Result<&'t str, String> {
        if inside.starts_with('>') {
            return Err("templates cannot include others (`{{> …}}`)".to_string());
        } else if inside.starts_with('*') {
            return Err("decorators (`{{* …}}`) are not known".to_string());
        } else if let Some(rest) = inside.strip_prefix('#') {
            if blank(rest).starts_with(['>', '*']) {
                return Err("blocks that include templates or decorate them are not known".to_string());
            }
            self.blocks.push(1);
        } else if inside.starts_with('/') {
            self.blocks.pop();
        } else if let Some(rest) = inside.strip_prefix("else").or_else(|| inside.strip_prefix('^')) {
            if rest.starts_with(|c: char| c.is_alphanumeric() || "_-$:".contains(c)) {
                return Err("a name that begins with `else` is read as `else`; write `this.else…`".to_string());
            }
            if !blank(rest).starts_with(['}', '~'])
                && let Some(block) = self.blocks.last_mut()
            {
                *block += 1;
            }
        }
        if self.blocks.iter().sum::<usize>() > DEEPEST_BLOCK {
            return Err(format!("more than {DEEPEST_BLOCK} blocks within each other are too many"));
        }
        Ok(inside)
    }
}

/// Without the white space at the start that the reader passes over.
fn blank(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r'])
}

fn unclosed() -> String {
    "`{{` has no `}}`".to_string()
}

/// What follows a tag, from within it.
fn end(inside: &str) -> Result<&str, String> {
    let (mut left, mut depth) = (inside, 0_usize);
    loop {
        let Some(special) = left.find(['"', '\'', '[', '(', ')', '{', '}']) else { return Err(unclosed()) };
        let (mark, rest) = left[special..].split_at(1);
        left = match mark {
            "\"" | "'" => after_text(rest, mark)?,
            "[" => after_key(rest)?,
            "(" => {
                depth += 1;
                if depth > DEEPEST_BRACKET {
                    return Err(format!("more than {DEEPEST_BRACKET} brackets within each other are too many"));
                }
                rest
            }
            ")" => {
                depth = depth.saturating_sub(1);
                rest
            }
            "{" => return Err("objects cannot be written in a template, and no brace within `{{…}}`".to_string()),
            _ => match rest.strip_prefix('}') {
                Some(rest) => return Ok(rest),
                None => rest,
            },
        };
    }
}

/// What follows a quoted text, from within it.
fn after_text<'t>(inside: &'t str, quote: &str) -> Result<&'t str, String> {
    let mut escaped = false;
    for (index, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == quote.as_bytes()[0] => return Ok(&inside[index + 1..]),
            _ => {}
        }
    }
    Err(format!("a text that begins with {quote} does not end"))
}

/// What follows a key in brackets, from within it.
fn after_key(inside: &str) -> Result<&str, String> {
    let (key, rest) = inside.split_once(']').ok_or("`[` has no `]`")?;
    if key.contains(['"', '\'', '[', '(', '{', '}']) {
        return Err("within `[…]` is a plain name or number; lists cannot be written in a template".to_string());
    }
    Ok(rest)
}
