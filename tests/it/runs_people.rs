//! Runs whose steps create people, give and take roles, and ask people something: with a real worker, answered as an API
//! server does, by plain SQL.

use crate::{
    store_people::PEOPLE,
    support::{
        Fleet, child,
        runs::{chain, quote},
        smtp::Smtp,
        wait_for,
        worker::binary,
    },
};
use serde_json::{Value, json};
use std::{process::Command, thread, time::Duration};

const LIMIT: Duration = Duration::from_secs(40);

pub fn peopled() -> Fleet {
    let fleet = Fleet::start();
    fleet.sql(PEOPLE);
    fleet
}

pub fn edge(on: &str, to: &str) -> Value {
    json!({"on": on, "to": to})
}

/// A definition with the variable `employee`.
pub fn about(name: &str, steps: Vec<Value>) -> Value {
    let mut definition = chain(name, steps);
    definition["variables"] = json!([{"name": "employee", "type": "user"}]);
    definition
}

/// The columns of each row, as one text.
pub fn rows(fleet: &Fleet, query: &str) -> Vec<String> {
    let text =
        |row: &Vec<Option<String>>| row.iter().map(|one| one.as_deref().unwrap_or("-")).collect::<Vec<_>>().join(" ");
    fleet.sql(&format!("SET search_path = floh_worker; {query}")).iter().map(text).collect()
}

/// The id of the question of a run that waits for an answer of this kind.
fn question(fleet: &Fleet, run: &str, kind: &str) -> String {
    let sql = format!(
        "SELECT id FROM question WHERE run_id = '{run}' AND kind = '{kind}' AND status = 'pending' ORDER BY id"
    );
    wait_for(&format!("a {kind}"), LIMIT, || rows(fleet, &sql).into_iter().next())
}

pub fn answer(fleet: &Fleet, id: &str, set: &str) {
    fleet.sql(&format!("UPDATE floh_worker.question SET {set} WHERE id = '{id}'"));
}

/// What a run wrote into the audit log, in its order.
fn audited(fleet: &Fleet, run: &str) -> Vec<String> {
    let sql = format!("SELECT action FROM audit_log WHERE actor = 'floh-worker' AND actor_id = '{run}' ORDER BY id");
    rows(fleet, &sql)
}

