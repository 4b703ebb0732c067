//! Environment files, read as systemd's `EnvironmentFile=` reads them, which is not as a shell does.
//!
//! The rules are those of systemd.exec(5), in the details those of systemd's parser, with which a test compares this
//! one. What would surprise somebody who takes the file for a shell script is remarked on.

use super::{source::Variables, table};
use std::fmt;

/// An environment file's variables, and what is to be said about its text.
pub struct EnvFile {
    /// What systemd would hand to the program.
    pub variables: Variables,
    /// In the order of the lines.
    pub remarks: Vec<Remark>,
}

/// Something about one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Line number, from 1.
    pub line: usize,
    /// Whether a variable of the worker surely does not get the value that was meant.
    pub mistake: bool,
    /// The sentence. It holds no value, since any may be a secret.
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// Reads the content of an environment file.
#[must_use]
pub fn parse(content: &[u8]) -> EnvFile {
    let mut parser = Parser::default();
    match std::str::from_utf8(content) {
        Ok(text) if !text.contains('\0') => parser.read(text),
        Ok(_) => parser.remark(1, true, "the file contains a NUL byte: systemd reads it only up to there"),
        Err(error) => {
            let line = 1 + content[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
            parser.remark(line, true, "this is not UTF-8 text: systemd does not read the file at all");
        }
    }
    EnvFile { variables: parser.variables, remarks: parser.remarks }
}

/// Where the parser is. The names follow systemd's, to keep the two comparable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    PreKey,
    Key,
    PreValue,
    Value,
    ValueEscape,
    Single,
    Double,
    DoubleEscape,
    Comment,
    CommentEscape,
}

/// One assignment while it is read.
#[derive(Default)]
struct Assignment {
    line: usize,
    key: String,
    value: String,
    /// Blanks at the end of an unquoted value do not count: the length without them, while only blanks follow.
    trimmed: Option<usize>,
    quoted: bool,
    after_quote: bool,
    lost_backslash: bool,
    expansion: bool,
}

#[derive(Default)]
struct Parser {
    state: State,
    line: usize,
    current: Assignment,
    variables: Variables,
    /// The line on which each of our variables was set first.
    seen: Vec<(String, usize)>,
    remarks: Vec<Remark>,
}

impl Parser {
    fn read(&mut self, text: &str) {
        if text.starts_with('\u{feff}') {
            self.remark(1, true, "the file begins with a byte order mark, which becomes part of the first name");
        }
        self.line = 1;
        for c in text.chars() {
            self.step(c);
            if c == '\n' {
                self.line += 1;
            }
        }
        match self.state {
            State::Single | State::Double | State::DoubleEscape => {
                let text = format!("{}: the quote is never closed: all that follows is part of the value", self.key());
                self.remark(self.current.line, true, &text);
                self.assign();
            }
            State::PreValue | State::Value | State::ValueEscape => self.assign(),
            State::Key => self.drop_line(),
            State::PreKey | State::Comment | State::CommentEscape => {}
        }
    }

    fn step(&mut self, c: char) {
        let newline = c == '\n' || c == '\r';
        let blank = newline || c == ' ' || c == '\t';
        self.state = match self.state {
            State::PreKey if c == '#' || c == ';' => State::Comment,
            State::PreKey if blank => State::PreKey,
            State::PreKey => {
                self.current = Assignment { line: self.line, key: c.to_string(), ..Assignment::default() };
                State::Key
            }
            State::Key if newline => {
                self.drop_line();
                State::PreKey
            }
            State::Key if c == '=' => State::PreValue,
            State::Key => {
                self.current.key.push(c);
                State::Key
            }
            State::PreValue | State::Value if newline => {
                self.assign();
                State::PreKey
            }
            State::PreValue | State::Value => self.value_character(c, blank),
            State::ValueEscape => {
                if !newline {
                    self.current.value.push(c);
                    self.current.lost_backslash = true;
                }
                State::Value
            }
            State::Single | State::Double | State::DoubleEscape => self.quoted_character(c),
            State::Comment if c == '\\' => State::CommentEscape,
            State::Comment | State::CommentEscape if newline => {
                if self.state == State::CommentEscape {
                    let text = "a comment that ends with a backslash takes the next line with it (before systemd 254)";
                    self.remark(self.line, false, text);
                }
                State::PreKey
            }
            State::Comment | State::CommentEscape => State::Comment,
        };
    }

