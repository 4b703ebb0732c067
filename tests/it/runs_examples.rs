//! The definitions of docs/examples, each run end to end as an installation does: imported and published with flohctl, started
//! by a schedule, by flohctl or by a job from npm, executed by a worker with a real mail server and a real HTTP server, and
//! decided by plain SQL or by flohctl.

use crate::support::{
    Fleet,
    child::Finished,
    http::HttpServer,
    runs::{RunRow, quote},
    smtp::{self, Smtp},
    wait_for,
    worker::Worker,
};
use chrono::{Duration as Days, SecondsFormat, Utc};
use floh_worker::engine::validate;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);

/// Those whom the definitions are about: Lin, her manager Mo, Rae who reviews, and Hanna who starts the runs.
const PEOPLE: &str = r#"
    INSERT INTO app_user (id, email, display_name, manager_id, attributes) VALUES
        ('u-mo', 'mo@example.org', 'Mo', NULL, '{}'),
        ('u-lin', 'lin@example.org', 'Lin', 'u-mo', '{"groups": ["administrators"], "department": "IT"}'),
        ('u-rae', 'rae@example.org', 'Rae', 'u-mo', '{}'),
        ('u-hanna', 'people@example.org', 'Hanna', NULL, '{}');
    INSERT INTO role (id, name) VALUES
        ('r-employee', 'employee'), ('r-administrator', 'administrator'), ('r-room', 'project-room');
    INSERT INTO role_required_document VALUES ('r-room', 'confidentiality-agreement')"#;

/// An example's JSON.
fn example(file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(path(file)).unwrap()).unwrap()
}

fn path(file: &str) -> String {
    format!("{}/docs/examples/{file}.json", env!("CARGO_MANIFEST_DIR"))
}

/// What a statement in our schema gives, each row as one text.
fn rows(fleet: &Fleet, query: &str) -> Vec<String> {
    let text =
        |row: &Vec<Option<String>>| row.iter().map(|one| one.as_deref().unwrap_or("-")).collect::<Vec<_>>().join("|");
    fleet.sql(&format!("SET search_path = floh_worker; {query}")).iter().map(text).collect()
}

/// What flohctl prints, where it succeeds without a complaint.
fn said(finished: Finished) -> String {
    assert_eq!((finished.status.code(), finished.stderr.as_str()), (Some(0), ""), "{}", finished.stdout);
    finished.stdout
}

/// Imports and publishes a file; returns the definition's name.
fn publish(fleet: &Fleet, file: &str) -> String {
    let definition = example(file);
    let name = definition["name"].as_str().unwrap();
    assert_eq!(said(fleet.flohctl(&["workflow", "import", &path(file)])), format!("{name}@1 is a new draft\n"));
    said(fleet.flohctl(&["workflow", "publish", name]));
    assert!(said(fleet.flohctl(&["workflow", "list", name])).starts_with(&format!("{name}@1  active")));
    name.to_string()
}

/// A worker that sends its mail to a server, and may call this machine.
fn worker(fleet: &Fleet, smtp: &Smtp) -> Worker {
    let port = smtp.port().to_string();
    let mail = [
        ("SMTP_HOST", "127.0.0.1"),
        ("SMTP_PORT", port.as_str()),
        ("SMTP_TLS", "none"),
        ("SMTP_FROM", "Floh <floh@example.com>"),
    ];
    let more = [("CONNECTOR_ALLOWED_HOSTS", "localhost"), ("WORKER_CONCURRENCY", "2")];
    fleet.worker("1", &[&mail[..], &more[..]].concat())
}

/// The directory, of which `createUser` is at this path.
fn import_directory(fleet: &Fleet, http: &HttpServer, command: &str) {
    let body = json!({"mail": "{{params.email}}", "name": "{{params.displayName}}", "from": "{{params.startsOn}}"});
    let connector = json!({"name": "directory", "type": "http", "config": {
        "baseUrl": http.url("/"), "timeout": "2s",
        "commands": {"createUser": {"method": "POST", "path": command, "body": body}}}});
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("directory.json");
    fs::write(&file, connector.to_string()).unwrap();
    assert_eq!(said(fleet.flohctl(&["connector", "import", file.to_str().unwrap()])), "added directory\n");
}

