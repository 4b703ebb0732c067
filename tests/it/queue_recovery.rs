//! What the queue does when something went wrong between us and Redis: lost answers, expired locks, lost jobs, a pause by
//! a 5.x client.

use crate::support::redis::RedisServer;
use floh_worker::{
    config::QueueConfig,
    queue::{
        Error, Job, Queue,
        add::NewJob,
        connection::{COMMAND_DEADLINE, Fate},
        fetch::Fetched,
        finish::{Ending, FetchNext, Finished, Refusal},
        lease::{Leases, uptime_ms},
        schedulers::{Builtin, Done, ensure},
        scripts,
        state::Place,
    },
};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

const WORKER: &str = "here:floh-worker@1";

struct Fixture {
    server: RedisServer,
    queue: Queue,
    leases: Leases,
}

impl Fixture {
    fn new() -> Fixture {
        let server = RedisServer::start();
        let names =
            QueueConfig { name: "workflow-scheduler".into(), prefix: "bull".into(), max_job_bytes: 1024 * 1024 };
        let queue = Queue::new(&names, &server.config(), Fate::default()).unwrap();
        Fixture { server, queue, leases: Leases::new(Uuid::new_v4()) }
    }

    async fn add(&self, job: NewJob) -> String {
        self.queue.add(&job).await.unwrap()
    }

    async fn fetch(&self) -> (Job, String) {
        let token = self.leases.begin_fetch();
        match self.queue.fetch(&token, WORKER).await.unwrap() {
            Fetched::Job(job) => (*job, token),
            Fetched::Nothing(wait) => panic!("nothing to fetch: {wait:?}"),
        }
    }

    async fn redis<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.queue.link.query(&command, words[0], COMMAND_DEADLINE).await.unwrap()
    }

    /// What a 5.x client's `pause()` does to the queue.
    async fn pause_as_5(&self) {
        let keys = &self.queue.keys;
        let _: i64 = self.redis(&["HSET", &keys.meta, "version", "bullmq:5.81.5", "paused", "1"]).await;
        if self.redis::<i64>(&["EXISTS", &keys.wait]).await == 1 {
            let _: String = self.redis(&["RENAME", &keys.wait, &keys.paused]).await;
        }
    }

    /// What its `resume()` does: a blind rename.
    async fn resume_as_5(&self) {
        let keys = &self.queue.keys;
        let _: i64 = self.redis(&["HDEL", &keys.meta, "paused"]).await;
        if self.redis::<i64>(&["EXISTS", &keys.paused]).await == 1 {
            let _: String = self.redis(&["RENAME", &keys.paused, &keys.wait]).await;
        }
    }

    async fn waiting(&self) -> Vec<String> {
        self.redis(&["LRANGE", &self.queue.keys.wait, "0", "-1"]).await
    }
}

fn job(name: &str) -> NewJob {
    NewJob::new(name, json!({}))
}

#[tokio::test]
async fn every_wrapped_script_compiles() {
    let fixture = Fixture::new();
    for script in scripts::all() {
        // Called without sense, a script may refuse; what must not happen is that Redis cannot compile it.
        let keys = vec!["x"; script.keys()];
        let answer: Result<redis::Value, Error> =
            script.call(&fixture.queue.link, COMMAND_DEADLINE, &keys, fixture.queue.settle(), &[b"", b"", b""]).await;
        if let Err(error) = answer {
            assert!(!error.to_string().contains("compiling"), "{}: {error}", script.name);
        }
    }
}

