//! Connectors against a real server of their own: what they send, what they take, and whom they do not call.

mod flohctl;
mod hostile;
mod run;

use crate::support::http::HttpServer;
use floh_worker::{
    config::{Config, ConnectorsConfig, Variables},
    connectors::{Answer, Call, Connectors, Failure, Reply, Request},
    store::connector::ConnectorRow,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};
use uuid::Uuid;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn settings(pairs: &[(&str, &str)]) -> ConnectorsConfig {
    Config::load(&pairs.iter().copied().collect::<Variables>()).unwrap().0.connectors
}

/// Connectors that may call this machine by its name.
fn connectors() -> Connectors {
    Connectors::new(&settings(&[("CONNECTOR_ALLOWED_HOSTS", "localhost")]))
}

fn row(config: Value) -> ConnectorRow {
    ConnectorRow {
        id: Uuid::new_v4(),
        name: "crm".into(),
        kind: "http".into(),
        config: config.as_object().cloned().unwrap(),
        mock_enabled: false,
        mocks: serde_json::Map::new(),
        enabled: true,
    }
}

/// One call, of the built-in where there is no row.
struct Ask<'a> {
    connectors: &'a Connectors,
    row: Option<&'a ConnectorRow>,
    key: &'a str,
    deadline: Duration,
    mock: Option<Value>,
    use_mocks: bool,
}

