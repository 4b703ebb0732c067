//! Definitions with one thing wrong each, and such that nobody would write.

use super::*;
use crate::engine::{graph::Graph, steps};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, json};

/// A definition in which everything is right, with a loop that waits.
fn sound() -> Value {
    json!({
        "name": "Employee onboarding",
        "category": "onboarding",
        "subjectVariable": "employee",
        "onError": "stop",
        "trigger": {"types": ["manual", "schedule"]},
        "variables": [
            {"name": "employee", "type": "user", "required": true, "description": "who begins"},
            {"name": "days", "type": "number"}
        ],
        "steps": [
            {"id": "start", "type": "start", "transitions": [{"on": "success", "to": "ask"}]},
            {"id": "ask", "name": "The manager decides", "type": "approval",
             "config": {"approvers": ["{{employee.manager.email}}"], "title": "{{employee.displayName}}", "expiresAfter": "3d"},
             "transitions": [{"on": "approved", "to": "compute"}, {"on": "rejected", "to": "no"}, {"on": "expired", "to": "ask"}]},
            {"id": "compute", "type": "transform", "retry": {"attempts": 3, "delay": "5s", "backoff": "fixed"},
             "config": {"code": "return {account: `{{not.a.template`}", "outputs": ["account"]},
             "transitions": [{"on": "success", "to": "which"}]},
            {"id": "which", "type": "case",
             "config": {"cases": [{"label": "sales", "when": {"variable": "employee.department", "equals": "Sales"}}]},
             "transitions": [{"on": "sales", "to": "grant"}, {"on": "default", "to": "yes"}]},
            {"id": "grant", "type": "role_grant", "timeout": "30s", "config": {"user": "{{employee.id}}", "role": "{{account}}"},
             "transitions": [{"on": "success", "to": "yes"}, {"on": "error", "to": "no"}, {"on": "timeout", "to": "no"}]},
            {"id": "no", "type": "end", "config": {"status": "failed", "reason": "refused"}},
            {"id": "yes", "type": "end"}
        ]
    })
}

fn lines(document: &Value) -> Vec<String> {
    validate(document).1.iter().map(ToString::to_string).collect()
}

/// What is found when the value at this JSON pointer is another.
fn with(pointer: &str, value: Value) -> Vec<String> {
    let mut document = sound();
    match document.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            document.pointer_mut(parent).unwrap()[name] = value;
        }
    }
    lines(&document)
}

