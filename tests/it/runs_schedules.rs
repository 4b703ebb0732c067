//! Schedules: each tick starts one run, whoever fires it, whoever is killed meanwhile.

mod daemon;
mod faults;
mod flohctl;
mod missed;
mod overlap;
mod thousand;

use crate::{
    store_ledger::migrated,
    support::{Fleet, PostgresServer, runs::chain, wait_for},
};
use chrono::DateTime;
use floh_worker::{
    jobs::trigger_workflow::{Asked, settle},
    store::{Store, schedule},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);

/// What the ids of their job schedulers begin with.
const PREFIX: &str = "floh-worker:schedule:";

/// A database with a definition, and nobody but the test who fires ticks.
struct Table {
    server: PostgresServer,
    store: Store,
}

impl Table {
    async fn start() -> Table {
        let (server, store) = migrated().await;
        let table = Table { server, store };
        table.sql("INSERT INTO workflow_definition (name, status, definition) VALUES ('tiny', 'active', '{}')").await;
        table
    }

    /// Rows of a query, each column as text.
    async fn sql(&self, query: &str) -> Vec<Vec<String>> {
        let session = self.server.session("floh").await;
        let answers = session.simple_query(&format!("SET search_path = floh_worker; {query}")).await.unwrap();
        let rows = answers.into_iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        rows.map(|row| (0..row.len()).map(|i| row.get(i).unwrap_or("-").to_string()).collect()).collect()
    }

    /// A schedule whose ticks are dealt with up to `until`.
    async fn add(&self, fields: &[(&str, &str)], until: &str) -> Uuid {
        let id = Uuid::new_v4();
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let values: Vec<String> = fields.iter().map(|(_, value)| format!("'{value}'")).collect();
        self.sql(&format!(
            "INSERT INTO workflow_schedule (id, name, definition, ticked_until, {}) VALUES ('{id}', '{id}', 'tiny', '{until}', {})",
            names.join(", "),
            values.join(", ")
        ))
        .await;
        id
    }

    /// What a job or a look does at this time: the job's value, or the sentence with which it fails.
    async fn fire(&self, id: Uuid, now: &str, asked: Asked) -> Result<Value, String> {
        fire(&self.store, id, at(now), asked).await
    }

    /// The ticks that started a run, each as `05-01T02:00Z`.
    async fn started(&self, id: Uuid) -> Vec<String> {
        let query = format!(
            "SELECT to_char(tick_at AT TIME ZONE 'UTC', 'MM-DD\"T\"HH24:MI\"Z\"') FROM workflow_run
                WHERE schedule_id = '{id}' ORDER BY tick_at"
        );
        self.sql(&query).await.into_iter().map(|row| row[0].clone()).collect()
    }
}

async fn fire(store: &Store, id: Uuid, now: i64, asked: Asked) -> Result<Value, String> {
    let transaction = store.schedule_transaction().await.unwrap();
    let mut opened = schedule::open(transaction.client(), id).await.unwrap().unwrap();
    opened.now_ms = now;
    let settled = settle(transaction.client(), &opened, asked).await.unwrap();
    transaction.commit().await.unwrap();
    settled.map(|settled| settled.value())
}

fn at(text: &str) -> i64 {
    DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
}

/// A definition whose runs end at once.
fn tiny(fleet: &Fleet) -> String {
    let mut tiny = chain("tiny", vec![]);
    tiny["variables"] =
        json!([{"name": "a", "type": "array"}, {"name": "b", "type": "number"}, {"name": "n", "type": "number"}]);
    fleet.define(&tiny)
}

/// Makes a schedule, as an API server does; returns its id.
fn schedule(fleet: &Fleet, name: &str, fields: &[(&str, &str)]) -> String {
    let names: String = fields.iter().map(|(name, _)| format!(", {name}")).collect();
    let values: String = fields.iter().map(|(_, value)| format!(", '{value}'")).collect();
    let rows = fleet.sql(&format!(
        "INSERT INTO floh_worker.workflow_schedule (name, definition{names}) VALUES ('{name}', 'tiny'{values}) RETURNING id"
    ));
    rows[0][0].clone().unwrap()
}

/// The ticks (seconds) of each schedule that started a run, with the number of runs.
fn ticks(fleet: &Fleet) -> BTreeMap<String, BTreeMap<i64, u32>> {
    let rows = fleet.sql(
        "SELECT schedule_id, extract(epoch FROM tick_at)::bigint FROM floh_worker.workflow_run WHERE tick_at IS NOT NULL",
    );
    let mut all: BTreeMap<String, BTreeMap<i64, u32>> = BTreeMap::new();
    for row in rows {
        let tick = row[1].as_deref().unwrap().parse().unwrap();
        *all.entry(row[0].clone().unwrap()).or_default().entry(tick).or_default() += 1;
    }
    all
}

/// A time of the schedule's table, in whole seconds.
fn seconds(fleet: &Fleet, id: &str, column: &str) -> i64 {
    let query = format!(
        "SELECT floor(extract(epoch FROM {column}))::bigint FROM floh_worker.workflow_schedule WHERE id = '{id}'"
    );
    fleet.sql(&query)[0][0].as_deref().unwrap().parse().unwrap()
}

/// Fails unless a schedule for every second has started one run in each second from its creation to `until`.
fn no_gap(fleet: &Fleet, id: &str, until: i64) {
    let ticks = ticks(fleet).remove(id).unwrap_or_default();
    let wanted: BTreeMap<i64, u32> = (seconds(fleet, id, "created_at") + 1..=until).map(|second| (second, 1)).collect();
    let found: BTreeMap<i64, u32> = ticks.range(..=until).map(|(tick, count)| (*tick, *count)).collect();
    assert!(!wanted.is_empty());
    let missing: Vec<_> = wanted.keys().filter(|second| !found.contains_key(second)).collect();
    assert!(missing.is_empty(), "schedule {id} lacks {missing:?}");
    assert_eq!(found, wanted, "schedule {id}");
}

/// The job schedulers of schedules: what stands in their hashes, by the schedule's id.
fn schedulers(fleet: &mut Fleet) -> BTreeMap<String, (String, String, Value)> {
    let repeat = fleet.key("repeat");
    let ids: Vec<String> = fleet.redis("ZRANGE", &[&repeat, &"0", &"-1"]);
    let mut found = BTreeMap::new();
    for id in ids {
        let Some(schedule) = id.strip_prefix(PREFIX) else { continue };
        let hash = format!("{repeat}:{id}");
        let fields: BTreeMap<String, String> = fleet.redis("HGETALL", &[&hash]);
        // One that the worker removed between the two commands.
        if fields.is_empty() {
            continue;
        }
        let data = serde_json::from_str(&fields["data"]).unwrap();
        found.insert(schedule.to_string(), (fields["pattern"].clone(), fields["tz"].clone(), data));
    }
    found
}

/// Waits until a schedule has exactly this scheduler, or none.
fn wait_scheduler(fleet: &mut Fleet, id: &str, wanted: Option<(&str, &str)>) {
    let wanted = wanted.map(|(cron, zone)| (cron.to_string(), zone.to_string(), json!({ "scheduleId": id })));
    wait_for("the scheduler", Duration::from_secs(15), || (schedulers(fleet).get(id) == wanted.as_ref()).then_some(()));
}
