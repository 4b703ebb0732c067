//! `flohctl connector`.

use super::{KEY, run::import};
use crate::support::{Fleet, child, worker::binary};
use serde_json::{Value, json};
use std::{process::Command, time::Duration};

const NEW: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

/// flohctl without a server.
fn flohctl(arguments: &[&str], key: &str, input: &str) -> child::Finished {
    let prepare = |command: &mut Command| {
        command
            .args(arguments)
            .env_clear()
            .env("CONNECTOR_ENCRYPTION_KEY", key)
            .env("DB_HOST", "127.0.0.1")
            .env("DB_PORT", "1");
    };
    child::run(&binary("flohctl"), prepare, input.as_bytes(), Duration::from_secs(20))
}

/// A secret, sealed for a connector.
pub fn seal(name: &str, secret: &str, key: &str) -> String {
    let done = flohctl(&["connector", "seal", name], key, &format!("{secret}\n"));
    assert_eq!((done.status.code(), done.stderr.as_str()), (Some(0), ""));
    let sealed = done.stdout.trim_end();
    assert!(sealed.starts_with("enc:v1:") && !sealed.contains(secret), "{sealed}");
    sealed.to_string()
}

#[test]
fn what_is_no_connector_is_refused_in_a_sentence() {
    let sealed = seal("crm", "guppytrout", KEY);
    let with_auth = |name: &str, auth: Value| {
        json!({"name": name, "type": "http", "config": {"baseUrl": "https://crm.example", "auth": auth}}).to_string()
    };
    for (input, words) in [
        ("{".to_string(), "it is not JSON"),
        ("[]".to_string(), "expected an object with `name`"),
        (json!({"name": "a", "type": "http", "conf": {}}).to_string(), "expected an object with `name`"),
        (json!({"name": " a", "type": "http"}).to_string(), "`name` is empty, or has blanks"),
        (json!({"name": "a", "type": "ldap"}).to_string(), "`type` is http or delay"),
        (json!({"name": "delay", "type": "http"}).to_string(), "`delay` is a connector that waits"),
        (json!({"name": "http", "type": "http"}).to_string(), "`http` is the built-in connector"),
        (json!({"name": "http", "type": "delay"}).to_string(), "`http` is the built-in connector"),
        (json!({"name": "w", "type": "delay", "config": {"a": 1}}).to_string(), "has no `config`"),
        (json!({"name": "a", "type": "http", "config": {"baseUrl": "crm"}}).to_string(), "the URL cannot be read"),
        (with_auth("a", json!({"type": "bearer", "token": "***"})), "seal it with `flohctl connector seal a`"),
        (
            json!({"name": "a", "type": "delay", "mocks": {"wait": {"token": "***"}}}).to_string(),
            "`mocks` has a value that is hidden",
        ),
        (with_auth("a", json!({"type": "bearer", "token": sealed})), "or it was sealed for another connector"),
        (with_auth("a", json!({"type": "oauth", "token": "guppytrout"})), "basic, bearer or apiKey"),
    ] {
        let done = flohctl(&["connector", "import", "-"], KEY, &input);
        assert_eq!(done.status.code(), Some(78), "{input}: {}", done.stderr);
        assert!(done.stderr.contains(words) && !done.stderr.contains("guppytrout"), "{input}: {}", done.stderr);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    }
    // Only the database is missing.
    let plain = with_auth("crm", json!({"type": "bearer", "token": "guppytrout"}));
    let done = flohctl(&["connector", "import", "-"], KEY, &plain);
    assert_eq!(done.status.code(), Some(69));
    assert!(
        done.stderr.contains("a secret in it is not sealed") && !done.stderr.contains("guppytrout"),
        "{}",
        done.stderr
    );
    let done =
        flohctl(&["connector", "import", "-"], KEY, &with_auth("crm", json!({"type": "bearer", "token": sealed})));
    assert_eq!((done.status.code(), done.stderr.lines().count()), (Some(69), 1), "{}", done.stderr);

    // What masks its own answers is mocked as it is.
    let masked = json!({"name": "a", "type": "delay", "mocks": {"wait": {"card": "***"}}}).to_string();
    assert_eq!(flohctl(&["connector", "import", "-"], KEY, &masked).status.code(), Some(69));

    for (key, input, words) in
        [("", "guppytrout", "CONNECTOR_ENCRYPTION_KEY is not set"), (KEY, "\n", "a secret of at most")]
    {
        let done = flohctl(&["connector", "seal", "crm"], key, input);
        assert_eq!((done.status.code(), done.stdout.as_str()), (Some(78), ""));
        assert!(done.stderr.contains(words), "{}", done.stderr);
    }
}

#[test]
fn connectors_are_listed_and_shown_without_secrets_and_keys_are_rotated() {
    let fleet = Fleet::start();
    let (old, both) = (
        [("CONNECTOR_ENCRYPTION_KEY", KEY)],
        [("CONNECTOR_ENCRYPTION_KEY", NEW), ("CONNECTOR_ENCRYPTION_KEY_PREVIOUS", KEY)],
    );
    let run = |arguments: &[&str], settings: &[(&str, &str)]| {
        fleet.flohctl_with(&[&["connector"], arguments].concat(), settings)
    };
    assert!(run(&["list"], &[]).stdout.contains("there is no connector beside"));
    let connector = |token: &str, name: &str| {
        json!({"name": name, "type": "http", "mocks": {"a": {"b": 1, "token": "guppytrout"}},
            "config": {"baseUrl": "https://crm.example", "auth": {"type": "bearer", "token": token}}})
    };
    let sealed = seal("crm", "guppytrout", KEY);
    let id = import(&fleet, &connector(&sealed, "crm"), &old);
    import(&fleet, &json!({"name": "b", "type": "delay", "enabled": false}), &old);
    // The same name again changes the row, and keeps its id.
    assert_eq!(import(&fleet, &connector(&sealed, "crm"), &old), id);
    let listed = run(&["list"], &[]).stdout;
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("b  ") && lines[0].ends_with("disabled"), "{listed}");
    assert_eq!(lines[1], format!("crm  http   {id}  https://crm.example"));
    for name in ["crm", &id] {
        let shown: Value = serde_json::from_str(&run(&["show", name], &[]).stdout).unwrap();
        assert_eq!((&shown["id"], &shown["config"]["auth"]["token"]), (&json!(id), &json!("***")));
        assert_eq!((&shown["mocks"], &shown["enabled"]), (&json!({"a": {"b": 1, "token": "***"}}), &json!(true)));
    }
    let missing = run(&["show", "erp"], &[]);
    assert_eq!((missing.status.code(), missing.stdout.as_str()), (Some(1), "there is no connector erp\n"));

    let stored = || {
        let sql = "SELECT connector_config #>> '{auth,token}' FROM floh_worker.connector_definition WHERE name = 'crm'";
        fleet.sql(sql)[0][0].clone().unwrap()
    };
    let failed = run(&["reseal"], &[("CONNECTOR_ENCRYPTION_KEY", NEW)]);
    assert_eq!((failed.status.code(), stored()), (Some(78), sealed.clone()), "{}", failed.stderr);
    let done = run(&["reseal"], &both);
    assert_eq!((done.status.code(), done.stdout.as_str()), (Some(0), "sealed anew: 1\n"), "{}", done.stderr);
    assert_ne!(stored(), sealed);
    // The previous key is needed no longer, and is no good any more.
    assert_eq!(run(&["reseal"], &both[..1]).status.code(), Some(0));
    assert_eq!(run(&["reseal"], &old).status.code(), Some(78));
}