/// Adds a `trigger-workflow` job with npm's bullmq, and returns the run that it has started.
fn trigger(fleet: &mut Fleet, definition: &str, variables: Value) -> String {
    let data = json!({"definition": definition, "variables": variables, "submitterId": "u-hanna"});
    let job = fleet.add(6, "trigger-workflow", data, json!({}));
    let job = fleet.wait_state(6, &job, "completed", LIMIT);
    job["returnvalue"]["runId"].as_str().unwrap().to_string()
}

/// The approval of a run that waits for this person's decision.
fn approval(fleet: &Fleet, run: &str, email: &str) -> String {
    let sql =
        format!("SELECT id FROM approval WHERE run_id = '{run}' AND approver_email = '{email}' AND status = 'pending'");
    wait_for(&format!("{email} is asked"), LIMIT, || rows(fleet, &sql).into_iter().next())
}

/// Answers the question of this kind that a run has, as an API server does.
fn answer(fleet: &Fleet, run: &str, kind: &str, set: &str) {
    let sql =
        format!("SELECT id FROM question WHERE run_id = '{run}' AND kind = '{kind}' AND status = 'pending' LIMIT 1");
    let id = wait_for(&format!("a {kind}"), LIMIT, || rows(fleet, &sql).into_iter().next());
    rows(fleet, &format!("UPDATE question SET {set} WHERE id = '{id}'"));
}

/// The ids of the steps that a run has visited, in their order.
fn visited(fleet: &Fleet, run: &str) -> Vec<String> {
    fleet.steps(run).into_iter().map(|step| step.id).collect()
}

/// What a run wrote into the audit log.
fn audited(fleet: &Fleet, run: &str) -> Vec<String> {
    let sql = "SELECT action FROM audit_log WHERE actor = 'floh-worker' AND actor_id";
    rows(fleet, &format!("{sql} = '{run}' ORDER BY id"))
}

/// What people were told in the application by a step's message, in a fixed order.
fn told(fleet: &Fleet, run: &str, step: &str) -> Vec<String> {
    let sql = "SELECT user_id, title, body, coalesce(link, '') FROM notification WHERE kind = 'notification'";
    rows(fleet, &format!("{sql} AND run_id = '{run}' AND step_id = '{step}' ORDER BY user_id, visit"))
}

/// The mails of a step's only visit in the order of its recipients: to whom, subject, text, HTML. Each must be there once, under
/// its stable id.
fn mails(smtp: &Smtp, run: &str, step: &str) -> Vec<[String; 4]> {
    let header = |mail: &Value, name: &str| mail["headers"][name].as_str().unwrap_or_default().to_string();
    let prefix = format!("<{run}.{step}.1.");
    let mut found: Vec<Value> = smtp.mails();
    found.retain(|mail| header(mail, "message-id").starts_with(&prefix));
    let mut people = BTreeSet::new();
    for mail in &found {
        let [to] = &mail["to"].as_array().unwrap()[..] else { panic!("{mail}") };
        let to = to.as_str().unwrap();
        assert_eq!(header(mail, "message-id"), smtp::message_id(run, step, 1, to));
        assert!(people.insert(to), "{to} got it twice");
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().replace("\r\n", "\n");
    let of = |mail: &Value| {
        [text(&mail["to"][0]), header(mail, "subject"), text(&mail["text"]).trim_end().to_string(), text(&mail["html"])]
    };
    found.iter().map(of).collect()
}

/// How many mails of other kinds with this subject have come to somebody.
fn mails_about(smtp: &Smtp, to: &str, subject: &str) -> usize {
    let is = |mail: &&Value| mail["to"] == json!([to]) && mail["headers"]["subject"] == subject;
    smtp.mails().iter().filter(is).count()
}

/// Every role that somebody has had, with its state.
fn roles(fleet: &Fleet, person: &str) -> Vec<String> {
    let sql = "SELECT r.name, a.status FROM role_assignment a JOIN role r ON r.id = a.role_id WHERE a.user_id";
    rows(fleet, &format!("{sql} = '{person}' ORDER BY a.granted_at, r.name"))
}

#[test]
fn every_example_is_without_a_finding_and_can_be_found() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = files.collect();
    assert_eq!(files.len(), 3, "{files:?}");
    let (readme, document) = (include_str!("../../README.md"), include_str!("../../docs/workflows.md"));
    for file in files {
        let definition = example(file.strip_suffix(".json").unwrap());
        assert_eq!(validate(&definition).1, [], "{file}");
        assert!(readme.contains(&format!("(docs/examples/{file})")), "README does not link {file}");
        assert!(document.contains(&format!("(examples/{file})")), "docs/workflows.md does not link {file}");
    }
}

