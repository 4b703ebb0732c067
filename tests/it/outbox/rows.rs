//! The outbox's rows, their sender and their comparison with the queue, without a daemon.

use crate::{
    store_ledger::{fetch, migrated, taken},
    support::{PostgresServer, RedisServer},
};
use chrono::Utc;
use floh_worker::{
    config::QueueConfig,
    jobs::{CatchUp, Reconciler, Sender, catch_up::make_up},
    queue::{Queue, Standing, connection::Fate, schedulers::Builtin},
    store::{Identity, Lease, Notices, Release, Store, Take, outbox::WakeUp},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};

const QUEUE: &str = "bull:workflow-scheduler";
const HOUR: i64 = 3_600_000;

struct Bench {
    store: Store,
    queue: Arc<Queue>,
    sender: Sender,
    reconciler: Reconciler,
    redis: RedisServer,
    postgres: PostgresServer,
}

impl Bench {
    async fn start() -> Bench {
        let (postgres, store) = migrated().await;
        let redis = RedisServer::start();
        let names =
            QueueConfig { name: "workflow-scheduler".into(), prefix: "bull".into(), max_job_bytes: 1024 * 1024 };
        let queue = Arc::new(Queue::new(&names, &redis.config(), Fate::default()).unwrap());
        let sender = Sender::new(&store, &queue, &Arc::<Notices>::default());
        let reconciler = Reconciler::new(&store, &queue);
        Bench { store, queue, sender, reconciler, redis, postgres }
    }

    async fn sql(&self, statement: &str) {
        let session = self.postgres.admin().await;
        session.batch_execute(&format!("SET search_path = floh_worker; {statement}")).await.unwrap();
    }

    async fn count(&self, of: &str) -> i64 {
        let session = self.postgres.admin().await;
        session.batch_execute("SET search_path = floh_worker").await.unwrap();
        session.query_one(&format!("SELECT count(*) FROM {of}"), &[]).await.unwrap().get(0)
    }

    async fn redis<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.redis.connection().await).await.unwrap()
    }

    /// Empties Redis, and lets the rows be old enough to be looked for.
    async fn wipe(&self) {
        let _: String = self.redis(&["FLUSHALL"]).await;
        self.sql("UPDATE job_outbox SET sent_at = sent_at - interval '1 minute'").await;
    }

    /// Takes a wake-up's job as a worker does that fetched it.
    async fn take(&self, id: &str, sent: i64) -> Take {
        let identity = Identity { timestamp_ms: sent, ..job(id) };
        self.store.take(&identity, &fetch(1, sent)).await.unwrap()
    }

    async fn lease(&self, id: &str, sent: i64) -> Lease {
        match self.take(id, sent).await {
            Take::Taken(lease) => lease,
            other => panic!("expected a lease, got {other:?}"),
        }
    }
}

fn job(id: &str) -> Identity {
    Identity { queue: QUEUE.into(), job_id: id.into(), timestamp_ms: 1, attempts_made: 0 }
}

fn wake_up(id: &str) -> WakeUp {
    WakeUp { queue: QUEUE.into(), ..WakeUp::new(id, "test.echo", json!({})) }
}

#[tokio::test]
async fn an_id_that_is_there_adds_nothing_and_its_first_row_stays() {
    let bench = Bench::start().await;
    assert_eq!(bench.store.enqueue(&[wake_up("a"), wake_up("b"), wake_up("a")]).await.unwrap(), 2);
    let other = WakeUp { name: "test.fail".into(), ..wake_up("a") };
    assert_eq!(bench.store.enqueue(&[other]).await.unwrap(), 0);
    assert_eq!(bench.count("job_outbox WHERE name = 'test.echo'").await, 2);
}

#[tokio::test]
async fn what_the_queue_could_not_take_is_refused_when_it_is_written() {
    let bench = Bench::start().await;
    let session = bench.postgres.admin().await;
    for (columns, values) in [
        ("job_id", "'12'"),
        ("job_id", "'a:b'"),
        ("job_id", "''"),
        ("job_id, due_at", "'a', 'infinity'"),
        ("job_id, tick_at", "'a', '-infinity'"),
        ("job_id, priority", "'a', 3000000"),
        ("job_id, attempts", "'a', 0"),
        ("job_id, data", "'a', to_jsonb(repeat('x', 1048600))"),
    ] {
        let sql = format!("INSERT INTO floh_worker.job_outbox (queue, name, {columns}) VALUES ('q', 'n', {values})");
        let error = session.batch_execute(&sql).await.expect_err(&sql);
        assert_eq!(error.code().unwrap().code(), "23514", "{sql}: {error}");
    }
}

