//! From adding a job to the start of its handler, on an idle queue.

use crate::{
    Scale,
    field::{Field, PREFIX, subject},
    report::{Report, Spread, Table},
    subject::Kind,
    support::wait_for,
    worker::monotonic_us,
};
use floh_worker::queue::{Queue, connection::COMMAND_DEADLINE, scripts};
use serde_json::json;
use std::time::Duration;

/// One job is added each.
const PERIOD: Duration = Duration::from_millis(5);
/// Jobs per worker and round, in a full run.
const JOBS: u64 = 600;
/// The jobs before these are not counted.
const WARM_UP: usize = 50;

pub fn measure(scale: Scale, report: &mut Report) {
    let mut field = Field::start();
    let jobs = scale.jobs(JOBS);
    let mut middles: [Vec<f64>; 4] = Default::default();
    let mut tails: [Vec<f64>; 4] = Default::default();
    for _ in 0..scale.rounds {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            let mut waits = one(&mut field, kind, jobs);
            waits.sort_by(f64::total_cmp);
            middles[index].push(waits[waits.len() / 2]);
            tails[index].push(waits[(waits.len() * 99 / 100).min(waits.len() - 1)]);
        }
    }
    let mut table = Table::new(&["worker", "p50, µs", "floh-worker has", "p99, µs", "floh-worker has"]);
    for (index, kind) in Kind::ALL.into_iter().enumerate() {
        let beside = |all: &[Vec<f64>; 4]| match index {
            0 => String::new(),
            _ => Spread::of_ratios(&all[0], &all[index]).times(),
        };
        table.row([
            kind.name().to_string(),
            Spread::of(&middles[index]).text(0),
            beside(&middles),
            Spread::of(&tails[index]).text(0),
            beside(&tails),
        ]);
    }
    report.section(
        "From adding a job to its handler's start",
        &format!(
            "One job every {} ms, {jobs} of them each round, one at a time. The time runs from before the job is added \
             until the handler's first line.",
            PERIOD.as_millis()
        ),
        table,
    );
    for (what, all) in [("p50", &middles), ("p99", &tails)] {
        let ratio = Spread::of_ratios(&all[0], &all[1]);
        report.goal(
            "latency",
            &format!("enqueue to handler start, {what}"),
            "at most the official crate's",
            &format!("{:.0} µs, {} of it", Spread::of(&all[0]).median, ratio.times()),
            1.0 / ratio.median,
        );
    }
}

/// How long each job waited, microseconds.
fn one(field: &mut Field, kind: Kind, jobs: u64) -> Vec<f64> {
    field.clear();
    let worker = subject(field, kind, 1, PREFIX);
    worker.wait_for("ready");
    let queue = field.queue(PREFIX);
    field.wait(async {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for _ in 0..jobs {
            tick.tick().await;
            add(&queue).await;
        }
    });
    wait_for("the last jobs", Duration::from_secs(10), || (field.left().1 == 0).then_some(()));
    let mut waits = worker.finish();
    assert_eq!(waits.len() as u64, jobs, "every job started");
    waits.drain(..WARM_UP.min(waits.len() / 2));
    waits
}

/// Adds a job in a single round trip, whose data is when that began.
async fn add(queue: &Queue) {
    let keys = &queue.keys;
    let none: Option<String> = None;
    let now_ms = chrono::Utc::now().timestamp_millis();
    let head = (&keys.base, "", "test.echo", now_ms, &none, &none, &none, &none, &none);
    let head = rmp_serde::to_vec_named(&head).unwrap();
    let options = rmp_serde::to_vec_named(&json!({"removeOnComplete": true})).unwrap();
    let data = json!({ "at": monotonic_us() }).to_string();
    let script_keys: [&str; 9] = [
        &keys.wait,
        &keys.paused,
        &keys.meta,
        &keys.id,
        &keys.completed,
        &keys.delayed,
        &keys.active,
        &keys.events,
        &keys.marker,
    ];
    let arguments: [&[u8]; 3] = [&head, data.as_bytes(), &options];
    let _: redis::Value = scripts::ADD_STANDARD_JOB
        .call(&queue.link, COMMAND_DEADLINE, &script_keys, queue.settle(), &arguments)
        .await
        .unwrap();
}