#[tokio::test]
async fn a_job_taken_by_a_fetch_whose_answer_was_lost_is_handed_back_and_charged_nothing() {
    let fixture = Fixture::new();
    let id = fixture.add(job("x")).await;
    let (_, token) = fixture.fetch().await;
    assert_eq!(fixture.queue.hand_back_orphans(&fixture.leases, WORKER).await.unwrap(), 0, "it may be on its way");
    fixture.leases.retire(&token);
    assert_eq!(fixture.queue.hand_back_orphans(&fixture.leases, WORKER).await.unwrap(), 1);
    assert_eq!(fixture.waiting().await, [id.as_str()]);
    let (job, token) = fixture.fetch().await;
    assert_eq!((job.attempts_made, job.attempts_started), (0, 2));
    fixture.leases.fetched(&token, &job.id, &job.name, uptime_ms());
    assert_eq!(fixture.queue.hand_back_orphans(&fixture.leases, WORKER).await.unwrap(), 0, "it runs here");
}

#[tokio::test]
async fn a_frozen_redis_runs_the_fetch_when_it_thaws_and_the_job_comes_back() {
    let fixture = Fixture::new();
    // The server must know the script, or the frozen call would only be told to bring it.
    assert!(matches!(fixture.queue.fetch("warm", WORKER).await, Ok(Fetched::Nothing(_))));
    let id = fixture.add(job("x")).await;
    let token = fixture.leases.begin_fetch();
    fixture.server.freeze();
    let answer = fixture.queue.fetch(&token, WORKER).await;
    fixture.leases.retire(&token);
    fixture.server.thaw();
    assert!(answer.is_err_and(|error| error.is_unavailable()));
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while fixture.queue.hand_back_orphans(&fixture.leases, WORKER).await.unwrap_or(0) == 0 {
        assert!(std::time::Instant::now() < end, "the job was not found; it is {:?}", fixture.queue.place(&id).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fixture.waiting().await, [id]);
}

#[tokio::test]
async fn an_expired_lock_of_ours_is_taken_again_and_one_of_others_is_left_alone() {
    let fixture = Fixture::new();
    let id = fixture.add(job("x")).await;
    let (_, token) = fixture.fetch().await;
    fixture.leases.retire(&token);
    let _: i64 = fixture.redis(&["DEL", &fixture.queue.keys.lock(&id)]).await;
    assert_eq!(fixture.queue.hand_back_orphans(&fixture.leases, "there:floh-worker@1").await.unwrap(), 0);
    assert_eq!(fixture.queue.hand_back_orphans(&fixture.leases, WORKER).await.unwrap(), 1);
    assert_eq!(fixture.waiting().await, [id]);
}

#[tokio::test]
async fn a_finish_sent_twice_is_refused_and_the_job_is_found_finished() {
    let fixture = Fixture::new();
    let id = fixture.add(job("x")).await;
    let (job, token) = fixture.fetch().await;
    let ending = Ending::Completed { value: "{}".into(), epoch: Some(7) };
    let next = FetchNext { wanted: false, worker: WORKER };
    let finish = || fixture.queue.finish(&job, &token, &ending, next);
    assert!(matches!(finish().await.unwrap(), Finished::Done(_)));
    assert!(matches!(finish().await.unwrap(), Finished::Refused(Refusal::NoLock)));
    assert_eq!(fixture.queue.place(&id).await.unwrap(), Place::Finished);
    let field: String = fixture.redis(&["HGET", &fixture.queue.keys.job(&id), "floh:epoch"]).await;
    assert_eq!(field, "7");
}

#[tokio::test]
async fn jobs_in_no_list_wait_again_and_no_other_key_is_touched() {
    let fixture = Fixture::new();
    let keys = &fixture.queue.keys;
    let lost = fixture.add(job("lost")).await;
    let urgent = fixture.add(NewJob { priority: 3, ..job("urgent") }).await;
    let delayed = fixture.add(NewJob { delay: Duration::from_secs(600), ..job("delayed") }).await;
    let done = fixture.add(NewJob { lifo: true, ..job("done") }).await;
    let (fetched, token) = fixture.fetch().await;
    assert_eq!(fetched.id, done);
    let ending = Ending::Completed { value: "{}".into(), epoch: None };
    fixture.queue.finish(&fetched, &token, &ending, FetchNext { wanted: false, worker: WORKER }).await.unwrap();
    let _: i64 = fixture.redis(&["HSET", &format!("{}:daily", keys.repeat), "name", "x", "pattern", "0 0 * * *"]).await;
    let _: i64 = fixture.redis(&["LREM", &keys.wait, "0", &lost]).await;
    let _: i64 = fixture.redis(&["ZREM", &keys.prioritized, &urgent]).await;

    assert_eq!(fixture.queue.restore_lost_jobs().await.unwrap(), Some(2));
    assert_eq!(fixture.waiting().await, [lost.as_str()]);
    assert_eq!(fixture.queue.place(&urgent).await.unwrap(), Place::Waiting);
    assert_eq!(fixture.queue.place(&delayed).await.unwrap(), Place::Waiting);
    assert_eq!(fixture.queue.place(&done).await.unwrap(), Place::Finished);
    assert_eq!(fixture.queue.restore_lost_jobs().await.unwrap(), None, "another sweep so soon is spared");
}

#[tokio::test]
async fn a_lost_delayed_job_waits_until_it_was_due_and_one_that_is_overdue_runs_now() {
    let fixture = Fixture::new();
    let keys = &fixture.queue.keys;
    let later = fixture.add(NewJob { delay: Duration::from_secs(600), ..job("later") }).await;
    let overdue = fixture.add(NewJob { delay: Duration::from_secs(600), ..job("overdue") }).await;
    let due: f64 = fixture.redis(&["ZSCORE", &keys.delayed, &later]).await;
    let _: i64 = fixture.redis(&["DEL", &keys.delayed, &keys.marker]).await;
    let _: i64 = fixture.redis(&["HINCRBY", &keys.job(&overdue), "timestamp", "-600000"]).await;
    assert_eq!(fixture.queue.restore_lost_jobs().await.unwrap(), Some(2));
    assert_eq!(fixture.waiting().await, [overdue.as_str()]);
    let restored: f64 = fixture.redis(&["ZSCORE", &keys.delayed, &later]).await;
    assert!((restored - due).abs() <= 4096.0, "due at {due}, restored to {restored}");
    let marker: f64 = fixture.redis(&["ZSCORE", &keys.marker, "1"]).await;
    assert!((marker - due / 4096.0).abs() <= 1.0, "a blocked worker wakes at {marker}");
}

#[tokio::test]
async fn nothing_that_we_push_while_a_5_x_client_pauses_is_lost_when_it_resumes() {
    let fixture = Fixture::new();
    let early = fixture.add(job("early")).await;
    let held = fixture.add(NewJob { lifo: true, ..job("held") }).await;
    let parent = fixture.add(job("waits")).await;
    let (fetched, token) = fixture.fetch().await;
    assert_eq!(fetched.id, held);
    fixture.pause_as_5().await;

    let late = fixture.add(job("late")).await;
    let delayed = fixture.add(NewJob { delay: Duration::from_millis(1), ..job("delayed") }).await;
    fixture.queue.hand_back(&held, &token).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let nothing = fixture.queue.fetch(&fixture.leases.begin_fetch(), WORKER).await.unwrap();
    assert!(matches!(nothing, Fetched::Nothing(_)), "a paused queue gives nothing");
    assert!(fixture.waiting().await.is_empty(), "what waits has moved behind the paused list");

    fixture.resume_as_5().await;
    let mut order = Vec::new();
    for _ in 0..5 {
        order.push(fixture.fetch().await.0.id);
    }
    let mut expected = vec![early, held, parent, late, delayed];
    assert_eq!(order[..2], [expected[0].clone(), expected[2].clone()], "those that waited before come first");
    order.sort();
    expected.sort();
    assert_eq!(order, expected);
}

#[tokio::test]
async fn a_stalled_job_waits_again_after_two_checks_and_never_gets_a_verdict() {
    let fixture = Fixture::new();
    let id = fixture.add(job("x")).await;
    let keys = &fixture.queue.keys;
    for round in 1..=3 {
        let (_, token) = fixture.fetch().await;
        fixture.leases.retire(&token);
        let _: i64 = fixture.redis(&["DEL", &keys.lock(&id)]).await;
        for expected in [0, 1] {
            let _: i64 = fixture.redis(&["DEL", &keys.stalled_check]).await;
            assert_eq!(fixture.queue.check_stalled().await.unwrap().len(), expected, "round {round}");
        }
    }
    assert_eq!(fixture.redis::<Option<String>>(&["HGET", &keys.job(&id), "defa"]).await, None);
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_and_a_wrong_password_is_not_waited_for() {
    let mut fixture = Fixture::new();
    fixture.server.down();
    let error = fixture.queue.now_ms().await.unwrap_err();
    assert!(error.is_unavailable() && !error.is_fatal(), "{error}");
    assert!(error.to_string().contains(&fixture.server.port().to_string()), "{error}");

    let guarded = RedisServer::start_with(&["--requirepass", "right"]);
    let names = QueueConfig { name: "q".into(), prefix: "bull".into(), max_job_bytes: 1024 * 1024 };
    let mut config = guarded.config();
    for password in [None, Some("wrong")] {
        config.password = password.map(Into::into);
        let error = Queue::new(&names, &config, Fate::default()).unwrap().now_ms().await.unwrap_err();
        assert!(error.is_fatal() && error.is_outage(), "{error}");
        assert!(!error.to_string().contains("wrong\""), "{error}");
    }
    config.password = Some("right".into());
    let queue = Queue::new(&names, &config, Fate::default()).unwrap();
    assert!(queue.now_ms().await.is_ok());
    // Somebody who is let in and may not do this one thing: what else is asked may be answered.
    let mut admin = redis::Client::open(guarded.url()).unwrap().get_connection().unwrap();
    redis::cmd("AUTH").arg("right").exec(&mut admin).unwrap();
    redis::cmd("ACL").arg(&["SETUSER", "default", "-get"]).exec(&mut admin).unwrap();
    let error = queue.recall("x").await.unwrap_err();
    assert!(error.is_fatal() && !error.is_outage(), "{error}");
    assert!(error.to_string().contains("refuses GET: "), "{error}");
    assert!(queue.now_ms().await.is_ok());
    // Within a script it has another code, or none.
    redis::cmd("ACL").arg(&["SETUSER", "default", "-lpush"]).exec(&mut admin).unwrap();
    let error = queue.add(&job("x")).await.unwrap_err();
    assert!(error.is_fatal() && error.concerns_all() && !error.is_outage(), "{error}");
}

#[tokio::test]
async fn counters_that_are_no_numbers_stop_neither_the_job_nor_the_stalled_check() {
    let fixture = Fixture::new();
    let keys = &fixture.queue.keys;
    let id = fixture.add(job("x")).await;
    let mut token = String::new();
    for [ats, atm, stc] in [["many", "99999999999999999999", "1.5"], ["01", "+5", "-0"], ["1 ", "007", " 1"]] {
        fixture.leases.retire(&token);
        let _: i64 = fixture.redis(&["DEL", &keys.lock(&id)]).await;
        let _: i64 = fixture.redis(&["LREM", &keys.active, "0", &id]).await;
        let _: i64 = fixture.redis(&["LREM", &keys.wait, "0", &id]).await;
        let _: i64 = fixture.redis(&["LPUSH", &keys.wait, &id]).await;
        let _: i64 = fixture.redis(&["HSET", &keys.job(&id), "ats", ats, "atm", atm, "stc", stc]).await;
        let lost = fixture.leases.begin_fetch();
        assert!(fixture.queue.fetch(&lost, WORKER).await.is_err(), "BullMQ's script counts `ats` up");
        fixture.leases.retire(&lost);
        assert_eq!(fixture.queue.hand_back_orphans(&fixture.leases, WORKER).await.unwrap(), 1);
        let fetched;
        (fetched, token) = fixture.fetch().await;
        assert_eq!((fetched.attempts_made, fetched.attempts_started, fetched.broken_fields), (0, 1, false));
    }
    for strange in ["01", "+5", "-0"] {
        let _: i64 = fixture.redis(&["HSET", &keys.job(&id), "atm", strange]).await;
        assert_eq!(fixture.queue.mend_fields(&id).await.unwrap(), ["atm"], "{strange}");
    }

    let _: i64 = fixture.redis(&["HSET", &keys.job(&id), "stc", "x"]).await;
    fixture.leases.retire(&token);
    let _: i64 = fixture.redis(&["DEL", &keys.lock(&id)]).await;
    let _: i64 = fixture.redis(&["SADD", &keys.stalled, &id]).await;
    assert!(fixture.queue.check_stalled().await.is_err_and(|error| !error.is_unavailable()));
    assert_eq!(fixture.queue.restore_lost_jobs().await.unwrap(), Some(1));
    let (fetched, _) = fixture.fetch().await;
    assert!(fetched.broken_fields);
    assert_eq!(fixture.queue.mend_fields(&id).await.unwrap(), ["stc"]);
}

#[tokio::test]
async fn a_job_whose_id_is_no_text_fails_and_hides_no_other_that_is_lost() {
    let fixture = Fixture::new();
    let keys = &fixture.queue.keys;
    let lost = fixture.add(job("lost")).await;
    let _: i64 = fixture.redis(&["LREM", &keys.wait, "0", &lost]).await;
    let strange = b"caf\xe9";
    let hash = [keys.base.as_bytes(), strange].concat();
    let mut pipe = redis::pipe();
    pipe.cmd("HSET")
        .arg(&hash)
        .arg("name")
        .arg("x")
        .arg("timestamp")
        .arg(1)
        .arg("opts")
        .arg("{}")
        .arg("data")
        .arg("{}");
    pipe.cmd("RPUSH").arg(&keys.wait).arg(strange);
    let link = &fixture.queue.link;
    let piped = link.with("a job with a strange id", COMMAND_DEADLINE, async |mut connection| {
        pipe.query_async(&mut connection).await
    });
    let () = piped.await.unwrap();

    assert_eq!(fixture.queue.restore_lost_jobs().await.unwrap(), Some(1), "the other one is found all the same");
    let token = fixture.leases.begin_fetch();
    assert!(fixture.queue.fetch(&token, WORKER).await.is_err());
    fixture.leases.retire(&token);
    assert_eq!(fixture.queue.hand_back_orphans(&fixture.leases, WORKER).await.unwrap(), 0);
    let failed: Vec<Vec<u8>> = fixture.redis(&["ZRANGE", &keys.failed, "0", "-1"]).await;
    assert_eq!(failed, [strange]);
    assert_eq!(fixture.waiting().await, [lost.as_str()]);
    let active: i64 = fixture.redis(&["LLEN", &keys.active]).await;
    assert_eq!(active, 0);
}

#[tokio::test]
async fn an_iteration_of_ours_that_is_due_and_in_no_list_waits_again_at_the_next_look_at_the_schedulers() {
    let fixture = Fixture::new();
    let keys = &fixture.queue.keys;
    let builtin = Builtin::new("x", "* * * * *");
    let added = ensure(&fixture.queue, std::slice::from_ref(&builtin)).await.unwrap();
    let Done::Added(due) = added[0].done else { panic!("{added:?}") };
    // The same minute an hour ago: due, and its hash stays where nobody looks.
    let before = due - 3_600_000;
    let (id, old) = (builtin.iteration(due), builtin.iteration(before));
    let _: String = fixture.redis(&["RENAME", &keys.job(&id), &keys.job(&old)]).await;
    let _: i64 = fixture.redis(&["ZREM", &keys.delayed, &id]).await;
    let _: i64 = fixture.redis(&["ZADD", &keys.repeat, &before.to_string(), &builtin.id]).await;
    let _: i64 = fixture.redis(&["HSET", &keys.job(&old), "delay", "0"]).await;
    ensure(&fixture.queue, std::slice::from_ref(&builtin)).await.unwrap();
    assert_eq!(fixture.waiting().await, [old.as_str()]);
}

#[tokio::test]
async fn only_a_finish_that_went_through_acknowledges_the_result() {
    let fixture = Fixture::new();
    let keys = &fixture.queue.keys;
    let acknowledged = async |id: &str| fixture.redis::<Option<String>>(&["HGET", &keys.job(id), "floh:epoch"]).await;
    let completed = Ending::Completed { value: "1".into(), epoch: Some(5) };
    let next = FetchNext { wanted: false, worker: WORKER };
    let id = fixture.add(job("x")).await;
    let (fetched, token) = fixture.fetch().await;
    // It waits again, and the lock is still there: what another worker's stalled check leaves beside a renewal.
    let _: i64 = fixture.redis(&["LREM", &keys.active, "0", &id]).await;
    let refused = fixture.queue.finish(&fetched, &token, &completed, next).await.unwrap();
    assert!(matches!(refused, Finished::Refused(Refusal::NotActive)), "{refused:?}");
    assert_eq!(acknowledged(&id).await, None);

    let _: i64 = fixture.redis(&["LPUSH", &keys.wait, &id]).await;
    let (fetched, token) = fixture.fetch().await;
    assert!(matches!(fixture.queue.finish(&fetched, &token, &completed, next).await.unwrap(), Finished::Done(_)));
    assert_eq!(acknowledged(&id).await.as_deref(), Some("5"));

    let id = fixture.add(job("x")).await;
    let _: i64 = fixture.redis(&["HSET", &keys.job(&id), "opts", r#"{"removeOnComplete": true}"#]).await;
    let (fetched, token) = fixture.fetch().await;
    assert!(matches!(fixture.queue.finish(&fetched, &token, &completed, next).await.unwrap(), Finished::Done(_)));
    assert_eq!(fixture.redis::<i64>(&["EXISTS", &keys.job(&id)]).await, 0, "nothing is left of a removed job");
}

#[tokio::test]
async fn a_finish_that_fails_at_the_next_job_has_ended_its_own_and_acknowledges_it() {
    let fixture = Fixture::new();
    let keys = &fixture.queue.keys;
    let [id, next] = [fixture.add(job("x")).await, fixture.add(job("x")).await];
    let (fetched, token) = fixture.fetch().await;
    let _: i64 = fixture.redis(&["HSET", &keys.job(&next), "ats", "many"]).await;
    let completed = Ending::Completed { value: "1".into(), epoch: Some(5) };
    let wanted = FetchNext { wanted: true, worker: WORKER };
    let error = fixture.queue.finish(&fetched, &token, &completed, wanted).await.unwrap_err();
    assert!(error.to_string().contains("not an integer"), "{error}");
    assert_eq!(fixture.queue.place(&id).await.unwrap(), Place::Finished);
    assert_eq!(fixture.redis::<String>(&["HGET", &keys.job(&id), "floh:epoch"]).await, "5");
}

#[tokio::test]
async fn a_job_that_is_put_off_comes_again_and_has_made_no_attempt() {
    let fixture = Fixture::new();
    let keys = &fixture.queue.keys;
    let id = fixture.add(job("x")).await;
    let (fetched, token) = fixture.fetch().await;
    let ending = Ending::PutOff("somebody holds a row".into(), Duration::from_secs(2));
    let next = FetchNext { wanted: false, worker: WORKER };
    assert!(matches!(fixture.queue.finish(&fetched, &token, &ending, next).await.unwrap(), Finished::Done(_)));
    assert_eq!(fixture.queue.place(&id).await.unwrap(), Place::Waiting);
    assert!(fixture.redis::<Option<String>>(&["ZSCORE", &keys.delayed, &id]).await.is_some());
    let made: [Option<String>; 2] = fixture.redis(&["HMGET", &keys.job(&id), "atm", "failedReason"]).await;
    assert_eq!(made, [None, None]);
}