/// Started by a job from npm, decided by plain SQL. The directory's first answer is lost: it is asked again, under the same key.
#[test]
fn an_onboarding_that_npm_starts_makes_the_account_once_grants_the_role_and_welcomes() {
    let (mut fleet, smtp, http) = (Fleet::start(), Smtp::start(), HttpServer::start());
    rows(&fleet, PEOPLE);
    import_directory(&fleet, &http, "lost");
    let name = publish(&fleet, "employee-onboarding");
    let mut worker = worker(&fleet, &smtp);
    let run = trigger(&mut fleet, &name, json!({"employee": "lin@example.org", "startsOn": "2027-03-01"}));

    let id = approval(&fleet, &run, "mo@example.org");
    let subject = "Please decide: Lin begins on 2027-03-01";
    wait_for("Mo is told", LIMIT, || (mails_about(&smtp, "mo@example.org", subject) == 1).then_some(()));
    let due = "SELECT job_id LIKE 'remind-%-1', round(extract(epoch FROM due_at - created_at) / 86400) FROM job_outbox
        WHERE name LIKE 'escalation-%' AND due_at > created_at + interval '1 hour' ORDER BY 2";
    assert_eq!(rows(&fleet, due), ["t|1", "f|5"], "the reminder and the reassignment");
    assert_eq!(http.calls(), 0);
    rows(&fleet, &format!("UPDATE approval SET status = 'approved', decided_by = 'u-mo' WHERE id = '{id}'"));

    let row = fleet.wait_run(&run, "completed", LIMIT);
    assert_eq!(visited(&fleet, &run), ["start", "decide", "account", "role", "welcome", "done"]);
    assert_eq!((&row.variables["directoryId"], &row.variables["submitter"]["id"]), (&json!(1), &json!("u-hanna")));
    let key = format!("{run}/account/1");
    let calls = http.seen()["calls"].as_array().unwrap().clone();
    assert!(calls.len() >= 2 && calls.iter().all(|call| call["key"] == key), "{calls:?}");
    let done = json!({"id": 1, "done": 1, "mail": "lin@example.org", "name": "Lin", "from": "2027-03-01"});
    assert_eq!(http.effects(), json!({ key: done }));
    assert_eq!(roles(&fleet, "u-lin"), ["employee|active"]);
    assert_eq!(rows(&fleet, "SELECT reason FROM role_assignment"), ["onboarding, approved by u-mo"]);
    assert_eq!(audited(&fleet, &run), ["role.granted"]);

    let [to_lin, to_mo] = <[_; 2]>::try_from(mails(&smtp, &run, "welcome")).unwrap();
    assert_eq!(to_lin[..2], ["lin@example.org", "Welcome, Lin"]);
    let words = "we look forward to Monday, 1 March, your first day.\nYour account has the number 1.";
    assert_eq!(to_lin[2], format!("Dear Lin,\n\n{words}"));
    assert!(to_lin[3].contains("<b>Monday, 1 March</b>, your first day."), "{}", to_lin[3]);
    assert_eq!(to_mo[..3], ["mo@example.org", "Welcome, Lin", "Dear Mo,\n\nLin begins on Monday, 1 March."]);
    assert_eq!(smtp.mails().len(), 3, "{:?}", smtp.mails());
    worker.stop();
}

