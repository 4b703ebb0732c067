//! Deaths in the ledger: charged to what a life ran when it died, whoever has the job by then, and to nothing else.

use crate::store_ledger::{fetch, identity, migrated, taken};
use floh_worker::store::{Identity, Release, Start, Store, Take, WorkerInstance, suspicion::Death};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

fn death(of: &Start<'_>) -> Death {
    Death { invocation: of.invocation, host: "vm-1".into(), evidence: "watchdog (KILL)".into() }
}

async fn suspicions(store: &Store, job: &Identity) -> usize {
    store.suspicions(job).await.unwrap().len()
}

fn beat(start: &Start<'_>) -> WorkerInstance {
    WorkerInstance {
        invocation: start.invocation,
        instance: "1".into(),
        host: "vm-1".into(),
        pid: 1,
        version: "0.1.0".into(),
    }
}

#[tokio::test]
async fn a_death_is_charged_to_a_job_that_another_life_has_taken_meanwhile() {
    let (_server, store) = migrated().await;
    let dead = fetch(1, 100);
    taken(&store, &identity("a"), &dead).await;
    assert_eq!(taken(&store, &identity("a"), &fetch(2, 200)).await.suspicions, 0, "nobody knows it yet");
    // As often as the answer is lost.
    for _ in 0..2 {
        assert_eq!(store.record_death(&death(&dead)).await.unwrap(), ["a"]);
        assert_eq!(suspicions(&store, &identity("a")).await, 1);
    }
    let known = store.suspicions(&identity("a")).await.unwrap().remove(0);
    assert_eq!((known.evidence.as_str(), known.host.as_str()), ("watchdog (KILL)", "vm-1"));
}

#[tokio::test]
async fn a_death_is_charged_by_the_next_take_where_nobody_had_the_job_and_the_third_one_quarantines_it() {
    let (_server, store) = migrated().await;
    for round in 1..=3 {
        let dead = fetch(round, 100 * i64::from(round));
        let lease = taken(&store, &identity("a"), &dead).await;
        assert_eq!(lease.suspicions, u32::try_from(round - 1).unwrap());
        assert_eq!(store.record_death(&death(&dead)).await.unwrap(), [""; 0], "it is not lost yet");
    }
    let take = store.take(&identity("a"), &fetch(4, 400)).await.unwrap();
    assert_eq!(take, Take::Quarantined { identity: identity("a") });
    assert_eq!(suspicions(&store, &identity("a")).await, 3);
}

#[tokio::test]
async fn what_ended_in_order_is_not_charged() {
    let (_server, store) = migrated().await;
    let dead = fetch(1, 100);
    let ends = [Release::HandedBack, Release::Retried, Release::Failed, Release::Lost];
    let jobs: Vec<Identity> = (0..ends.len()).map(|n| identity(&format!("job-{n}"))).collect();
    for (job, end) in jobs.iter().zip(ends) {
        let lease = taken(&store, job, &dead).await;
        assert!(store.release(&lease, end).await.unwrap());
    }
    let committed = taken(&store, &identity("committed"), &dead).await;
    store.begin(&committed).await.unwrap().commit_result(&json!(1)).await.unwrap();
    // Completed without a committed result, then retried by hand: another attempt, or the same with its counts reset.
    taken(&store, &identity("done"), &dead).await;
    taken(&store, &Identity { attempts_made: 1, ..identity("done") }, &fetch(2, 200)).await;
    taken(&store, &identity("reset"), &fetch(1, 50)).await;
    let before = Start { attempts_started: 3, ..fetch(3, 100) };
    taken(&store, &identity("reset"), &before).await;
    store.heartbeat(&beat(&dead)).await.unwrap();
    let taken_now = |job: Identity| {
        let store = store.clone();
        async move { store.take(&job, &fetch(2, 200)).await.unwrap() }
    };
    for job in &jobs {
        assert!(matches!(taken_now(job.clone()).await, Take::Taken(_)));
    }
    assert!(matches!(taken_now(identity("committed")).await, Take::Committed { .. }));
    taken(&store, &identity("reset"), &fetch(1, 300)).await;
    assert_eq!(store.record_death(&death(&dead)).await.unwrap(), [""; 0]);
    assert_eq!(store.record_death(&death(&before)).await.unwrap(), [""; 0]);
    for job in jobs.iter().chain([&identity("done"), &identity("reset"), &identity("committed")]) {
        assert_eq!(suspicions(&store, job).await, 0, "{job:?}");
    }
}

