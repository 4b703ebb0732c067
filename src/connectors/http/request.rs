//! What one call sends, and which answer it expects.

use super::{
    config::{self, COMMAND, HttpConfig, LONGEST, MOST_BYTES},
    members::Members,
};
use crate::{
    connectors::{Call, Failure, secrets::Scrub},
    values::template::Template,
};
use percent_encoding::percent_decode_str;
use reqwest::{
    Method,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT},
};
use serde_json::{Map, Value};
use std::time::Duration;
use url::Url;

/// The code of what is wrong with it.
const CODE: &str = "BAD_PARAMS";
/// What `request` may have.
const REQUEST: [&str; 10] =
    ["method", "url", "path", "query", "headers", "body", "auth", "expectedStatus", "timeout", "maxBytes"];
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// How long a call may take where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How large an answer may be where nothing else is said.
const BYTES: u64 = 1024 * 1024;

/// A call to be sent.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Vec<u8>>,
    pub(super) timeout: Duration,
    pub(super) max_bytes: u64,
    pub(super) expected: Expected,
    pub(super) outputs: Map<String, Value>,
}

/// Which statuses are a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected(Vec<(u16, u16)>);

impl Expected {
    /// Whether this one is.
    pub(super) fn holds(&self, status: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }

    /// A number, a class such as `2xx`, or a list of those.
    fn read(value: Option<&Value>) -> Option<Expected> {
        let one = |value: &Value| match value {
            Value::Number(_) => {
                let status = u16::try_from(value.as_u64()?).ok().filter(|status| (100..=599).contains(status))?;
                Some((status, status))
            }
            Value::String(text) => match text.as_bytes() {
                [digit @ b'1'..=b'5', b'x' | b'X', b'x' | b'X'] => {
                    let class = u16::from(digit - b'0') * 100;
                    Some((class, class + 99))
                }
                _ => {
                    let status = text.parse().ok().filter(|status| (100..=599).contains(status))?;
                    Some((status, status))
                }
            },
            _ => None,
        };
        match value {
            None => Some(Expected(vec![(200, 299)])),
            Some(Value::Array(list)) if !list.is_empty() => list.iter().map(one).collect::<Option<_>>().map(Expected),
            Some(value) => one(value).map(|one| Expected(vec![one])),
        }
    }
}

impl Request {
    /// Reads what is to be sent: a command that was filled in, or what the step says.
    pub(super) fn read(
        spec: &Map<String, Value>,
        config: &HttpConfig,
        call: &Call<'_>,
        is_command: bool,
        scrub: &mut Scrub,
    ) -> Result<Request, Failure> {
        let what = format!("the call of `{}`", call.command);
        let known: &[&str] = if is_command { &COMMAND } else { &REQUEST };
        let members = Members::of(spec, &what, CODE, known)?;
        let method = members.text("method")?.unwrap_or("GET").to_ascii_uppercase();
        if !METHODS.contains(&method.as_str()) {
            return Err(members.wrong(&format!("`method` is one of: {}", METHODS.join(", "))));
        }
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| members.wrong(&error.to_string()))?;
        let mut url = url(&members, config, is_command)?;
        query(&mut url, &members)?;
        let mut headers = default_headers();
        // A map replaces what is there; single pairs would be added to it.
        headers.extend(config.headers.clone());
        headers.extend(config::headers(members.object("headers")?, &members, scrub)?);
        let body = body(members.get("body"), &mut headers)?;
        let auth = match (&config.auth, members.object("auth")?) {
            (Some(_), Some(_)) => return Err(members.wrong("the connector has its own `auth`")),
            (Some(auth), None) => Some(auth.clone()),
            (None, given) => given.map(|given| config::auth(given, CODE, scrub)).transpose()?,
        };
        if let Some((name, value)) = auth {
            headers.insert(name, value);
        }
        let key = HeaderValue::from_str(call.idempotency_key)
            .map_err(|_| members.wrong("its key cannot be sent in a header"))?;
        headers.insert("idempotency-key", key);
        let expected = Expected::read(members.get("expectedStatus"));
        Ok(Request {
            method,
            url,
            headers,
            body,
            timeout: members.span("timeout", LONGEST)?.or(config.timeout).unwrap_or(TIMEOUT),
            max_bytes: members.number("maxBytes", MOST_BYTES)?.or(config.max_bytes).unwrap_or(BYTES),
            expected: expected.ok_or_else(|| {
                members.wrong("`expectedStatus` is a number, a class such as \"2xx\", or a list of those")
            })?,
            outputs: members.object("outputs")?.cloned().unwrap_or_default(),
        })
    }

    /// What was called, for messages: without path and query, which hold data.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.method, self.url.origin().ascii_serialization())
    }
}

