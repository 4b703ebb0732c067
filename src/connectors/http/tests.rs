//! What is sent, without sending it.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;

/// The request that a call makes of a configuration, or the sentence that refuses it.
fn plan(config: Value, command: &str, params: Value) -> Result<Request, String> {
    let (hosts, tls, mut scrub) = (Hosts::new(Vec::new()), Tls::default(), Scrub::default());
    let config = config.as_object().cloned().unwrap();
    let http = Http::read(config, &hosts, &tls, &mut scrub).map_err(|failure| failure.message)?;
    let params = params.as_object().cloned().unwrap();
    let call = Call {
        command,
        params: &params,
        idempotency_key: "run/step/1",
        deadline: Instant::now(),
        now: chrono::Utc::now(),
    };
    http.plan(&call, &mut scrub).map(|(request, _)| request).map_err(|failure| failure.message)
}

fn url(config: Value, command: &str, params: Value) -> String {
    plan(config, command, params).map_or_else(|why| format!("refused: {why}"), |request| request.url.to_string())
}

fn crm() -> Value {
    json!({
        "baseUrl": "https://crm.example/api/",
        "headers": {"X-Tenant": "ours", "Accept": "application/json"},
        "auth": {"type": "bearer", "token": "hunter22"},
        "timeout": "10s",
        "commands": {
            "get": {"path": "/users/{{params.id}}", "query": {"q": "{{params.q}}", "n": 5, "none": null, "list": ["a", true]}},
            "add": {"method": "post", "path": "users", "body": {"name": "{{params.name}}", "tags": "{{params.tags}}"},
                "headers": {"X-Trace": "{{params.name}}"}, "timeout": 2, "maxBytes": 100, "expectedStatus": 201},
        },
    })
}