#[test]
fn people_are_created_and_changed_and_have_roles_with_an_audit_row_each() {
    let fleet = peopled();
    let mut worker = fleet.worker("1", &[]);
    let grant = |id: &str, expires: Value| {
        json!({"id": id, "type": "role_grant",
            "config": {"user": "{{account.id}}", "role": "vpn", "expiresAfter": expires, "reason": "{{account.displayName}} begins"}})
    };
    let revoke =
        |id: &str| json!({"id": id, "type": "role_revoke", "config": {"user": "{{account}}", "role": "r-vpn"}});
    let definition = about(
        "onboarding",
        vec![
            json!({"id": "create", "type": "user_create", "config": {"email": "New@example.org", "displayName": "New Person",
                "manager": "max@example.org", "attributes": {"floor": 2, "team": "x"}, "output": "account"}}),
            json!({"id": "update", "type": "profile_update", "config": {"user": "{{account.email}}", "output": "changed",
                "set": {"department": "Sales", "team": null, "displayName": "Newer Person", "manager": "u-ada"}}}),
            json!({"id": "same", "type": "profile_update", "config": {"user": "{{account.id}}", "set": {"department": "Sales"}}}),
            grant("short", json!("1d")),
            grant("long", json!("90d")),
            grant("shorter", json!("30d")),
            revoke("revoke"),
            revoke("again"),
            grant("anew", Value::Null),
        ],
    );
    let run = fleet.start_run(&fleet.define(&definition), &json!({}));
    let row = fleet.wait_run(&run, "completed", LIMIT);
    let max = json!({"id": "u-max", "email": "max@example.org", "displayName": "Max", "status": "active"});
    let account = row.variables["account"].clone();
    assert_eq!(
        (&account["email"], &account["manager"], &account["floor"]),
        (&json!("New@example.org"), &max, &json!(2))
    );
    let changed = &row.variables["changed"];
    assert_eq!((&changed["department"], &changed["team"]), (&json!("Sales"), &Value::Null));
    let person = rows(
        &fleet,
        "SELECT email, display_name, manager_id, status, attributes FROM app_user WHERE lower(email) = 'new@example.org'",
    );
    assert_eq!(person, [r#"New@example.org Newer Person u-ada active {"floor": 2, "department": "Sales"}"#]);
    let assignments = rows(
        &fleet,
        "SELECT status, round(extract(epoch FROM expires_at - granted_at) / 86400), reason, ended_step_id
            FROM role_assignment ORDER BY granted_at",
    );
    assert_eq!(assignments, ["revoked 90 New Person begins revoke", "active - New Person begins -"]);
    let steps = fleet.steps(&run);
    let revoked: Vec<&Value> = steps.iter().map(|step| &step.result["revoked"]).filter(|one| !one.is_null()).collect();
    assert_eq!(revoked, [&json!(true), &json!(false)]);
    let actions = ["user.created", "user.updated", "role.granted", "role.extended", "role.revoked", "role.granted"];
    assert_eq!(audited(&fleet, &run), actions);
    let update = rows(
        &fleet,
        "SELECT entity, previous_state ->> 'team', new_state ->> 'displayName', new_state ->> 'floor'
        FROM audit_log WHERE action = 'user.updated'",
    );
    assert_eq!(update, ["user x Newer Person -"], "what did not change is not told");
    worker.stop();
}

#[test]
fn what_cannot_be_done_to_people_fails_the_step_in_a_sentence_and_changes_nothing() {
    let fleet = peopled();
    let mut worker = fleet.worker("1", &[]);
    let cases = [
        ("role_grant", json!({"user": "u-nobody", "role": "vpn"}), "`user`: there is no person `u-nobody`"),
        ("role_grant", json!({"user": "eve@elsewhere.org", "role": "vpn"}), "`eve@elsewhere.org` is nobody's address"),
        ("role_grant", json!({"user": "u-ada", "role": "root"}), "`role`: there is no role `root`"),
        ("role_grant", json!({"user": "u-dora", "role": "vpn"}), "Dora (dora@example.org) is disabled"),
        ("role_grant", json!({"user": "u-ada", "role": "payroll"}), "has none of: nda"),
        ("role_revoke", json!({"user": "u-ada", "role": "root"}), "`role`: there is no role `root`"),
        ("user_create", json!({"email": "ADA@example.org", "displayName": "x"}), "is taken: it is Ada's (id u-ada)"),
        ("user_create", json!({"email": "nowhere", "displayName": "x"}), "`nowhere` is no address"),
        (
            "user_create",
            json!({"email": "x@y", "displayName": "x", "manager": "u-nobody"}),
            "`manager`: there is no person",
        ),
        ("profile_update", json!({"user": "u-ada", "set": {"email": "max@example.org"}}), "is taken: it is Max's"),
        ("profile_update", json!({"user": "u-ada", "set": {"manager": "u-ada"}}), "nobody is their own manager"),
        ("profile_update", json!({"user": "u-ada", "set": {"status": "gone"}}), "and not `gone`"),
        ("profile_update", json!({"user": "u-ada", "set": {"attributes": {"email": "x"}}}), "`email` is no attribute"),
        (
            "user_prompt",
            json!({"assignee": "u-dora", "fields": [{"name": "a"}]}),
            "Dora (dora@example.org) is disabled",
        ),
        ("consent", json!({"user": "u-nobody", "text": "x"}), "`user`: there is no person"),
        (
            "document_submission",
            json!({"assignee": "u-ada", "documentType": "nda", "reviewers": ["u-dora"]}),
            "`reviewers`: Dora (dora@example.org) is disabled",
        ),
        (
            "approval",
            json!({"approvers": ["max@example.org", "u-dora"]}),
            "`approvers`: Dora (dora@example.org) is disabled",
        ),
        (
            "notification",
            json!({"channel": "inApp", "to": ["u-ada", "DORA@example.org"], "text": "x", "acceptance": {}}),
            "`to`: Dora (dora@example.org) is disabled",
        ),
        (
            "notification",
            json!({"channel": "inApp", "to": ["u-ada", "Dora Doe <DORA@example.org>"], "text": "x", "acceptance": {}}),
            "`to`: Dora (dora@example.org) is disabled",
        ),
    ];
    let mut runs = Vec::new();
    for (n, (kind, config, _)) in cases.iter().enumerate() {
        let mut step = json!({"id": "it", "type": kind, "config": config});
        let outcomes = match *kind {
            "consent" | "approval" => &["approved"][..],
            "notification" => &["approved", "rejected"],
            _ => &["success"],
        };
        step["transitions"] = outcomes.iter().map(|on| edge(on, "end")).collect();
        let id = fleet.define(&about(&format!("case {n}"), vec![step]));
        runs.push(fleet.start_run(&id, &json!({})));
    }
    for (run, (kind, config, words)) in runs.iter().zip(&cases) {
        let reason = fleet.wait_run(run, "failed", LIMIT).reason.unwrap();
        assert!(reason.starts_with("step `it`: ") && reason.contains(words), "{kind} {config}: {reason}");
    }
    assert!(
        rows(
            &fleet,
            "SELECT id FROM role_assignment UNION ALL SELECT id FROM question UNION ALL SELECT id FROM approval
        UNION ALL SELECT id FROM notification"
        )
        .is_empty()
    );
    assert_eq!(rows(&fleet, "SELECT count(*) FROM audit_log"), ["0"]);
    assert_eq!(rows(&fleet, "SELECT count(*) FROM app_user"), ["3"]);
    worker.stop();
}

#[test]
fn the_answers_to_a_form_become_variables() {
    let fleet = peopled();
    let smtp = Smtp::start();
    let port = smtp.port().to_string();
    let settings =
        [("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &port), ("SMTP_TLS", "none"), ("SMTP_FROM", "floh@example.com")];
    let mut worker = fleet.worker("1", &settings);
    let fields = json!([{"name": "floor", "type": "number", "required": true, "label": "Which floor?"},
        {"name": "buddy", "type": "user"}, {"name": "since", "type": "date"}, {"name": "note"}]);
    let prompt = json!({"id": "ask", "type": "user_prompt",
        "config": {"assignee": "{{employee.email}}", "title": "A desk for {{employee.displayName}}", "fields": fields,
            "expiresAfter": "1h"},
        "transitions": [edge("success", "end")]});
    let definition = fleet.define(&about("desk", vec![prompt]));
    let run = fleet.start_run(&definition, &json!({"employee": "u-ada"}));
    fleet.wait_at(&run, "ask", LIMIT);
    let asked = rows(
        &fleet,
        "SELECT assignee_id, assignee_email, title, round(extract(epoch FROM due_at - created_at) / 60) FROM question",
    );
    assert_eq!(asked, ["u-ada Ada@Example.org A desk for Ada 60"]);
    let told = "SELECT user_id, kind, title FROM notification";
    wait_for("Ada is told", LIMIT, || (!rows(&fleet, told).is_empty()).then_some(()));
    assert_eq!(rows(&fleet, told), ["u-ada prompt Please answer: A desk for Ada"]);
    let mail = &smtp.wait_mails(1)[0];
    assert_eq!(mail["to"], json!(["Ada@Example.org"]));
    assert!(mail["text"].as_str().unwrap().contains("- Which floor?"), "{mail}");
    let step = rows(&fleet, "SELECT status, assignment_state FROM workflow_step WHERE step_id = 'ask'");
    assert_eq!(step, ["waiting_response assigned"]);
    let id = question(&fleet, &run, "prompt");
    let given = r#"{"floor": 3, "buddy": "max@example.org", "since": "2026-03-29"}"#;
    answer(&fleet, &id, &format!("status = 'answered', answer = '{given}', answered_by = 'u-ada'"));
    let variables = fleet.wait_run(&run, "completed", LIMIT).variables;
    assert_eq!(
        (&variables["floor"], &variables["since"], &variables["note"]),
        (&json!(3), &json!("2026-03-29"), &Value::Null)
    );
    assert_eq!(variables["buddy"]["id"], "u-max");
    assert_eq!(fleet.steps(&run)[1].result["answeredBy"], "u-ada");
    assert!(audited(&fleet, &run).is_empty());

    // Answered by flohctl, which says why it is not, as well.
    let run = fleet.start_run(&definition, &json!({"employee": "u-ada"}));
    let id = question(&fleet, &run, "prompt");
    let listed = fleet.flohctl(&["question", "list", "--to", "ada@example.org"]).stdout;
    assert!(listed.starts_with(&format!("{id} prompt Ada@Example.org, until ")), "{listed}");
    assert!(listed.contains("    floor (number, required): Which floor?"), "{listed}");
    assert_eq!(fleet.flohctl(&["question", "list", "--run", &run[..8]]).stdout, listed);
    let elsewhere = fleet.flohctl(&["question", "list", "--run", "00000000-0000-0000-0000-000000000000"]).stdout;
    assert_eq!(elsewhere, "no question waits for an answer\n");
    for (arguments, code, words) in [
        (vec!["answer", &id, "{\"floor\": \"x\"}", "--as", "u-ada"], 1, "\"floor\" has to be a number"),
        (vec!["answer", &id, "{", "--as", "u-ada"], 64, "the answer is not JSON"),
        (
            vec!["answer", &id, "{\"floor\": \"\\u0000\"}", "--as", "u-ada"],
            1,
            "the answer is not taken: it has the character U+0000",
        ),
        (vec!["accept", &id], 1, "a prompt is answered, and not approved"),
        (vec!["answer", &id, "{\"floor\": 2}", "--as", "u-ada"], 0, "is answered by u-ada"),
        (vec!["reject", &id, "--reason", "no"], 1, "was answered already: answered by u-ada"),
        (vec!["accept", &definition], 1, "there is no question"),
    ] {
        let done = fleet.flohctl(&[vec!["question"], arguments.clone()].concat());
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {}", done.stderr);
        assert!(format!("{}{}", done.stdout, done.stderr).contains(words), "{arguments:?}: {}", done.stderr);
    }
    assert_eq!(fleet.wait_run(&run, "completed", LIMIT).variables["floor"], 2);

    // Somebody outside can be asked, and whoever cancels the run takes the question away.
    let run = fleet.start_run(&definition, &json!({"employee": "eve@elsewhere.org"}));
    fleet.wait_at(&run, "ask", LIMIT);
    fleet.sql(&format!("UPDATE floh_worker.workflow_run SET cancel_requested_at = now() WHERE id = '{run}'"));
    fleet.wait_run(&run, "cancelled", LIMIT);
    let asked =
        rows(&fleet, &format!("SELECT assignee_id, assignee_email, status FROM question WHERE run_id = '{run}'"));
    assert_eq!(asked, ["- eve@elsewhere.org void"]);
    worker.stop();
}

#[test]
fn without_an_answer_in_time_a_run_takes_the_edge_of_expiry() {
    let fleet = peopled();
    let mut worker = fleet.worker("1", &[]);
    let run = |name: &str, config: Value, more: Value, edges: Value| {
        let mut step = json!({"id": "ask", "type": "consent", "config": config, "transitions": edges});
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let late = json!({"id": "late", "type": "end", "config": {"status": "cancelled", "reason": "too late"}});
        let mut definition = about(name, vec![step]);
        definition["steps"].as_array_mut().unwrap().push(late);
        fleet.start_run(&fleet.define(&definition), &json!({}))
    };
    let expiring = json!({"user": "u-ada", "text": "I agree.", "expiresAfter": 1});
    let both = [edge("approved", "end"), edge("rejected", "end")];
    let with = run("edge", expiring.clone(), json!({}), json!([both[0], both[1], edge("expired", "late")]));
    let without = run("none", expiring, json!({}), json!(both));
    let endless = json!({"user": "u-ada", "text": "I agree."});
    let timed = run("timeout", endless, json!({"timeout": 1}), json!([both[0], both[1], edge("timeout", "late")]));
    for run in [&with, &timed] {
        assert_eq!(fleet.wait_run(run, "cancelled", LIMIT).reason.as_deref(), Some("too late"));
    }
    let outcomes = |run: &str| fleet.steps(run)[1].outcome.clone().unwrap();
    assert_eq!((outcomes(&with).as_str(), outcomes(&timed).as_str()), ("expired", "timeout"));
    let reason = fleet.wait_run(&without, "failed", LIMIT).reason.unwrap();
    assert!(reason.starts_with("step `ask`: not answered by ") && reason.ends_with(": Ada@Example.org"), "{reason}");
    assert_eq!(rows(&fleet, "SELECT DISTINCT status FROM question"), ["expired"]);
    assert!(audited(&fleet, &with).is_empty());
    worker.stop();
}

#[test]
fn a_consent_is_recorded_word_for_word() {
    let fleet = peopled();
    let mut worker = fleet.worker("1", &[]);
    let step = |edges: Value| {
        json!({"id": "ask", "type": "consent", "transitions": edges,
            "config": {"user": "{{employee.id}}", "title": "Rules", "text": "I, {{employee.displayName}}, have read them."}})
    };
    let with = fleet.define(&about("with", vec![step(json!([edge("approved", "end"), edge("rejected", "end")]))]));
    let without = fleet.define(&about("without", vec![step(json!([edge("approved", "end")]))]));
    let decided = |definition: &str, set: &str| {
        let run = fleet.start_run(definition, &json!({"employee": "u-ada"}));
        answer(&fleet, &question(&fleet, &run, "consent"), set);
        run
    };
    let yes = decided(&with, "status = 'approved', answered_by = 'u-ada'");
    fleet.wait_run(&yes, "completed", LIMIT);
    let no = decided(&with, "status = 'rejected', answered_by = 'u-ada'");
    fleet.wait_run(&no, "completed", LIMIT);
    let failed = decided(&without, "status = 'rejected', answered_by = 'u-ada', reason = 'not me'");
    let reason = fleet.wait_run(&failed, "failed", LIMIT).reason.unwrap();
    assert_eq!(reason, "step `ask`: rejected by u-ada: not me");
    for (run, action) in [(&yes, "consent.given"), (&no, "consent.refused"), (&failed, "consent.refused")] {
        let sql = format!(
            "SELECT action, entity, new_state ->> 'userId', new_state ->> 'text' FROM audit_log WHERE actor_id = '{run}'"
        );
        assert_eq!(rows(&fleet, &sql), [format!("{action} consent u-ada I, Ada, have read them.")]);
    }
    worker.stop();
}

/// Somebody answers while the run is being ended: `flohctl` says that it is too late, and the worker closes what was left open
/// for the answer.
#[test]
fn an_answer_that_meets_the_end_of_its_run_is_refused_and_the_question_closed() {
    let fleet = peopled();
    let mut worker = fleet.worker("1", &[]);
    let consent = json!({"id": "ask", "type": "consent", "config": {"user": "u-ada", "text": "I agree."},
        "transitions": [edge("approved", "end")]});
    let run = fleet.start_run(&fleet.define(&chain("late", vec![consent])), &json!({}));
    let id = question(&fleet, &run, "consent");
    wait_for("Ada is told", LIMIT, || (!rows(&fleet, "SELECT 1 FROM notification").is_empty()).then_some(()));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ender = runtime.block_on(fleet.postgres.session("floh"));
    let end = |sql: &str| runtime.block_on(ender.batch_execute(sql)).unwrap();
    end(&format!("SET search_path = floh_worker; BEGIN; SELECT FROM workflow_run WHERE id = '{run}' FOR UPDATE"));
    let environment = fleet.environment();
    let accept = |command: &mut Command| {
        command.args(["question", "accept", &id, "--as", "u-ada"]).env_clear().envs(&environment);
    };
    let late = thread::scope(|scope| {
        let late = scope.spawn(|| child::run(&binary("flohctl"), accept, b"", LIMIT));
        let blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE question%'";
        wait_for("the answer waits for the run", LIMIT, || (!rows(&fleet, blocked).is_empty()).then_some(()));
        end(&format!("SELECT fail_run('{run}', 'ended by hand'); COMMIT"));
        late.join().unwrap()
    });
    assert_eq!(late.status.code(), Some(1), "{}", late.stderr);
    let words = format!("question {id} cannot be answered any more: its step or its run has ended");
    assert!(late.stderr.contains(&words) && late.stdout.is_empty(), "{}{}", late.stdout, late.stderr);

    let job = format!("SELECT ended FROM job_outbox WHERE job_id = 'close-{id}'");
    wait_for("the job that closes it", LIMIT, || (rows(&fleet, &job) == ["completed"]).then_some(()));
    let closed = "SELECT status, answered_by FROM question";
    assert_eq!(rows(&fleet, closed), ["void -"]);
    assert_eq!(rows(&fleet, "SELECT kind FROM notification"), ["consent"], "nobody is told again");
    let done = fleet.flohctl(&["question", "accept", &id, "--as", "u-ada"]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("is void: its step has ended, or went on without it"), "{}", done.stderr);
    assert_eq!(fleet.run(&run).status, "failed");
    worker.stop();
}

#[test]
fn a_document_is_handed_in_reviewed_and_opens_the_way_to_a_role() {
    let fleet = peopled();
    let mut worker = fleet.worker("1", &[]);
    let submission = json!({"id": "nda", "type": "document_submission",
        "config": {"assignee": "{{employee}}", "documentType": "nda", "reviewers": ["u-max", "legal@elsewhere.org", "MAX@example.org"],
            "validFor": "365d", "output": "nda"},
        "transitions": [edge("success", "grant"), edge("rejected", "nda")]});
    let grant = json!({"id": "grant", "type": "role_grant", "config": {"user": "{{employee}}", "role": "payroll"}});
    let definition = fleet.define(&about("payroll", vec![submission, grant]));
    let run = fleet.start_run(&definition, &json!({"employee": "u-ada"}));
    let submit = |reference: &str, more: &str| {
        let given = format!(r#"{{"reference": "{reference}"{more}}}"#);
        let set = format!("status = 'answered', answer = '{given}', answered_by = 'u-ada'");
        answer(&fleet, &question(&fleet, &run, "document"), &set);
    };
    submit("s3://first", "");
    let review = question(&fleet, &run, "review");
    let asked = rows(&fleet, "SELECT assignee_email, title, message FROM question WHERE kind = 'review' ORDER BY 1");
    let words = "Review: nda nda from Ada@Example.org: s3://first";
    assert_eq!(asked, [format!("legal@elsewhere.org {words}"), format!("max@example.org {words}")]);
    let step = rows(&fleet, "SELECT assignment_state FROM workflow_step WHERE step_id = 'nda'");
    assert_eq!(step, ["in_review"]);
    answer(&fleet, &review, "status = 'rejected', reason = 'unreadable', answered_by = 'u-max'");
    // Asked again; the other reviewer of the first one has nothing to say any more.
    submit("s3://second", r#", "metadata": {"pages": 2}, "validUntil": "2200-01-01""#);
    answer(&fleet, &question(&fleet, &run, "review"), "status = 'approved', answered_by = 'u-max'");
    let variables = fleet.wait_run(&run, "completed", LIMIT).variables;
    let shown = &variables["nda"];
    assert_eq!((&shown["reference"], &shown["status"]), (&json!("s3://second"), &json!("approved")));
    let documents = rows(
        &fleet,
        "SELECT user_id, type, status, reference, metadata, review_reason, reviewed_by,
            round(extract(epoch FROM valid_until - reviewed_at) / 86400), visit FROM document ORDER BY submitted_at",
    );
    assert_eq!(
        documents,
        [
            "u-ada nda rejected s3://first {} unreadable u-max - 1",
            r#"u-ada nda approved s3://second {"pages": 2} - u-max 365 2"#,
        ]
    );
    assert_eq!(
        rows(&fleet, "SELECT DISTINCT status FROM question WHERE kind = 'review' ORDER BY 1"),
        ["approved", "rejected", "void"]
    );
    let actions =
        ["document.submitted", "document.rejected", "document.submitted", "document.approved", "role.granted"];
    assert_eq!(audited(&fleet, &run), actions);

    // Without reviewers the document is good as it is, and no longer than it says itself.
    let alone = json!({"id": "nda", "type": "document_submission", "config": {"assignee": "{{employee}}", "documentType": "pass"}});
    let run = fleet.start_run(&fleet.define(&about("pass", vec![alone])), &json!({"employee": "eve@elsewhere.org"}));
    let given = r#"{"reference": "pass 1", "validUntil": "2030-12-31"}"#;
    let set = format!("status = 'answered', answer = {}, answered_by = 'eve'", quote(given));
    answer(&fleet, &question(&fleet, &run, "document"), &set);
    fleet.wait_run(&run, "completed", LIMIT);
    let pass = "SELECT user_id, email, status, valid_until AT TIME ZONE 'UTC' FROM document WHERE type = 'pass'";
    assert_eq!(rows(&fleet, pass), ["- eve@elsewhere.org approved 2031-01-01 00:00:00"]);
    // Who gets an account under that address later has handed it in.
    let create =
        json!({"id": "create", "type": "user_create", "config": {"email": "Eve@elsewhere.org", "displayName": "Eve"}});
    let run = fleet.start_run(&fleet.define(&about("eve", vec![create])), &json!({}));
    fleet.wait_run(&run, "completed", LIMIT);
    assert_eq!(
        rows(&fleet, "SELECT u.display_name FROM document d JOIN app_user u ON u.id = d.user_id WHERE d.type = 'pass'"),
        ["Eve"]
    );
    worker.stop();
}

#[test]
fn a_document_that_nobody_approved_is_never_taken_for_one_and_later_steps_know_why() {
    let fleet = peopled();
    let mut worker = fleet.worker("1", &[]);
    let start = |name: &str, expires: Value, outcomes: &[&str], on_error: &str| {
        let edges: Vec<Value> =
            outcomes.iter().map(|on| edge(on, if *on == "success" { "end" } else { "told" })).collect();
        let submission = json!({"id": "nda", "type": "document_submission", "onError": on_error, "transitions": edges,
            "config": {"assignee": "u-ada", "documentType": "nda", "reviewers": ["u-max"], "expiresAfter": expires,
                "output": "nda"}});
        let mut definition = about(name, vec![submission]);
        let told = json!({"id": "told", "type": "end",
            "config": {"status": "cancelled", "reason": "{{nda.type}} {{nda.status}}"}});
        definition["steps"].as_array_mut().unwrap().push(told);
        fleet.start_run(&fleet.define(&definition), &json!({}))
    };
    let reject = |run: &str| {
        let given = "status = 'answered', answer = '{\"reference\": \"x\"}', answered_by = 'u-ada'";
        answer(&fleet, &question(&fleet, run, "document"), given);
        let no = "status = 'rejected', reason = 'unreadable', answered_by = 'u-max'";
        answer(&fleet, &question(&fleet, run, "review"), no);
    };
    let run = start("continue, rejected", Value::Null, &["success"], "continue");
    reject(&run);
    let row = fleet.wait_run(&run, "failed", LIMIT);
    assert_eq!(row.reason.as_deref(), Some("step `nda`: rejected by u-max: unreadable"));
    assert_eq!(row.variables["nda"], Value::Null);
    let run = start("continue, expired", json!(1), &["success"], "continue");
    let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
    assert!(reason.starts_with("step `nda`: not answered by "), "{reason}");
    for failure in ["rejected", "error"] {
        let run = start(failure, Value::Null, &["success", failure], "stop");
        reject(&run);
        let row = fleet.wait_run(&run, "cancelled", LIMIT);
        assert_eq!(row.reason.as_deref(), Some("nda rejected"), "{failure}");
        let nda = &row.variables["nda"];
        assert_eq!((&nda["reviewedBy"], &nda["reason"]), (&json!("u-max"), &json!("unreadable")), "{failure}");
    }
    let run = start("expired", json!(1), &["success", "expired"], "stop");
    let row = fleet.wait_run(&run, "cancelled", LIMIT);
    assert_eq!((row.reason.as_deref(), &row.variables["nda"]["id"]), (Some("nda expired"), &Value::Null));
    worker.stop();
}

/// The worker is killed between two statements, here and there; another one goes on. Every effect is there once.
#[cfg(feature = "test-jobs")]
#[test]
fn a_crash_doubles_no_effect() {
    let fleet = peopled();
    let account = json!({"email": "{{name}}@example.org", "displayName": "{{name}}", "output": "account"});
    let mut definition = chain(
        "crash",
        vec![
            json!({"id": "create", "type": "user_create", "config": account}),
            json!({"id": "update", "type": "profile_update", "config": {"user": "{{account.id}}", "set": {"team": "x"}}}),
            json!({"id": "grant", "type": "role_grant", "config": {"user": "{{account.id}}", "role": "vpn"}}),
            json!({"id": "ask", "type": "consent", "config": {"user": "{{account.id}}", "text": "Yes."},
                "transitions": [edge("approved", "revoke")]}),
            json!({"id": "revoke", "type": "role_revoke", "config": {"user": "{{account.id}}", "role": "vpn"}}),
        ],
    );
    definition["variables"] = json!([{"name": "name", "type": "string", "required": true}]);
    let definition = fleet.define(&definition);
    let mut killed = 0;
    for point in (2..60).step_by(6) {
        let name = format!("n{point}");
        let mut first = fleet.worker("1", &[("FLOH_TEST_KILL_AT", &point.to_string())]);
        let run = fleet.start_run(&definition, &json!({"name": name}));
        let second = std::cell::RefCell::new(None);
        let mut went_on = || {
            if second.borrow().is_none() && first.try_end().is_some() {
                killed += 1;
                *second.borrow_mut() = Some(fleet.worker("1", &[]));
            }
        };
        let sql = format!("SELECT id FROM question WHERE run_id = '{run}' AND status = 'pending'");
        let id = wait_for("the consent is asked for", LIMIT, || {
            went_on();
            rows(&fleet, &sql).into_iter().next()
        });
        answer(&fleet, &id, "status = 'approved', answered_by = 'x'");
        wait_for("the run completes", LIMIT, || {
            went_on();
            (fleet.run(&run).status == "completed").then_some(())
        });
        let expected = ["user.created", "user.updated", "role.granted", "consent.given", "role.revoked"];
        assert_eq!(audited(&fleet, &run), expected, "killed at point {point}");
        let sql = format!(
            "SELECT a.status, u.attributes FROM role_assignment a JOIN app_user u ON u.id = a.user_id WHERE u.email = '{name}@example.org'"
        );
        assert_eq!(rows(&fleet, &sql), [r#"revoked {"team": "x"}"#], "killed at point {point}");
        let asked = rows(&fleet, &format!("SELECT status FROM question WHERE run_id = '{run}'"));
        assert_eq!(asked, ["approved"], "killed at point {point}");
        let second = second.into_inner();
        for mut worker in [Some(first), second].into_iter().flatten() {
            worker.kill();
        }
    }
    assert!(killed > 5, "only {killed} of the points were met");
}