    fn value_character(&mut self, c: char, blank: bool) -> State {
        let first = self.state == State::PreValue;
        let value = &mut self.current.value;
        match c {
            '\'' if first => State::Single,
            '"' if first => State::Double,
            '\\' => {
                self.current.trimmed = None;
                State::ValueEscape
            }
            _ if first && blank => State::PreValue,
            _ => {
                self.current.after_quote |= first && self.current.quoted;
                if !blank {
                    self.current.trimmed = None;
                } else if self.current.trimmed.is_none() {
                    self.current.trimmed = Some(value.len());
                }
                self.current.expansion |= c == '`' || (value.ends_with('$') && (c == '{' || c == '('));
                value.push(c);
                State::Value
            }
        }
    }

    fn quoted_character(&mut self, c: char) -> State {
        let value = &mut self.current.value;
        match (self.state, c) {
            (State::Single, '\'') | (State::Double, '"') => {
                self.current.quoted = true;
                State::PreValue
            }
            (State::Double, '\\') => State::DoubleEscape,
            (State::DoubleEscape, '\n') => State::Double,
            (State::DoubleEscape, _) => {
                if !matches!(c, '"' | '\\' | '`' | '$') {
                    value.push('\\');
                }
                value.push(c);
                State::Double
            }
            (state, _) => {
                let open = value.ends_with('$') && (c == '{' || c == '(');
                self.current.expansion |= state == State::Double && (c == '`' || open);
                value.push(c);
                state
            }
        }
    }

    /// The current name, without the blanks after it.
    fn key(&self) -> String {
        self.current.key.trim_end_matches([' ', '\t', '\r', '\n']).to_string()
    }

    /// A line without `=`. Its text is not shown: it may be the rest of a secret.
    fn drop_line(&mut self) {
        self.remark(self.current.line, false, "no \"=\" in it: systemd ignores this line");
    }

    fn assign(&mut self) {
        let key = self.key();
        let current = std::mem::take(&mut self.current);
        let mut value = current.value;
        if let Some(length) = current.trimmed {
            value.truncate(length);
        }
        if let Some(name) = key.strip_prefix("export ").or_else(|| key.strip_prefix("export\t")).map(str::trim) {
            let text = format!("systemd drops lines with export: write {name}=… without it");
            return self.remark(current.line, is_ours(name), &text);
        }
        if !is_name(&key) {
            let name: String = key.chars().take(60).collect();
            let text = format!("\"{}\" cannot be a variable's name: systemd drops this line", name.escape_debug());
            return self.remark(current.line, false, &text);
        }
        let ours = is_ours(&key);
        if current.after_quote {
            let text = format!("{key}: what follows the closing quote is part of the value, comments too");
            self.remark(current.line, ours, &text);
        }
        if ours && current.lost_backslash {
            let text = format!("{key}: a backslash outside quotes is not kept; put the value into single quotes");
            self.remark(current.line, false, &text);
        }
        if ours && current.expansion {
            let text = format!("{key}: $ and ` have no meaning here, nothing is filled in for them");
            self.remark(current.line, false, &text);
        }
        if ours {
            match self.seen.iter().find(|(name, _)| *name == key).map(|(_, line)| *line) {
                Some(line) => {
                    let text = format!("{key} is set again (first on line {line}): the last one counts");
                    self.remark(current.line, false, &text);
                }
                None => self.seen.push((key.clone(), current.line)),
            }
        }
        self.variables.set(key, value);
    }

    fn remark(&mut self, line: usize, mistake: bool, text: &str) {
        self.remarks.push(Remark { line, mistake, text: text.to_string() });
    }
}

