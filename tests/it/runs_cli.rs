//! `flohctl workflow` and `flohctl run`, as an operator uses them, with real workers.

use crate::support::{Fleet, child::Finished, runs::chain, wait_for};
use serde_json::{Value, json};
use std::{fs, io::Write, net::TcpListener, path::PathBuf, time::Duration};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// What a command that went well has said.
fn said(done: &Finished) -> String {
    assert_eq!(done.status.code(), Some(0), "{}{}", done.stdout, done.stderr);
    done.stdout.trim_end().to_string()
}

/// The one sentence of a command that ended with `code`.
fn refused(done: &Finished, code: i32) -> String {
    assert_eq!(done.status.code(), Some(code), "{}{}", done.stdout, done.stderr);
    let said = format!("{}{}", done.stdout, done.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    said.trim_end().to_string()
}

/// Files with definitions.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, document: &Value) -> String {
        let path: PathBuf = self.0.path().join(name);
        fs::write(&path, document.to_string()).unwrap();
        path.to_str().unwrap().to_string()
    }
}

/// Compares `n`, which has to be there, and waits for an hour if it is great.
fn visit() -> Value {
    let edge = |on: &str, to: &str| json!({"on": on, "to": to});
    let wait = json!({"connectorId": "delay", "command": "wait", "params": {"duration": "1h"}});
    json!({
        "name": "visit",
        "category": "tests",
        "variables": [
            {"name": "who", "type": "string", "required": true},
            {"name": "n", "type": "object"},
            {"name": "apiKey", "type": "string"},
        ],
        "steps": [
            {"id": "start", "type": "start", "transitions": [edge("success", "great")]},
            {"id": "great", "name": "Is it great?", "type": "condition", "config": {"if": {"variable": "n.size", "greaterThan": 5}},
             "transitions": [edge("true", "wait"), edge("false", "end")]},
            {"id": "wait", "type": "connector", "config": wait, "transitions": [edge("success", "end")]},
            {"id": "end", "type": "end"},
        ],
    })
}

