//! Every example of docs/workflows.md, run to its end by a real worker with a mail server and an HTTP server: people are there,
//! questions are answered and approvals decided by plain SQL, and what has to wait for days is moved in time.

use crate::{
    support::{
        Fleet,
        http::HttpServer,
        runs::{RunRow, StepRow, chain, quote},
        smtp::Smtp,
        wait_for,
    },
    workflow::{DOCUMENT, around, examples},
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs, time::Duration};

const LIMIT: Duration = Duration::from_secs(120);
const SECONDS_OF_A_DAY: f64 = 86400.0;

/// An example, and the run of it.
struct Example {
    step: Value,
    person: String,
    run: String,
}

fn rows(fleet: &Fleet, query: &str) -> Vec<Vec<Option<String>>> {
    fleet.sql(&format!("SET search_path = floh_worker; {query}"))
}

/// The first column.
fn column(fleet: &Fleet, query: &str) -> Vec<String> {
    rows(fleet, query).into_iter().filter_map(|mut row| row.swap_remove(0)).collect()
}

/// The connector that the document shows, of this server: its base is below a path that does what is asked once for each key.
fn import_directory(fleet: &Fleet, http: &HttpServer) {
    let block = DOCUMENT.split_once("makes of a JSON file:\n\n").unwrap().1.split("\n\n").next().unwrap();
    assert!(block.lines().all(|line| line.starts_with("    ")), "{block}");
    let mut connector: Value = serde_json::from_str(block).unwrap();
    connector["config"]["baseUrl"] = json!(http.url("/effects/"));
    connector["config"]["auth"]["token"] = json!("a token");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("directory.json");
    fs::write(&file, connector.to_string()).unwrap();
    let done = fleet.flohctl(&["connector", "import", file.to_str().unwrap()]);
    assert_eq!((done.status.code(), done.stdout.as_str()), (Some(0), "added directory\n"), "{}", done.stderr);
}

/// A person for each example, because some of them change theirs: in Sales since 2019, with Max as manager.
fn person(fleet: &Fleet, number: usize) -> String {
    let id = format!("u-{number}");
    let attributes = r#"{"department": "Sales", "since": "2019-04-01"}"#;
    rows(
        fleet,
        &format!(
            "INSERT INTO app_user (id, email, display_name, manager_id, attributes)
                VALUES ('{id}', 'p{number}@example.org', 'P{number}', 'u-max', '{attributes}')"
        ),
    );
    id
}

fn start(fleet: &Fleet, mut definition: Value, number: usize, person: &str) -> String {
    definition["name"] = json!(format!("example {number}"));
    let definition = fleet.define(&definition);
    let mut variables = json!({ "employee": person });
    if number > 0 {
        variables["items"] = json!([{"name": "a desk"}]);
    }
    let variables = quote(&variables.to_string());
    let sql = format!(
        "INSERT INTO workflow_run (definition_id, submitter_id, variables) VALUES ('{definition}', 'u-max', {variables}) RETURNING id"
    );
    column(fleet, &sql).remove(0)
}

/// Something of a field's type that its options allow.
fn fill(field: &Value) -> Value {
    if let Some(option) = field["options"].as_array().and_then(|options| options.first()) {
        return option.clone();
    }
    match field["type"].as_str().unwrap_or("string") {
        "number" => json!(3),
        "boolean" => json!(true),
        "date" => json!("2200-01-31"),
        "user" => json!("max@example.org"),
        "object" => json!({"pages": 2}),
        "array" => json!([]),
        _ => json!("folder://it"),
    }
}

/// Decides and answers, for each run, one thing that it waits for.
fn answer(fleet: &Fleet) {
    // One that is being reminded of at the moment when others settle its step stays pending for a moment more.
    let approvals = "SELECT DISTINCT ON (run_id) id FROM approval WHERE status = 'pending' AND
        is_to_be_decided(run_id, step_id, visit) AND approval_outcome(run_id, step_id, visit) IS NULL";
    for id in column(fleet, approvals) {
        rows(fleet, &format!("UPDATE approval SET status = 'approved', decided_by = 'u-max' WHERE id = '{id}'"));
    }
    let questions = "SELECT DISTINCT ON (run_id) id, kind, fields FROM question WHERE status = 'pending' AND
        is_to_be_answered(run_id, step_id, visit)";
    for question in rows(fleet, questions) {
        let [Some(id), Some(kind), Some(fields)] = &question[..] else { panic!("{question:?}") };
        let set = match kind.as_str() {
            "prompt" | "document" => {
                let fields: Vec<Value> = serde_json::from_str(fields).unwrap();
                let values = fields.iter().map(|field| (field["name"].as_str().unwrap().to_string(), fill(field)));
                let values = quote(&Value::Object(values.collect::<Map<_, _>>()).to_string());
                format!("status = 'answered', answer = {values}")
            }
            _ => "status = 'approved'".to_string(),
        };
        rows(fleet, &format!("UPDATE question SET {set}, answered_by = 'u-max' WHERE id = '{id}'"));
    }
}

