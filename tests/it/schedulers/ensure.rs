//! The schedulers of the built-in jobs.

use super::{Bench, fetch, json, queue};
use floh_worker::queue::{
    Queue,
    schedulers::{Builtin, Done, Outcome, continue_chain, ensure},
};
use serde_json::{Value, json};

const ID: &str = "floh-worker:nightly";
const DAY: i64 = 24 * 3_600_000;

fn nightly(pattern: &str) -> Builtin {
    Builtin { data: json!({"deep": {"list": [1, 2.5]}}), ..Builtin::new("nightly", pattern) }
}

async fn done(queue: &Queue, wanted: &[Builtin]) -> Done {
    let [outcome]: [Outcome; 1] = ensure(queue, wanted).await.unwrap().try_into().unwrap();
    outcome.done
}

/// Three workers that start at once.
async fn three_at_once(bench: &Bench, wanted: &[Builtin]) -> Vec<Done> {
    let queues = [(); 3].map(|()| queue(&bench.redis, "workflow-scheduler"));
    let [a, b, c] = &queues;
    let all = tokio::join!(done(a, wanted), done(b, wanted), done(c, wanted));
    vec![all.0, all.1, all.2]
}

#[tokio::test]
async fn several_workers_make_one_scheduler_that_npm_reads() {
    let mut bench = Bench::start().await;
    let outcomes = three_at_once(&bench, &[nightly("30 2 * * *")]).await;
    assert_eq!(outcomes.iter().filter(|done| matches!(done, Done::Added(_))).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|done| **done == Done::Kept).count(), 2, "{outcomes:?}");
    let schedulers = bench.schedulers().await;
    let [(id, next)] = &schedulers[..] else { panic!("{schedulers:?}") };
    assert_eq!(id, ID);
    assert_eq!(bench.delayed().await, [format!("repeat:{ID}:{next}")]);
    assert_eq!(three_at_once(&bench, &[nightly("30 2 * * *")]).await, [Done::Kept, Done::Kept, Done::Kept]);
    for version in [6, 5] {
        let seen = bench.peer.call(version, "schedulers", json!({}));
        assert_eq!(seen.as_array().unwrap().len(), 1);
        let seen = &seen[0];
        assert_eq!((&seen["key"], &seen["name"], &seen["next"]), (&json!(ID), &json!("nightly"), &json!(*next as i64)));
        assert_eq!((&seen["pattern"], &seen["tz"]), (&json!("30 2 * * *"), &json!("UTC")));
        assert_eq!(seen["template"]["data"], json!({"deep": {"list": [1, 2.5]}}));
        assert_eq!(seen["template"]["opts"]["attempts"], json!(4));
        let job = bench.peer.call(version, "job", json!({"job": format!("repeat:{ID}:{next}")}));
        assert_eq!((&job["state"], &job["repeatJobKey"]), (&json!("delayed"), &json!(ID)), "{job}");
        assert_eq!(job["data"], json!({"deep": {"list": [1, 2.5]}}));
        assert_eq!(job["opts"]["repeat"]["count"], json!(1));
    }
}

#[tokio::test]
async fn a_tick_that_came_due_while_no_worker_ran_runs_once_when_three_start() {
    let mut bench = Bench::start().await;
    let wanted = [nightly("30 2 * * *")];
    assert!(matches!(done(&bench.queue, &wanted).await, Done::Added(_)));
    let missed = bench.pass(ID, DAY).await;
    assert_eq!(three_at_once(&bench, &wanted).await, [Done::Kept, Done::Kept, Done::Kept]);
    let queues = [(); 3].map(|()| queue(&bench.redis, "workflow-scheduler"));
    let mut taken = Vec::new();
    for (n, queue) in queues.iter().enumerate() {
        if let Some(job) = fetch(queue, &format!("token-{n}")).await {
            continue_chain(queue, &job).await.unwrap();
            taken.push((job, n));
        }
    }
    let [(job, n)] = &taken[..] else { panic!("{} workers took it", taken.len()) };
    assert_eq!(job.id, format!("repeat:{ID}:{missed}"));
    // While it runs, and after it has, starting workers change nothing.
    assert_eq!(three_at_once(&bench, &wanted).await, [Done::Kept, Done::Kept, Done::Kept]);
    bench.complete(job, &format!("token-{n}")).await;
    assert_eq!(three_at_once(&bench, &wanted).await, [Done::Kept, Done::Kept, Done::Kept]);
    assert_eq!(bench.schedulers().await[0].1 as i64, missed + DAY);
    assert_eq!(bench.delayed().await, [format!("repeat:{ID}:{}", missed + DAY)]);
    assert!(fetch(&bench.queue, "token").await.is_none());
}

