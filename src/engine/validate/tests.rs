//! Definitions with one thing wrong each, and such that nobody would write.

use super::*;
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
        ("/steps/0/type", json!("identity_link"), "error UNSUPPORTED_TYPE at steps[0].type"),
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
    ] {
        let found = with(pointer, value.clone());
        assert!(found.iter().any(|line| line.starts_with(&format!("{expected}: "))), "{pointer} = {value}: {found:#?}");
    }
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
        prop_assert!(findings.iter().any(|finding| finding.severity == super::super::Severity::Error), "{document}");
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
        let reached: Vec<Vec<bool>> = (0..40).map(|step| graph.reached_from(step)).collect();
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
