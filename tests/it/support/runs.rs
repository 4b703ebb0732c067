//! Runs, as an API server starts them and looks at them: plain SQL.

use super::Fleet;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A run as its row says.
#[derive(Debug, Clone)]
pub struct RunRow {
    pub status: String,
    pub reason: Option<String>,
    pub variables: Value,
    pub current_step: Option<String>,
}

/// A visit of a step as its row says.
#[derive(Debug, Clone)]
pub struct StepRow {
    pub id: String,
    pub visit: i32,
    pub attempt: i32,
    pub status: String,
    pub outcome: Option<String>,
    pub result: Value,
    pub reason: Option<String>,
    pub set: Value,
}

/// A text as an SQL literal.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A definition around these steps: `start` leads to the first, every step without edges of its own is given one for each of
/// `outcomes` to the next step, and `end` is the last.
pub fn chain(name: &str, steps: Vec<Value>) -> Value {
    let ids: Vec<String> = steps.iter().map(|step| step["id"].as_str().unwrap().to_string()).collect();
    let next = |index: usize| ids.get(index).cloned().unwrap_or_else(|| "end".into());
    let mut all = vec![json!({"id": "start", "type": "start", "transitions": [{"on": "success", "to": next(0)}]})];
    for (index, mut step) in steps.into_iter().enumerate() {
        if step["transitions"].is_null() {
            step["transitions"] = json!([{"on": "success", "to": next(index + 1)}]);
        }
        all.push(step);
    }
    all.push(json!({"id": "end", "type": "end"}));
    json!({"name": name, "steps": all})
}

/// How many points each of a run's jobs had passed by its end, as its worker has logged them: two for each statement.
pub fn points_passed(log: &str) -> Vec<u64> {
    let said = log.lines().filter_map(|line| line.split_once(" points passed"));
    said.map(|(before, _)| before.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

impl Fleet {
    /// Publishes a definition as another program does; returns the row's id.
    pub fn define(&self, document: &Value) -> String {
        let name = quote(document["name"].as_str().unwrap());
        let document = quote(&document.to_string());
        let rows = self.sql(&format!(
            "INSERT INTO floh_worker.workflow_definition (name, version, status, definition, published_at)
                VALUES ({name}, 1, 'active', {document}, now()) RETURNING id"
        ));
        rows[0][0].clone().unwrap()
    }

    /// Starts a run of a definition's row, as another program does; returns its id.
    pub fn start_run(&self, definition: &str, variables: &Value) -> String {
        let variables = quote(&variables.to_string());
        let rows = self.sql(&format!(
            "INSERT INTO floh_worker.workflow_run (definition_id, variables) VALUES ('{definition}', {variables}) RETURNING id"
        ));
        rows[0][0].clone().unwrap()
    }

    /// A run's row.
    pub fn run(&self, id: &str) -> RunRow {
        let rows = self.sql(&format!(
            "SELECT status, failure_reason, variables, current_step FROM floh_worker.workflow_run WHERE id = '{id}'"
        ));
        let row = &rows[0];
        RunRow {
            status: row[0].clone().unwrap(),
            reason: row[1].clone(),
            variables: serde_json::from_str(row[2].as_deref().unwrap()).unwrap(),
            current_step: row[3].clone(),
        }
    }

    /// The visits of a run, in their order.
    pub fn steps(&self, id: &str) -> Vec<StepRow> {
        let rows = self.sql(&format!(
            "SELECT step_id, visit, attempt, status, outcome, result, failure_reason, variables_set
                FROM floh_worker.workflow_step WHERE run_id = '{id}' ORDER BY position"
        ));
        let json =
            |text: &Option<String>| text.as_deref().map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
        let read = |row: &Vec<Option<String>>| StepRow {
            id: row[0].clone().unwrap(),
            visit: row[1].as_deref().unwrap().parse().unwrap(),
            attempt: row[2].as_deref().unwrap().parse().unwrap(),
            status: row[3].clone().unwrap(),
            outcome: row[4].clone(),
            result: json(&row[5]),
            reason: row[6].clone(),
            set: json(&row[7]),
        };
        rows.iter().map(read).collect()
    }

    /// Waits until a run has this status.
    ///
    /// # Panics
    /// Not within `limit`; the message holds the run and its steps.
    pub fn wait_run(&self, id: &str, status: &str, limit: Duration) -> RunRow {
        let end = Instant::now() + limit;
        loop {
            let run = self.run(id);
            if run.status == status {
                return run;
            }
            assert!(Instant::now() < end, "run {id} is not {status} within {limit:?}: {run:#?}\n{:#?}", self.steps(id));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a run is at a step that waits.
    ///
    /// # Panics
    /// Not within `limit`.
    pub fn wait_at(&self, id: &str, step: &str, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let run = self.run(id);
            if run.status == "waiting" && run.current_step.as_deref() == Some(step) {
                return;
            }
            assert!(
                Instant::now() < end,
                "run {id} does not wait at {step} within {limit:?}: {run:#?}\n{:#?}",
                self.steps(id)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
