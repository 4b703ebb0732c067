//! `flohctl schedule`.

use super::{schedule, tiny};
use crate::support::{Fleet, child::Finished};
use serde_json::json;

fn ended(finished: &Finished) -> (Option<i32>, String, String) {
    (finished.status.code(), finished.stdout.clone(), finished.stderr.clone())
}

#[test]
fn schedules_are_made_listed_paused_resumed_and_removed() {
    let fleet = Fleet::start();
    let flohctl = |arguments: &[&str]| ended(&fleet.flohctl(arguments));
    assert_eq!(flohctl(&["schedule", "list"]), (Some(0), "there are no schedules\n".into(), String::new()));
    let add = [
        "schedule",
        "add",
        "nightly",
        "--definition",
        "tiny",
        "--cron",
        "30 2 * * *",
        "--zone",
        "Europe/Berlin",
        "--variables",
        "{\"role\": \"auditor\"}",
        "--submitter",
        "u-1",
        "--catch-up",
        "all",
        "--catch-up-limit",
        "7",
        "--overlap",
        "queue",
        "--mocks",
    ];
    let (code, out, err) = flohctl(&add);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("the schedule nightly is made: next ") && out.ends_with(" UTC\n"), "{out}");
    assert_eq!(err, "flohctl: no version of the definition tiny is active: until one is, nothing starts\n");
    assert_eq!(flohctl(&add), (Some(1), "there is a schedule nightly already\n".into(), String::new()));
    let row = fleet.sql(
        "SELECT definition, cron, zone, variables, submitter_id, catch_up, catch_up_limit, overlap, use_mocks, enabled, queue
            FROM floh_worker.workflow_schedule",
    );
    let row: Vec<&str> = row[0].iter().map(|column| column.as_deref().unwrap()).collect();
    let wanted =
        ["tiny", "30 2 * * *", "Europe/Berlin", "{\"role\": \"auditor\"}", "u-1", "all", "7", "queue", "t", "t"];
    assert_eq!((&row[..10], row[10]), (&wanted[..], "bull:workflow-scheduler"));

    tiny(&fleet);
    let id = fleet.sql("SELECT id FROM floh_worker.workflow_schedule")[0][0].clone().unwrap();
    fleet.sql(&format!(
        "INSERT INTO floh_worker.schedule_tick (schedule_id, due_at, outcome) VALUES ('{id}', '2026-05-01T00:30:00Z', 'skipped')"
    ));
    let (_, out, _) = flohctl(&["schedule", "list"]);
    assert!(
        out.starts_with("nightly  tiny\n    30 2 * * * Europe/Berlin, catch-up all, overlap queue\n    next "),
        "{out}"
    );
    assert!(out.ends_with(", last tick 2026-05-01 00:30:00 UTC skipped\n"), "{out}");
    assert_eq!(flohctl(&["schedule", "pause", "nightly"]).1, "the schedule nightly is paused\n");
    assert!(flohctl(&["schedule", "list"]).1.contains("    paused, last tick"));
    let (code, out, err) = flohctl(&["schedule", "next", "nightly"]);
    assert_eq!((code, out.lines().count(), err.as_str()), (Some(0), 5, "flohctl: the schedule nightly is paused\n"));
    assert!(flohctl(&["schedule", "resume", "nightly"]).1.starts_with("the schedule nightly goes on: next "));
    assert_eq!(flohctl(&["schedule", "remove", "nightly"]).1, "the schedule nightly is removed; its runs stay\n");
    for verb in ["pause", "resume", "remove", "next"] {
        let nobody = (Some(1), "there is no schedule nightly\n".to_string(), String::new());
        assert_eq!(flohctl(&["schedule", verb, "nightly"]), nobody, "{verb}");
    }
}