#[test]
fn definitions_are_imported_published_listed_and_drawn() {
    let fleet = Fleet::start();
    let files = Files::new();
    let file = files.write("visit.json", &visit());
    let workflow = |arguments: &[&str]| fleet.flohctl(&[&["workflow"], arguments].concat());
    assert_eq!(said(&workflow(&["list"])), "there are no workflow definitions");
    assert_eq!(said(&workflow(&["import", &file])), "visit@1 is a new draft");
    assert_eq!(said(&workflow(&["import", &file])), "visit@1 is the same draft already");
    assert_eq!(said(&workflow(&["validate", "visit"])), "visit: the definition can be published");
    assert_eq!(said(&workflow(&["publish", "visit"])), "visit@1 is active from now on");
    assert_eq!(said(&workflow(&["publish", "visit@1"])), "visit@1 is active already");
    assert_eq!(said(&workflow(&["import", &file])), "visit@1 is the same already, and active");

    // A second version, and back.
    let mut second = visit();
    second["description"] = json!("another one");
    let second = files.write("second.json", &second);
    let published = said(&workflow(&["publish", &second]));
    assert_eq!(published, "visit@2 is a new draft\nvisit@2 is active from now on, in place of version 1");
    assert_eq!(said(&workflow(&["publish", "visit@1"])), "visit@1 is active from now on, in place of version 2");
    let why = refused(&workflow(&["publish", "visit"]), 1);
    assert!(why.contains("has no draft") && why.contains("visit@2"), "{why}");
    let list = said(&workflow(&["list"]));
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("visit@2  deprecated  published 20") && lines[0].ends_with("UTC  (tests)"), "{list}");
    assert!(lines[1].starts_with("visit@1  active  published 20") && lines.len() == 2, "{list}");
    assert_eq!(said(&workflow(&["list", "visits"])), "there is no workflow definition `visits`");
    let drawn = said(&workflow(&["show", "visit"]));
    for line in [
        "visit@1, active",
        "visit (tests)",
        "  who: string, required",
        "great  condition  Is it great?",
        "  ├─ true → wait",
    ] {
        assert!(drawn.lines().any(|one| one == line), "{line}\n{drawn}");
    }

    // What cannot be published is neither stored nor published.
    let mut wrong = visit();
    wrong["steps"][2]["type"] = json!("verify_contact");
    let wrong_file = files.write("wrong.json", &wrong);
    for command in ["import", "publish"] {
        let done = workflow(&[command, &wrong_file]);
        assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
        assert!(
            done.stderr.contains("UNSUPPORTED_TYPE at steps[2].type: steps of type `verify_contact`"),
            "{}",
            done.stderr
        );
    }
    assert_eq!(said(&workflow(&["list"])).lines().count(), 2);
    fleet.sql(&format!(
        "INSERT INTO floh_worker.workflow_definition (name, version, definition) VALUES ('visit', 3, '{wrong}')"
    ));
    let done = workflow(&["publish", "visit"]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    assert!(done.stderr.ends_with("visit@3: the definition cannot be published as it is\n"), "{}", done.stderr);
    assert_eq!(workflow(&["validate", "visit"]).status.code(), Some(1));

    for arguments in [&["publish", "visit@9"][..], &["show", "visits"], &["validate", "visits"]] {
        let why = refused(&workflow(arguments), 1);
        assert!(why.starts_with("flohctl: there is no workflow definition `visit"), "{why}");
    }
    let mut named = visit();
    named["name"] = json!("visit@3");
    let done = workflow(&["import", &files.write("named.json", &named)]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    let why = "error BAD_NAME at name: `visit@3`: a definition is not called like a version";
    assert!(done.stderr.contains(why), "{}", done.stderr);
    refused(&workflow(&["import", "/nonexistent.json"]), 78);
}

#[test]
fn a_run_is_started_shown_cancelled_and_tried_again() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let files = Files::new();
    said(&fleet.flohctl(&["workflow", "publish", &files.write("visit.json", &visit())]));
    let run = |arguments: &[&str]| fleet.flohctl(&[&["run"], arguments].concat());

    // Variables: from a file, and over it from the command line.
    let variables = files.write("variables.json", &json!({"who": "ada", "n": {"size": 1}, "apiKey": "geheim"}));
    let started =
        run(&["start", "visit", "--variables", &variables, "--var", "who=007", "--submitter", "u-17", "--mocks"]);
    let id = said(&started);
    let row = fleet.wait_run(&id, "completed", LIMIT);
    assert_eq!((&row.variables["who"], &row.variables["submitter"]["id"]), (&json!("007"), &json!("u-17")));
    let shown = said(&run(&["show", &id[..8]]));
    let mut lines = shown.lines();
    assert_eq!(lines.next(), Some(format!("run {id}: visit@1, completed").as_str()));
    assert!(lines.next().unwrap().ends_with("UTC by u-17, with mocks for connectors"), "{shown}");
    for words in [["1  start  start      success  ", "took"], ["2  great  condition  false    ", "took"]] {
        assert!(shown.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}\n{shown}");
    }
    assert!(shown.contains("apiKey = \"***\"") && !shown.contains("geheim"), "{shown}");
    let shown: Value = serde_json::from_str(&said(&run(&["show", &id, "--json"]))).unwrap();
    assert_eq!((&shown["id"], &shown["status"], &shown["useMocks"]), (&json!(id), &json!("completed"), &json!(true)));
    assert_eq!((&shown["steps"][1]["outcome"], &shown["variables"]["apiKey"]), (&json!("false"), &json!("***")));

    // One that waits is cancelled at once.
    let waiting = said(&run(&["start", "visit", "--var", "who=bob", "--var", "n={\"size\": 9}"]));
    fleet.wait_at(&waiting, "wait", LIMIT);
    let shown = said(&run(&["show", &waiting]));
    assert!(shown.contains("visit@1, waiting\n") && shown.contains("\n  next wake-up 20"), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("3  wait ") && line.contains(", until 20")), "{shown}");
    assert_eq!(said(&run(&["cancel", &waiting, "--reason", "withdrawn"])), format!("run {waiting} is cancelled"));
    assert_eq!(fleet.run(&waiting).reason.as_deref(), Some("withdrawn"));
    assert!(refused(&run(&["cancel", &waiting]), 1).ends_with("it was cancelled before"));
    assert!(refused(&run(&["retry", &waiting]), 1).contains("because it has not failed"));

    // One that fails goes on where it failed, once somebody has seen to it.
    let failing = said(&run(&["start", "visit", "--var", "who=eve", "--var", "n={}"]));
    fleet.wait_run(&failing, "failed", LIMIT);
    let shown = said(&run(&["show", &failing]));
    assert!(shown.contains("n.size") && shown.contains("2  great  condition  failed"), "{shown}");
    fleet.sql(&format!(
        "UPDATE floh_worker.workflow_run SET variables = variables || '{{\"n\": {{\"size\": 2}}}}' WHERE id = '{failing}'"
    ));
    assert_eq!(said(&run(&["retry", &failing])), format!("run {failing} goes on at the step great"));
    fleet.wait_run(&failing, "completed", LIMIT);
    assert!(said(&run(&["show", &failing])).contains("great (2)"));

    let list = said(&run(&["list"]));
    let ids: Vec<&str> = list.lines().map(|line| &line[..36]).collect();
    assert_eq!(ids, [failing.as_str(), &waiting, &id], "the latest first");
    assert_eq!(said(&run(&["list", "--status", "cancelled"])).lines().count(), 1);
    assert!(said(&run(&["list", "--status", "cancelled"])).ends_with("withdrawn"));
    assert_eq!(said(&run(&["list", "--definition", "visit", "--limit", "2"])).lines().count(), 2);
    assert_eq!(said(&run(&["list", "--definition", "visit@2"])), "there are no such runs");
    let listed: Value = serde_json::from_str(&said(&run(&["list", "--json", "--status", "failed"]))).unwrap();
    assert_eq!(listed, json!([]));
    worker.stop();

    // Nobody is there to cancel it: it will be.
    let pending = said(&run(&["start", "visit", "--var", "who=bob"]));
    let asked = said(&run(&["cancel", &pending]));
    assert_eq!(
        asked,
        format!("run {pending} is asked to be cancelled: it ends when a worker takes it; none has done so yet")
    );
    assert!(said(&run(&["show", &pending])).contains("visit@1, pending (to be cancelled)"));
    let _worker = fleet.worker("2", &[]);
    assert_eq!(fleet.wait_run(&pending, "cancelled", LIMIT).reason.as_deref(), Some("cancelled"));
}