#[tokio::test]
async fn numbers_that_only_postgresql_can_hold_reach_the_queue_as_they_are() {
    let bench = Bench::start().await;
    let data = r#"{"big": 123456789012345678901234567890, "huge": 1e400}"#;
    bench
        .sql(&format!("INSERT INTO job_outbox (queue, job_id, name, data) VALUES ('{QUEUE}', 'n', 'x', '{data}')"))
        .await;
    assert_eq!(bench.sender.send_all().await.unwrap(), 1);
    let sent: String = bench.redis(&["HGET", &bench.queue.keys.job("n"), "data"]).await;
    assert!(sent.contains("123456789012345678901234567890") && sent.contains(&"0".repeat(399)), "{sent}");
}

#[tokio::test]
async fn thousands_of_rows_that_a_wiped_redis_has_lost_are_all_sent_again() {
    let bench = Bench::start().await;
    let rows = "INSERT INTO job_outbox (queue, job_id, name, due_at)
        SELECT 'bull:workflow-scheduler', 'w-' || i, 'test.echo', now() + interval '1 day' FROM generate_series(1, 2500) i";
    bench.sql(rows).await;
    assert_eq!(bench.sender.send_all().await.unwrap(), 2500);
    assert_eq!(bench.redis::<i64>(&["ZCARD", &bench.queue.keys.delayed]).await, 2500);
    bench.wipe().await;
    assert_eq!(bench.reconciler.turn().await.unwrap(), Some(2500));
    assert_eq!(bench.reconciler.turn().await.unwrap(), None, "another look so soon is spared");
    assert_eq!(bench.sender.send_all().await.unwrap(), 2500);
    assert_eq!(bench.redis::<i64>(&["ZCARD", &bench.queue.keys.delayed]).await, 2500);
}

#[tokio::test]
async fn rows_that_were_sent_just_now_and_jobs_that_are_there_are_not_sent_again() {
    let bench = Bench::start().await;
    bench.store.enqueue(&[wake_up("a")]).await.unwrap();
    bench.sender.send_all().await.unwrap();
    let _: String = bench.redis(&["FLUSHALL"]).await;
    assert_eq!(bench.reconciler.turn().await.unwrap(), Some(0), "its sender may not have finished");
    bench.sql("UPDATE job_outbox SET sent_at = NULL").await;
    bench.sender.send_all().await.unwrap();
    bench.sql("UPDATE job_outbox SET sent_at = sent_at - interval '1 minute'").await;
    let _: i64 = bench.redis(&["DEL", "bull:workflow-scheduler:floh-worker:reconcile"]).await;
    assert_eq!(bench.reconciler.turn().await.unwrap(), Some(0));
    assert_eq!(bench.queue.standing(["a", "b"].into_iter()).await.unwrap(), [Standing::Pending, Standing::Missing]);
}

#[tokio::test]
async fn the_older_run_of_a_wake_up_that_was_sent_again_commits_nothing() {
    let bench = Bench::start().await;
    bench.store.enqueue(&[wake_up("a")]).await.unwrap();
    bench.sender.send_all().await.unwrap();
    let older = bench.lease("a", 100).await;
    let transaction = bench.store.begin(&older).await.unwrap();
    transaction.execute("CREATE TABLE floh_worker.leftover ()", &[]).await.unwrap();
    bench.wipe().await;
    assert_eq!(bench.reconciler.turn().await.unwrap(), Some(1));
    assert_eq!(bench.sender.send_all().await.unwrap(), 1);
    let newer = bench.lease("a", 200).await;
    assert!(transaction.commit_result(&json!(1)).await.is_err());
    assert!(bench.store.begin(&older).await.unwrap().commit().await.is_err(), "nor a later transaction");
    bench.store.begin(&newer).await.unwrap().commit_result(&json!(2)).await.unwrap();
    assert_eq!(bench.take("a", 300).await, Take::Done);
    assert_eq!(bench.count("job_outbox WHERE ended = 'completed'").await, 1);
    assert_eq!(bench.count("pg_tables WHERE tablename = 'leftover'").await, 0);
}