#[test]
fn variables_that_do_not_fit_the_active_version_are_warned_of() {
    let fleet = Fleet::start();
    fleet.define(&json!({
        "name": "typed",
        "variables": [{"name": "n", "type": "number", "required": true}],
        "steps": [{"id": "start", "type": "start", "transitions": [{"on": "success", "to": "end"}]}, {"id": "end", "type": "end"}],
    }));
    for (name, variables, wanted) in [
        ("a", "{\"n\": 1}", vec![]),
        ("b", "{}", vec!["the variable `n` (number) is required"]),
        (
            "c",
            "{\"n\": \"1\", \"m\": 2}",
            vec![
                "the variable `n` is of type number, and here is a text",
                "the definition declares no variable `m`: it has n",
            ],
        ),
    ] {
        let add = ["schedule", "add", name, "--definition", "typed", "--cron", "30 2 * * *", "--variables", variables];
        let (code, out, err) = ended(&fleet.flohctl(&add));
        assert!(code == Some(0) && out.starts_with("the schedule "), "{out}{err}");
        let said: Vec<&str> = err.lines().map(|line| line.strip_prefix("flohctl: typed@1: ").unwrap_or(line)).collect();
        assert_eq!(said, wanted);
    }
}

#[test]
fn the_next_times_are_shown_in_the_zone_and_in_utc() {
    let fleet = Fleet::start();
    schedule(&fleet, "nightly", &[("cron", "30 2 * * *"), ("zone", "Europe/Berlin")]);
    let from = ["--after", "2026-03-28T12:00:00Z", "-n", "2"];
    let wanted = "Sun 2026-03-29 03:30:00 +02:00  2026-03-29 01:30:00 UTC\n\
                  Mon 2026-03-30 02:30:00 +02:00  2026-03-30 00:30:00 UTC\n";
    let named = ["schedule", "next", "nightly"];
    assert_eq!(ended(&fleet.flohctl(&[&named[..], &from].concat())), (Some(0), wanted.into(), String::new()));
    // No server is asked.
    let written = ["schedule", "next", "--cron", "30 2 * * *", "--zone", "Europe/Berlin"];
    let alone = fleet.flohctl_with(&[&written[..], &from].concat(), &[("DB_PORT", "1"), ("DB_HOST", "127.0.0.1")]);
    assert_eq!(ended(&alone), (Some(0), wanted.into(), String::new()));
    assert_eq!(fleet.flohctl(&named).stdout.lines().count(), 5);
}

#[test]
fn what_is_wrong_is_said_in_one_sentence_before_a_server_is_asked() {
    let fleet = Fleet::start();
    let add = ["schedule", "add", "x", "--definition", "tiny"];
    for (arguments, says) in [
        (&["--cron", "every day"][..], "the cron expression `every day`: "),
        (&["--cron", "H 2 * * *"], "write a number"),
        (&["--cron", "0 2 * * *", "--zone", "Mars/Base"], "the zone `Mars/Base` is not in the IANA database"),
        (&["--cron", "0 2 * * *", "--variables", "{"], "--variables {: it is not JSON: "),
        (&["--cron", "0 2 * * *", "--variables", "[1]"], "--variables [1]: it is no JSON object"),
        (
            &["--cron", "0 2 * * *", "--variables", r#"{"a": "\u0000"}"#],
            "--variables: the variable `a` cannot be stored: it has the character U+0000",
        ),
    ] {
        let finished =
            fleet.flohctl_with(&[&add[..], arguments].concat(), &[("DB_PORT", "1"), ("DB_HOST", "127.0.0.1")]);
        let (code, out, err) = ended(&finished);
        assert_eq!((code, out.as_str()), (Some(64), ""), "{err}");
        assert!(err.starts_with("flohctl: ") && err.contains(says) && err.lines().count() == 1, "{err}");
    }
    let (code, _, err) = ended(&fleet.flohctl(&["schedule", "next", "--cron", "0 2 * * *", "--after", "soon"]));
    assert_eq!((code, err.as_str()), (Some(64), "flohctl: --after soon: it is no time such as 2026-03-28T12:00:00Z\n"));
}