/// Its first call fails, and its second one hangs.
#[test]
fn a_step_is_to_be_tried_again_until_it_is_tried() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[("CONNECTOR_ALLOWED_HOSTS", "localhost")]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let params = json!({"url": format!("http://localhost:{}/", listener.local_addr().unwrap().port())});
    let call = json!({"id": "call", "type": "connector", "retry": {"attempts": 2, "delay": "1h"},
        "config": {"connectorId": "http", "command": "request", "params": params}});
    let run = fleet.start_run(&fleet.define(&chain("calling", vec![call])), &json!({}));
    listener.set_nonblocking(true).unwrap();
    let called = || wait_for("a call", LIMIT, || listener.accept().ok()).0;
    let mut first = called();
    first.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    fleet.wait_at(&run, "call", LIMIT);
    let line = || {
        let shown = said(&fleet.flohctl(&["run", "show", &run]));
        shown.lines().find(|line| line.starts_with("2  call ")).expect(&shown).to_string()
    };
    assert!(line().contains("  to be tried again, try 2  ") && line().contains(", until 20"), "{}", line());
    let now = "UPDATE floh_worker.workflow_step SET due_at = now()";
    fleet.sql(&format!("{now} WHERE run_id = '{run}' AND step_id = 'call'"));
    fleet.sql(&format!("SELECT floh_worker.wake_run('{run}')"));
    let second = called();
    assert!(line().contains("  trying again, try 2  ") && !line().contains("until"), "{}", line());
    drop(second);
    fleet.wait_run(&run, "failed", LIMIT);
    assert!(line().contains("  failed, try 2  "), "{}", line());
    worker.stop();
}

