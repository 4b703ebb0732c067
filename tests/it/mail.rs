//! Mail to a real SMTP server: what arrives, what is refused, what may pass; and the steps of runs that send it.

use crate::{
    runs_people::rows,
    support::{
        Fleet,
        runs::chain,
        smtp::{self, Smtp},
        within,
    },
};
use floh_worker::{
    config::{MailConfig, SmtpServer, SmtpTls},
    mail::{Mailer, Message, MessageId, SendError, address},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(30);

fn settings(server: &Smtp, tls: SmtpTls) -> MailConfig {
    let tls_ca = (tls != SmtpTls::None).then(|| server.authority());
    let server = SmtpServer { host: "localhost".into(), port: server.port(), tls, tls_ca, login: None };
    MailConfig { server: Some(server), from: Some(address::parse("Floh <floh@example.com>").unwrap()) }
}

fn with_login(mut config: MailConfig, user: &str, password: &str) -> MailConfig {
    config.server.as_mut().unwrap().login = Some((user.into(), SecretString::from(password)));
    config
}

fn message(to: &str) -> Message {
    let to = address::parse(to).unwrap();
    Message {
        id: MessageId::of_visit(Uuid::nil(), "tell", 1, &to.email),
        to,
        subject: "Grüße\r\nBcc: eve@example.org".into(),
        text: Some("Hello Ada,\n.\n..\nMAIL FROM:<eve@example.org>\n".into()),
        html: Some("<p>Hello <b>Ada</b>, ä</p>".into()),
    }
}

async fn send(config: &MailConfig, to: &str) -> Result<(), SendError> {
    let mailer = Mailer::new(config);
    within("an answer", Duration::from_secs(40), mailer.send(&message(to))).await
}

#[tokio::test]
async fn a_message_arrives_as_it_was_written_and_twice_under_the_same_id() {
    let server = Smtp::start();
    let config = settings(&server, SmtpTls::None);
    for _ in 0..2 {
        send(&config, "Ada Lovelace <ada@example.org>").await.unwrap();
    }
    let mails = server.wait_mails(2);
    let mail = &mails[0];
    assert_eq!((&mail["from"], &mail["to"]), (&json!("floh@example.com"), &json!(["ada@example.org"])));
    let headers = &mail["headers"];
    assert_eq!(headers["subject"], "Grüße Bcc: eve@example.org");
    assert_eq!(headers["from"], "Floh <floh@example.com>");
    assert_eq!(headers["to"], "Ada Lovelace <ada@example.org>");
    assert_eq!(headers["auto-submitted"], "auto-generated");
    assert!(headers["date"].is_string() && headers["bcc"].is_null(), "{headers}");
    // The digits are the beginning of the address' SHA-256.
    assert_eq!(headers["message-id"], format!("<{}.tell.1.cfe00dde46ef9426@floh-worker.example.com>", Uuid::nil()));
    assert_eq!(mail["text"].as_str().unwrap().replace("\r\n", "\n"), message("a@b.org").text.unwrap());
    assert!(mail["html"].as_str().unwrap().contains("<b>Ada</b>, ä"), "{}", mail["html"]);
    assert_eq!(mails[1]["headers"]["message-id"], headers["message-id"]);
}

#[tokio::test]
async fn connections_are_encrypted_from_the_start_or_by_starttls() {
    for (word, tls) in [("starttls", SmtpTls::StartTls), ("tls", SmtpTls::Tls)] {
        let server = Smtp::start_with(word, None);
        send(&settings(&server, tls), "ada@example.org").await.unwrap();
        assert_eq!(server.wait_mails(1)[0]["encrypted"], true, "{word}");

        // Neither a certificate of somebody else's nor another name is taken, and nothing is sent.
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other.pem");
        fs::write(&other, smtp::authority("other").pem()).unwrap();
        for (host, authorities, word) in
            [("localhost", other, "UnknownIssuer"), ("127.0.0.1", server.authority(), "not valid for name")]
        {
            let mut config = settings(&server, tls);
            let settings = config.server.as_mut().unwrap();
            (settings.host, settings.tls_ca) = (host.to_string(), Some(authorities));
            let error = send(&config, "ada@example.org").await.unwrap_err();
            assert!(error.passing && !error.reached && error.reason.contains(word), "{error:?}");
        }
        assert_eq!(server.mails().len(), 1);
    }
}

/// Whoever sits in between could take STARTTLS out of what the server offers.
#[tokio::test]
async fn a_server_that_offers_no_starttls_gets_no_mail() {
    let server = Smtp::start();
    let folder = tempfile::tempdir().unwrap();
    let authorities: PathBuf = folder.path().join("ca.pem");
    fs::write(&authorities, smtp::authority("other").pem()).unwrap();
    let mut config = settings(&server, SmtpTls::StartTls);
    config.server.as_mut().unwrap().tls_ca = Some(authorities);
    let error = send(&config, "ada@example.org").await.unwrap_err();
    assert!(
        error.reason.contains("does not become encrypted (SMTP_TLS=starttls): STARTTLS is not supported"),
        "{error}"
    );
    assert!(error.passing && server.mails().is_empty(), "{error:?}");
}

#[tokio::test]
async fn a_login_is_given_and_a_wrong_one_is_told_without_it() {
    for (word, tls) in [("starttls", SmtpTls::StartTls), ("tls", SmtpTls::Tls), ("none", SmtpTls::None)] {
        let server = Smtp::start_with(word, Some(("floh", "guppytrout")));
        let config = settings(&server, tls);
        send(&with_login(config.clone(), "floh", "guppytrout"), "ada@example.org").await.unwrap();
        assert_eq!(server.wait_mails(1)[0]["login"], "floh");
        let error = send(&with_login(config, "floh", "herringbone"), "ada@example.org").await.unwrap_err();
        assert!(error.passing && !error.reached, "{error:?}");
        assert!(error.reason.contains("does not accept SMTP_USER and SMTP_PASSWORD: 535"), "{error}");
        assert!(!format!("{error:?}").contains("herringbone"), "{error:?}");
    }
}

#[tokio::test]
async fn what_the_server_says_of_a_message_is_final_or_may_pass() {
    let mut server = Smtp::start();
    let config = settings(&server, SmtpTls::None);
    for (stage, answer, passing, words) in [
        ("rcpt", "550 no such user here", false, "does not accept the recipient: 550 no such user here"),
        ("rcpt", "450 greylisted", true, "does not accept the recipient: 450 greylisted"),
        ("mail", "550 not you", false, "does not accept the sender of SMTP_FROM: 550 not you"),
        ("mail", "451 later", true, "does not accept the sender of SMTP_FROM: 451 later"),
        ("data", "554 spam", false, "does not accept the message: 554 spam"),
        ("data", "452 disk full", true, "does not accept the message: 452 disk full"),
    ] {
        server.rule(&json!({"stage": stage, "answer": answer}));
        let error = send(&config, "ada@example.org").await.unwrap_err();
        assert_eq!((error.passing, error.reached), (passing, true), "{error:?}");
        assert!(error.reason.starts_with("the mail server localhost:") && error.reason.contains(words), "{error}");
    }
    assert!(server.mails().is_empty());
    send(&config, "ada@example.org").await.unwrap();
}

#[tokio::test]
async fn a_message_whose_answer_was_lost_is_sent_again_under_its_id() {
    let mut server = Smtp::start();
    let config = settings(&server, SmtpTls::None);
    server.rule(&json!({"stage": "data", "drop": true}));
    let error = send(&config, "ada@example.org").await.unwrap_err();
    assert!(error.passing && error.reason.contains("broke off"), "{error:?}");
    send(&config, "ada@example.org").await.unwrap();
    let mails = server.wait_mails(2);
    assert_eq!(mails[0]["headers"]["message-id"], mails[1]["headers"]["message-id"]);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = SmtpServer {
        host: "127.0.0.1".into(),
        port: silent.local_addr().unwrap().port(),
        tls: SmtpTls::None,
        tls_ca: None,
        login: None,
    };
    let config = MailConfig { server: Some(server), from: Some(address::parse("floh@example.com").unwrap()) };
    let begun = Instant::now();
    let error = send(&config, "ada@example.org").await.unwrap_err();
    assert!(error.passing && error.reason.ends_with("did not answer within 30 s"), "{error:?}");
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
}

/// The environment of workers that send mail to this server.
fn environment(server: &Smtp) -> Vec<(String, String)> {
    let pairs = [
        ("SMTP_HOST", "127.0.0.1"),
        ("SMTP_PORT", &server.port().to_string()),
        ("SMTP_TLS", "none"),
        ("SMTP_FROM", "Floh <floh@example.com>"),
    ];
    pairs.map(|(name, value)| (name.to_string(), value.to_string())).to_vec()
}

/// A definition with one notification.
fn telling(config: &Value) -> Value {
    let retry = json!({"attempts": 4, "delay": 0.1, "backoff": "fixed"});
    let mut document =
        chain("telling", vec![json!({"id": "tell", "type": "notification", "retry": retry, "config": config})]);
    document["variables"] = json!([
        {"name": "employee", "type": "user"}, {"name": "items", "type": "array"}, {"name": "team", "type": "array"},
    ]);
    document
}

fn variables() -> Value {
    json!({
        "employee": {"id": "7", "email": "ada@example.org", "displayName": "Ada <ada>"},
        "items": [{"name": "Laptop"}, {"name": "{{employee.id}}"}],
        "team": ["bob@example.org", "ADA@example.org", {"id": "9", "email": "eve@example.org", "displayName": "Eve"}],
    })
}

/// With the people that [`variables`] name by id.
fn peopled() -> Fleet {
    let fleet = Fleet::start();
    fleet.sql(
        "INSERT INTO floh_worker.app_user (id, email, display_name)
            VALUES ('7', 'ada@example.org', 'Ada <ada>'), ('9', 'eve@example.org', 'Eve')",
    );
    fleet
}

/// Somebody with an address that mail does not take.
const JOERG: &str =
    "INSERT INTO floh_worker.app_user (id, email, display_name) VALUES ('11', 'jörg@example.org', 'Jörg')";

fn worker(fleet: &Fleet, server: &Smtp) -> crate::support::worker::Worker {
    let environment = environment(server);
    let environment: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    fleet.worker("1", &environment)
}

#[test]
fn a_step_sends_each_recipient_one_mail_out_of_its_templates() {
    let (fleet, server) = (peopled(), Smtp::start());
    let mut worker = worker(&fleet, &server);
    let definition = fleet.define(&telling(&json!({
        "to": ["{{employee}}", "{{team}}", "Bob <bob@example.org>"],
        "subject": "For {{recipient.displayName}}",
        "text": "{{#each items}}{{@index}}: {{name}}\n{{/each}}",
        "html": "<p>{{employee.displayName}}</p>",
    })));
    let run = fleet.start_run(&definition, &variables());
    fleet.wait_run(&run, "completed", LIMIT);
    let mut mails = server.wait_mails(3);
    assert_eq!(mails.len(), 3);
    mails.sort_by_key(|mail| mail["to"].to_string());
    let expected = [("ada", "For Ada <ada>"), ("bob", "For bob@example.org"), ("eve", "For Eve")];
    for (mail, (name, subject)) in mails.iter().zip(expected) {
        let to = format!("{name}@example.org");
        assert_eq!(mail["to"], json!([to]));
        assert_eq!(mail["headers"]["subject"], subject);
        assert_eq!(mail["headers"]["message-id"], smtp::message_id(&run, "tell", 1, &to));
        assert_eq!(mail["text"].as_str().unwrap().replace("\r\n", "\n").trim_end(), "0: Laptop\n1: {{employee.id}}");
        assert_eq!(mail["html"].as_str().unwrap().trim_end(), "<p>Ada &lt;ada&gt;</p>");
    }
    worker.stop();
}

#[test]
fn a_mail_server_that_is_away_fails_no_run_and_nobody_gets_a_mail_twice() {
    let (fleet, mut server) = (Fleet::start(), Smtp::start());
    let mut worker = worker(&fleet, &server);
    server.rule(&json!({"stage": "rcpt", "to": "bob@example.org", "answer": "451 later", "times": 2}));
    let config = json!({"to": ["ada@example.org", "bob@example.org", "eve@example.org"], "subject": "a", "text": "b"});
    let definition = fleet.define(&telling(&config));
    let run = fleet.start_run(&definition, &json!({}));
    fleet.wait_run(&run, "completed", LIMIT);
    let mut to: Vec<_> = server.mails().iter().map(|mail| mail["to"][0].as_str().unwrap().to_string()).collect();
    to.sort_unstable();
    assert_eq!(to, ["ada@example.org", "bob@example.org", "eve@example.org"]);
    let step = &fleet.steps(&run)[1];
    assert_eq!((step.attempt, step.result["sent"].as_array().unwrap().len()), (3, 3), "{step:?}");
    worker.stop();
}

/// The answer to Bob's mail is lost, and until the next try the list is another one: his second mail is the same to whoever
/// compares, and who has got hers gets none under another spelling of her address.
#[test]
fn a_list_that_changes_between_two_tries_changes_nobodys_message_id() {
    let (fleet, mut server) = (Fleet::start(), Smtp::start());
    let mut worker = worker(&fleet, &server);
    server.rule(&json!({"stage": "data", "to": "bob@example.org", "drop": true}));
    let mut document = telling(&json!({"to": ["{{team}}"], "subject": "a", "text": "b"}));
    document["steps"][1]["retry"]["delay"] = json!("1h");
    let run = fleet.start_run(&fleet.define(&document), &json!({"team": ["eve@example.org", "bob@example.org"]}));
    fleet.wait_at(&run, "tell", LIMIT);
    assert_eq!(fleet.steps(&run)[1].result, json!({"sent": ["eve@example.org"]}));
    fleet.sql(&format!(
        r#"UPDATE floh_worker.workflow_run SET variables =
            '{{"team": ["ada@example.org", "EVE@example.org", "Bob@example.org", "bob@example.org"]}}' WHERE id = '{run}'"#
    ));
    fleet.sql(&format!(
        "UPDATE floh_worker.workflow_step SET due_at = now() WHERE run_id = '{run}' AND step_id = 'tell'"
    ));
    fleet.sql(&format!("SELECT floh_worker.wake_run('{run}')"));
    fleet.wait_run(&run, "completed", LIMIT);
    let mut mails: Vec<(String, String)> = server
        .wait_mails(4)
        .iter()
        .map(|mail| (mail["to"][0].as_str().unwrap().to_lowercase(), mail["headers"]["message-id"].to_string()))
        .collect();
    mails.sort_unstable();
    let expected = ["ada", "bob", "bob", "eve"].map(|name| {
        let to = format!("{name}@example.org");
        let id = smtp::message_id(&run, "tell", 1, &to);
        (to, json!(id).to_string())
    });
    assert_eq!(mails, expected);
    worker.stop();
}

#[test]
fn what_cannot_be_sent_fails_the_step_with_a_sentence() {
    let (fleet, mut server) = (peopled(), Smtp::start());
    fleet.sql(JOERG);
    let mut worker = worker(&fleet, &server);
    server.rule(&json!({"stage": "rcpt", "to": "bob@example.org", "answer": "550 no such user", "times": 9}));
    for (to, text, words) in [
        (
            json!(["bob@example.org", "eve@example.org"]),
            "a",
            "not every mail was sent: bob@example.org: the mail server",
        ),
        (json!(["{{employee.manager}}"]), "a", "a person is named by id or address"),
        (json!(["{{employee.boss}}"]), "a", "`employee.boss` has no value"),
        (json!(["{{employee}}"]), "Dear\n{{employee.nickname}}", "`text`, line 2: `employee.nickname` has no value"),
        (json!(["eve@example.org", "ä@example.org"]), "a", "`to`: \"ä@example.org\" has letters beyond ASCII"),
        (json!(["eve@example.org", "11"]), "a", "`to`: \"jörg@example.org\" has letters beyond ASCII"),
    ] {
        let mut document = telling(&json!({"to": to, "subject": "a", "text": text}));
        document["name"] = json!(words);
        let run = fleet.start_run(&fleet.define(&document), &variables());
        let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
        assert!(reason.starts_with("step `tell`: ") && reason.contains(words), "{reason}");
    }
    assert_eq!(server.wait_mails(1)[0]["to"], json!(["eve@example.org"]), "the others get theirs");
    assert_eq!(server.mails().len(), 1);
    worker.stop();
}

#[test]
fn without_a_mail_server_the_step_names_the_variable() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let definition = fleet.define(&telling(&json!({"to": ["ada@example.org"], "subject": "a", "text": "b"})));
    let run = fleet.start_run(&definition, &json!({}));
    let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    assert_eq!(reason, "step `tell`: no mail can be sent: SMTP_HOST is not set");
    worker.stop();
}