#[tokio::test]
async fn a_changed_schedule_replaces_the_pending_iteration_but_never_a_due_one() {
    let mut bench = Bench::start().await;
    let Done::Added(_) = done(&bench.queue, &[nightly("30 2 * * *")]).await else { panic!() };
    for (wanted, what) in [
        (nightly("0 5 * * *"), "pattern"),
        (Builtin { data: json!({}), ..nightly("0 5 * * *") }, "data"),
        (Builtin { options: json!({"attempts": 1}), data: json!({}), ..nightly("0 5 * * *") }, "options"),
    ] {
        let Done::Changed(next) = done(&bench.queue, std::slice::from_ref(&wanted)).await else { panic!("{what}") };
        assert_eq!(bench.delayed().await, [format!("repeat:{ID}:{next}")], "{what}");
        assert_eq!(done(&bench.queue, &[wanted]).await, Done::Kept, "{what}");
    }
    // Due: in delayed, in wait, and active.
    let missed = bench.pass(ID, 2 * DAY).await;
    let wanted = [nightly("45 3 * * *")];
    assert_eq!(three_at_once(&bench, &wanted).await, [Done::Due, Done::Due, Done::Due]);
    bench.peer.call(6, "promote", json!({"job": format!("repeat:{ID}:{missed}")}));
    assert_eq!(done(&bench.queue, &wanted).await, Done::Due);
    let job = fetch(&bench.queue, "token").await.unwrap();
    assert_eq!(done(&bench.queue, &wanted).await, Done::Due);
    continue_chain(&bench.queue, &job).await.unwrap();
    bench.complete(&job, "token").await;
    let Done::Changed(next) = done(&bench.queue, &wanted).await else { panic!() };
    assert_eq!(bench.delayed().await, [format!("repeat:{ID}:{next}")]);
    let hash = bench.hash(&format!("bull:workflow-scheduler:repeat:{ID}")).await;
    assert_eq!((hash["pattern"].as_str(), hash["tz"].as_str()), ("45 3 * * *", "UTC"));
}

#[tokio::test]
async fn a_scheduler_of_npm_with_our_id_and_another_kind_is_made_ours() {
    let mut bench = Bench::start().await;
    let template = json!({"name": "nightly", "data": {}});
    let repeat = json!({"every": 3_600_000, "limit": 5});
    bench.peer.call(6, "upsertScheduler", json!({"scheduler": ID, "repeat": repeat, "template": template}));
    // Its first iteration is due at once.
    assert_eq!(done(&bench.queue, &[nightly("0 5 * * *")]).await, Done::Due);
    bench.take_and_complete().await;
    assert!(matches!(done(&bench.queue, &[nightly("0 5 * * *")]).await, Done::Changed(_)));
    let seen = bench.peer.call(6, "scheduler", json!({"scheduler": ID}));
    assert_eq!((&seen["pattern"], seen.get("every"), seen.get("limit")), (&json!("0 5 * * *"), None, None));
    assert_eq!(done(&bench.queue, &[nightly("0 5 * * *")]).await, Done::Kept);
}