#[test]
fn a_command_is_filled_with_values_that_stay_where_they_are_put() {
    let get = |id: Value, q: &str| url(crm(), "get", json!({"id": id, "q": q}));
    assert_eq!(get(json!("7"), "a b"), "https://crm.example/api/users/7?list=a&list=true&n=5&q=a+b");
    assert_eq!(get(json!(7), "&x=1#"), "https://crm.example/api/users/7?list=a&list=true&n=5&q=%26x%3D1%23");
    assert!(get(json!("a/b?c#d%2e"), "").starts_with("https://crm.example/api/users/a%2Fb%3Fc%23d%252e?"));
    assert!(get(json!("{{params.q}}"), "").starts_with("https://crm.example/api/users/%7B%7Bparams.q%7D%7D?"));
    for hostile in ["..", ".", "../admin", "..\\admin", "a/../../admin", "..;", ".;x", "\0"] {
        assert!(get(json!(hostile), "").starts_with("refused: "), "{hostile}");
    }
    let empty = plan(crm(), "get", json!({"id": "", "q": ""})).err().unwrap();
    assert!(empty.ends_with("a value of its `path` is empty"), "{empty}");
    let missing = plan(crm(), "get", json!({"id": 7})).err().unwrap();
    assert!(missing.contains("`params.q` has no value"), "{missing}");

    let add = plan(crm(), "add", json!({"name": "Ada", "tags": ["a", {"b": 1}]})).unwrap();
    assert_eq!(add.body.as_deref(), Some(&br#"{"name":"Ada","tags":["a",{"b":1}]}"#[..]));
    let header = |name: &str| add.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("authorization"), Some("Bearer hunter22"));
    assert_eq!((header("x-tenant"), header("x-trace")), (Some("ours"), Some("Ada")));
    assert_eq!((header("accept"), header("content-type")), (Some("application/json"), Some("application/json")));
    assert_eq!(header("idempotency-key"), Some("run/step/1"));
    assert_eq!((add.method.as_str(), add.timeout, add.max_bytes), ("POST", Duration::from_secs(2), 100));
    assert!(add.expected.holds(201) && !add.expected.holds(200));
    let all = |name: &str| add.headers.get_all(name).iter().count();
    assert_eq!((all("accept"), all("authorization"), all("idempotency-key")), (1, 1, 1));
    let split = plan(crm(), "add", json!({"name": "a\r\nX-Evil: 1", "tags": []})).err().unwrap();
    assert!(split.contains("control character"), "{split}");
}

#[test]
fn a_login_never_leaves_the_base() {
    let base = || json!({"baseUrl": "https://crm.example/api", "auth": {"type": "bearer", "token": "hunter22"}});
    assert_eq!(url(base(), "request", json!({"path": "a/b"})), "https://crm.example/api/a/b");
    assert_eq!(url(base(), "request", json!({"path": "//evil.example/x"})), "https://crm.example/api//evil.example/x");
    assert_eq!(url(base(), "request", json!({"path": "@evil.example"})), "https://crm.example/api/@evil.example");
    assert_eq!(
        url(base(), "request", json!({"path": "https://evil.example"})),
        "https://crm.example/api/https://evil.example"
    );
    for (params, words) in [
        (json!({"url": "https://evil.example/"}), "write `path`"),
        (json!({"path": "../x"}), "segment"),
        (json!({"path": "a", "auth": {"type": "bearer", "token": "other"}}), "its own `auth`"),
        (json!({"path": "a", "headers": {"Host": "evil.example"}}), "`Host` is set by the worker"),
        (json!({"path": "a", "headers": {"Idempotency-Key": "x"}}), "set by the worker"),
        (json!({}), "`path` is missing"),
    ] {
        let why = plan(base(), "request", params.clone()).err().unwrap();
        assert!(why.contains(words), "{params}: {why}");
    }
    for config in [
        json!({"auth": {"type": "bearer", "token": "hunter22"}}),
        json!({"headers": {"X-Api-Key": "hunter22"}}),
        json!({"baseUrl": "https://me:hunter22@crm.example"}),
        json!({"baseUrl": "ftp://crm.example"}),
        json!({"baseUrl": "https://crm.example/?x"}),
        json!({"baseUrl": "https://crm.example", "auth": {"type": "hunter22"}}),
        json!({"baseUrl": "https://crm.example", "auth": {"type": "bearer", "token": "hunter22\n"}}),
        json!({"baseUrl": "https://crm.example", "headers": {"hunter22 x": "y"}}),
        json!({"baseurl": "https://crm.example"}),
        json!({"baseUrl": "https://crm.example", "commands": {"a": {"path": "/", "outputs": {"a.b": "c"}}}}),
    ] {
        let why = plan(config.clone(), "request", json!({})).err().unwrap();
        assert!(!why.contains("hunter22") || config["headers"].get("hunter22 x").is_some(), "{config}: {why}");
    }
}

#[test]
fn a_command_that_no_call_could_be_made_of_is_refused_before_it_is_stored() {
    let checked = |command: Value| {
        let config = json!({"baseUrl": "https://crm.example", "commands": {"add": command}});
        check(config.as_object().unwrap()).map_err(|failure| failure.message)
    };
    for (command, words) in [
        (json!({"path": "users/{{params.id"}), "`path`"),
        (json!({"path": "../users"}), "no segment"),
        (json!({"path": "../users/{{params.id}}"}), "no segment"),
        (json!({"path": "users?active=1&id={{params.id}}"}), "no `?`"),
        (json!({"path": "users/{{employee.id}}"}), "`{{employee.id}}` is no parameter of the call"),
        (json!({"path": "users", "method": "FETCH"}), "`method` is one of"),
        (json!({"path": "users", "expectedStatus": "ok"}), "`expectedStatus` is a number"),
        (json!({"path": "users", "timeout": "1h"}), "at most 300 s"),
        (json!({"path": "users", "headers": {"Host": "evil.example"}}), "`Host` is set by the worker"),
    ] {
        let why = checked(command.clone()).unwrap_err();
        assert!(why.starts_with("the command `add`: ") && why.contains(words), "{command}: {why}");
    }
    for command in [
        json!({"path": "users/{{params.id}}", "method": "{{params.method}}", "expectedStatus": ["2xx", 404]}),
        json!({"path": "/", "method": "post", "query": {"a": 1}, "body": {"b": "{{params.b}}"}, "outputs": {"c": "d"}}),
    ] {
        assert_eq!(checked(command), Ok(()));
    }
    assert_eq!(check(crm().as_object().unwrap()).map_err(|failure| failure.message), Ok(()));
}

#[test]
fn requests_are_bounded_where_an_administrator_has_named_commands() {
    let refused = plan(crm(), "request", json!({"path": "a"})).err().unwrap();
    assert!(refused.ends_with("its commands are: add, get"), "{refused}");
    let mut config = crm();
    config["allowedPaths"] = json!(["/status", "/public/*"]);
    for (path, allowed) in [
        ("status", true),
        ("/status", true),
        ("public/a/b", true),
        ("statusx", false),
        ("public", false),
        ("admin", false),
        ("public/../admin", false),
        ("public/%2e%2e/admin", false),
        ("public/..;/admin", false),
        ("public/..%3Bx=1/admin", false),
        ("public/a;x=1", true),
    ] {
        assert_eq!(plan(config.clone(), "request", json!({"path": path})).is_ok(), allowed, "{path}");
    }
    // Commands are not bounded by it.
    assert!(plan(config, "get", json!({"id": 1, "q": ""})).is_ok());
}

#[test]
fn without_a_base_the_step_says_everything() {
    let of = |params: Value| plan(json!({}), "request", params);
    let request = of(json!({
        "method": "PUT", "url": "http://a.example/x?y=1", "query": {"z": 2}, "body": "plain",
        "headers": {"Content-Type": "text/csv"}, "auth": {"type": "basic", "username": "me", "password": "hunter22"},
    }))
    .unwrap();
    assert_eq!((request.url.as_str(), request.name().as_str()), ("http://a.example/x?y=1&z=2", "PUT http://a.example"));
    assert_eq!(
        (request.headers["content-type"].as_bytes(), request.body.as_deref()),
        (&b"text/csv"[..], Some(&b"plain"[..]))
    );
    assert_eq!(request.headers["authorization"], "Basic bWU6aHVudGVyMjI=");
    let key =
        of(json!({"url": "http://a.example", "auth": {"type": "apiKey", "header": "X-Key", "value": "v"}})).unwrap();
    assert_eq!(key.headers["x-key"], "v");
    for (params, words) in [
        (json!({}), "`url` is missing"),
        (json!({"path": "x"}), "write `url`"),
        (json!({"url": "file:///etc/passwd"}), "begins with http"),
        (json!({"url": "http://me:hunter22@a.example"}), "belongs into `auth`"),
        (json!({"url": "http://"}), "cannot be read"),
        (json!({"url": "http://a", "method": "TRACE"}), "`method` is one of"),
        (json!({"url": "http://a", "boddy": 1}), "`boddy` means nothing"),
        (json!({"url": "http://a", "timeout": "1h"}), "at most 300 s"),
        (json!({"url": "http://a", "maxBytes": 1e12}), "`maxBytes` is a whole number"),
        (json!({"url": "http://a", "expectedStatus": "ok"}), "expectedStatus"),
        (json!({"url": "http://a", "query": {"a": {}}}), "`a` of `query`"),
        (json!({"url": "http://a", "headers": {"A": []}}), "`A` is a text"),
        (json!({"url": "http://a", "auth": {"type": "basic", "username": "a:b", "password": "c"}}), "no colon"),
    ] {
        let why = of(params.clone()).err().unwrap();
        assert!(why.contains(words) && !why.contains("hunter22"), "{params}: {why}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a step says, the call stays below the base, and a value stays one segment.
    #[test]
    fn hostile_paths_stay_below_the_base(text in "([a-z./\\\\;%@:?#\t\0 é{}2eEfF5c]|\\.\\.|%2e|%2f|//|\\{\\{){0,12}") {
        let base = json!({
            "baseUrl": "https://crm.example:8443/api/v1",
            "commands": {"get": {"path": "/a/{{params.x}}/z"}}, "allowedPaths": ["/*"],
        });
        if let Ok(request) = plan(base.clone(), "request", json!({"path": text})) {
            prop_assert!(request.url.as_str().starts_with("https://crm.example:8443/api/v1/"), "{}", request.url);
            prop_assert!(request.url.query().is_none() && request.url.fragment().is_none());
        }
        if let Ok(request) = plan(base, "get", json!({"x": text})) {
            let segments: Vec<_> = request.url.path_segments().unwrap().collect();
            prop_assert!(segments.len() == 5 && segments[..3] == ["api", "v1", "a"] && segments[4] == "z", "{}", request.url);
        }
    }
}
