//! Secrets in the configuration of connectors: sealed where they are stored, open only for the time of a call, and taken
//! out of everything that a call says.
//!
//! A sealed secret is a text, `enc:v1:` and in base64 a nonce of 12 bytes, the ciphertext and a tag of 16 bytes, by
//! AES-256-GCM. The connector's name is authenticated with it: whoever may edit another connector cannot copy it there
//! and send it to a host of their choice.

use super::Failure;
use crate::{config::ConnectorsConfig, values::template::Template};
use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use url::form_urlencoded;

/// How a sealed secret begins.
const MARK: &str = "enc:v1:";
/// Bytes of a nonce.
const NONCE: usize = 12;
/// Instead of a secret.
pub const HIDDEN: &str = "***";
/// Shorter ones cannot be told from other text.
const SHORTEST: usize = 4;

/// The keys, the current one first.
pub struct Keyring(Vec<Aes256Gcm>);

impl Keyring {
    /// Of the settings, which have checked the form.
    #[must_use]
    pub fn new(config: &ConnectorsConfig) -> Keyring {
        let key = |hex: &SecretString| Aes256Gcm::new_from_slice(&hex::decode(hex.expose_secret()).ok()?).ok();
        Keyring([&config.key, &config.previous_key].into_iter().flatten().filter_map(key).collect())
    }

    /// Seals a secret for the connector of this name, with the current key.
    ///
    /// # Errors
    /// There is no key.
    pub fn seal(&self, connector: &str, secret: &str) -> Result<String, Failure> {
        let cipher = self.0.first().ok_or_else(|| {
            Failure::new("NO_KEY", "CONNECTOR_ENCRYPTION_KEY is not set, so that nothing can be sealed")
        })?;
        let nonce: [u8; NONCE] = rand::random();
        let payload = Payload { msg: secret.as_bytes(), aad: connector.as_bytes() };
        let sealed = cipher
            .encrypt(&Nonce::from(nonce), payload)
            .map_err(|_| Failure::new("NO_KEY", "the secret is too long to be sealed"))?;
        Ok(format!("{MARK}{}", BASE64_STANDARD.encode([&nonce[..], &sealed].concat())))
    }

    /// Opens a sealed secret. The failure does not show it.
    fn open(&self, connector: &str, text: &str) -> Result<String, Failure> {
        let wrong = |why: &str| {
            Failure::new(
                "BAD_SECRET",
                format!("a sealed secret of the connector `{connector}` cannot be opened: {why}"),
            )
        };
        if self.0.is_empty() {
            return Err(wrong("CONNECTOR_ENCRYPTION_KEY is not set"));
        }
        let inside = text.strip_prefix(MARK).and_then(|text| BASE64_STANDARD.decode(text).ok());
        let inside = inside.ok_or_else(|| wrong("it is not written as `flohctl connector seal` writes it"))?;
        let opened = inside.split_first_chunk::<NONCE>().and_then(|(nonce, sealed)| {
            let payload = || Payload { msg: sealed, aad: connector.as_bytes() };
            self.0.iter().find_map(|cipher| cipher.decrypt(&Nonce::from(*nonce), payload()).ok())
        });
        let opened = opened.ok_or_else(|| {
            wrong("no key fits (CONNECTOR_ENCRYPTION_KEY, CONNECTOR_ENCRYPTION_KEY_PREVIOUS), or it was sealed for another connector")
        })?;
        String::from_utf8(opened).map_err(|_| wrong("it is no text"))
    }

    /// Opens every sealed text of a configuration, and tells `scrub` what they are. Within `commands`, whose texts are
    /// templates, what looks like one in a secret is escaped.
    pub(super) fn open_all(
        &self,
        connector: &str,
        config: &Map<String, Value>,
        scrub: &mut Scrub,
    ) -> Result<Map<String, Value>, Failure> {
        let mut opened = config.clone();
        for (name, value) in &mut opened {
            each_sealed(value, &mut |text| {
                let secret = self.open(connector, text)?;
                scrub.add(&secret);
                *text = if name == "commands" { Template::escape(&secret) } else { secret };
                Ok(())
            })?;
        }
        Ok(opened)
    }

