//! Reads single values and collects every mistake on the way, so that all are reported at once.

use super::{
    report::{ConfigErrors, Mistake, Notice, Severity, shown},
    source::Source,
    table,
};
use secrecy::SecretString;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// No secret is longer; a path given by mistake (a device, a log) must not fill the memory.
const SECRET_BYTES: u64 = 64 * 1024;

/// The variables of a source, and what was found wrong with them so far.
pub(super) struct Reader {
    values: BTreeMap<String, String>,
    mistakes: Vec<Mistake>,
    notices: Vec<Notice>,
}

impl Reader {
    /// Takes the variables that are valid text and not empty: an empty one counts as absent, as Docker users expect.
    pub(super) fn new(source: &dyn Source) -> Self {
        let mut reader = Self { values: BTreeMap::new(), mistakes: Vec::new(), notices: Vec::new() };
        for (name, value) in source.variables() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) => {
                    reader.values.insert(name, value);
                }
                Err(_) if table::find(&name).is_some() => reader.mistake(&name, None, "the value is not UTF-8 text"),
                Err(_) => {}
            }
        }
        reader
    }

    /// The names that are set.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.values.keys().cloned().collect()
    }

    /// Whether the variable is set, or, for a secret, given in any other way.
    pub(super) fn is_given(&self, name: &str) -> bool {
        match table::find(name).filter(|v| v.secret) {
            // Blanks alone are no setting, but they may be a secret.
            None => self.values.get(name).is_some_and(|value| !value.trim_matches([' ', '\t']).is_empty()),
            Some(v) => {
                self.values.contains_key(name)
                    || self.values.contains_key(&v.file_variable())
                    || self.credential_path(v).is_some()
            }
        }
    }

    /// A setting's text without the blanks around it; nothing if it is absent, or is a mistake that was noted.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        let raw = self.values.get(name)?.clone();
        let text = raw.trim_matches([' ', '\t']);
        if let Some(trap) = trap(text) {
            self.mistake(name, Some(text), trap);
            return None;
        }
        if text.len() < raw.len() {
            self.warn(name, "the blanks around the value are not used");
        }
        (!text.is_empty()).then(|| text.to_string())
    }

    /// A setting of a certain shape. `check` answers with what is expected where the text does not fit; then the
    /// mistake is noted and `default` stands in, so that the rest can be checked too.
    pub(super) fn checked<T>(&mut self, name: &str, default: T, check: impl FnOnce(&str) -> Result<T, String>) -> T {
        let Some(text) = self.text(name) else { return default };
        match check(&text) {
            Ok(value) => value,
            Err(expected) => {
                self.mistake(name, Some(&text), &expected);
                default
            }
        }
    }

    /// A secret from its variable, from the file that `NAME_FILE` names, or from a systemd credential: from one of
    /// them. Two at once are a mistake, because whichever won, somebody would wonder why the other is ignored.
    pub(super) fn secret(&mut self, name: &str) -> Option<SecretString> {
        let variable = table::find(name)?;
        let file_variable = variable.file_variable();
        let credential = self.credential_path(variable);
        let mut places = Vec::new();
        if self.values.contains_key(name) {
            places.push(name.to_string());
        }
        if self.values.contains_key(&file_variable) {
            places.push(file_variable.clone());
        }
        if credential.is_some() {
            places.push(format!("the credential {}", variable.credential()));
        }
        if places.len() > 1 {
            self.mistake(name, None, &format!("given more than once, by {}: keep one of them", places.join(" and ")));
            return None;
        }
        let secret = if let Some(path) = credential {
            self.secret_file(name, &path)
        } else if let Some(path) = self.text(&file_variable) {
            self.secret_file(&file_variable, Path::new(&path))
        } else {
            self.values.get(name).cloned()
        }?;
        self.check_secret(places.first().map_or(name, String::as_str), &secret)?;
        Some(SecretString::from(secret))
    }

    /// The path of a credential that systemd handed over, if there is one.
    fn credential_path(&self, variable: &table::Variable) -> Option<PathBuf> {
        let path = Path::new(self.values.get("CREDENTIALS_DIRECTORY")?).join(variable.credential());
        // One that cannot be looked at counts as given, so that reading it says why.
        path.try_exists().unwrap_or(true).then_some(path)
    }

    fn secret_file(&mut self, name: &str, path: &Path) -> Option<String> {
        match read_secret(path) {
            Ok(secret) => Some(secret),
            Err(reason) => {
                self.mistake(name, Some(&path.to_string_lossy()), &reason);
                None
            }
        }
    }

    /// What would be a mistake in a setting is only strange in a secret, which may hold any character. A line end is
    /// never meant.
    fn check_secret(&mut self, name: &str, secret: &str) -> Option<()> {
        if secret.contains(['\r', '\n', '\0']) {
            self.mistake(
                name,
                None,
                "the secret contains a line end or NUL (Windows line ends, or an unclosed quote?)",
            );
            return None;
        }
        if secret.trim() != secret {
            self.warn(name, "the secret begins or ends with blanks, which are used as they stand");
        } else if let Some(trap) = trap(secret) {
            self.warn(name, &format!("used as it stands, but: {trap}"));
        }
        Some(())
    }

    /// Notes a mistake. `value` must not be given for a secret.
    pub(super) fn mistake(&mut self, name: &str, value: Option<&str>, expected: &str) {
        self.mistakes.push(Mistake {
            variable: name.to_string(),
            value: value.map(str::to_string),
            expected: expected.to_string(),
        });
    }

    /// Whether a mistake in it was noted: what would follow from its value is not worth a word.
    pub(super) fn is_wrong(&self, name: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.variable == name)
    }

    /// Notes something that is probably not what was meant.
    pub(super) fn warn(&mut self, name: &str, text: &str) {
        self.notice(Severity::Warning, name, text);
    }

    /// Notes something that is good to know.
    pub(super) fn info(&mut self, name: &str, text: &str) {
        self.notice(Severity::Info, name, text);
    }

    fn notice(&mut self, severity: Severity, name: &str, text: &str) {
        self.notices.push(Notice { severity, variable: name.to_string(), text: text.to_string() });
    }

    /// The result: `config` if nothing was wrong.
    pub(super) fn finish<T>(self, config: T) -> Result<(T, Vec<Notice>), ConfigErrors> {
        if self.mistakes.is_empty() {
            Ok((config, self.notices))
        } else {
            Err(ConfigErrors { mistakes: self.mistakes, notices: self.notices })
        }
    }
}