impl<'a> Ask<'a> {
    fn of(connectors: &'a Connectors) -> Ask<'a> {
        let deadline = Duration::from_secs(30);
        Ask { connectors, row: None, key: "run/step/1", deadline, mock: None, use_mocks: false }
    }

    async fn call(&self, command: &str, params: Value) -> Result<Answer, Failure> {
        let call = Call {
            command,
            params: params.as_object().unwrap(),
            idempotency_key: self.key,
            deadline: tokio::time::Instant::now() + self.deadline,
            now: chrono::Utc::now(),
        };
        let connector = if self.row.is_some() { "crm" } else { "http" };
        let request = Request { connector, call, mock: self.mock.as_ref(), use_mocks: self.use_mocks };
        match self.connectors.call(self.row, &request).await? {
            Reply::Done(answer) => Ok(answer),
            Reply::Later(due) => panic!("it waits until {due}"),
        }
    }

    async fn get(&self, url: String) -> Result<Answer, Failure> {
        self.call("request", json!({ "url": url })).await
    }
}

fn codes(answer: Result<Answer, Failure>) -> (String, bool, String) {
    let failure = answer.expect_err("it succeeded");
    assert!(!failure.message.contains('\n') && failure.message.len() < 400, "{failure}");
    (failure.code.to_string(), failure.passing, failure.message)
}

#[tokio::test]
async fn a_request_gives_status_headers_and_body() {
    let server = HttpServer::start();
    let connectors = connectors();
    let params = json!({
        "method": "POST", "url": server.url("/echo?a=1"), "query": {"b": "x y"}, "headers": {"X-One": "1"},
        "body": {"name": "Ada"}, "auth": {"type": "basic", "username": "me", "password": "hunter22"},
    });
    let answer = Ask::of(&connectors).call("request", params).await.unwrap();
    assert_eq!(
        (&answer.data["status"], &answer.data["headers"]["content-type"]),
        (&json!(200), &json!("application/json"))
    );
    let echo = &answer.data["body"];
    assert_eq!((&echo["method"], &echo["url"]), (&json!("POST"), &json!("/echo?a=1&b=x+y")));
    assert_eq!((&echo["body"], &echo["key"]), (&json!("{\"name\":\"Ada\"}"), &json!("run/step/1")));
    assert_eq!(
        (&echo["headers"]["x-one"], &echo["headers"]["content-type"]),
        (&json!("1"), &json!("application/json"))
    );
    assert!(echo["headers"]["user-agent"].as_str().unwrap().starts_with("floh-worker/"));
    // The server got the login, and what it sends back of it is taken out.
    assert_eq!(server.seen()["calls"][0]["headers"]["authorization"], "Basic bWU6aHVudGVyMjI=");
    assert_eq!(echo["headers"]["authorization"], "Basic ***");
    let shown = answer.to_json();
    assert_eq!((&shown["success"], &shown["outputVariables"]), (&json!(true), &json!({})));
    assert!(shown["durationMs"].is_u64());

    let text = Ask::of(&connectors).get(server.url("/text")).await.unwrap();
    assert_eq!((&text.data["body"], text.data["headers"].get("set-cookie")), (&json!("hello"), None));
    let none = Ask::of(&connectors).get(server.url("/none")).await.unwrap();
    assert_eq!((&none.data["status"], &none.data["body"]), (&json!(204), &Value::Null));
    let head = json!({"method": "HEAD", "url": server.url("/text")});
    assert_eq!(Ask::of(&connectors).call("request", head).await.unwrap().data["body"], Value::Null);
}

#[tokio::test]
async fn a_command_has_its_effect_once_for_each_key_and_gives_variables() {
    let server = HttpServer::start();
    let connectors = connectors();
    let row = row(json!({
        "baseUrl": server.url("/"),
        "commands": {"add": {"method": "POST", "path": "effects", "body": {"name": "{{params.name}}"},
            "outputs": {"directoryId": "user.id", "second": "list[1]"}}},
    }));
    for (key, id) in [("run/a/1", 1), ("run/a/1", 1), ("run/a/2", 2)] {
        let ask = Ask { row: Some(&row), key, ..Ask::of(&connectors) };
        let answer = ask.call("add", json!({"name": "Ada"})).await.unwrap();
        // The body itself.
        assert_eq!(answer.data["user"], json!({"id": id, "done": 1, "name": "Ada"}));
        assert_eq!(Value::Object(answer.output_variables), json!({"directoryId": id, "second": 2}));
    }
    assert_eq!((server.calls(), server.effects().as_object().unwrap().len()), (3, 2));
    let unknown = Ask { row: Some(&row), ..Ask::of(&connectors) }.call("remove", json!({})).await;
    assert_eq!(
        codes(unknown),
        ("UNKNOWN_COMMAND".into(), false, "the connector has no command `remove`; its commands are: add".into())
    );
}

#[tokio::test]
async fn a_failure_says_whether_another_try_may_help() {
    let mut server = HttpServer::start();
    let connectors = connectors();
    let ask = Ask::of(&connectors);
    for (status, passing) in [
        (400, false),
        (401, false),
        (404, false),
        (408, true),
        (409, false),
        (429, true),
        (500, true),
        (501, true),
        (503, true),
    ] {
        let params = json!({
            "url": server.url(&format!("/status/{status}?token=data")),
            "auth": {"type": "bearer", "token": "hunter22"},
        });
        let (code, passes, message) = codes(ask.call("request", params.clone()).await);
        assert_eq!((code, passes), (format!("HTTP_{status}"), passing));
        // What it says is told, without the login that it says and without the query.
        assert!(message.contains("no: Bearer ***") && !message.contains("data"), "{message}");
        let mut params = params;
        params["expectedStatus"] = json!(["2xx", status]);
        assert_eq!(ask.call("request", params).await.unwrap().data["status"], json!(status));
    }
    let (code, passing, message) = codes(ask.get(server.url("/redirect")).await);
    assert_eq!((code.as_str(), passing), ("HTTP_302", false));
    assert!(message.contains("not followed"), "{message}");
    assert_eq!(server.effects(), json!({}));

    for path in ["/reset", "/half"] {
        let (code, passing, message) = codes(ask.get(server.url(path)).await);
        assert_eq!((code.as_str(), passing), ("CONNECTION", true), "{message}");
    }
    let port = server.port();
    server.kill();
    let (code, passing, message) = codes(ask.get(format!("http://localhost:{port}/secret?x=data")).await);
    assert_eq!((code.as_str(), passing), ("CONNECTION", true));
    assert!(
        message.contains("cannot be reached") && message.contains("refused") && !message.contains("data"),
        "{message}"
    );
}

#[tokio::test]
async fn a_call_is_encrypted_for_a_trusted_certificate_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "floh test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_string()]).unwrap().signed_by(&key, &authority).unwrap();
    let (certificate_file, key_file) = (folder.path().join("crt"), folder.path().join("key"));
    fs::write(&certificate_file, certificate.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let server = HttpServer::start_tls(&certificate_file, &key_file);

    let allowed = settings(&[("CONNECTOR_ALLOWED_HOSTS", "localhost,127.0.0.1")]);
    let trusted: CertificateDer<'static> = authority.der().to_owned();
    let trusting = Connectors::new(&allowed).trusting(vec![trusted.clone()]);
    let answer = Ask::of(&trusting).get(server.url("/text")).await.unwrap();
    assert_eq!(answer.data["body"], "hello");
    // Another name than the certificate's, and nobody that is trusted.
    let (code, passing, _) = codes(Ask::of(&trusting).get(format!("https://127.0.0.1:{}/text", server.port())).await);
    assert_eq!((code.as_str(), passing), ("TLS", false));
    let stranger = Connectors::new(&allowed);
    let (code, passing, message) = codes(Ask::of(&stranger).get(server.url("/text")).await);
    assert_eq!((code.as_str(), passing), ("TLS", false), "{message}");
}

#[tokio::test]
async fn hosts_that_are_not_allowed_get_no_connection() {
    let server = HttpServer::start();
    let port = server.port();
    for (allowed, host) in [
        ("*", "localhost"),
        ("*", "127.0.0.1"),
        ("*", "0x7f000001"),
        ("*", "[::ffff:127.0.0.1]"),
        ("crm.example.org", "localhost"),
        ("localhost:1", "localhost"),
        ("localhost", "127.0.0.1"),
        ("10.0.0.0/8", "localhost"),
    ] {
        let connectors = Connectors::new(&settings(&[("CONNECTOR_ALLOWED_HOSTS", allowed)]));
        let (code, passing, message) = codes(Ask::of(&connectors).get(format!("http://{host}:{port}/text")).await);
        assert_eq!((code.as_str(), passing), ("HOST_NOT_ALLOWED", false), "{allowed} {host}: {message}");
        assert!(message.contains("CONNECTOR_ALLOWED_HOSTS"), "{message}");
    }
    // Metadata addresses at once, without waiting for a connection that nobody answers.
    let began = Instant::now();
    let anything = Connectors::new(&settings(&[("CONNECTOR_ALLOWED_HOSTS", "*,localhost,10.0.0.0/8")]));
    for host in ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "[fe80::1]"] {
        let (code, ..) = codes(Ask::of(&anything).get(format!("http://{host}/latest/meta-data/")).await);
        assert_eq!(code, "HOST_NOT_ALLOWED", "{host}");
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(server.calls(), 0);
    for allowed in ["127.0.0.0/8", "localhost", &format!("localhost:{port}"), &format!("127.0.0.1:{port}")] {
        let connectors = Connectors::new(&settings(&[("CONNECTOR_ALLOWED_HOSTS", allowed)]));
        assert!(Ask::of(&connectors).get(format!("http://localhost:{port}/text")).await.is_ok(), "{allowed}");
    }
    assert_eq!(server.calls(), 4);
}

#[tokio::test]
async fn mocks_answer_in_the_place_of_the_other_system() {
    let server = HttpServer::start();
    let mut row =
        row(json!({"baseUrl": server.url("/"), "commands": {"text": {"path": "text"}, "add": {"path": "effects"}}}));
    row.mocks = json!({"text": {"mocked": "connector"}}).as_object().cloned().unwrap();
    let connectors = connectors();
    let mode = Connectors::new(&settings(&[("CONNECTOR_MOCK_MODE", "true"), ("CONNECTOR_ALLOWED_HOSTS", "localhost")]));
    let call = async |connectors: &Connectors, row: &ConnectorRow, mock: Option<Value>, use_mocks, command: &str| {
        Ask { row: Some(row), mock, use_mocks, ..Ask::of(connectors) }.call(command, json!({})).await.map(|a| a.data)
    };
    let (by_connector, by_step) = (json!({"mocked": "connector"}), json!({"mocked": "step"}));
    let enabled = ConnectorRow { mock_enabled: true, ..row.clone() };
    assert_eq!(call(&connectors, &row, None, true, "text").await, Ok(by_connector.clone()));
    assert_eq!(call(&connectors, &enabled, None, false, "text").await, Ok(by_connector.clone()));
    assert_eq!(call(&mode, &row, None, false, "text").await, Ok(by_connector));
    assert_eq!(call(&mode, &enabled, Some(by_step.clone()), true, "text").await, Ok(by_step));
    let failure = json!({"success": false, "error": {"message": "exists", "code": "EXISTS"}});
    assert_eq!(call(&connectors, &row, Some(failure), false, "text").await.unwrap_err().code, "EXISTS");
    assert_eq!(call(&mode, &row, None, false, "add").await.unwrap_err().code, "NO_MOCK");
    assert_eq!(server.calls(), 0, "a mocked call was made");
    assert_eq!(call(&connectors, &row, None, false, "text").await, Ok(json!({"body": "hello"})));
    assert_eq!(call(&mode, &enabled, Some(json!(false)), true, "text").await, Ok(json!({"body": "hello"})));
    let disabled = ConnectorRow { enabled: false, ..row.clone() };
    assert_eq!(call(&connectors, &disabled, None, false, "text").await.unwrap_err().code, "CONNECTOR_DISABLED");
    assert_eq!(server.calls(), 2);
}