/// The manager is reminded and then replaced, whoever replaces him rejects, and the submitter is told.
#[test]
fn an_onboarding_whose_manager_is_silent_is_decided_by_another_one_and_a_rejection_is_told() {
    let (mut fleet, smtp) = (Fleet::start(), Smtp::start());
    rows(&fleet, PEOPLE);
    let mut definition = example("employee-onboarding");
    let step = definition["steps"].as_array_mut().unwrap().iter_mut().find(|step| step["id"] == "decide").unwrap();
    // Seconds in place of days; and more of them until somebody else is asked, because a machine may be busy.
    for (name, seconds) in [("remindAfter", 1), ("remindEvery", 1), ("reassignAfter", 12)] {
        assert!(step["config"]["escalation"][name].as_str().unwrap().ends_with('d'));
        step["config"]["escalation"][name] = json!(seconds);
    }
    let name = definition["name"].as_str().unwrap().to_string();
    fleet.define(&definition);
    let mut worker = worker(&fleet, &smtp);
    let run = trigger(&mut fleet, &name, json!({"employee": "u-lin", "startsOn": "2027-03-01"}));

    let id = approval(&fleet, &run, "people@example.org");
    let title = "Lin begins on 2027-03-01";
    let asked = |to: &str| mails_about(&smtp, to, &format!("Please decide: {title}"));
    wait_for("the other one is told", LIMIT, || (asked("people@example.org") == 1).then_some(()));
    let reminders = mails_about(&smtp, "mo@example.org", &format!("Reminder: please decide: {title}"));
    assert!((1..=3).contains(&reminders), "{reminders}");
    assert_eq!(asked("mo@example.org"), 1);
    let kept = rows(&fleet, "SELECT approver_email, status, reassigned_because FROM approval ORDER BY created_at");
    let because = "mo@example.org|reassigned|Mo has not decided within ";
    assert!(kept.len() == 2 && kept[0].starts_with(because), "{kept:?}");

    let rejected = ["approval", "reject", &id, "--as", "people@example.org", "--reason", "no budget"];
    assert_eq!(said(fleet.flohctl(&rejected)), format!("{id} is rejected by people@example.org\n"));
    let row = fleet.wait_run(&run, "cancelled", LIMIT);
    assert_eq!(row.reason.as_deref(), Some("rejected by people@example.org"));
    assert_eq!(visited(&fleet, &run), ["start", "decide", "tell_rejected", "rejected"]);
    let text = "Dear Hanna,\n\npeople@example.org has rejected it: no budget";
    assert_eq!(
        mails(&smtp, &run, "tell_rejected"),
        [["people@example.org", "Lin was not approved", text, ""].map(ToString::to_string)]
    );
    assert!(roles(&fleet, "u-lin").is_empty() && audited(&fleet, &run).is_empty());
    worker.stop();
}

#[test]
fn an_onboarding_that_the_directory_refuses_is_told_to_the_submitter() {
    let (mut fleet, smtp, http) = (Fleet::start(), Smtp::start(), HttpServer::start());
    rows(&fleet, PEOPLE);
    import_directory(&fleet, &http, "status/409");
    let name = publish(&fleet, "employee-onboarding");
    let mut worker = worker(&fleet, &smtp);
    let run = trigger(&mut fleet, &name, json!({"employee": "u-lin", "startsOn": "2027-03-01"}));
    let id = approval(&fleet, &run, "mo@example.org");
    said(fleet.flohctl(&["approval", "approve", &id, "--as", "u-mo"]));
    let row = fleet.wait_run(&run, "failed", LIMIT);
    assert_eq!(row.reason.as_deref(), Some("Lin is not, or not wholly, set up"));
    assert_eq!(visited(&fleet, &run), ["start", "decide", "account", "tell_trouble", "trouble"]);
    let steps = fleet.steps(&run);
    assert_eq!((steps[2].attempt, &steps[2].result["error"]["code"]), (1, &json!("HTTP_409")));
    let words = format!("The onboarding of Lin needs a hand|A step has failed; the run {run} says which, and why.");
    assert_eq!(told(&fleet, &run, "tell_trouble"), [format!("u-hanna|{words}|/runs/{run}")]);
    assert!(roles(&fleet, "u-lin").is_empty());
    worker.stop();
}