#[tokio::test]
async fn somebody_else_s_scheduler_of_the_job_is_left_alone() {
    let mut bench = Bench::start().await;
    let wanted = [nightly("30 2 * * *")];
    assert!(matches!(done(&bench.queue, &wanted).await, Done::Added(_)));
    let repeat = json!({"pattern": "0 4 * * *"});
    let template = json!({"name": "nightly", "data": {"theirs": true}});
    bench.peer.call(5, "upsertScheduler", json!({"scheduler": "by-hand", "repeat": repeat, "template": template}));
    // Ours has an iteration that is due: it stays until that has run.
    bench.pass(ID, DAY).await;
    assert_eq!(done(&bench.queue, &wanted).await, Done::LeftTo("by-hand".into()));
    assert_eq!(bench.schedulers().await.len(), 2);
    bench.take_and_complete().await;
    assert_eq!(done(&bench.queue, &wanted).await, Done::LeftTo("by-hand".into()));
    let left = bench.schedulers().await;
    assert!(matches!(&left[..], [(id, _)] if id == "by-hand"), "{left:?}");
    let hash = bench.hash("bull:workflow-scheduler:repeat:by-hand").await;
    assert_eq!(json(&hash["data"]), json!({"theirs": true}));
    // Gone again: ours comes back.
    bench.peer.call(6, "removeScheduler", json!({"scheduler": "by-hand"}));
    assert!(matches!(done(&bench.queue, &wanted).await, Done::Added(_)));
}

#[tokio::test]
async fn a_repeatable_of_npm_5_for_the_job_is_left_alone_too() {
    let mut bench = Bench::start().await;
    let opts = json!({"repeat": {"pattern": "0 4 * * *", "tz": "UTC"}});
    bench.peer.call(5, "add", json!({"name": "nightly", "data": {}, "opts": opts}));
    let Done::LeftTo(key) = done(&bench.queue, &[nightly("30 2 * * *")]).await else { panic!() };
    assert_eq!(bench.schedulers().await[0].0, key);
    // And one without a hash, whose name stands in its key.
    let () = bench.ask(&["DEL", "bull:workflow-scheduler:repeat"]).await;
    let due = (bench.queue.now_ms().await.unwrap() + DAY).to_string();
    let () = bench.ask(&["ZADD", "bull:workflow-scheduler:repeat", &due, "nightly::::0 4 * * *"]).await;
    assert_eq!(done(&bench.queue, &[nightly("30 2 * * *")]).await, Done::LeftTo("nightly::::0 4 * * *".into()));
}

#[tokio::test]
async fn a_worker_without_the_key_leaves_the_scheduler_of_one_with_it_alone() {
    let mut bench = Bench::start().await;
    let with_key = [nightly("30 2 * * *"), Builtin::new("audit-checkpoint", "0 * * * *")];
    let without_key = &with_key[..1];
    assert_eq!(ensure(&bench.queue, &with_key).await.unwrap().len(), 2);
    let (schedulers, delayed) = (bench.schedulers().await, bench.delayed().await);
    assert_eq!((schedulers.len(), delayed.len()), (2, 2));
    assert_eq!(done(&bench.queue, without_key).await, Done::Kept);
    assert_eq!((bench.schedulers().await, bench.delayed().await), (schedulers, delayed));
    // Not over a due iteration either.
    let missed = bench.pass("floh-worker:audit-checkpoint", DAY).await;
    let delayed = bench.delayed().await;
    assert!(delayed.contains(&format!("repeat:floh-worker:audit-checkpoint:{missed}")), "{delayed:?}");
    assert_eq!(done(&bench.queue, without_key).await, Done::Kept);
    assert_eq!((bench.schedulers().await.len(), bench.delayed().await), (2, delayed));
    let outcomes = ensure(&bench.queue, &with_key).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.done == Done::Kept), "{outcomes:?}");
}