/// What is wrong with a parameter of the built-in's `request`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongParam {
    /// The code of a finding.
    pub code: &'static str,
    /// Which one.
    pub param: String,
    /// One sentence.
    pub message: String,
}

/// Finds everything that is wrong with the parameters of a `request` of the built-in, before anything is called. One with a
/// template in it stands for a right value.
#[must_use]
pub fn check(params: &Map<String, Value>) -> Vec<WrongParam> {
    let call = Call {
        command: super::REQUEST,
        params,
        idempotency_key: "",
        deadline: tokio::time::Instant::now(),
        now: chrono::Utc::now(),
    };
    let (config, beginning) = (HttpConfig::default(), format!("the call of `{}`: ", call.command));
    let mut found = Vec::new();
    if params.get("url").is_none_or(Value::is_null) {
        let message = format!("`{}` needs `url`", call.command);
        found.push(WrongParam { code: "MISSING", param: "url".into(), message });
    }
    let place = ("url".to_string(), Value::from("https://example.org/"));
    for (name, failure) in one_by_one(params, &place, &config, &call, false) {
        if name == "url" && params[name].is_null() {
            continue;
        }
        let code = if REQUEST.contains(&name) { "WRONG_VALUE" } else { "UNKNOWN_FIELD" };
        let message = failure.message.strip_prefix(&beginning).unwrap_or(&failure.message).to_string();
        found.push(WrongParam { code, param: name.to_string(), message });
    }
    found
}

/// What is wrong with a command of a connector's configuration, before it is called: with its path, or with a member that has
/// no template in it.
pub(super) fn check_command(command: &Map<String, Value>, config: &HttpConfig) -> Result<(), String> {
    let mut command = command.clone();
    if let Some(path) = command.get_mut("path").filter(|path| path.is_string()) {
        let template = Template::parse(path.as_str().unwrap_or_default()).map_err(|why| format!("`path`: {why}"))?;
        if let Some(other) = template.paths().map(ToString::to_string).find(|path| !path.starts_with("params.")) {
            return Err(format!("`path`: `{{{{{other}}}}}` is no parameter of the call, as `{{{{params.id}}}}` is"));
        }
        *path = Value::from(template.with_each("x"));
    }
    let no_params = Map::new();
    let call = Call {
        command: "",
        params: &no_params,
        idempotency_key: "",
        deadline: tokio::time::Instant::now(),
        now: chrono::Utc::now(),
    };
    let place = ("path".to_string(), Value::from("/"));
    let beginning = "the call of ``: ";
    let first = one_by_one(&command, &place, config, &call, true).next();
    first.map_or(Ok(()), |(_, failure)| Err(failure.message.strip_prefix(beginning).unwrap_or(&failure.message).into()))
}

/// Each member by itself, beside the place of the call, as a call reads it; one with a template in it stands for a right value.
fn one_by_one<'a>(
    members: &'a Map<String, Value>,
    place: &'a (String, Value),
    config: &'a HttpConfig,
    call: &'a Call<'a>,
    is_command: bool,
) -> impl Iterator<Item = (&'a str, Failure)> {
    let plain = members.iter().filter(|(_, value)| !value.to_string().contains("{{"));
    plain.filter_map(move |(name, value)| {
        let mut spec = Map::from_iter([place.clone()]);
        spec.insert(name.clone(), value.clone());
        let read = Request::read(&spec, config, call, is_command, &mut Scrub::default());
        read.err().map(|failure| (name.as_str(), failure))
    })
}

fn default_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*;q=0.5"));
    if let Ok(agent) = HeaderValue::from_str(&format!("floh-worker/{}", crate::VERSION)) {
        headers.insert(USER_AGENT, agent);
    }
    headers
}

