//! People who decide and answer by plain SQL: at once, late, twice, before they are asked, or never.

use crate::support::PostgresServer;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tokio_postgres::{Client, SimpleQueryMessage};

/// What can be decided or answered, or will be: its id and status, of which kind it is, and which one it is in every run of
/// the test with the same seed.
const OPEN: &str = "
    SELECT a.id, a.status, 'approval', concat_ws(' ', d.name, a.step_id, a.visit, a.position, a.reassigned_from IS NULL)
        FROM floh_worker.approval a JOIN floh_worker.workflow_run r ON r.id = a.run_id
        JOIN floh_worker.workflow_definition d ON d.id = r.definition_id WHERE a.status IN ('waiting', 'pending')
    UNION ALL SELECT q.id, q.status, q.kind, concat_ws(' ', d.name, q.step_id, q.visit)
        FROM floh_worker.question q JOIN floh_worker.workflow_run r ON r.id = q.run_id
        JOIN floh_worker.workflow_definition d ON d.id = r.definition_id WHERE q.status = 'pending'";

/// What came of somebody's decisions.
#[derive(Default)]
pub struct Decisions {
    /// Those that the database took: the status, and the answer if there is one, by id.
    pub taken: BTreeMap<String, (String, Value)>,
    /// How many it has refused, because they came too late, or too early.
    pub refused: usize,
}

/// Somebody's will: when, and what.
struct Plan {
    at: Instant,
    id: String,
    kind: String,
    status: String,
    answer: Value,
}

/// Decides until `ended`; then what is planned still, which has to be refused. `who` makes a difference, so that two of them
/// get into each other's way.
pub fn decide(postgres: &PostgresServer, seed: u64, who: &str, ended: &AtomicBool) -> Decisions {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = postgres.admin().await;
        let (mut decisions, mut seen, mut plans) = (Decisions::default(), BTreeSet::new(), Vec::new());
        while !ended.load(Ordering::Relaxed) {
            for message in client.simple_query(OPEN).await.unwrap() {
                let SimpleQueryMessage::Row(row) = message else { continue };
                let [id, status, kind, name] = [0, 1, 2, 3].map(|column| row.get(column).unwrap().to_string());
                if seen.insert((id.clone(), status.clone())) {
                    plans.extend(plan(id, &status, kind, (seed, who, name)));
                }
            }
            let now = Instant::now();
            for plan in plans.extract_if(.., |plan| plan.at <= now) {
                carry_out(&client, who, plan, &mut decisions).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let before = decisions.taken.len();
        for plan in plans {
            carry_out(&client, who, plan, &mut decisions).await;
        }
        assert_eq!(decisions.taken.len(), before, "what has ended takes no decision: {:#?}", decisions.taken);
        decisions
    })
}

/// What somebody wants to do, if anything. Most are done within the time that is given; some are too late.
fn plan(id: String, status: &str, kind: String, identity: (u64, &str, String)) -> Option<Plan> {
    let mut hasher = DefaultHasher::new();
    (identity, status).hash(&mut hasher);
    let mut random = StdRng::seed_from_u64(hasher.finish());
    // Who is not asked yet is impatient now and then.
    if !random.random_bool(if status == "waiting" { 0.1 } else { 0.6 }) {
        return None;
    }
    let at = Instant::now() + Duration::from_secs_f64(0.8 * random.random_range(0.0..1.0_f64).powi(2));
    let (status, answer) = match kind.as_str() {
        "prompt" => ("answered", json!({"n": random.random_range(0..8), "why": "ä"})),
        _ if random.random_bool(0.75) => ("approved", Value::Null),
        _ => ("rejected", Value::Null),
    };
    Some(Plan { at, id, kind, status: status.into(), answer })
}

/// Does it as an API server does. It may be too late for it, or too early; nothing else may be wrong.
async fn carry_out(client: &Client, who: &str, plan: Plan, decisions: &mut Decisions) {
    let Plan { id, kind, status, answer, .. } = plan;
    let reason = if status == "rejected" { "'no'" } else { "NULL" };
    let sql = match kind.as_str() {
        "approval" => format!(
            "UPDATE floh_worker.approval SET status = '{status}', decided_by = '{who}', reason = {reason} WHERE id = '{id}'"
        ),
        "prompt" => format!(
            "UPDATE floh_worker.question SET status = '{status}', answered_by = '{who}', answer = '{answer}' WHERE id = '{id}'"
        ),
        _ => format!(
            "UPDATE floh_worker.question SET status = '{status}', answered_by = '{who}', reason = {reason} WHERE id = '{id}'"
        ),
    };
    match client.simple_query(&sql).await {
        Ok(_) => {
            let twice = decisions.taken.insert(id, (status, answer));
            assert_eq!(twice, None, "{sql}");
        }
        Err(error) => {
            assert_eq!(error.code().map(|code| code.code()), Some("FL020"), "{error:?}\n{sql}");
            decisions.refused += 1;
        }
    }
}