#[tokio::test]
async fn a_broken_chain_is_mended() {
    let mut bench = Bench::start().await;
    let wanted = [nightly("30 2 * * *")];
    let Done::Added(next) = done(&bench.queue, &wanted).await else { panic!() };
    // The iteration was removed, pending or due, by hand or by an eviction.
    let id = format!("repeat:{ID}:{next}");
    bench.lose(&id).await;
    assert_eq!(done(&bench.queue, &wanted).await, Done::Mended(next));
    let missed = bench.pass(ID, DAY).await;
    bench.lose(&format!("repeat:{ID}:{missed}")).await;
    assert_eq!(done(&bench.queue, &wanted).await, Done::Mended(next));
    // The iteration ran without a successor: a worker that knows no schedulers took it.
    let missed = bench.pass(ID, DAY).await;
    let job = fetch(&bench.queue, "token").await.unwrap();
    assert_eq!(super::due(&job.id), missed);
    bench.complete(&job, "token").await;
    assert_eq!(three_at_once(&bench, &wanted).await.iter().filter(|done| **done == Done::Mended(next)).count(), 1);
    assert_eq!(bench.delayed().await, [id]);
    assert_eq!(done(&bench.queue, &wanted).await, Done::Kept);
}

#[tokio::test]
async fn a_job_that_has_the_next_iteration_s_id_is_stepped_over() {
    let mut bench = Bench::start().await;
    let wanted = [nightly("30 2 * * *")];
    let Done::Added(next) = done(&bench.queue, &wanted).await else { panic!() };
    // The scheduler is lost, its pending iteration is not.
    let () = bench.ask(&["ZREM", "bull:workflow-scheduler:repeat", ID]).await;
    assert_eq!(done(&bench.queue, &wanted).await, Done::Added(next + DAY));
    assert_eq!(bench.delayed().await.len(), 2);
    // Its job ends its own chain; the scheduler's goes on.
    let id = format!("repeat:{ID}:{next}");
    let () = bench.ask(&["ZADD", "bull:workflow-scheduler:delayed", "4096", &id]).await;
    assert_eq!(bench.take_and_complete().await.id, id);
    assert_eq!(bench.delayed().await, [format!("repeat:{ID}:{}", next + DAY)]);
    assert_eq!(done(&bench.queue, &wanted).await, Done::Kept);
}

#[tokio::test]
async fn a_pattern_that_cannot_be_read_is_an_error_and_changes_nothing() {
    let mut bench = Bench::start().await;
    for pattern in ["0 0 30 2 *", "every day", "0 0 31 4,6 *"] {
        let error = ensure(&bench.queue, &[nightly(pattern)]).await.unwrap_err();
        assert!(error.is_fatal(), "{error}");
    }
    assert_eq!(bench.schedulers().await, []);
    let nothing: Value = bench.peer.call(6, "schedulers", json!({}));
    assert_eq!(nothing, json!([]));
}

#[tokio::test]
async fn a_schedule_of_somebody_else_that_ended_does_not_silence_ours() {
    let mut bench = Bench::start().await;
    let now = bench.queue.now_ms().await.unwrap();
    let set = async |bench: &mut Bench, id: &str, due: i64| {
        let () = bench.ask(&["DEL", "bull:workflow-scheduler:repeat"]).await;
        let () = bench.ask(&["ZADD", "bull:workflow-scheduler:repeat", &due.to_string(), id]).await;
    };
    // A repeatable of npm 5 without its next iteration, for two minutes, or only for a moment.
    let hash = "bull:workflow-scheduler:repeat:old";
    let () = bench.ask(&["HSET", hash, "name", "nightly", "pattern", "0 1 * * *"]).await;
    set(&mut bench, "old", now - 120_000).await;
    assert!(matches!(done(&bench.queue, &[nightly("30 2 * * *")]).await, Done::Added(_)));
    set(&mut bench, "old", now - 1000).await;
    assert_eq!(done(&bench.queue, &[nightly("30 2 * * *")]).await, Done::LeftTo("old".into()));
    // An older one, whose iterations have other ids, and which may wait in a backlog.
    set(&mut bench, "nightly::::0 1 * * *", now - 3_600_000).await;
    assert_eq!(done(&bench.queue, &[nightly("30 2 * * *")]).await, Done::LeftTo("nightly::::0 1 * * *".into()));
    set(&mut bench, "nightly::::0 1 * * *", now - 2 * DAY).await;
    assert!(matches!(done(&bench.queue, &[nightly("30 2 * * *")]).await, Done::Added(_)));
}