/// Below the connector's base, or, where it has none, what the step says.
fn url(members: &Members<'_>, config: &HttpConfig, is_command: bool) -> Result<Url, Failure> {
    let Some(base) = &config.base else {
        if members.get("path").is_some() {
            return Err(members.wrong("`path` is below a `baseUrl`, and the connector has none: write `url`"));
        }
        return config::url(members.need("url")?).map_err(|why| members.wrong(&why));
    };
    if members.get("url").is_some() {
        return Err(members.wrong("the connector has a `baseUrl`: write `path` in place of `url`"));
    }
    let path = members.need("path")?;
    let path = path.strip_prefix('/').unwrap_or(path);
    check_path(path).map_err(|why| members.wrong(why))?;
    if let Some(allowed) = config.allowed_paths.as_deref().filter(|_| !is_command) {
        let whole = format!("/{path}");
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => whole.starts_with(beginning),
            None => whole == *pattern,
        };
        if !allowed.iter().any(fits) {
            return Err(Failure::new("PATH_NOT_ALLOWED", "the path is none of the connector's `allowedPaths`"));
        }
    }
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    Ok(url)
}

/// A path that stays where it is put, whoever decodes it.
fn check_path(path: &str) -> Result<(), &'static str> {
    if path.contains(['?', '#']) {
        return Err("`path` has no `?` and no `#`: what follows `?` belongs into `query`");
    }
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| "`path` is no UTF-8 text")?;
    if decoded.contains('\\') || decoded.chars().any(char::is_control) {
        return Err("`path` has no backslash and no control character");
    }
    // Many servers take the parameters of a segment off, which begin with `;`, before they look at what it is.
    if decoded.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | ".."))) {
        return Err("`path` has no segment `.` or `..`, not even with `;` behind it");
    }
    Ok(())
}

fn query(url: &mut Url, members: &Members<'_>) -> Result<(), Failure> {
    for (name, value) in members.object("query")?.into_iter().flatten() {
        let values = match value {
            Value::Array(list) => list.iter().collect(),
            value => vec![value],
        };
        for value in values {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                _ => return Err(members.wrong(&format!("`{name}` of `query` is a text, a number or a list of those"))),
            };
            url.query_pairs_mut().append_pair(name, &text);
        }
    }
    Ok(())
}

/// A text is sent as it is, anything else as JSON.
fn body(given: Option<&Value>, headers: &mut HeaderMap) -> Result<Option<Vec<u8>>, Failure> {
    let (bytes, kind) = match given {
        None => return Ok(None),
        Some(Value::String(text)) => (text.clone().into_bytes(), "text/plain; charset=utf-8"),
        Some(value) => (value.to_string().into_bytes(), "application/json"),
    };
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Failure::new(CODE, format!("the body has more than {MOST_BYTES} bytes")));
    }
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(kind));
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_that_would_leave_its_place_is_refused() {
        for path in
            ["users", "users/7", "a%2Fb", "a..b/...", "", "übung", "a b/", "users;x=../7", "a;..", "...;/b", ";"]
        {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
        for path in [
            "..",
            "a/../b",
            "a/./b",
            "%2e%2E/b",
            "a/.%2e",
            "a%2f..%2fb",
            "..;/admin",
            "a/.;x=1/b",
            "a/..;",
            "a/..%3B/b",
            "a/%2e%2E%3bx;y/b",
            "a;x%2F..;/b",
            "a\\b",
            "a%5cb",
            "a?b",
            "a#b",
            "a\tb",
            ".\n.",
            "%ff",
            "a%00",
        ] {
            assert!(check_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn expected_statuses_are_numbers_classes_and_lists() {
        let holds = |value: Value, status| Expected::read(Some(&value)).map(|expected| expected.holds(status));
        assert_eq!(Expected::read(None).map(|expected| expected.holds(204)), Some(true));
        assert_eq!((holds(json!(404), 404), holds(json!(404), 200)), (Some(true), Some(false)));
        assert_eq!((holds(json!("2xx"), 299), holds(json!("2XX"), 300)), (Some(true), Some(false)));
        assert_eq!((holds(json!([200, "4xx"]), 418), holds(json!("201"), 201)), (Some(true), Some(true)));
        for wrong in
            [json!([]), json!("xx"), json!(99), json!(600), json!("2x"), json!(true), json!([1.5]), json!("6xx")]
        {
            assert_eq!(Expected::read(Some(&wrong)), None, "{wrong}");
        }
    }
}
