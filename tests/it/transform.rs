//! Runs with transforms: what a script computes is the run's, what it logs is the step's, and one that fails is a failed
//! step of a worker that goes on.

use crate::support::{Fleet, runs::chain};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn transform(id: &str, code: &str, outputs: &[&str]) -> Value {
    json!({"id": id, "type": "transform", "config": {"code": code, "outputs": outputs}})
}

#[test]
fn scripts_compute_variables_for_the_steps_behind_them() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let names = "const {first, last} = floh.variables;
                 floh.log.info('names', first, last); floh.log.warn('one\\0two');
                 return {account: `${first}.${last}`.toLowerCase(), not: 'kept', run: 'not ours'}";
    let count = "return {length: floh.variables.account.length, of: [floh.variables.run.id, floh.now(), floh.uuid()]}";
    let mut document =
        chain("names", vec![transform("names", names, &["account"]), transform("count", count, &["length", "of"])]);
    document["variables"] = json!([{"name": "first", "type": "string"}, {"name": "last", "type": "string"}]);
    let run = fleet.start_run(&fleet.define(&document), &json!({"first": "Ada", "last": "Lovelace"}));
    let row = fleet.wait_run(&run, "completed", LIMIT);
    assert_eq!((&row.variables["account"], &row.variables["length"]), (&json!("ada.lovelace"), &json!(12)));
    assert_eq!(row.variables["of"][0], json!(run));
    assert!(row.variables.get("not").is_none());
    let steps = fleet.steps(&run);
    assert_eq!(steps[1].set, json!({"account": "ada.lovelace"}));
    let logs = json!([{"level": "info", "text": "names Ada Lovelace"}, {"level": "warn", "text": "one\u{fffd}two"}]);
    assert_eq!(steps[1].result["logs"], logs);
    assert!(steps[1].result["durationMs"].is_u64(), "{:?}", steps[1].result);
    worker.stop();
}

#[test]
fn a_script_that_fails_fails_its_step_and_the_worker_goes_on() {
    let fleet = Fleet::start();
    let mut worker = fleet.worker("1", &[]);
    let run_of = |name: &str, step: Value| fleet.start_run(&fleet.define(&chain(name, vec![step])), &json!({}));
    for (name, code, says) in [
        ("throws", "floh.log.info('before');\nthrow new Error('no\\0 no')", "Error: no\u{fffd} no (line 2, column"),
        ("missing", "return {}", "the script returned no `out`, which is one of its outputs"),
        ("memory", "const a = []; for (;;) a.push('x'.repeat(1e6) + a.length)", "more than 16 MiB of memory"),
        ("stuck", "return {out: ('a'.repeat(4e6) + 'c').indexOf('a'.repeat(1e6) + 'b')}", "was not done after 5 s"),
        ("nul", "return {out: ['a\\0b']}", "U+0000"),
        ("broken", "return {", "SyntaxError"),
    ] {
        let run = run_of(name, transform("t", code, &["out"]));
        let reason = fleet.wait_run(&run, "failed", LIMIT).reason.unwrap();
        assert!(reason.contains("`t`") && reason.contains(says), "{name}: {reason}");
        let steps = fleet.steps(&run);
        assert_eq!(
            (steps[1].status.as_str(), steps[1].outcome.as_deref(), steps[1].attempt),
            ("failed", Some("error"), 1),
            "{name}"
        );
        if name == "throws" {
            assert_eq!((&steps[1].result["logs"][0]["text"], &steps[1].result["line"]), (&json!("before"), &json!(2)));
        }
    }
    // The step's own time is less than a script's.
    let mut short = transform("t", "for (;;) {}", &["out"]);
    short["timeout"] = json!("1s");
    let run = run_of("short", short);
    assert!(fleet.wait_run(&run, "failed", LIMIT).reason.unwrap().contains("timeout of 1 s"));
    let run = run_of("fine", transform("t", "return {out: 1}", &["out"]));
    assert_eq!(fleet.wait_run(&run, "completed", LIMIT).variables["out"], json!(1));
    worker.stop();
}
