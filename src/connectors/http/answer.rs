//! What comes back: read up to a limit, as JSON where it says that it is, or as text.

use super::{request::Request, send};
use crate::connectors::{Failure, secrets::Scrub};
use reqwest::{
    Response,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, SET_COOKIE},
};
use serde_json::{Map, Value};

/// As much of an error's answer is read, to see what it says.
const ERROR_BYTES: usize = 16 * 1024;
/// As much of it is told.
const EXCERPT: usize = 200;

/// An answer that was expected.
pub(super) struct Received {
    pub(super) status: u16,
    /// Without cookies, which are secrets.
    pub(super) headers: Map<String, Value>,
    pub(super) body: Value,
}

/// Reads the whole answer.
pub(super) async fn read(mut response: Response, request: &Request) -> Result<Received, Failure> {
    let too_large = || {
        let message = format!("{} answered with more than {} bytes (`maxBytes`)", request.name(), request.max_bytes);
        Failure::new("ANSWER_TOO_LARGE", message)
    };
    let limit = usize::try_from(request.max_bytes).unwrap_or(usize::MAX);
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    // The answer to HEAD announces a body that never comes.
    if request.method != reqwest::Method::HEAD && announced.is_some_and(|length| length > request.max_bytes) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| send::explain(request, error))? {
        if bytes.len().saturating_add(chunk.len()) > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    let body = parse(&bytes, response.headers()).map_err(|why| {
        Failure::new("BAD_ANSWER", format!("{} answered {}: {why}", request.name(), response.status()))
    })?;
    Ok(Received { status: response.status().as_u16(), headers: headers(response.headers()), body })
}

/// The body by what the headers say of it.
fn parse(bytes: &[u8], headers: &HeaderMap) -> Result<Value, String> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let encoding = header(CONTENT_ENCODING);
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
        return Err("it is compressed, although that was not asked for".to_string());
    }
    let kind = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind == "application/json" || kind == "text/json" || kind.ends_with("+json") {
        // The parser's own words name a place and no content.
        return serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON that can be used: {error}"));
    }
    let text = || Value::String(String::from_utf8_lossy(bytes).into_owned());
    if kind.is_empty() {
        return Ok(serde_json::from_slice(bytes).unwrap_or_else(|_| text()));
    }
    Ok(text())
}

fn headers(headers: &HeaderMap) -> Map<String, Value> {
    let mut all = Map::new();
    for name in headers.keys().filter(|name| *name != SET_COOKIE) {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        all.insert(name.as_str().to_string(), Value::String(values.join(", ")));
    }
    all
}

/// What an error says about itself, where it does so in one of the usual ways. Secrets are taken out before it is cut: half of
/// one would not be known for what it is.
pub(super) async fn excerpt(mut response: Response, scrub: &Scrub) -> Option<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > ERROR_BYTES {
            return None;
        }
    }
    let Ok(Value::Object(body)) = parse(&bytes, response.headers()) else { return None };
    let text = |value: &Value| value.as_str().filter(|text| !text.trim().is_empty()).map(str::to_string);
    let within = |members: &Map<String, Value>| {
        ["message", "error_description", "detail", "title", "error"].iter().find_map(|name| text(members.get(*name)?))
    };
    let said = within(&body).or_else(|| within(body.get("error")?.as_object()?))?;
    let said = scrub.text(&said);
    let plain: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(EXCERPT).collect();
    Some(plain.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;
    use serde_json::json;

    fn body(kind: &'static str, bytes: &[u8]) -> Result<Value, String> {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        parse(bytes, &headers)
    }

    #[test]
    fn json_is_read_where_it_is_announced_or_nothing_is() {
        assert_eq!(body("application/problem+json; charset=utf-8", b"[1]"), Ok(json!([1])));
        assert_eq!(body("", b"{\"a\":1}"), Ok(json!({"a": 1})));
        assert_eq!(body("", b"{\"a\":"), Ok(json!("{\"a\":")));
        assert_eq!(body("text/html", b"[1]"), Ok(json!("[1]")));
        assert_eq!(body("application/json", b""), Ok(Value::Null));
        assert_eq!(body("text/plain", b"a\xffb"), Ok(json!("a\u{fffd}b")));
    }

    #[test]
    fn hostile_json_is_refused_in_a_sentence() {
        let deep = "[".repeat(100_000);
        for bytes in [deep.as_bytes(), b"1e400", b"\"\\ud800\"", b"{\"a\":1", b"\xff", b"{} x"] {
            let why = body("application/json", bytes).unwrap_err();
            assert!(why.starts_with("it is no JSON") && why.len() < 200, "{why}");
        }
    }
}