/// What an environment file that is no shell script does to a value written as if it were one.
fn trap(text: &str) -> Option<&'static str> {
    let quoted = |quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if text.contains('\r') {
        Some("it contains a carriage return: the file has Windows line ends")
    } else if text.contains('\n') {
        Some("it goes over several lines: a quote that is not closed, or a line that ends with a backslash")
    } else if quoted('"') || quoted('\'') {
        Some("the quotes are part of the value here: write it without them")
    } else if text.contains(" #") || text.contains("\t#") {
        Some("a comment after a value is part of the value: put it on a line of its own")
    } else {
        None
    }
}

/// The content of a secret's file without the line end that editors and `echo` leave, or why there is none.
fn read_secret(path: &Path) -> Result<String, String> {
    if !path.is_absolute() {
        return Err("the absolute path of a file with the secret is expected".to_string());
    }
    let unreadable = |e: io::Error| format!("the file cannot be read: {e}");
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > SECRET_BYTES {
        return Err("a file of at most 64 KiB with the secret is expected".to_string());
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| "the file is not UTF-8 text".to_string())?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    if text.is_empty() { Err("the file is empty".to_string()) } else { Ok(text.to_string()) }
}

/// For [`Reader::checked`]: a whole number within a range.
pub(super) fn whole<T>(range: std::ops::RangeInclusive<T>, what: &str) -> impl FnOnce(&str) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    move |text| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|number| digits && range.contains(number));
        number.ok_or_else(|| format!("{what} from {} to {} is expected", range.start(), range.end()))
    }
}

/// For [`Reader::checked`]: yes or no, in the words that people write into such files.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("true or false (or 1, 0, yes, no) is expected".to_string()),
    }
}

/// For [`Reader::checked`]: a name without blanks and control characters, of at most `longest` bytes.
pub(super) fn plain(longest: usize, what: &str) -> impl FnOnce(&str) -> Result<String, String> {
    move |text| {
        let odd = text.chars().any(|c| c.is_whitespace() || c.is_control());
        if odd || text.len() > longest {
            return Err(format!("{what} without blanks, of at most {longest} characters, is expected"));
        }
        Ok(text.to_string())
    }
}

/// For [`Reader::checked`]: a host name or address, without port or scheme.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if inner.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(inner.to_string());
    }
    let label =
        |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(text.to_string())
    } else if text.contains("://") {
        Err("a host name or address is expected; a URL has a variable of its own".to_string())
    } else if text.contains(':') {
        Err("a host name or address is expected; the port has a variable of its own".to_string())
    } else {
        Err("one host name or address is expected".to_string())
    }
}

/// For [`Reader::checked`]: a file with at least one PEM certificate, by its absolute path.
pub(super) fn authorities(text: &str) -> Result<Option<PathBuf>, String> {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err("the absolute path of a PEM file with certificates is expected".to_string());
    }
    let bytes = fs::read(path).map_err(|e| format!("the file cannot be read: {e}"))?;
    match CertificateDer::pem_slice_iter(&bytes).next() {
        Some(Ok(_)) => Ok(Some(path.to_path_buf())),
        _ => Err("a PEM file with certificates is expected, but none was found in it".to_string()),
    }
}

/// The value as messages quote it; for sentences that name a value which is not a mistake.
pub(super) fn quoted(value: &str) -> String {
    shown(value)
}
