//! Redis is silent for longer than a lock lives, while jobs are in the middle of a transaction. A worker that cannot renew
//! does not know who has the job: it cancels the handler while the lock still lives, and nothing of it is committed.

use crate::{
    stage::{Plan, Stage, now_ms},
    support::wait_for,
    table::{Kind, Row, Verdict},
};
use serde_json::json;
use std::{collections::BTreeMap, thread::sleep, time::Duration};

row!(25, lease_not_renewed, off "margin" => Stale, not_renewed);

/// How long a lock lives.
const LOCK: u64 = 30_000;
/// The handler has ended when its last renewal is as old as this: four seconds before the lock's end it is told to, and half
/// a second is what the worker may take to look, and a second a handler to end; a busy machine may need some more.
const ENDED_AT: u64 = 28_000;
/// The transaction is opened this long after the job's start, before the handler is cancelled, and is open over that:
/// it would be committed when the lock has expired. PostgreSQL itself ends one that is idle for 10 s.
const BEFORE: u64 = 24_000;
const OPEN: u64 = 9_000;
const SOON: Duration = Duration::from_secs(20);

/// A job under way: its id, what its session is called, and when its lock was last renewed before the freeze.
struct Victim {
    id: String,
    session: String,
    renewed: u64,
}

fn not_renewed(row: &Row) -> Verdict {
    let jobs = row.choose(2, 6);
    let fault = format!("Redis frozen past {jobs} locks, their jobs in open transactions");
    let mut stage = Stage::start(row, fault, |_| Plan::workers(&[8, 8]));
    let begun = now_ms();
    let victims = begin(&mut stage, jobs);
    stage.fleet.redis.freeze();
    watch(&mut stage, &victims, begun + BEFORE + OPEN + 1500);
    let effects = stage.fleet.effects();
    for victim in victims.iter().filter(|victim| effects.contains_key(&victim.id)) {
        stage.complain(Kind::Stale, format!("{} was committed although nobody renewed its lock", victim.id));
    }
    stage.fleet.redis.thaw();
    let thawed = now_ms();
    stage.pick_up(thawed);
    if !stage.is_seen() {
        run_again(&mut stage, &victims);
    }
    stage.end()
}

/// Starts the jobs and returns when their handlers run.
fn begin(stage: &mut Stage, jobs: usize) -> Vec<Victim> {
    let ids: Vec<String> = (0..jobs).map(|number| format!("victim-{number}")).collect();
    for id in &ids {
        let opts = json!({"attempts": 1, "removeOnComplete": false, "jobId": id, "lifo": true});
        stage.fleet.add(6, "test.effect", json!({"key": id, "before": BEFORE, "ms": OPEN}), opts);
        stage.keys.insert(id.clone());
    }
    let mut victims = Vec::new();
    for id in ids {
        let query = format!(
            "SELECT floh_worker.epoch_label(epoch) FROM floh_worker.job_execution
            WHERE job_id = '{id}' AND state = 'taken'"
        );
        let row = wait_for("the take of the job", SOON, || stage.fleet.sql(&query).pop());
        victims.push(Victim { id, session: row[0].clone().unwrap(), renewed: 0 });
    }
    // After the take the worker asks Redis once more; where that was frozen before, no transaction would be opened.
    sleep(Duration::from_secs(1));
    for victim in &mut victims {
        let lock = stage.fleet.key(&format!("{}:lock", victim.id));
        let left: u64 = stage.fleet.redis("PTTL", &[&lock]);
        victim.renewed = now_ms() + left - LOCK;
    }
    victims
}

/// Looks at the transactions that are open, until that time: each victim's was opened, and was gone in time.
fn watch(stage: &mut Stage, victims: &[Victim], until: u64) {
    let mut last_seen: BTreeMap<String, u64> = BTreeMap::new();
    while now_ms() < until {
        let query = "SELECT application_name FROM pg_stat_activity WHERE state = 'idle in transaction'
            AND query LIKE 'INSERT INTO test_effect%'";
        // What is seen was open when the question was asked.
        let now = now_ms();
        last_seen.extend(stage.fleet.sql(query).into_iter().map(|row| (row[0].clone().unwrap_or_default(), now)));
        sleep(Duration::from_millis(50));
    }
    for victim in victims {
        match last_seen.get(&victim.session) {
            None => {
                stage.complain(Kind::Setup, format!("the transaction of {} was not opened: {last_seen:?}", victim.id))
            }
            Some(last) => {
                let age = last.saturating_sub(victim.renewed);
                stage.complain_if(age > ENDED_AT, Kind::Stale, || {
                    format!("the handler of {} was not cancelled {age} ms after the last renewal", victim.id)
                });
            }
        }
    }
}

/// The jobs run again, with less to do, and are done.
fn run_again(stage: &mut Stage, victims: &[Victim]) {
    for victim in victims {
        let hash = stage.fleet.key(&victim.id);
        let _: i64 = stage.fleet.redis("HSET", &[&hash, &"data", &json!({"key": victim.id}).to_string()]);
    }
    if !stage.row.is_full() {
        // The two checks that find an expired lock, at once.
        stage.fleet.check_stalled();
        stage.fleet.check_stalled();
    }
    for victim in victims {
        let hash = stage.fleet.key(&victim.id);
        wait_for("the end of the job", Duration::from_secs(100), || {
            stage.fleet.redis::<Option<String>>("HGET", &[&hash, &"finishedOn"]).map(|_| ())
        });
    }
}