/// Started by flohctl, answered by plain SQL, approved by flohctl; the worker has no mail server.
#[test]
fn a_document_is_handed_in_twice_reviewed_and_approved_and_opens_the_room() {
    let fleet = Fleet::start();
    rows(&fleet, PEOPLE);
    let name = publish(&fleet, "document-submission");
    let mut worker = fleet.worker("1", &[]);
    let start = ["run", "start", &name, "--submitter", "u-hanna"];
    let variables =
        ["--var", "employee=lin@example.org", "--var", "reviewer=rae@example.org", "--var", "project=Borealis"];
    let run = said(fleet.flohctl(&[&start[..], &variables[..]].concat())).trim_end().to_string();

    let hand_in = |reference: &str| {
        let given = quote(&json!({ "reference": reference }).to_string());
        answer(&fleet, &run, "document", &format!("status = 'answered', answer = {given}, answered_by = 'u-lin'"));
    };
    hand_in("folder://lin/draft.pdf");
    answer(&fleet, &run, "review", "status = 'rejected', reason = 'it is not signed', answered_by = 'u-rae'");
    hand_in("folder://lin/signed.pdf");
    answer(&fleet, &run, "review", "status = 'approved', answered_by = 'u-rae'");

    let id = approval(&fleet, &run, "mo@example.org");
    let listed = said(fleet.flohctl(&["approval", "list", "--run", &run]));
    assert!(listed.starts_with(&format!("{id} pending Mo since ")), "{listed}");
    assert!(listed.contains("step approve: Lin in the project room of Borealis\n"), "{listed}");
    said(fleet.flohctl(&["approval", "approve", &id, "--as", "mo@example.org"]));
    let row = fleet.wait_run(&run, "completed", LIMIT);

    let path = ["start", "ask", "hand_in", "ask", "hand_in", "approve", "open", "tell_yes", "done"];
    assert_eq!(visited(&fleet, &run), path);
    let agreement = &row.variables["agreement"];
    assert_eq!(
        (&agreement["reference"], &agreement["reviewedBy"]),
        (&json!("folder://lin/signed.pdf"), &json!("u-rae"))
    );
    let documents = rows(&fleet, "SELECT status, reference, coalesce(review_reason, '') FROM document ORDER BY visit");
    assert_eq!(documents, ["rejected|folder://lin/draft.pdf|it is not signed", "approved|folder://lin/signed.pdf|"]);
    assert_eq!(roles(&fleet, "u-lin"), ["project-room|active"]);
    let reason = rows(&fleet, "SELECT reason, expires_at > now() + interval '364 days' FROM role_assignment");
    assert_eq!(reason, ["agreement folder://lin/signed.pdf|t"]);
    let actions =
        ["document.submitted", "document.rejected", "document.submitted", "document.approved", "role.granted"];
    assert_eq!(audited(&fleet, &run), actions);

    let asked = "u-lin|Your agreement for Borealis|Please hand in the signed agreement within two weeks.|/documents";
    assert_eq!(told(&fleet, &run, "ask"), [asked, asked], "once for each visit");
    let day = format!("{}.", (Utc::now() + Days::days(365)).format("%d.%m.%Y"));
    let end = told(&fleet, &run, "tell_yes");
    let words = |who: &str, what: &str| format!("{who}|The project room of Borealis is open|{what} until {day}|/rooms");
    assert_eq!(end, [words("u-lin", "You may enter it"), words("u-rae", "Lin may enter it")]);
    let decide = "SELECT count(*) FROM notification WHERE user_id = 'u-mo' AND title LIKE 'Please decide: %'";
    assert_eq!(rows(&fleet, decide), ["1"], "approvers are told in the application, too");

    let shown = said(fleet.flohctl(&["run", "show", &run]));
    assert!(shown.starts_with(&format!("run {run}: {name}@1, completed\n")), "{shown}");
    assert!(shown.contains("hand_in (2)") && shown.contains("\nproject = "), "{shown}");
    worker.stop();
}

/// Started by a schedule that comes each second, until it has started one.
#[test]
fn an_offboarding_that_a_schedule_starts_takes_the_roles_and_tells_those_who_stay() {
    let (fleet, smtp) = (Fleet::start(), Smtp::start());
    rows(&fleet, PEOPLE);
    let grants =
        "INSERT INTO role_assignment (user_id, role_id) VALUES ('u-lin', 'r-employee'), ('u-lin', 'r-administrator')";
    rows(&fleet, grants);
    let name = publish(&fleet, "offboarding");
    let mut worker = worker(&fleet, &smtp);
    let today = Utc::now().format("%Y-%m-%d");
    let variables =
        json!({"employee": "u-lin", "lastDay": today.to_string(), "equipment": [" laptop", "", "badge <7>"]});
    let variables = variables.to_string();
    let add = ["schedule", "add", "leavers", "--definition", &name, "--cron", "* * * * * *", "--overlap", "skip"];
    let more = ["--zone", "Europe/Berlin", "--submitter", "u-hanna", "--variables", &variables];
    said(fleet.flohctl(&[&add[..], &more[..]].concat()));
    let first = "SELECT r.id FROM workflow_run r JOIN workflow_schedule s ON s.id = r.schedule_id
        WHERE s.name = 'leavers' AND r.tick_at IS NOT NULL ORDER BY r.tick_at LIMIT 1";
    let run = wait_for("the schedule starts a run", LIMIT, || rows(&fleet, first).into_iter().next());
    said(fleet.flohctl(&["schedule", "pause", "leavers"]));

    let row = fleet.wait_run(&run, "completed", LIMIT);
    let path = ["plan", "when", "administrator", "revoke_administrator", "revoke_employee", "disable", "tell"];
    assert_eq!(visited(&fleet, &run)[1..8], path);
    let returns = json!([{"number": 1, "name": "laptop"}, {"number": 3, "name": "badge <7>"}]);
    let of = |name: &str| row.variables[name].clone();
    assert_eq!((of("heir"), of("isAdministrator"), of("returns")), (json!("mo@example.org"), json!(true), returns));
    assert_eq!(roles(&fleet, "u-lin"), ["administrator|revoked", "employee|revoked"]);
    let person = rows(&fleet, "SELECT status, attributes FROM app_user WHERE id = 'u-lin'");
    assert_eq!(person, [format!("disabled|{{\"leftOn\": \"{today}\", \"department\": \"IT\"}}")]);
    assert_eq!(audited(&fleet, &run), ["role.revoked", "role.revoked", "user.updated"]);
    let mails = mails(&smtp, &run, "tell");
    let to: Vec<&str> = mails.iter().map(|mail| mail[0].as_str()).collect();
    assert_eq!(to, ["mo@example.org", "it@example.org"]);
    let text = "The account of Lin (lin@example.org) is disabled.\n1. laptop has to come back.\n3. badge <7> has to come back.";
    for mail in &mails {
        assert_eq!((mail[1].as_str(), mail[2].as_str()), ("Lin has left", text));
        assert!(mail[3].contains("<li>badge &lt;7&gt;</li>"), "values are escaped: {}", mail[3]);
    }
    // However many ticks there were: each started one run, or none.
    let ticks =
        "SELECT count(*) FILTER (WHERE outcome = 'started') = (SELECT count(*) FROM workflow_run) FROM schedule_tick";
    assert_eq!(rows(&fleet, ticks), ["t"]);
    worker.stop();
}

