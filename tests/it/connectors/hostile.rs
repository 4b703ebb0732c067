//! Servers that do not mean well: every call ends, in time, in a sentence, with what can be stored.

use super::{Ask, KEY, codes, connectors, row, settings};
use crate::support::http::HttpServer;
use floh_worker::connectors::{Connectors, secrets::Keyring};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

#[tokio::test]
async fn an_answer_that_never_ends_is_given_up() {
    let server = HttpServer::start();
    let connectors = connectors();
    for path in ["/slow", "/drip"] {
        let began = Instant::now();
        let params = json!({"url": server.url(path), "timeout": 0.3});
        let (code, passing, message) = codes(Ask::of(&connectors).call("request", params).await);
        assert_eq!((code.as_str(), passing), ("TIMEOUT", true), "{message}");
        assert!(message.contains("within 0.3 s") && began.elapsed() < Duration::from_secs(10));
    }
    // The caller's deadline counts where it is sooner.
    let ask = Ask { deadline: Duration::from_millis(200), ..Ask::of(&connectors) };
    assert_eq!(codes(ask.get(server.url("/slow")).await).0, "TIMEOUT");
    let late = Ask { deadline: Duration::ZERO, ..Ask::of(&connectors) };
    assert_eq!(codes(late.get(server.url("/text")).await).0, "TIMEOUT");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_taken_into_memory() {
    let server = HttpServer::start();
    let connectors = connectors();
    let began = Instant::now();
    for path in ["/flood", "/announced"] {
        let (code, passing, message) = codes(Ask::of(&connectors).get(server.url(path)).await);
        assert_eq!((code.as_str(), passing), ("ANSWER_TOO_LARGE", false), "{message}");
        assert!(message.contains("1048576"), "{message}");
    }
    assert!(began.elapsed() < Duration::from_secs(25), "it was read until the timeout");
    let exact = json!({"url": server.url("/text"), "maxBytes": 5});
    assert!(Ask::of(&connectors).call("request", exact).await.is_ok());
    let short = json!({"url": server.url("/text"), "maxBytes": 4});
    assert_eq!(codes(Ask::of(&connectors).call("request", short).await).0, "ANSWER_TOO_LARGE");
}

#[tokio::test]
async fn what_is_no_answer_is_a_sentence() {
    let server = HttpServer::start();
    let connectors = connectors();
    let raw = async |body: &str| {
        let params = json!({"method": "POST", "url": server.url("/raw"), "body": body});
        Ask::of(&connectors).call("request", params).await
    };
    for body in ["{\"a\":", "1e999", "\"\\ud800\"", "<html>", "nul"] {
        let (code, passing, message) = codes(raw(body).await);
        assert_eq!((code.as_str(), passing), ("BAD_ANSWER", false), "{body}: {message}");
    }
    for (path, code) in [("/deep", "BAD_ANSWER"), ("/zipped", "BAD_ANSWER"), ("/nonsense", "CONNECTION")] {
        assert_eq!(codes(Ask::of(&connectors).get(server.url(path)).await).0, code, "{path}");
    }
    // Odd, and an answer all the same.
    let body = async |text: &str| raw(text).await.unwrap().data["body"].clone();
    assert_eq!(body("{\"a\\u0000b\": \"x\\u0000\"}").await, json!({"a\u{fffd}b": "x\u{fffd}"}));
    assert_eq!(body("123456789012345678901234567890").await, json!(123_456_789_012_345_678_901_234_567_890_f64));
    assert_eq!(body("{\"a\": 1, \"a\": 2}").await, json!({"a": 2}));
    assert_eq!(body("").await, Value::Null);
}

/// Web servers and frameworks say which address they do not know.
#[tokio::test]
async fn an_answer_that_quotes_the_call_gives_no_secret_away() {
    let server = HttpServer::start();
    let allowed = settings(&[("CONNECTOR_ALLOWED_HOSTS", "localhost"), ("CONNECTOR_ENCRYPTION_KEY", KEY)]);
    let sealed = Keyring::new(&allowed).seal("crm", "ab+c/d==geheim").unwrap();
    let query = json!({"api_key": sealed});
    let row = row(json!({"baseUrl": server.url("/"), "commands": {
        "short": {"path": "unknown/x", "query": query},
        // The secret lies where the excerpt ends.
        "long": {"path": format!("unknown/{}", "x".repeat(152)), "query": query},
        "known": {"path": "echo", "query": query},
    }}));
    let connectors = Connectors::new(&allowed);
    let ask = Ask { row: Some(&row), ..Ask::of(&connectors) };
    let (code, _, message) = codes(ask.call("short", json!({})).await);
    assert_eq!(code, "HTTP_404");
    assert!(message.ends_with(": no route GET /unknown/x?api_key=***"), "{message}");
    let (_, _, message) = codes(ask.call("long", json!({})).await);
    assert!(message.ends_with("x?api_key=***"), "{message}");
    let answer = ask.call("known", json!({})).await.unwrap();
    assert_eq!(answer.data["url"], "/echo?api_key=***");
    // The server got it.
    assert_eq!(server.seen()["calls"][0]["url"], "/unknown/x?api_key=ab%2Bc%2Fd%3D%3Dgeheim");
}

/// As load balancers do while they are set up: a fatal alert, and HTTP without TLS.
#[tokio::test]
async fn a_handshake_that_breaks_off_may_go_better_later() {
    const ALERTS: [[u8; 7]; 3] = [
        // handshake_failure, internal_error, unrecognized_name.
        [0x15, 3, 3, 0, 2, 2, 40],
        [0x15, 3, 3, 0, 2, 2, 80],
        [0x15, 3, 3, 0, 2, 2, 112],
    ];
    const CERTIFICATE_REQUIRED: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 116];
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let connectors = connectors().trusting(vec![authority.cert.der().to_owned()]);
    let plain = &b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"[..];
    let passing = ALERTS.iter().map(|alert| &alert[..]).chain([plain]).map(|answer| (answer, true));
    for (answer, expected) in passing.chain([(&CERTIFICATE_REQUIRED[..], false)]) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = answer.to_vec();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 4096];
            assert!(stream.read(&mut hello).unwrap() > 0);
            stream.write_all(&answer).unwrap();
            // Until the other side has read it.
            while stream.read(&mut hello).is_ok_and(|read| read > 0) {}
        });
        let (code, passing, message) = codes(Ask::of(&connectors).get(format!("https://localhost:{port}/")).await);
        assert_eq!((code.as_str(), passing), ("TLS", expected), "{message}");
        server.join().unwrap();
    }
}