#[test]
fn in_the_application_each_person_is_told_once() {
    let fleet = peopled();
    let mut worker = fleet.worker("1", &[]);
    let definition = fleet.define(&telling(&json!({
        "channel": "inApp", "to": ["{{employee}}", "{{team}}"], "subject": "For\n{{recipient.displayName}}",
        "text": "{{items.length}} items", "link": "/people/{{employee.id}}",
    })));
    let run = fleet.start_run(&definition, &variables());
    fleet.wait_run(&run, "completed", LIMIT);
    let rows = fleet.sql(&format!(
        "SELECT coalesce(user_id, '-'), coalesce(email, '-'), step_id, visit, kind, title, body, link, read_at IS NULL
            FROM floh_worker.notification WHERE run_id = '{run}' ORDER BY user_id"
    ));
    let rows: Vec<String> = rows
        .iter()
        .map(|row| row.iter().map(|cell| cell.as_deref().unwrap_or_default()).collect::<Vec<_>>().join("|"))
        .collect();
    assert_eq!(
        rows,
        [
            "7|-|tell|1|notification|For Ada <ada>|2 items|/people/7|t",
            "9|-|tell|1|notification|For Eve|2 items|/people/7|t",
            "-|bob@example.org|tell|1|notification|For bob@example.org|2 items|/people/7|t",
        ]
    );
    // The same visit says the same thing once, and a run takes what it said with it.
    let again = format!(
        "INSERT INTO floh_worker.notification (user_id, run_id, step_id, visit, title) VALUES ('7', '{run}', 'tell', 1, 'x')
            ON CONFLICT DO NOTHING RETURNING id"
    );
    assert!(fleet.sql(&again).is_empty());
    fleet.sql(&format!("DELETE FROM floh_worker.workflow_run WHERE id = '{run}'"));
    assert_eq!(fleet.sql("SELECT count(*) FROM floh_worker.notification")[0][0].as_deref(), Some("0"));
    worker.stop();
}