#[test]
fn the_templates_of_a_message_are_checked_with_their_lines_and_variables() {
    let step = |text: &str, html: &str| {
        json!({"id": "grant", "type": "notification", "transitions": [{"on": "success", "to": "yes"}, {"on": "error", "to": "no"}],
               "config": {"to": ["{{employee}}"], "subject": "{{days}}", "text": text, "html": html}})
    };
    assert_eq!(with("/steps/4", step("{{#each employee.items}}{{name}}{{/each}}", "{{recipient.email}}")), [""; 0]);
    let found = with("/steps/4", step("x\n{{log employee}}", "{{employee.id}}{{#if emploiee.id}}a{{/if}}"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("error BAD_TEMPLATE at steps[4].config.text: line 2: there is no helper `log`"),
        "{found:?}"
    );
    assert!(
        found[1].starts_with("error UNDECLARED_VARIABLE at steps[4].config.html: `emploiee` is neither"),
        "{found:?}"
    );
}

#[test]
fn what_is_right_is_read_and_nothing_is_found() {
    let (definition, findings) = validate(&sound());
    assert_eq!(findings, []);
    assert_eq!(
        (definition.name.as_str(), definition.steps.len(), definition.variables.len()),
        ("Employee onboarding", 7, 2)
    );
    let retry = definition.steps[2].retry.unwrap();
    assert_eq!((retry.attempts, retry.delay.as_secs(), retry.doubles), (3, 5, false));
    assert_eq!(definition.steps[1].name, "The manager decides");
    assert_eq!(definition.steps[0].name, "start", "a step without a name is called by its id");
}

#[test]
fn each_mistake_has_its_code_and_its_place() {
    for (pointer, value, expected) in [
        ("/name", json!(""), "error MISSING at name"),
        ("/onError", json!("panic"), "error WRONG_VALUE at onError"),
        ("/subjectVariable", json!("boss"), "error UNDECLARED_VARIABLE at subjectVariable"),
        ("/variables/1/type", json!("integer"), "error WRONG_VALUE at variables[1].type"),
        ("/variables/1/name", json!("employee"), "error DUPLICATE_VARIABLE at variables[1].name"),
        ("/variables/1/name", json!("submitter"), "error DUPLICATE_VARIABLE at variables[1].name"),
        ("/variables/1/name", json!("a-b"), "error BAD_NAME at variables[1].name"),
        ("/trigger/types/0", json!("mail"), "warning WRONG_VALUE at trigger.types"),
        ("/colour", json!("red"), "warning UNKNOWN_FIELD at colour"),
        ("/steps/6/id", json!("no"), "error DUPLICATE_STEP at steps[6].id"),
        ("/steps/6/id", json!("a b"), "error BAD_ID at steps[6].id"),
        ("/steps/0/type", json!("begin"), "error UNKNOWN_TYPE at steps[0].type"),
        ("/steps/0/type", json!("verify_contact"), "error UNSUPPORTED_TYPE at steps[0].type"),
        ("/steps/0/type", json!("first_password_invitation"), "error UNSUPPORTED_TYPE at steps[0].type"),
        ("/steps/0/type", json!("identity_link"), "error UNSUPPORTED_TYPE at steps[0].type"),
        ("/steps/0/type", json!("action"), "error UNSUPPORTED_TYPE at steps[0].type"),
        ("/steps/0/transitions/0/to", json!("aks"), "error UNKNOWN_STEP at steps[0].transitions[0].to"),
        ("/steps/0/transitions/0/on", json!("approved"), "error BAD_OUTCOME at steps[0].transitions[0].on"),
        ("/steps/0/transitions", json!([]), "error MISSING_EDGE at steps[0].transitions"),
        ("/steps/1/transitions/1/on", json!("approved"), "error DUPLICATE_EDGE at steps[1].transitions[1]"),
        ("/steps/1/config/approvers", json!([]), "error MISSING at steps[1].config.approvers"),
        ("/steps/1/config/title", json!("{{employee"), "error BAD_TEMPLATE at steps[1].config.title"),
        ("/steps/1/config/title", json!("{{boss.name}}"), "error UNDECLARED_VARIABLE at steps[1].config.title"),
        ("/steps/1/config/expiresAfter", json!("soon"), "error WRONG_VALUE at steps[1].config.expiresAfter"),
        ("/steps/1/config/quorum", json!(1), "error WRONG_VALUE at steps[1].config.quorum"),
        (
            "/steps/1/config/escalation",
            json!({"remindEvery": "1d"}),
            "error MISSING at steps[1].config.escalation.remindAfter",
        ),
        ("/steps/1/config/aprovers", json!([]), "warning UNKNOWN_FIELD at steps[1].config.aprovers"),
        ("/steps/2/retry/attempts", json!(0), "error WRONG_VALUE at steps[2].retry.attempts"),
        ("/steps/2/config/outputs/0", json!("a b"), "error BAD_NAME at steps[2].config.outputs[0]"),
        (
            "/steps/3/config/cases/0/when/variable",
            json!("boss"),
            "error UNDECLARED_VARIABLE at steps[3].config.cases[0].when.variable",
        ),
        ("/steps/3/config/cases/0/label", json!("error"), "error BAD_LABEL at steps[3].config.cases[0].label"),
        ("/steps/4/timeout", json!(null), "error BAD_OUTCOME at steps[4].transitions[2].on"),
        ("/steps/5/config/reason", json!(null), "error MISSING at steps[5].config.reason"),
        // Names that mean something else to those who ask for a definition.
        ("/name", json!("IT/HR onboarding"), "error BAD_NAME at name"),
        ("/name", json!("onboarding.json"), "error BAD_NAME at name"),
        ("/name", json!("-"), "error BAD_NAME at name"),
        ("/name", json!("Onboarding@2"), "error BAD_NAME at name"),
        ("/name", json!("7b0e2c6e-3f6a-4b0e-9a55-0b4d4a0f4c11"), "error BAD_NAME at name"),
        ("/name", json!("é".repeat(101)), "error BAD_NAME at name"),
        ("/name", json!("one\ntwo"), "error BAD_NAME at name"),
        ("/steps/1/name", json!("a\u{0}b"), "error WRONG_VALUE at steps[1].name"),
        ("/steps/1/config/a\u{0}b", json!(1), "error WRONG_VALUE at steps[1].config[\"a\\0b\"]"),
        ("/category", json!("a\u{0}b"), "error WRONG_VALUE at category"),
        ("/colour", json!(["a\u{0}b"]), "error WRONG_VALUE at colour[0]"),
        ("/colour", json!("a\u{0}b"), "error WRONG_VALUE at colour"),
        // Variables that nobody can set.
        ("/steps/1/config/output", json!("a b"), "error BAD_NAME at steps[1].config.output"),
        ("/steps/1/config/output", json!("run"), "error BAD_NAME at steps[1].config.output"),
        ("/steps/2/config/outputs/0", json!("submitter"), "error BAD_NAME at steps[2].config.outputs[0]"),
        ("/steps/2/retry/delay", json!("25h"), "error WRONG_VALUE at steps[2].retry.delay"),
        ("/steps/4/retry", json!({"delay": "30s"}), "error MISSING at steps[4].retry.attempts"),
        ("/steps/0/retry", json!({"attempts": 3}), "warning UNKNOWN_FIELD at steps[0].retry"),
        ("/steps/6/timeout", json!("1h"), "warning UNKNOWN_FIELD at steps[6].timeout"),
        ("/steps/6/onError", json!("continue"), "warning UNKNOWN_FIELD at steps[6].onError"),
        (
            "/steps/3/config/cases/0/when",
            json!({"not": {"or": [{"variable": "boss", "exists": true}]}}),
            "error UNDECLARED_VARIABLE at steps[3].config.cases[0].when.not.or[0].variable",
        ),
        (
            "/steps/3/config/cases/0/when",
            json!({"variable": "days", "lessThan": "5"}),
            "error BAD_CONDITION at steps[3].config.cases[0].when.lessThan",
        ),
    ] {
        let found = with(pointer, value.clone());
        assert!(found.iter().any(|line| line.starts_with(&format!("{expected}: "))), "{pointer} = {value}: {found:#?}");
    }
}

#[test]
fn names_that_can_be_asked_for_are_names() {
    for name in ["Employee onboarding", "visit.v2", "a@b", "Eintritt (März)", "json", "-x", &"x".repeat(200)] {
        assert_eq!(with("/name", json!(name)), [""; 0], "{name}");
    }
}

#[test]
fn every_step_that_sets_a_built_in_variable_is_found_where_it_says_so() {
    for (kind, config, place) in [
        ("connector", json!({"outputs": {"run": "id"}}), ".outputs.run"),
        ("connector", json!({"mock": {"success": true, "outputVariables": {"run": 1}}}), ""),
        ("user_prompt", json!({"assignee": "a@b", "fields": [{"name": "x"}, {"name": "run"}]}), ".fields[1].name"),
        ("user_create", json!({"email": "a@b", "displayName": "A", "output": "run"}), ".output"),
        ("profile_update", json!({"user": "a@b", "set": {"floor": 1}, "output": "run"}), ".output"),
        ("document_submission", json!({"assignee": "a@b", "documentType": "nda", "output": "run"}), ".output"),
    ] {
        let mut step = json!({"id": "grant", "type": kind, "config": config,
            "transitions": [{"on": "success", "to": "yes"}, {"on": "error", "to": "no"}]});
        if kind == "connector" {
            step["config"]["connectorId"] = json!("directory");
            step["config"]["command"] = json!("add");
        }
        let found = with("/steps/4", step);
        let expected = format!("error BAD_NAME at steps[4].config{place}: every run has a variable `run`");
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{kind}: {found:#?}");
    }
}

#[test]
fn options_that_no_answer_can_be_are_found() {
    let form = |kind: &str, options: Value| {
        with(
            "/steps/4",
            json!({"id": "grant", "type": "user_prompt",
                "config": {"assignee": "a@b", "fields": [{"name": "x", "type": kind, "options": options}]},
                "transitions": [{"on": "success", "to": "yes"}, {"on": "error", "to": "no"}]}),
        )
    };
    for (kind, options) in [
        ("number", json!([1, 2.5])),
        ("string", json!(["a"])),
        ("array", json!([1, "a"])),
        ("date", json!(["2026-03-29"])),
        ("number", json!(["{{days}}"])),
    ] {
        assert_eq!(form(kind, options), [""; 0], "{kind}");
    }
    for (kind, options, words) in [
        ("number", json!(["1", "2"]), "`\"1\"` is no answer of type number"),
        ("string", json!([1]), "`1` is no answer of type string"),
        ("date", json!(["29.3."]), "is no answer of type date"),
        ("date", json!(["2026-3-9"]), "is no answer of type date"),
    ] {
        let found = form(kind, options);
        assert!(found[0].starts_with("warning NEVER at steps[4].config.fields[0].options: "), "{found:#?}");
        assert!(found[0].contains(words), "{found:#?}");
    }
    let found = form("nummer", json!([1, "a"]));
    assert!(
        found.len() == 1 && found[0].starts_with("error WRONG_VALUE at steps[4].config.fields[0].type: "),
        "{found:#?}"
    );
}

#[test]
fn the_same_mistake_is_found_once() {
    let message = json!({"id": "grant", "type": "notification", "config": {"to": 5, "subject": "s", "text": "t"},
        "transitions": [{"on": "success", "to": "yes"}, {"on": "error", "to": "no"}]});
    for (pointer, value, expected) in [
        ("/steps/1/config/approvers", json!(5), "error WRONG_KIND at steps[1].config.approvers"),
        ("/steps/1/config/approvers", json!([5]), "error WRONG_KIND at steps[1].config.approvers[0]"),
        ("/steps/4", message, "error WRONG_KIND at steps[4].config.to"),
        ("/steps/1/id", json!("a\u{0}b"), "error BAD_ID at steps[1].id"),
    ] {
        let found = with(pointer, value);
        let of_it: Vec<_> = found.iter().filter(|line| line.contains(expected.split(" at ").nth(1).unwrap())).collect();
        assert!(of_it.len() == 1 && of_it[0].starts_with(&format!("{expected}: ")), "{expected}: {found:#?}");
    }
    let found = lines(&json!({"name": "x", "steps": 5}));
    assert_eq!(found, ["error WRONG_KIND at steps: `steps` is a list, and here is a number"]);
}

#[test]
fn tries_that_are_not_counted_are_as_many_as_the_type_has() {
    let retry = |kind: &str| {
        let mut document = sound();
        document["steps"][4] = json!({"id": "grant", "type": kind, "retry": {"delay": "30s"}});
        validate(&document).0.steps[4].retry.unwrap().attempts
    };
    assert_eq!((retry("connector"), retry("transform"), retry("notification")), (4, 4, 8));
}

#[test]
fn an_object_that_only_looks_like_a_condition_is_none() {
    let looks = json!({"variable": "x", "contains": "y"});
    let call = json!({"id": "grant", "type": "connector", "transitions": [{"on": "success", "to": "yes"}, {"on": "error", "to": "no"}],
        "config": {"connectorId": "directory", "command": "search", "params": {"body": {"filter": [looks]}}}});
    assert_eq!(with("/steps/4", call), [""; 0]);
    let create = json!({"id": "grant", "type": "user_create", "transitions": [{"on": "success", "to": "yes"}],
        "config": {"email": "a@b", "displayName": "A", "attributes": {"rule": looks}}});
    assert_eq!(with("/steps/4", create), [""; 0]);
}

/// A loop of a step that waits and one that computes.
fn looped(kind: &str, config: &Value, on: &str) -> Value {
    json!({"name": "x", "onError": "continue", "steps": [
        {"id": "start", "type": "start", "transitions": [{"on": "success", "to": "wait"}]},
        {"id": "wait", "type": kind, "config": config, "transitions": [{"on": on, "to": "again"}]},
        {"id": "again", "type": "condition", "config": {"if": {"variable": "run.id", "exists": true}},
         "transitions": [{"on": "true", "to": "wait"}, {"on": "false", "to": "end"}]},
        {"id": "end", "type": "end"}]})
}

#[test]
fn a_loop_that_a_step_goes_round_without_waiting_when_it_fails_is_found() {
    let cycles = |document: &Value| {
        let found = lines(document);
        let cycle = found.iter().any(|line| line.starts_with("error CYCLE_WITHOUT_WAIT at steps[1]: `wait`, `again`"));
        assert!(found.len() == usize::from(cycle), "{found:#?}");
        cycle
    };
    let delay = |command: &str, params: Value| json!({"connectorId": "delay", "command": command, "params": params});
    for (kind, config, on) in [
        ("approval", json!({"approvers": ["a@b"]}), "approved"),
        ("consent", json!({"user": "a@b", "text": "x"}), "approved"),
        ("user_prompt", json!({"assignee": "a@b", "fields": [{"name": "x"}]}), "success"),
        ("document_submission", json!({"assignee": "a@b", "documentType": "nda"}), "success"),
        ("connector", delay("wait", json!({"duration": "{{run.id}}"})), "success"),
        ("connector", delay("until", json!({"time": "{{run.id}}"})), "success"),
    ] {
        let mut document = looped(kind, &config, on);
        // Whatever a step of this type does that fails.
        let kind_of_step = steps::find(kind).unwrap();
        let goes_on = kind_of_step.carries_on(config.as_object().unwrap()).is_some_and(|outcome| outcome == on);
        assert_eq!(goes_on, cycles(&document), "{kind}");
        let own = document.clone();
        document["onError"] = json!("stop");
        assert!(!cycles(&document), "{kind}");
        document["steps"][1]["onError"] = json!("continue");
        assert_eq!(goes_on, cycles(&document), "{kind}");
        // With an edge of its own it goes by that.
        let mut away = own.clone();
        away["steps"][1]["transitions"].as_array_mut().unwrap().push(json!({"on": "error", "to": "end"}));
        assert!(!cycles(&away), "{kind}");
        let mut back = own;
        back["onError"] = json!("stop");
        back["steps"][1]["transitions"].as_array_mut().unwrap().push(json!({"on": "error", "to": "again"}));
        assert!(cycles(&back), "{kind}");
    }
    let approval = steps::find("approval").unwrap();
    assert_eq!(approval.carries_on(&Map::new()), None);
    let wait = delay("wait", json!({"duration": "{{run.id}}"}));
    assert!(cycles(&looped("connector", &wait, "success")), "a wait that cannot be computed goes on at once");
    // One that can be computed does wait, whatever is written for its failure.
    let mut poll = looped("connector", &delay("wait", json!({"duration": "1d"})), "success");
    assert!(!cycles(&poll));
    poll["steps"][1]["transitions"].as_array_mut().unwrap().push(json!({"on": "error", "to": "again"}));
    assert!(!cycles(&poll));
    // A time that does not change comes once, whenever that is.
    for time in ["2020-01-01", "2999-01-01"] {
        let mut document = looped("connector", &delay("until", json!({"time": time})), "success");
        document["onError"] = json!("stop");
        let found = lines(&document);
        // One is more than ten years away, which is said, too.
        assert!(found.iter().any(|line| line.contains("CYCLE_WITHOUT_WAIT at steps[1]")), "{time}: {found:#?}");
    }
}

#[test]
fn what_one_step_hides_is_all_that_is_not_said_of_a_graph() {
    let has = |document: &Value, expected: &[&str], unexpected: &[&str]| {
        let found = lines(document);
        for code in expected {
            assert!(found.iter().any(|line| line.contains(code)), "{code}: {found:#?}");
        }
        for code in unexpected {
            assert!(!found.iter().any(|line| line.contains(code)), "{code}: {found:#?}");
        }
    };
    // A step that is not executed here, beside no end, a loop, and a chain of connectors.
    let call = |id: &str, to: &str| {
        json!({"id": id, "type": "connector", "config": {"connectorId": "ad", "command": "add"},
            "transitions": [{"on": "success", "to": to}]})
    };
    let mut document = json!({"name": "x", "steps": [
        {"id": "start", "type": "start", "transitions": [{"on": "success", "to": "one"}]},
        call("one", "two"), call("two", "odd"),
        {"id": "odd", "type": "verify_contact", "transitions": [{"on": "success", "to": "one"}]},
        {"id": "round", "type": "role_grant", "config": {"user": "a@b", "role": "r"}, "transitions": [{"on": "success", "to": "round"}]},
        {"id": "lost", "type": "consent", "config": {"user": "a@b", "text": "t"}, "transitions": [{"on": "approved", "to": "nowhere"}]}
    ]});
    let codes = [
        "UNSUPPORTED_TYPE",
        "NO_END",
        "CYCLE_WITHOUT_WAIT at steps[4]",
        "PROVISIONING_CHAIN_NO_ERROR_EDGE at steps[2]",
    ];
    // `odd` may have to lead to the others.
    has(&document, &codes, &["UNREACHABLE_STEP", "NO_START"]);
    // Where it is readable, what is wrong with an edge of a step that nothing leads to hides nothing.
    document["steps"][3]["type"] = json!("role_revoke");
    document["steps"][3]["config"] = json!({"user": "a@b", "role": "r"});
    has(&document, &["UNKNOWN_STEP", "UNREACHABLE_STEP at steps[4]", "UNREACHABLE_STEP at steps[5]"], &["NO_START"]);
    // Nor does a step there that cannot be read at all.
    document["steps"][5] = json!(7);
    has(&document, &["WRONG_KIND at steps[5]", "UNREACHABLE_STEP at steps[4]"], &["NO_START"]);
    document["steps"][0]["transitions"][0]["to"] = json!("noe");
    has(&document, &["UNKNOWN_STEP"], &["UNREACHABLE_STEP"]);
    // A start with a mistake in it is one.
    document["steps"][0]["id"] = json!("a b");
    has(&document, &["BAD_ID"], &["NO_START", "UNREACHABLE_STEP"]);
    document["steps"][0]["type"] = json!("begin");
    has(&document, &["UNKNOWN_TYPE", "NO_START", "NO_END"], &["UNREACHABLE_STEP"]);
    // An id that is there twice is no way into a loop, and hides none elsewhere.
    let mut document = sound();
    document["steps"][6]["id"] = json!("no");
    document["steps"][3]["transitions"][1]["to"] = json!("compute");
    has(&document, &["DUPLICATE_STEP", "CYCLE_WITHOUT_WAIT"], &["UNREACHABLE_STEP"]);
}

#[test]
fn a_graph_with_holes_and_loops_is_found() {
    for (pointer, value, expected) in [
        ("/steps/0/type", json!("role_revoke"), "NO_START"),
        ("/steps/1/transitions/0/to", json!("yes"), "UNREACHABLE_STEP"),
        ("/steps/3/transitions/1/to", json!("compute"), "CYCLE_WITHOUT_WAIT"),
    ] {
        let mut document = sound();
        *document.pointer_mut(pointer).unwrap() = value;
        if expected == "NO_START" {
            document["steps"][0]["config"] = json!({"user": "a", "role": "b"});
        }
        let found = lines(&document);
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:#?}");
    }
    // Beside something else that is wrong.
    let found =
        with("/steps/6", json!({"id": "yes", "type": "start", "transitions": [{"on": "success", "to": "nowhere"}]}));
    for code in ["UNKNOWN_STEP at steps[6].transitions[0].to", "SEVERAL_STARTS at steps[6]"] {
        assert!(found.iter().any(|line| line.contains(code)), "{code}: {found:#?}");
    }
    let cycle = with("/steps/3/transitions/1/to", json!("compute"));
    assert!(cycle.iter().any(|line| line.contains("`compute`, `which`")), "{cycle:#?}");
}

#[test]
fn a_chain_of_connectors_is_warned_of_where_a_failure_leads_nowhere() {
    let mut document = sound();
    let call = |id: &str, to: &str| {
        json!({"id": id, "type": "connector", "config": {"connectorId": "ad", "command": "create", "params": {}},
            "transitions": [{"on": "success", "to": to}]})
    };
    let steps = document["steps"].as_array_mut().unwrap();
    steps[0]["transitions"][0]["to"] = json!("one");
    steps.extend([call("one", "two"), call("two", "ask")]);
    assert_eq!(lines(&document).len(), 1);
    assert!(lines(&document)[0].starts_with("warning PROVISIONING_CHAIN_NO_ERROR_EDGE at steps[8]: `two`"));
    document["steps"][8]["transitions"].as_array_mut().unwrap().push(json!({"on": "error", "to": "no"}));
    assert_eq!(lines(&document), Vec::<String>::new());
    // Whatever stands between them; but not where the first one has failed, and not after itself.
    let between = |middle: Value, first: &str| {
        let mut document = sound();
        let steps = document["steps"].as_array_mut().unwrap();
        steps[0]["transitions"][0]["to"] = json!("one");
        let mut one = call("one", "middle");
        one["transitions"] = json!([{"on": "success", "to": "ask"}, {"on": "error", "to": "ask"}]);
        one["transitions"].as_array_mut().unwrap().retain(|edge| edge["on"] != first);
        one["transitions"].as_array_mut().unwrap().push(json!({"on": first, "to": "middle"}));
        steps.extend([one, middle, call("two", "ask")]);
        lines(&document)
            .iter()
            .filter(|line| line.contains("PROVISIONING_CHAIN_NO_ERROR_EDGE at steps[9]: `two`"))
            .count()
    };
    let condition = json!({"id": "middle", "type": "condition", "config": {"if": {"variable": "days", "exists": true}},
        "transitions": [{"on": "true", "to": "two"}, {"on": "false", "to": "no"}]});
    let message = json!({"id": "middle", "type": "notification", "config": {"to": ["a@b"], "subject": "s", "text": "t"},
        "transitions": [{"on": "success", "to": "two"}]});
    let transform = json!({"id": "middle", "type": "transform", "config": {"code": "return {x: 1}", "outputs": ["x"]},
        "transitions": [{"on": "success", "to": "two"}]});
    let wait = json!({"id": "middle", "type": "connector",
        "config": {"connectorId": "delay", "command": "wait", "params": {"duration": 1}}, "transitions": [{"on": "success", "to": "two"}]});
    for middle in [condition, message, transform, wait] {
        assert_eq!((between(middle.clone(), "success"), between(middle.clone(), "error")), (1, 0), "{middle}");
    }
    let mut document = sound();
    document["steps"][1]["transitions"][2]["to"] = json!("again");
    document["steps"].as_array_mut().unwrap().push(call("again", "ask"));
    assert_eq!(lines(&document), Vec::<String>::new());
}

#[test]
fn all_mistakes_are_found_at_once() {
    let found = lines(&json!({"steps": [{"type": "approval", "transitions": [{"on": 5}]}, 7], "variables": {}}));
    for expected in [
        "name: `name` is missing",
        "steps[0].id",
        "steps[0].transitions[0].on",
        "steps[0].transitions[0].to",
        "steps[1]",
        "variables",
    ] {
        assert!(found.iter().any(|line| line.contains(&format!(" at {expected}"))), "{expected}: {found:#?}");
    }
    assert!(lines(&json!(5))[0].starts_with("error WRONG_KIND at the definition"));
}

/// Everything that a definition knows by name.
const WORDS: [&str; 44] = [
    "name",
    "steps",
    "variables",
    "id",
    "type",
    "config",
    "transitions",
    "on",
    "to",
    "trigger",
    "types",
    "onError",
    "stop",
    "retry",
    "attempts",
    "delay",
    "timeout",
    "5s",
    "start",
    "end",
    "approval",
    "approvers",
    "condition",
    "if",
    "variable",
    "equals",
    "and",
    "not",
    "in",
    "case",
    "cases",
    "label",
    "when",
    "transform",
    "code",
    "outputs",
    "connector",
    "params",
    "success",
    "error",
    "user",
    "{{user.email}}",
    "escalation",
    "fields",
];

fn anything() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => ".{0,8}".prop_map(Value::from),
        4 => select(&WORDS[..]).prop_map(Value::from),
    ];
    scalar.prop_recursive(6, 64, 8, |inner| {
        let name = prop_oneof![9 => select(&WORDS[..]).prop_map(str::to_string), 1 => ".{0,6}"];
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Array),
            vec((name, inner), 0..8).prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Where something in a document is another.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_string());
    match value {
        Value::Array(list) => list.iter().enumerate().for_each(|(i, one)| places(one, &format!("{at}/{i}"), found)),
        Value::Object(members) => members.iter().for_each(|(name, one)| places(one, &format!("{at}/{name}"), found)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_documents_are_read_and_have_findings(document in anything()) {
        let (definition, findings) = validate(&document);
        // By chance alone nobody writes one that is right.
        prop_assert!(findings.iter().any(|finding| finding.severity == Severity::Error), "{document}");
        prop_assert!(definition.steps.len() <= 1000);
    }

    #[test]
    fn hostile_changes_to_a_sound_definition_are_found_or_do_no_harm(at in any::<prop::sample::Index>(), value in anything()) {
        let mut document = sound();
        let mut all = Vec::new();
        places(&document, "", &mut all);
        let place: &String = at.get(&all);
        *document.pointer_mut(place).unwrap() = value;
        for finding in validate(&document).1 {
            prop_assert!(!finding.message.is_empty() && finding.code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'));
        }
    }

    #[test]
    fn hostile_graphs_are_walked_to_their_end(edges in vec((0usize..40, 0usize..40), 0..200)) {
        // Where a step leads is all that matters here: without configuration most of the time goes into the graph.
        let mut transitions = vec![Vec::new(); 40];
        for (from, to) in &edges {
            transitions[*from].push(json!({"on": "error", "to": format!("s{to}")}));
        }
        let step = |(n, transitions)| json!({"id": format!("s{n}"), "type": "case", "transitions": transitions});
        let steps: Vec<Value> = transitions.into_iter().enumerate().map(step).collect();
        let findings = RefCell::new(Findings::default());
        let definition = read(&json!({"name": "x", "steps": steps}), &findings);
        let graph = Graph::of(&definition);
        let mut reached = [[false; 40]; 40];
        for (start, reached) in reached.iter_mut().enumerate() {
            let mut open = vec![start];
            while let Some(step) = open.pop() {
                if !std::mem::replace(&mut reached[step], true) {
                    open.extend(edges.iter().filter(|(from, _)| *from == step).map(|(_, to)| *to));
                }
            }
        }
        let mut group = [None; 40];
        for (number, cycle) in graph.cycles(|_, _| true).iter().enumerate() {
            for step in cycle {
                prop_assert_eq!(group[*step].replace(number), None, "{} is in two groups", step);
            }
        }
        let mut returns = [false; 40];
        for (from, to) in &edges {
            returns[*from] |= reached[*to][*from];
        }
        // Two steps are in one group where each leads to the other, and a step alone where it leads back to itself.
        for one in 0..40 {
            prop_assert_eq!(group[one].is_some(), returns[one], "{}", one);
            for other in 0..one {
                let together = group[one].is_some() && group[one] == group[other];
                prop_assert_eq!(together, reached[one][other] && reached[other][one], "{} and {}", one, other);
            }
        }
    }
}