/// Ends the waits that are longer than an hour; notes how many days each run was to wait.
fn pass_time(fleet: &Fleet, waited: &mut BTreeMap<String, f64>) {
    let long = "WITH long AS (SELECT run_id, step_id, visit, extract(epoch FROM due_at - started_at) AS seconds
            FROM workflow_step WHERE type = 'connector' AND status = 'waiting_response' AND due_at > now() + interval '1 hour')
        UPDATE workflow_step s SET result = jsonb_set(s.result, '{until}', to_jsonb(now())) FROM long
            WHERE (s.run_id, s.step_id, s.visit) = (long.run_id, long.step_id, long.visit)
                AND (s.result ->> 'until')::timestamptz > now() + interval '1 hour'
            RETURNING s.run_id, long.seconds";
    for row in rows(fleet, long) {
        let [Some(run), Some(seconds)] = &row[..] else { panic!("{row:?}") };
        waited.insert(run.clone(), seconds.parse::<f64>().unwrap() / SECONDS_OF_A_DAY);
        rows(fleet, &format!("SELECT wake_run('{run}')"));
    }
}

#[test]
fn every_example_of_the_document_runs_to_its_end() {
    let (fleet, smtp, http) = (Fleet::start(), Smtp::start(), HttpServer::start());
    rows(
        &fleet,
        "INSERT INTO app_user (id, email, display_name) VALUES ('u-max', 'max@example.org', 'Max');
        INSERT INTO role (id, name) VALUES ('r-vpn', 'vpn'), ('r-employee', 'employee')",
    );
    import_directory(&fleet, &http);
    let port = smtp.port().to_string();
    let settings = [
        ("SMTP_HOST", "127.0.0.1"),
        ("SMTP_PORT", port.as_str()),
        ("SMTP_TLS", "none"),
        ("SMTP_FROM", "floh@example.com"),
        ("CONNECTOR_ALLOWED_HOSTS", "localhost"),
        ("WORKER_CONCURRENCY", "4"),
    ];
    let mut worker = fleet.worker("1", &settings);

    let mut all = Vec::new();
    for (number, mut step) in examples().into_iter().enumerate() {
        let person = person(&fleet, number);
        if step["type"] == "role_revoke" {
            rows(&fleet, &format!("INSERT INTO role_assignment (user_id, role_id) VALUES ('{person}', 'r-vpn')"));
        }
        if let Some(Value::String(url)) = step.pointer_mut("/config/params/url") {
            // The host is somebody else's.
            *url = url.replace("https://hooks.example.org", &http.url(""));
        }
        let definition = if number == 0 { step.clone() } else { around(step.clone()) };
        let run = start(&fleet, definition, number, &person);
        all.push(Example { step, person, run });
    }
    let mut waited = BTreeMap::new();
    let open = "SELECT r.id, r.status, d.name, r.current_step FROM workflow_run r JOIN workflow_definition d ON d.id = r.definition_id
        WHERE r.status IN ('pending', 'running', 'waiting')";
    let end = std::time::Instant::now() + LIMIT;
    wait_for("every run ends", LIMIT + Duration::from_secs(5), || {
        answer(&fleet);
        pass_time(&fleet, &mut waited);
        let open = rows(&fleet, open);
        assert!(std::time::Instant::now() < end, "not within {LIMIT:?}: {open:?}\n{}", worker.log());
        open.is_empty().then_some(())
    });
    let whole = all.remove(0);
    assert_eq!(fleet.run(&whole.run).status, "completed");
    assert_eq!(assignments(&fleet, &whole.person), ["employee active"]);
    for example in &all {
        let (run, steps) = (fleet.run(&example.run), fleet.steps(&example.run));
        check_end(example, &run, &steps[1]);
        check_effects(&fleet, &smtp, &http, example, &run, &steps[1]);
    }
    // Those that wait for long do it, and the others do not.
    let days: Vec<f64> = waited.into_values().map(f64::round).collect();
    assert_eq!(days, [14.0]);
    worker.stop();
}

