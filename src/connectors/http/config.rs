//! What an administrator sets up: where, with which login, and which commands.

use super::members::Members;
use crate::{
    connectors::{
        Failure,
        secrets::{Scrub, is_secret_name},
    },
    values::path::{Path, kind},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, time::Duration};
use url::Url;

/// The code of what is wrong with it.
pub(super) const CODE: &str = "BAD_CONNECTOR";
/// What a configuration may have.
const KNOWN: [&str; 7] = ["baseUrl", "headers", "auth", "timeout", "maxBytes", "allowedPaths", "commands"];
/// What a command may have.
pub(super) const COMMAND: [&str; 9] =
    ["method", "path", "query", "headers", "body", "expectedStatus", "timeout", "maxBytes", "outputs"];
/// The longest that a call may take.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// The most that an answer may have.
pub(super) const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// Headers that belong to the connection, to the address that was looked at, or to the worker.
const RESERVED: [&str; 13] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "accept-encoding",
    "idempotency-key",
];

/// A configuration that was read.
#[derive(Default)]
pub(super) struct HttpConfig {
    /// Everything is below it.
    pub(super) base: Option<Url>,
    /// Sent with every call.
    pub(super) headers: HeaderMap,
    /// The header that is the login.
    pub(super) auth: Option<(HeaderName, HeaderValue)>,
    /// How long a call may take.
    pub(super) timeout: Option<Duration>,
    /// How large an answer may be.
    pub(super) max_bytes: Option<u64>,
    /// Paths that `request` may name; with `*` at the end, those that begin so.
    pub(super) allowed_paths: Option<Vec<String>>,
    /// Commands by name.
    pub(super) commands: BTreeMap<String, Map<String, Value>>,
}

impl HttpConfig {
    /// Reads an opened configuration, and tells `scrub` the secrets that were not sealed.
    pub(super) fn read(config: Map<String, Value>, scrub: &mut Scrub) -> Result<HttpConfig, Failure> {
        let members = Members::of(&config, "the connector's configuration", CODE, &KNOWN)?;
        let base = members.text("baseUrl")?.map(|text| url(text).map_err(|why| members.wrong(&why))).transpose()?;
        let read = HttpConfig {
            headers: headers(members.object("headers")?, &members, scrub)?,
            auth: members.object("auth")?.map(|value| auth(value, CODE, scrub)).transpose()?,
            timeout: members.span("timeout", LONGEST)?,
            max_bytes: members.number("maxBytes", MOST_BYTES)?,
            allowed_paths: members.get("allowedPaths").map(|value| paths(value, &members)).transpose()?,
            commands: commands(members.object("commands")?)?,
            base,
        };
        if read.base.is_none() && (read.auth.is_some() || !read.headers.is_empty() || !read.commands.is_empty()) {
            // Or a step could have them sent to a host of its choice.
            return Err(members.wrong("with `auth`, `headers` or `commands` it needs a `baseUrl`"));
        }
        if read.base.as_ref().is_some_and(|base| base.query().is_some() || base.fragment().is_some()) {
            return Err(members.wrong("`baseUrl` has no query and no fragment"));
        }
        Ok(read)
    }

    /// Whether steps may say everything themselves: where there are commands, only within `allowedPaths`.
    pub(super) fn takes_requests(&self) -> bool {
        self.commands.is_empty() || self.allowed_paths.is_some()
    }
}

/// An http or https URL without a login in it.
pub(super) fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("the URL cannot be read: {error}"))?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err("the URL begins with http:// or https:// and a host".to_string());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL has a login in it, which belongs into `auth`".to_string());
    }
    Ok(url)
}

