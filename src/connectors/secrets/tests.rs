//! Sealed, opened, rotated, hidden.

use super::*;
use crate::config::{Config, Variables};
use serde_json::json;

const OLD: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const NEW: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

fn keys(key: &str, previous: &str) -> Keyring {
    let pairs = [("CONNECTOR_ENCRYPTION_KEY", key), ("CONNECTOR_ENCRYPTION_KEY_PREVIOUS", previous)];
    Keyring::new(&Config::load(&pairs.into_iter().collect::<Variables>()).unwrap().0.connectors)
}

fn config(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

#[test]
fn a_sealed_secret_opens_for_its_connector_alone() {
    let ring = keys(NEW, "");
    let sealed = ring.seal("crm", "hunter22 é").unwrap();
    assert!(is_sealed(&sealed) && !sealed.contains("hunter"));
    assert_ne!(sealed, ring.seal("crm", "hunter22 é").unwrap(), "the nonce is new each time");
    assert_eq!(ring.open("crm", &sealed).unwrap(), "hunter22 é");
    for (ring, name) in [(&ring, "other"), (&keys(OLD, ""), "crm"), (&keys("", ""), "crm")] {
        let failure = ring.open(name, &sealed).unwrap_err();
        assert!(failure.message.contains(name) && !failure.message.contains(&sealed[8..]), "{failure}");
        assert_eq!((&*failure.code, failure.passing), ("BAD_SECRET", false));
    }
}

#[test]
fn a_changed_or_malformed_one_does_not_open() {
    let ring = keys(NEW, "");
    let sealed = ring.seal("crm", "hunter22").unwrap();
    let inside = BASE64_STANDARD.decode(&sealed[MARK.len()..]).unwrap();
    for index in 0..inside.len() {
        let mut changed = inside.clone();
        changed[index] ^= 1;
        assert!(ring.open("crm", &format!("{MARK}{}", BASE64_STANDARD.encode(changed))).is_err(), "byte {index}");
    }
    for text in ["enc:v1:", "enc:v1:AAAA", "enc:v1:é", "enc:v1:AAAAAAAAAAAAAAAAAAAA"] {
        assert!(ring.open("crm", text).is_err(), "{text}");
    }
}

#[test]
fn the_previous_key_is_tried_second_and_resealing_makes_it_superfluous() {
    let sealed = keys(OLD, "").seal("crm", "hunter22").unwrap();
    let both = keys(NEW, OLD);
    assert_eq!(both.open("crm", &sealed).unwrap(), "hunter22");
    let before = config(json!({"auth": {"type": "bearer", "token": sealed}, "list": [sealed, "plain", 1]}));
    let (after, count) = both.reseal("crm", &before).unwrap();
    assert_eq!((count, &after["list"][1]), (2, &json!("plain")));
    let opened = keys(NEW, "").open_all("crm", &after, &mut Scrub::default()).unwrap();
    assert_eq!(
        Value::Object(opened),
        json!({"auth": {"type": "bearer", "token": "hunter22"}, "list": ["hunter22", "plain", 1]})
    );
    assert!(keys(NEW, "").reseal("crm", &before).is_err());
}

#[test]
fn a_secret_in_a_command_is_no_template() {
    let ring = keys(NEW, "");
    let sealed = ring.seal("crm", "a\\{{params.x}}b").unwrap();
    let opened = ring.open_all("crm", &config(json!({"commands": {"a": sealed}, "b": sealed})), &mut Scrub::default());
    let opened = opened.unwrap();
    assert_eq!(opened["b"], "a\\{{params.x}}b");
    let filled = crate::values::template::fill_all(&opened["commands"]["a"], &Map::new());
    assert_eq!(filled, Ok(json!("a\\{{params.x}}b")));
}

#[test]
fn secrets_are_hidden_by_name_by_place_and_when_sealed() {
    let shown = hide(&json!({
        "baseUrl": "https://crm", "auth": {"type": "basic", "user": "me", "password": "p"},
        "headers": {"Authorization": "Bearer x", "X-Api-Key": "k", "Accept": "a", "X": "enc:v1:AAAA"},
        "other": {"auth": {"type": "apiKey", "header": "X-Key", "value": "v"}, "clientSecret": {"deep": ["s", 5]}},
    }));
    assert_eq!(
        shown,
        json!({
            "baseUrl": "https://crm", "auth": {"type": "basic", "user": "me", "password": "***"},
            "headers": {"Authorization": "***", "X-Api-Key": "***", "Accept": "a", "X": "***"},
            "other": {"auth": {"type": "apiKey", "header": "X-Key", "value": "***"}, "clientSecret": {"deep": ["***", "***"]}},
        })
    );
}

#[test]
fn what_is_called_a_secret_is_one_in_any_spelling() {
    let secrets = "password Passwd pass-phrase clientSecret accessTokens API_KEY x-api-key signingKey PRIVATE_KEY accessKeyId \
        credentials Authorization Set-Cookie cookie pin userPin PIN_2 PINCode userPINCode adminPwd dbPass SMTP_PASS otp smsOTP sshKey \
        hmac_key X-Key bearer jwt";
    for name in secrets.split_whitespace() {
        assert!(is_secret_name(name), "{name}");
    }
    for name in "primaryKey issueKey sort_key key keyboard spinner shipping pinned adopted cookery option user passed"
        .split_whitespace()
    {
        assert!(!is_secret_name(name), "{name}");
    }
}

#[test]
fn secrets_that_nobody_sealed_are_noticed() {
    for (config, plain) in [
        (json!({"auth": {"type": "bearer", "token": "t"}}), true),
        (json!({"auth": {"type": "bearer", "token": "enc:v1:AAAA"}, "headers": {"X": "y"}}), false),
        (json!({"commands": {"a": {"body": {"password": "{{params.password}}"}}}}), false),
        (json!({"commands": {"a": {"body": [{"password": 5}]}}}), true),
    ] {
        assert_eq!(has_plain_secret(&config), plain, "{config}");
    }
}

#[test]
fn what_a_server_sends_back_is_scrubbed_and_can_be_stored() {
    let mut scrub = Scrub::default();
    for secret in ["hunter22", "Bearer hunter22", "abc", ""] {
        scrub.add(secret);
    }
    let value = scrub.value(json!({"a hunter22": ["Bearer hunter22", "x\u{0}y", "abc", 5]}));
    assert_eq!(value, json!({"a ***": ["***", "x\u{fffd}y", "abc", 5]}));
}

#[test]
fn a_secret_is_known_in_every_spelling_in_which_it_is_sent() {
    let mut scrub = Scrub::default();
    for secret in ["ab+c/d==", "Sésam, \"open\"!", "100%~{x}", "50%41"] {
        scrub.add(secret);
    }
    for text in [
        // As a form or a query has it, and with small digits.
        "?k=ab%2Bc%2Fd%3D%3D",
        "?k=ab%2bc%2fd%3d%3d",
        "S%C3%A9sam%2C+%22open%22%21",
        "s=S%c3%a9sam%2c+%22open%22%21",
        // In a path, as JavaScript encodes it, and as the URL of a whole path does.
        "/S%C3%A9sam%2C%20%22open%22%21/",
        "/S%C3%A9sam%2C%20%22open%22!/",
        "/S%C3%A9sam,%20%22open%22!/",
        "100%25~%7Bx%7D",
        "100%25%7E%7Bx%7D",
        "/100%~%7bx%7d",
        // In JSON within a text.
        r#"{"k":"Sésam, \"open\"!"}"#,
        "50%2541",
        "50%41",
    ] {
        let scrubbed = scrub.text(text);
        assert!(scrubbed.contains("***"), "{text}: {scrubbed}");
        for part in ["ab", "sam", "open", "100", "41", "%"] {
            assert!(!scrubbed.contains(part), "{text}: {scrubbed}");
        }
    }
    assert_eq!(scrub.text("ab%2Bc%2Fd%3D"), "ab%2Bc%2Fd%3D");
    // What is the same in all of them is looked for once; what is shorter than four is not, however it is spelled.
    let mut plain = Scrub::default();
    for secret in ["hunter22", "hunter22", "+/="] {
        plain.add(secret);
    }
    assert_eq!(plain.0, ["hunter22"]);
}