/// The step came to what it is for, and not to an edge for failures.
fn check_end(example: &Example, run: &RunRow, step: &StepRow) {
    let Example { step: shown, .. } = example;
    let kind = shown["type"].as_str().unwrap();
    let outcome = match kind {
        "end" => {
            let reason = run.reason.as_deref().unwrap();
            assert!(run.status == "failed" && reason.ends_with(" has no manager"), "{run:?}");
            return;
        }
        "condition" => "false",
        "case" => "sales",
        "approval" | "consent" => "approved",
        "notification" if !shown["config"]["acceptance"].is_null() => "approved",
        _ => "success",
    };
    assert_eq!(step.outcome.as_deref(), Some(outcome), "{shown}: {step:?}");
    assert_eq!((run.status.as_str(), step.attempt), ("completed", 1), "{shown}: {step:?}");
    assert!(step.reason.is_none(), "{shown}: {step:?}");
}

/// What it is for is there: variables, and rows, mails and calls.
fn check_effects(fleet: &Fleet, smtp: &Smtp, http: &HttpServer, example: &Example, run: &RunRow, step: &StepRow) {
    let Example { step: shown, person, run: id } = example;
    let (config, variables) = (&shown["config"], &run.variables);
    let email = variables["employee"]["email"].as_str().unwrap();
    let of = |name: &str| variables[name].clone();
    match shown["type"].as_str().unwrap() {
        "transform" if config["outputs"] == json!(["account"]) => {
            assert_eq!(of("account"), email.split('@').next().unwrap());
        }
        "transform" => assert!(of("manager") == "max@example.org" && of("days").is_i64(), "{variables}"),
        "connector" if config["connectorId"] == "directory" => {
            let done = &http.effects()[format!("{id}/step/1")];
            assert_eq!((&done["mail"], &done["id"]), (&json!(email), &of("directoryId")), "{done}");
        }
        "connector" if config["connectorId"] == "http" => {
            assert_eq!((of("ticket"), &step.result["data"]["status"]), (json!("T-1"), &json!(202)));
        }
        "connector" => assert!(step.result["data"]["until"].is_string(), "{step:?}"),
        "notification" => {
            let mine =
                |mail: &Value| mail["headers"]["message-id"].as_str().unwrap().starts_with(&format!("<{id}.step.1."));
            let count = smtp.mails().into_iter().filter(mine).count();
            assert_eq!(count, config["to"].as_array().unwrap().len(), "{shown}");
        }
        "approval" => assert_eq!(of("decision")["decisions"].as_array().unwrap().len(), 2, "{variables}"),
        "user_prompt" => assert_eq!((of("floor"), &of("buddy")["id"]), (json!(1), &json!("u-max"))),
        "document_submission" => {
            assert_eq!((&of("nda")["status"], &of("nda")["reviewedBy"]), (&json!("approved"), &json!("u-max")));
        }
        "role_grant" => assert_eq!(assignments(fleet, person), ["vpn active"]),
        "role_revoke" => assert_eq!(assignments(fleet, person), ["vpn revoked"]),
        "user_create" => {
            assert_eq!((&of("account")["floor"], &of("account")["manager"]["id"]), (&json!(2), &json!("u-max")))
        }
        "profile_update" => assert_eq!(of("employee")["status"], "disabled"),
        "consent" => {
            let sql = format!("SELECT action FROM audit_log WHERE actor_id = '{id}'");
            assert_eq!(column(fleet, &sql), ["consent.given"]);
        }
        "end" | "condition" | "case" => {}
        other => panic!("what an example of `{other}` is for is not looked at"),
    }
}

/// The roles that somebody has, or had.
fn assignments(fleet: &Fleet, person: &str) -> Vec<String> {
    let sql = "SELECT r.name || ' ' || a.status FROM role_assignment a JOIN role r ON r.id = a.role_id WHERE a.user_id";
    column(fleet, &format!("{sql} = '{person}'"))
}

/// The table takes no document without a type, and what a template makes of it is known before anybody is asked.
#[test]
fn a_document_of_no_type_is_not_asked_for() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let config = json!({"assignee": "ada@example.org", "documentType": "{{kind}}"});
    let mut definition = chain("untyped", vec![json!({"id": "nda", "type": "document_submission", "config": config})]);
    definition["variables"] = json!([{"name": "kind", "type": "string"}]);
    let definition = fleet.define(&definition);
    for kind in [json!(""), json!(" "), Value::Null] {
        let run = fleet.start_run(&definition, &json!({"kind": kind}));
        let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
        assert_eq!(reason, "step `nda`: `documentType` comes to nothing, and has to be a text", "{kind}");
    }
    assert_eq!(column(&fleet, "SELECT count(*) FROM question"), ["0"]);
    worker.stop();
}