/// The headers of an object; those whose names say so are secrets.
pub(super) fn headers(
    given: Option<&Map<String, Value>>,
    members: &Members<'_>,
    scrub: &mut Scrub,
) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in given.into_iter().flatten() {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            other => {
                return Err(members.wrong(&format!("the header `{name}` is a text, and here is {}", kind(other))));
            }
        };
        let named = HeaderName::from_bytes(name.as_bytes());
        let named = named.map_err(|_| members.wrong(&format!("`{name}` is no name of a header")))?;
        if RESERVED.contains(&named.as_str()) {
            return Err(members.wrong(&format!("the header `{name}` is set by the worker")));
        }
        if is_secret_name(name) {
            scrub.add(&text);
            // After the word that says how: `Bearer`, `Token`.
            text.split_once(' ').into_iter().for_each(|(_, secret)| scrub.add(secret));
        }
        let value = HeaderValue::from_str(&text)
            .map_err(|_| members.wrong(&format!("the header `{name}` has a line end or another control character")))?;
        headers.insert(named, value);
    }
    Ok(headers)
}

/// The header that is a login: `basic`, `bearer` or `apiKey`.
pub(super) fn auth(
    given: &Map<String, Value>,
    code: &'static str,
    scrub: &mut Scrub,
) -> Result<(HeaderName, HeaderValue), Failure> {
    let kind = given.get("type").and_then(Value::as_str).unwrap_or_default();
    let known: &[&str] = match kind {
        "basic" => &["type", "username", "password"],
        "bearer" => &["type", "token"],
        "apiKey" => &["type", "header", "value"],
        _ => return Err(Failure::new(code, "`auth` has the `type` basic, bearer or apiKey")),
    };
    let members = Members::of(given, "`auth`", code, known)?;
    let (name, text) = match kind {
        "basic" => {
            let (user, password) = (members.need("username")?, members.need("password")?);
            if user.contains(':') {
                return Err(members.wrong("a `username` has no colon"));
            }
            scrub.add(password);
            let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
            scrub.add(&encoded);
            (AUTHORIZATION, format!("Basic {encoded}"))
        }
        "bearer" => {
            let token = members.need("token")?;
            scrub.add(token);
            (AUTHORIZATION, format!("Bearer {token}"))
        }
        _ => {
            let (header, value) = (members.need("header")?, members.need("value")?);
            scrub.add(value);
            let name = HeaderName::from_bytes(header.as_bytes()).ok();
            let name = name.filter(|name| !RESERVED.contains(&name.as_str()));
            (name.ok_or_else(|| members.wrong("`header` is no name of a header that can be set"))?, value.to_string())
        }
    };
    let mut value =
        HeaderValue::from_str(&text).map_err(|_| members.wrong("it has a line end or another control character"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn paths(value: &Value, members: &Members<'_>) -> Result<Vec<String>, Failure> {
    let paths: Option<Vec<String>> =
        value.as_array().and_then(|list| list.iter().map(|path| path.as_str().map(str::to_string)).collect());
    let paths = paths.filter(|paths| paths.iter().all(|path| path.starts_with('/')));
    paths.ok_or_else(|| members.wrong("`allowedPaths` is a list of paths, each with `/` at its beginning"))
}

fn commands(given: Option<&Map<String, Value>>) -> Result<BTreeMap<String, Map<String, Value>>, Failure> {
    let mut commands = BTreeMap::new();
    for (name, value) in given.into_iter().flatten() {
        let what = format!("the command `{name}`");
        let object = value.as_object().ok_or_else(|| Failure::new(CODE, format!("{what} is an object")))?;
        let members = Members::of(object, &what, CODE, &COMMAND)?;
        let _ = (members.need("path")?, members.text("method")?);
        for (variable, path) in members.object("outputs")?.into_iter().flatten() {
            if !Path::parse(variable).is_ok_and(|name| name.is_whole()) {
                return Err(members.wrong(&format!("`{variable}` of `outputs` is no name of a variable")));
            }
            if path.as_str().is_none_or(|path| Path::parse(path).is_err()) {
                return Err(members.wrong(&format!("`{variable}` of `outputs` has no path into the answer's data")));
            }
        }
        commands.insert(name.clone(), object.clone());
    }
    Ok(commands)
}
