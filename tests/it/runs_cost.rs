//! What a step of a run costs: the statements that its job sends to PostgreSQL, each one round trip.

use crate::support::{
    Fleet,
    runs::{chain, points_passed},
    wait_for,
};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_step_of_a_run_costs_less_than_two_round_trips() {
    let fleet = Fleet::start();
    // Counted are the points before and after each statement.
    let mut worker = fleet.worker("1", &[]);
    let steps: Vec<Value> = (0..10)
        .map(|number| {
            let id = format!("s{number}");
            if number % 2 == 0 {
                let code = format!("return {{{id}: {number}}}");
                return json!({"id": id, "type": "transform", "config": {"code": code, "outputs": [id]}});
            }
            let next = if number == 9 { "end".into() } else { format!("s{}", number + 1) };
            json!({"id": id, "type": "condition", "config": {"if": {"variable": "run.id", "exists": true}},
                "transitions": [{"on": "true", "to": next}, {"on": "false", "to": "end"}]})
        })
        .collect();
    let definition = fleet.define(&chain("ten", steps));
    let mut passed = 0;
    let mut trips = 0;
    // The first run prepares statements and reads the definition.
    for number in 1..=2 {
        let run = fleet.start_run(&definition, &json!({}));
        fleet.wait_run(&run, "completed", LIMIT);
        assert_eq!(fleet.steps(&run).len(), 12);
        let now = wait_for("the points of the job", LIMIT, || {
            let said = points_passed(&worker.log());
            (said.len() >= number).then(|| said.last().copied()).flatten()
        });
        trips = (now - passed) / 2;
        passed = now;
    }
    println!("{trips} round trips for a run of 12 steps");
    assert!((12..=24).contains(&trips), "{trips} round trips for a run of 12 steps");
    worker.stop();
}