/// The other way round: it committed before it was taken again.
#[tokio::test]
async fn a_wake_up_whose_older_run_committed_is_not_run_again() {
    let bench = Bench::start().await;
    bench.store.enqueue(&[wake_up("a")]).await.unwrap();
    bench.sender.send_all().await.unwrap();
    let older = bench.lease("a", 100).await;
    bench.wipe().await;
    assert_eq!(bench.reconciler.turn().await.unwrap(), Some(1));
    bench.store.begin(&older).await.unwrap().commit_result(&json!(1)).await.unwrap();
    assert_eq!(bench.sender.send_all().await.unwrap(), 0, "it has ended");
    assert_eq!(bench.take("a", 200).await, Take::Done);
}

/// The search through all keys takes long in a large Redis; a wake-up does not wait for it.
#[tokio::test]
async fn a_wake_up_whose_hash_is_in_no_list_is_put_back_by_the_comparison() {
    let bench = Bench::start().await;
    let later = WakeUp { due_at: Some(Utc::now() + chrono::Duration::hours(1)), ..wake_up("later") };
    let urgent = WakeUp { priority: 3, ..wake_up("urgent") };
    bench.store.enqueue(&[wake_up("now"), wake_up("stays"), later, urgent]).await.unwrap();
    assert_eq!(bench.sender.send_all().await.unwrap(), 4);
    bench.sql("UPDATE job_outbox SET sent_at = sent_at - interval '1 minute'").await;
    let keys = &bench.queue.keys;
    let removed: i64 = bench.redis(&["LREM", &keys.wait, "0", "now"]).await;
    let delayed: i64 = bench.redis(&["ZREM", &keys.delayed, "later"]).await;
    let prioritized: i64 = bench.redis(&["ZREM", &keys.prioritized, "urgent"]).await;
    assert_eq!((removed, delayed, prioritized), (1, 1, 1));
    let places = async || {
        let waiting: Vec<String> = bench.redis(&["LRANGE", &keys.wait, "0", "-1"]).await;
        let delayed: Vec<String> = bench.redis(&["ZRANGE", &keys.delayed, "0", "-1"]).await;
        let prioritized: Vec<String> = bench.redis(&["ZRANGE", &keys.prioritized, "0", "-1"]).await;
        [waiting, delayed, prioritized].map(|ids| ids.join(" "))
    };
    assert_eq!(places().await, ["stays", "", ""]);
    for _ in 0..2 {
        assert_eq!(bench.reconciler.turn().await.unwrap(), Some(0), "nothing is to be sent again");
        assert_eq!(places().await, ["now stays", "later", "urgent"]);
        let _: i64 = bench.redis(&["DEL", &format!("{}floh-worker:reconcile", keys.base)]).await;
    }
}

#[tokio::test]
async fn a_sender_that_froze_holds_its_rows_for_a_few_seconds_only() {
    let bench = Bench::start().await;
    bench.store.enqueue(&[wake_up("a")]).await.unwrap();
    let batch = bench.store.outbox_batch(QUEUE, 100).await.unwrap().unwrap();
    let asked = std::time::Instant::now();
    bench.lease("a", 100).await;
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    let ids: Vec<i64> = batch.rows.iter().map(|row| row.id).collect();
    batch.close(&ids, &[]).await.expect_err("its session was ended");
}