    /// Seals what is sealed with the current key, whichever it was sealed with, and says how many secrets that were.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub fn reseal(&self, connector: &str, config: &Map<String, Value>) -> Result<(Map<String, Value>, usize), Failure> {
        let (mut sealed, mut count) = (config.clone(), 0);
        for value in sealed.values_mut() {
            each_sealed(value, &mut |text| {
                *text = self.seal(connector, &self.open(connector, text)?)?;
                count += 1;
                Ok(())
            })?;
        }
        Ok((sealed, count))
    }
}

/// Whether this is a sealed secret.
#[must_use]
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(MARK)
}

/// Hands every sealed text to `change`.
fn each_sealed(value: &mut Value, change: &mut impl FnMut(&mut String) -> Result<(), Failure>) -> Result<(), Failure> {
    match value {
        Value::String(text) if is_sealed(text) => change(text),
        Value::Array(list) => list.iter_mut().try_for_each(|value| each_sealed(value, change)),
        Value::Object(members) => members.values_mut().try_for_each(|value| each_sealed(value, change)),
        _ => Ok(()),
    }
}

/// Parts of names of secrets, in whatever spelling.
const PARTS: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "credential",
    "authorization",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "masterkey",
];
/// Words that are a secret's name, alone or beside others: `adminPin`, not `shipping`.
const WORDS: [&str; 9] = ["cookie", "cookies", "pin", "pwd", "pass", "otp", "bearer", "jwt", "pem"];
/// What a key is called that anybody may see; every other one is a secret: `signingKey`, `ssh_key`.
const PLAIN_KEYS: [&str; 9] =
    ["primary", "foreign", "issue", "public", "sort", "partition", "group", "idempotency", "project"];

/// Members whose value is a secret, sealed or not: `apiKey`, `client_secret`, `Password`; not `primaryKey`. The same
/// everywhere: in configurations, in headers, and in the variables and results of runs.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let words = words(name);
    PARTS.iter().any(|part| plain.contains(part))
        || words.iter().any(|word| WORDS.contains(&word.as_str()))
        || matches!(&words[..], [.., what, key] if key == "key" && !PLAIN_KEYS.contains(&what.as_str()))
}

/// The words of `aName`, `a_name`, `A-Name` or `ANAMEToo`, in small letters.
fn words(name: &str) -> Vec<String> {
    let mut spaced = String::with_capacity(name.len() + 4);
    let mut last = ' ';
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        let begins =
            last.is_ascii_lowercase() || last.is_ascii_uppercase() && rest.peek().is_some_and(char::is_ascii_lowercase);
        if c.is_ascii_uppercase() && begins {
            spaced.push(' ');
        }
        spaced.push(if c.is_ascii_alphabetic() { c.to_ascii_lowercase() } else { ' ' });
        last = c;
    }
    spaced.split_whitespace().map(str::to_string).collect()
}

/// A configuration, or values of a run, for people's eyes: sealed texts, and texts whose name says that they are secrets, are hidden.
#[must_use]
pub fn hide(value: &Value) -> Value {
    hide_in(value, false)
}

fn hide_in(value: &Value, secret: bool) -> Value {
    match value {
        Value::String(text) if secret || is_sealed(text) => Value::String(HIDDEN.to_string()),
        Value::Number(_) if secret => Value::String(HIDDEN.to_string()),
        Value::Array(list) => list.iter().map(|value| hide_in(value, secret)).collect(),
        Value::Object(members) => {
            let hidden = members
                .iter()
                .map(|(name, value)| (name.clone(), hide_in(value, secret || is_secret_member(members, name))));
            Value::Object(hidden.collect())
        }
        plain => plain.clone(),
    }
}