#[tokio::test]
async fn a_life_that_is_heard_of_after_it_lost_a_job_has_not_died_of_it() {
    let (_server, store) = migrated().await;
    let frozen = fetch(1, 100);
    taken(&store, &identity("a"), &frozen).await;
    taken(&store, &identity("a"), &fetch(2, 200)).await;
    store.heartbeat(&beat(&frozen)).await.unwrap();
    // What it runs when it dies is another matter.
    taken(&store, &identity("b"), &frozen).await;
    taken(&store, &identity("b"), &fetch(2, 200)).await;
    assert_eq!(store.record_death(&death(&frozen)).await.unwrap(), ["b"]);
    assert_eq!(suspicions(&store, &identity("a")).await, 0);
}

#[tokio::test]
async fn a_death_and_a_take_at_the_same_time_do_not_miss_each_other() {
    let (_server, store) = migrated().await;
    for round in 0..30 {
        let job = identity(&format!("job-{round}"));
        let dead = fetch(1, 100);
        taken(&store, &job, &dead).await;
        let (next, death) = (fetch(2, 200), death(&dead));
        let (take, record) = tokio::join!(store.take(&job, &next), store.record_death(&death));
        assert!(matches!(take.unwrap(), Take::Taken(_)));
        record.unwrap();
        assert_eq!(suspicions(&store, &job).await, 1, "round {round}");
    }
}

#[tokio::test]
async fn a_forgotten_suspicion_stays_forgotten_and_old_deaths_are_pruned() {
    let (server, store) = migrated().await;
    let dead = fetch(1, 100);
    taken(&store, &identity("a"), &dead).await;
    taken(&store, &identity("a"), &fetch(2, 200)).await;
    store.record_death(&death(&dead)).await.unwrap();
    assert!(store.release_from_quarantine("bull:test", "a").await.unwrap());
    assert_eq!(taken(&store, &identity("a"), &fetch(3, 300)).await.suspicions, 0);
    let week = Duration::from_secs(7 * 86_400);
    assert_eq!(store.prune_deaths(week).await.unwrap(), 0);
    let admin = server.admin().await;
    let age = "UPDATE floh_worker.worker_death SET recorded_at = now() - interval '8 days';
        UPDATE floh_worker.job_lost_run SET lost_at = now() - interval '8 days'";
    admin.batch_execute(age).await.unwrap();
    // One death, and the runs of it and of the life that the third take came after.
    assert_eq!(store.prune_deaths(week).await.unwrap(), 3);
    let unknown = Death { invocation: Uuid::new_v4(), ..death(&dead) };
    assert_eq!(store.record_death(&unknown).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_request_to_cancel_is_for_the_latest_attempt_only() {
    let (_server, store) = migrated().await;
    let start = fetch(1, 100);
    taken(&store, &identity("a"), &start).await;
    let retry = Identity { attempts_made: 1, ..identity("a") };
    let second = taken(&store, &retry, &Start { attempts_started: 2, processed_on_ms: 200, ..start.clone() }).await;
    let asked = store.ask_to_cancel("bull:test", "a", "why").await.unwrap().unwrap();
    assert_eq!((asked.instance.as_str(), asked.epoch), ("1", second.epoch));
    assert_eq!(store.cancel_requests(start.invocation).await.unwrap().len(), 1);
    assert!(!store.was_cancelled("bull:test", "a", second.epoch).await.unwrap());
    store.release(&second, Release::Failed).await.unwrap();
    assert!(store.was_cancelled("bull:test", "a", second.epoch).await.unwrap());
    assert_eq!(store.ask_to_cancel("bull:test", "a", "why").await.unwrap(), None, "the attempt before is over, too");
    assert!(store.cancel_requests(start.invocation).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_request_by_token_is_for_a_life_of_ours() {
    let (_server, store) = migrated().await;
    let start = fetch(1, 100);
    let token = format!("{}:7", start.invocation);
    let ask = || store.ask_to_cancel_held(start.invocation, "a", &token, "why");
    assert_eq!(ask().await.unwrap(), None);
    taken(&store, &identity("a"), &start).await;
    assert_eq!(ask().await.unwrap().as_deref(), Some("1"), "it has not said yet that it lives");
    store.heartbeat(&beat(&start)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(ask().await.unwrap().as_deref(), Some("1"));
    }
    assert_eq!(store.cancel_requests(start.invocation).await.unwrap().len(), 1);
    assert_eq!(store.prune_cancel_requests(Duration::from_secs(60)).await.unwrap(), 0);
    assert_eq!(store.prune_cancel_requests(Duration::ZERO).await.unwrap(), 1);
}