#[tokio::test]
async fn a_row_ends_with_its_job_s_failure_for_good_and_not_with_one_that_is_tried_again() {
    let bench = Bench::start().await;
    bench.store.enqueue(&[wake_up("a"), wake_up("b")]).await.unwrap();
    let lease = bench.lease("a", 100).await;
    assert!(bench.store.release(&lease, Release::Retried).await.unwrap());
    assert_eq!(bench.count("job_outbox WHERE ended_at IS NULL").await, 2);
    let retry = Identity { attempts_made: 1, timestamp_ms: 100, ..job("a") };
    let lease = taken(&bench.store, &retry, &fetch(2, 200)).await;
    assert!(bench.store.release(&lease, Release::Failed).await.unwrap());
    assert_eq!(bench.count("job_outbox WHERE ended = 'failed' AND job_id = 'a'").await, 1);
    // A retry by hand.
    let by_hand = taken(&bench.store, &retry, &fetch(3, 300)).await;
    assert_eq!(bench.count("job_outbox WHERE ended_at IS NULL").await, 2);
    assert!(!bench.store.release(&lease, Release::Failed).await.unwrap(), "the failed one says nothing any more");
    assert_eq!(bench.count("job_outbox WHERE ended_at IS NULL").await, 2);
    bench.store.begin(&by_hand).await.unwrap().commit_result(&json!(1)).await.unwrap();
    assert_eq!(bench.count("job_outbox WHERE ended = 'completed' AND job_id = 'a'").await, 1);
    assert!(bench.store.outbox_job_failed(&job("b"), "it is in quarantine").await.unwrap());
    assert_eq!(bench.count("job_outbox WHERE ended = 'failed' AND job_id = 'b'").await, 1);
}

#[tokio::test]
async fn old_rows_go_and_the_last_tick_of_each_schedule_stays() {
    let bench = Bench::start().await;
    bench.store.enqueue(&[wake_up("old"), wake_up("ended"), wake_up("pending")]).await.unwrap();
    let week = Duration::from_secs(7 * 24 * 3600);
    bench
        .sql(
            "UPDATE job_outbox SET created_at = now() - interval '8 days', sent_at = now() - interval '8 days';
            UPDATE job_outbox SET ended = 'completed', ended_at = now() - interval '8 days' WHERE job_id = 'old';
            UPDATE job_outbox SET ended = 'failed', ended_at = now() - interval '6 days' WHERE job_id = 'ended';
            INSERT INTO job_suspicion (queue, job_id, job_timestamp, invocation, name, instance, host, evidence,
                suspected_at) SELECT 'q', 'j', 1, gen_random_uuid(), 'n', '1', 'h', 'KILL', now() - days * interval '1 day'
                FROM unnest(ARRAY[29, 31]) AS days;
            INSERT INTO job_tick (name, due_at, queue, job_id, job_timestamp, claimed_at)
                SELECT 'monthly', now() - months * interval '30 days', 'q', 'j', 1, now() - months * interval '30 days'
                FROM generate_series(1, 3) AS months",
        )
        .await;
    assert_eq!(bench.store.prune_outbox(week).await.unwrap(), 1);
    assert_eq!(bench.count("job_outbox").await, 2);
    assert_eq!(bench.store.prune_suspicions(Duration::from_secs(30 * 24 * 3600)).await.unwrap(), 1);
    assert_eq!(bench.count("job_suspicion").await, 1);
    assert_eq!(bench.store.prune_ticks(week).await.unwrap(), 2);
    assert_eq!(bench.count("job_tick WHERE due_at > now() - interval '31 days'").await, 1);
}

/// A schedule of which the last tick that was claimed was due `ago`, by a job that is in this state.
async fn ticked(bench: &Bench, builtin: &Builtin, ago: i64, state: Option<Release>) -> (i64, Lease) {
    let due = (Utc::now().timestamp_millis() - ago) / HOUR * HOUR;
    let identity = Identity { timestamp_ms: due, ..job(&builtin.iteration(due)) };
    let lease = taken(&bench.store, &identity, &fetch(1, due)).await;
    assert!(bench.store.claim_tick(&builtin.name, due, &identity).await.unwrap());
    match state {
        Some(how) => assert!(bench.store.release(&lease, how).await.unwrap()),
        None => bench.store.begin(&lease).await.unwrap().commit_result(&json!(1)).await.unwrap(),
    }
    (due, lease)
}