/// Whether a secret in it is what [`hide()`] shows for one.
#[must_use]
pub fn has_hidden(value: &Value) -> bool {
    has_hidden_in(value, false)
}

fn has_hidden_in(value: &Value, secret: bool) -> bool {
    match value {
        Value::String(text) => secret && text == HIDDEN,
        Value::Array(list) => list.iter().any(|value| has_hidden_in(value, secret)),
        Value::Object(members) => {
            members.iter().any(|(name, value)| has_hidden_in(value, secret || is_secret_member(members, name)))
        }
        _ => false,
    }
}

/// By its name, or by its place: the value of an API key.
fn is_secret_member(members: &Map<String, Value>, name: &str) -> bool {
    is_secret_name(name) || (name == "value" && members.get("type").and_then(Value::as_str) == Some("apiKey"))
}

/// Whether a secret in it is neither sealed nor left to a template.
#[must_use]
pub fn has_plain_secret(config: &Value) -> bool {
    // What hiding changes is a secret.
    differs(config, &hide(config))
}

fn differs(value: &Value, hidden: &Value) -> bool {
    match (value, hidden) {
        (Value::Object(a), Value::Object(b)) => a.values().zip(b.values()).any(|(a, b)| differs(a, b)),
        (Value::Array(a), Value::Array(b)) => a.iter().zip(b).any(|(a, b)| differs(a, b)),
        (Value::String(text), hidden) => !is_sealed(text) && !text.contains("{{") && hidden != value,
        (value, hidden) => value != hidden,
    }
}

/// What is encoded in a URL's part by RFC 3986, and so in a value within a path.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The same by JavaScript's `encodeURIComponent`.
const COMPONENT: &AsciiSet = &RESERVED.remove(b'!').remove(b'\'').remove(b'(').remove(b')').remove(b'*');
/// What is encoded in a path as a whole.
const PATH: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'?').add(b'`').add(b'{').add(b'}');

/// A secret in other words: as it is written in a URL, in a form and in JSON. A server that tells what it was asked has it
/// in the spelling in which it was sent, or in its own.
fn spellings(secret: &str) -> impl Iterator<Item = String> {
    let percent = [RESERVED, COMPONENT, PATH].map(|set| utf8_percent_encode(secret, set).to_string());
    let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let json = Value::from(secret).to_string();
    // Without the quotes around it.
    let json = json[1..json.len() - 1].to_string();
    percent.into_iter().chain([form]).flat_map(|text| [small_hex(&text), text]).chain([json])
}

/// With `%2f` in place of `%2F`.
fn small_hex(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |text, part| {
        let (digits, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        text + "%" + &digits.to_ascii_lowercase() + rest
    })
}

/// Secrets of a call, which are taken out of what it says: a server may send back what it was sent.
#[derive(Default, Clone)]
pub(super) struct Scrub(Vec<String>);

impl Scrub {
    /// One more, in all its spellings.
    pub(super) fn add(&mut self, secret: &str) {
        if secret.len() < SHORTEST {
            return;
        }
        for text in std::iter::once(secret.to_string()).chain(spellings(secret)) {
            if !self.0.contains(&text) {
                self.0.push(text);
            }
        }
        // The longest first: one may be a part of another.
        self.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
    }

    /// The text without them.
    pub(super) fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_string(), |text, secret| {
            if text.contains(secret.as_str()) { text.replace(secret.as_str(), HIDDEN) } else { text }
        })
    }

    /// The value without them, and without U+0000, which PostgreSQL cannot store.
    pub(super) fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.storable(&text)),
            Value::Array(list) => list.into_iter().map(|value| self.value(value)).collect(),
            Value::Object(members) => Value::Object(
                members.into_iter().map(|(name, value)| (self.storable(&name), self.value(value))).collect(),
            ),
            plain => plain,
        }
    }

    fn storable(&self, text: &str) -> String {
        let text = self.text(text);
        if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
    }
}

#[cfg(test)]
mod tests;