/// Tells them something in the application: who has been told, and by which name.
fn told_in_app(fleet: &Fleet, to: &Value) -> Vec<String> {
    let config = json!({"channel": "inApp", "to": to, "subject": "For {{recipient.displayName}}", "text": "a"});
    let run = fleet.start_run(&fleet.define(&telling(&config)), &variables());
    fleet.wait_run(&run, "completed", LIMIT);
    rows(
        fleet,
        &format!("SELECT user_id, email, title FROM notification WHERE run_id = '{run}' ORDER BY user_id, email"),
    )
}

#[test]
fn a_name_in_front_of_an_address_makes_nobody_a_stranger() {
    let fleet = peopled();
    let mut worker = fleet.worker("1", &[]);
    let to = json!(["Somebody <ADA@example.org>", "7", "Eve<eve@example.org>", "\"Builder, Bob\" <bob@example.org>"]);
    let expected = ["7 - For Ada <ada>", "9 - For Eve", "- bob@example.org For Builder, Bob"];
    assert_eq!(told_in_app(&fleet, &to), expected);
    worker.stop();
}

/// By mail the step fails; in the application nobody needs an address that mail takes.
#[test]
fn an_address_that_mail_does_not_take_is_told_in_the_application() {
    let fleet = peopled();
    fleet.sql(JOERG);
    let mut worker = fleet.worker("1", &[]);
    let to = json!(["11", "J <jörg@example.org>", "ä@example.net", "Åsa <åsa@example.net>"]);
    let expected = ["11 - For Jörg", "- ä@example.net For ä@example.net", "- åsa@example.net For Åsa"];
    let mut told = told_in_app(&fleet, &to);
    told.sort_by_key(|row| expected.iter().position(|one| one == row));
    assert_eq!(told, expected);
    worker.stop();
}