#[tokio::test]
async fn ticks_since_the_last_one_are_made_up_for_by_the_policy_and_once() {
    let bench = Bench::start().await;
    for (name, policy, expected) in
        [("skip", CatchUp::Skip, 0), ("one", CatchUp::One, 1), ("all", CatchUp::All { most: 9 }, 3)]
    {
        let hourly = Builtin::new(name, "0 * * * *");
        let next = (Utc::now().timestamp_millis() / HOUR + 1) * HOUR;
        let fresh = make_up(&bench.store, &bench.queue, &hourly, policy, next).await.unwrap();
        assert_eq!(fresh, 0, "a schedule that never ran has missed nothing");
        let (due, _) = ticked(&bench, &hourly, 3 * HOUR, None).await;
        let [a, b, c] = [(); 3].map(|()| make_up(&bench.store, &bench.queue, &hourly, policy, due + 4 * HOUR));
        let (a, b, c) = tokio::join!(a, b, c);
        assert_eq!(a.unwrap() + b.unwrap() + c.unwrap(), expected, "{policy:?}");
        let latest = due + 3 * HOUR;
        let rows = format!("job_outbox WHERE job_id = 'tick-{name}-{latest}' AND tick_at = due_at");
        assert_eq!(bench.count(&rows).await, i64::from(expected > 0), "{policy:?}");
        // It is claimed by the row's job, also after it was sent anew, and by no other.
        if expected > 0 {
            let lease = bench.lease(&format!("tick-{name}-{latest}"), 100).await;
            assert_eq!(lease.tick_ms, Some(latest));
            let identity = Identity { timestamp_ms: 0, ..lease.identity };
            for _ in 0..2 {
                assert!(bench.store.claim_tick(name, latest, &identity).await.unwrap());
            }
            assert!(!bench.store.claim_tick(name, latest, &job("another")).await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_tick_that_is_still_in_the_queue_is_not_missed() {
    let bench = Bench::start().await;
    let hourly = Builtin::new("hourly", "0 * * * *");
    let (due, _) = ticked(&bench, &hourly, 2 * HOUR, None).await;
    let waits = bench.queue.keys.job(&hourly.iteration(due + HOUR));
    let _: i64 = bench.redis(&["HSET", &waits, "name", "hourly"]).await;
    assert_eq!(make_up(&bench.store, &bench.queue, &hourly, CatchUp::One, due + 2 * HOUR).await.unwrap(), 0);
    let all = CatchUp::All { most: 5 };
    assert_eq!(make_up(&bench.store, &bench.queue, &hourly, all, due + 3 * HOUR).await.unwrap(), 1);
}

#[tokio::test]
async fn a_tick_that_was_begun_and_lost_is_given_back_and_one_that_ended_is_not() {
    let bench = Bench::start().await;
    for (name, state, expected) in [
        ("handed-back", Some(Release::HandedBack), 1),
        ("lost", Some(Release::Lost), 1),
        ("retried", Some(Release::Retried), 1),
        ("failed", Some(Release::Failed), 0),
        ("committed", None, 0),
    ] {
        let hourly = Builtin::new(name, "0 * * * *");
        let (due, lease) = ticked(&bench, &hourly, HOUR, state).await;
        let made = make_up(&bench.store, &bench.queue, &hourly, CatchUp::One, due + HOUR).await.unwrap();
        assert_eq!(made, expected, "{name}");
        let claims = bench.count(&format!("job_tick WHERE name = '{name}'")).await;
        assert_eq!(claims, 1 - i64::try_from(expected).unwrap(), "{name}");
        assert!(bench.store.begin(&lease).await.is_err());
    }
}

#[tokio::test]
async fn a_running_tick_is_given_back_only_if_the_queue_has_lost_it_and_commits_nothing_then() {
    let bench = Bench::start().await;
    let hourly = Builtin::new("hourly", "0 * * * *");
    let due = (Utc::now().timestamp_millis() - HOUR) / HOUR * HOUR;
    let identity = Identity { timestamp_ms: due, ..job(&hourly.iteration(due)) };
    let lease = taken(&bench.store, &identity, &fetch(1, due)).await;
    assert!(bench.store.claim_tick("hourly", due, &identity).await.unwrap());
    let hash = bench.queue.keys.job(&identity.job_id);
    let _: i64 = bench.redis(&["HSET", &hash, "name", "hourly"]).await;
    assert_eq!(make_up(&bench.store, &bench.queue, &hourly, CatchUp::One, due + HOUR).await.unwrap(), 0);
    let running = bench.store.begin(&lease).await.unwrap();
    let _: i64 = bench.redis(&["DEL", &hash]).await;
    assert_eq!(make_up(&bench.store, &bench.queue, &hourly, CatchUp::Skip, due + HOUR).await.unwrap(), 0);
    assert_eq!(make_up(&bench.store, &bench.queue, &hourly, CatchUp::One, due + HOUR).await.unwrap(), 1);
    assert!(running.commit_result(&json!(1)).await.is_err(), "the older run is out");
}