#[test]
fn what_is_asked_wrongly_is_refused_in_a_sentence() {
    let fleet = Fleet::start();
    let files = Files::new();
    let run = |arguments: &[&str]| fleet.flohctl(&[&["run"], arguments].concat());
    said(&fleet.flohctl(&["workflow", "import", &files.write("visit.json", &visit())]));
    for (arguments, code, words) in [
        (&["start", "visits"][..], 1, "there is no workflow definition `visits`"),
        (&["start", "visit"], 1, "version 1 of the workflow definition `visit` is a draft; publish it first"),
        (&["start", "visit@1", "--var", "who=a"], 1, "is a draft"),
        (&["start", "visit@2"], 1, "there is no workflow definition `visit@2`"),
        (&["start", "visit", "--variables", "/nonexistent"], 1, "is a draft"),
        (&["show", "6f1c0"], 64, "`6f1c0` is no run: its id is meant, or the first 6"),
        (&["show", "not-a-run"], 64, "`not-a-run` is no run"),
        (&["cancel", "6f1c0d"], 1, "there is no run 6f1c0d of this engine"),
        (&["retry", "6f1c0d3a-0000-0000-0000-000000000000"], 1, "there is no run 6f1c0d3a-0000"),
    ] {
        let why = refused(&run(arguments), code);
        assert!(why.contains(words), "{arguments:?}: {why}");
    }
    said(&fleet.flohctl(&["workflow", "publish", "visit"]));
    for (arguments, code, words) in [
        (&["start", "visit"][..], 1, "visit: the variable `who` (string) is required"),
        (
            &["start", "visit", "--var", "who=a", "--var", "n=5"],
            1,
            "the variable `n` is of type object, and here is a number",
        ),
        (&["start", "visit", "--var", "who=a", "--var", "m=5"], 1, "declares no variable `m`: it has who, n, apiKey"),
        (&["start", "visit", "--variables", "/nonexistent"], 78, "/nonexistent: No such file"),
        (&["start", "visit", "--variables", "/proc/version"], 78, "/proc/version: it is not JSON"),
    ] {
        let why = refused(&run(arguments), code);
        assert!(why.contains(words), "{arguments:?}: {why}");
    }
    assert_eq!(run(&["start", "visit", "--var", "who"]).status.code(), Some(64));
    assert_eq!(run(&["list", "--status", "lost"]).status.code(), Some(64));
    assert_eq!(said(&run(&["list"])), "there are no such runs");
    // Two that begin alike, and one of another engine.
    fleet.sql(
        "INSERT INTO floh_worker.workflow_run (id, definition_id, engine, held_back) SELECT new.id::uuid, d.id, new.engine, true
            FROM floh_worker.workflow_definition d, (VALUES ('6f1c0d3a-1111-0000-0000-000000000000', 'floh-worker'),
                ('6f1c0d3a-2222-0000-0000-000000000000', 'floh-worker'),
                ('6f1c0d3b-0000-0000-0000-000000000000', 'other')) AS new (id, engine)",
    );
    assert!(refused(&run(&["show", "6f1c0d"]), 1).contains("several runs begin with 6f1c0d"));
    assert!(said(&run(&["show", "6f1c0d3a-1"])).contains("visit@1, pending (held back)"));
    assert!(refused(&run(&["cancel", "6f1c0d3b"]), 1).contains("there is no run 6f1c0d3b of this engine"));
}

#[test]
fn the_status_line_names_the_run_and_its_step() {
    let fleet = Fleet::start();
    let worker = fleet.worker("1", &[]);
    let spin = json!({"id": "spin", "type": "transform", "config": {"code": "for (;;) {}", "outputs": ["never"]},
        "retry": {"attempts": 5, "delay": "1s"}});
    let definition = fleet.define(&chain("spinning", vec![spin]));
    let run = fleet.start_run(&definition, &json!({}));
    let words = format!(" (run {}…, step spin)", &run[..8]);
    wait_for("the status", LIMIT, || {
        worker.status().filter(|status| status.starts_with("resume-run resume-") && status.contains(&words))
    });
}