/// What systemd accepts as a name.
fn is_name(key: &str) -> bool {
    key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && key.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

fn is_ours(name: &str) -> bool {
    let secret = name.strip_suffix("_FILE").and_then(table::find).is_some_and(|v| v.secret);
    secret || table::find(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn read(text: &str) -> Vec<(String, String)> {
        let variables = parse(text.as_bytes()).variables.variables();
        variables.into_iter().map(|(n, v)| (n.into_string().unwrap(), v.into_string().unwrap())).collect()
    }

    fn remarks(text: &str) -> Vec<String> {
        parse(text.as_bytes()).remarks.iter().map(|r| format!("{}{r}", if r.mistake { "!" } else { "" })).collect()
    }

    #[test]
    fn values_are_what_systemd_makes_of_them() {
        for (text, value) in [
            ("A=1 # c", "1 # c"),
            ("A=\"a b\" # x", "a b# x"),
            ("A=a\\\nb", "ab"),
            ("A='x y' \"q\\n\\\"z\"  t  ", "x yq\\n\"zt"),
            ("A = 2", "2"),
            ("A=tab\there", "tab\there"),
            ("A=\"line1\nline2\"", "line1\nline2"),
            ("A=1\r\n", "1"),
            ("A=a\"b\"c", "a\"b\"c"),
            ("A=$HOME", "$HOME"),
            ("A='a\\b'", "a\\b"),
            ("A=a\\ ", "a "),
            ("A=\"unclosed\nB=2\n", "unclosed\nB=2\n"),
            ("A=1\nA=2", "2"),
            ("  A=1", "1"),
            ("A=", ""),
        ] {
            assert_eq!(read(text), [("A".to_string(), value.to_string())], "{text:?}");
        }
        for text in ["# A=1", "; A=1", "export A=1", "1A=1", "A B=1", "A", ""] {
            assert_eq!(read(text), [], "{text:?}");
        }
    }

    #[test]
    fn what_a_shell_would_do_otherwise_is_remarked() {
        for (text, expected) in [
            ("export DB_HOST=x", "!line 1: systemd drops lines with export: write DB_HOST=… without it"),
            ("export OTHER=x", "line 1: systemd drops lines with export: write OTHER=… without it"),
            ("\nDB_HOST", "line 2: no \"=\" in it"),
            ("DB HOST=x", "line 1: \"DB HOST\" cannot be a variable's name"),
            ("DB_HOST=\"x\" # c", "!line 1: DB_HOST: what follows the closing quote"),
            ("OTHER=\"x\" # c", "line 1: OTHER: what follows the closing quote"),
            ("A=1\nDB_PASSWORD=\"x\nB=1", "!line 2: DB_PASSWORD: the quote is never closed"),
            ("DB_PASSWORD=a\\b", "line 1: DB_PASSWORD: a backslash outside quotes"),
            ("DB_HOST=${HOST}", "line 1: DB_HOST: $ and ` have no meaning here"),
            ("DB_PASSWORD_FILE=\"$(pwd)/x\"", "line 1: DB_PASSWORD_FILE: $ and `"),
            ("DB_HOST=a\nX=1\nDB_HOST=b", "line 3: DB_HOST is set again (first on line 1)"),
            ("# c \\\nDB_HOST=a", "line 1: a comment that ends with a backslash"),
            ("\u{feff}DB_HOST=a", "!line 1: the file begins with a byte order mark"),
            ("DB_HOST=a\0", "!line 1: the file contains a NUL byte"),
        ] {
            let found = remarks(text);
            assert!(found.first().is_some_and(|r| r.starts_with(expected)), "{text:?}: {found:?}");
        }
        assert_eq!(parse(b"A=1\nB=\xff").remarks[0].line, 2);
        for text in
            ["DB_HOST=a", "DB_PASSWORD='a\\b$c'", "OTHER=a\\b`$(x)", "DB_HOST=a\\\nb", "# it's\n;x", "DB_PASSWORD=a$b"]
        {
            assert_eq!(remarks(text), [""; 0], "{text:?}");
        }
    }
}