#[test]
fn an_offboarding_waits_for_its_day_and_one_that_is_late_alarms() {
    let (fleet, smtp) = (Fleet::start(), Smtp::start());
    rows(&fleet, PEOPLE);
    let definition = example("offboarding");
    let definition = fleet.define(&definition);
    let mut worker = worker(&fleet, &smtp);
    let start = |employee: &str, last_day: &str| {
        fleet.start_run(&definition, &json!({"employee": employee, "lastDay": last_day}))
    };
    let soon = (Utc::now() + Days::seconds(8)).to_rfc3339_opts(SecondsFormat::Secs, true);
    let (early, late) = (start("u-rae", &soon), start("u-mo", "2026-01-31"));
    fleet.wait_at(&early, "wait", LIMIT);
    let due = format!("SELECT due_at = '{soon}' FROM workflow_step WHERE run_id = '{early}' AND step_id = 'wait'");
    assert_eq!(rows(&fleet, &due), ["t"]);
    assert_eq!(rows(&fleet, "SELECT status FROM app_user WHERE id = 'u-rae'"), ["active"]);

    let ends = |row: RunRow| (row.variables["isAdministrator"].clone(), row.variables["heir"].clone());
    let row = fleet.wait_run(&early, "completed", LIMIT);
    assert_eq!(ends(row), (json!(false), json!("mo@example.org")));
    let path = ["start", "plan", "when", "announce", "wait", "administrator", "revoke_employee", "disable"];
    assert_eq!(visited(&fleet, &early)[..8], path);
    let over =
        format!("SELECT min(finished_at) >= '{soon}' FROM workflow_step WHERE run_id = '{early}' AND step_id = 'wait'");
    assert_eq!(rows(&fleet, &over), ["t"]);
    let announced = mails(&smtp, &early, "announce");
    assert_eq!((announced[0][0].as_str(), announced[0][2].as_str()), ("mo@example.org", "1 day is left to take over."));
    let text = "The account of Rae (rae@example.org) is disabled.\nNothing has to come back.";
    assert_eq!(mails(&smtp, &early, "tell")[0][2], text);

    // Mo has no manager.
    let row = fleet.wait_run(&late, "completed", LIMIT);
    assert_eq!(ends(row), (json!(false), json!("people@example.org")));
    assert_eq!(visited(&fleet, &late)[2..5], ["when", "alarm", "administrator"]);
    let alarm = &mails(&smtp, &late, "alarm")[0];
    assert_eq!(alarm[..2], ["security@example.org", "Mo should have been offboarded by 2026-01-31"]);
    let plan = &fleet.steps(&late)[1].result["logs"];
    assert!(plan.to_string().contains("nobody takes over from"), "{plan}");
    let disabled = rows(&fleet, "SELECT id FROM app_user WHERE status = 'disabled' ORDER BY id");
    assert_eq!(disabled, ["u-mo", "u-rae"]);
    worker.stop();
}
