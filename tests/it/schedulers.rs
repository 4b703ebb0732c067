//! Schedulers and repeatables at the level of the queue, with npm's BullMQ 6 and 5 on the other side.

mod chains;
mod ensure;
mod repeatables;

use crate::support::{RedisServer, eventually, peer::Peer};
use floh_worker::{
    config::QueueConfig,
    queue::{
        Job, Queue,
        connection::Fate,
        fetch::Fetched,
        finish::{Ending, FetchNext},
        schedulers::continue_chain,
    },
};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use serde_json::Value;
use std::{collections::HashMap, time::Duration};

const SOON: Duration = Duration::from_secs(20);

/// A queue on a server of its own, and who uses it.
struct Bench {
    queue: Queue,
    peer: Peer,
    connection: MultiplexedConnection,
    redis: RedisServer,
}

impl Bench {
    async fn start() -> Bench {
        let redis = RedisServer::start();
        let (peer, connection) = (Peer::of(&redis), redis.connection().await);
        Bench { queue: queue(&redis, "workflow-scheduler"), peer, connection, redis }
    }

    async fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection).await.unwrap()
    }

    async fn hash(&mut self, key: &str) -> HashMap<String, String> {
        self.ask(&["HGETALL", key]).await
    }

    /// The iterations that wait for their time, by id.
    async fn delayed(&mut self) -> Vec<String> {
        self.ask(&["ZRANGE", "bull:workflow-scheduler:delayed", "0", "-1"]).await
    }

    /// The jobs that have not ended, by id. Where a slot comes while its iteration is added, that one never waits for its time.
    fn unfinished(&mut self) -> Vec<String> {
        let ids = self.peer.call(5, "ids", serde_json::json!({"types": ["wait", "delayed", "prioritized", "active"]}));
        serde_json::from_value(ids).unwrap()
    }

    /// The schedulers' ids with the times of their last iterations.
    async fn schedulers(&mut self) -> Vec<(String, f64)> {
        self.ask(&["ZRANGE", "bull:workflow-scheduler:repeat", "0", "-1", "WITHSCORES"]).await
    }

    /// Makes a scheduler's pending iteration due earlier, as if that much time had passed.
    async fn pass(&mut self, scheduler: &str, ms: i64) -> i64 {
        let (_, due) = self.schedulers().await.into_iter().find(|(id, _)| id == scheduler).unwrap();
        let (old, new) = (due as i64, due as i64 - ms);
        let id = |at: i64| format!("repeat:{scheduler}:{at}");
        let key = |at: i64| format!("bull:workflow-scheduler:{}", id(at));
        let () = self.ask(&["RENAME", &key(old), &key(new)]).await;
        let text: String = self.ask(&["HGET", &key(new), "opts"]).await;
        let mut opts = json(&text);
        (opts["jobId"], opts["prevMillis"]) = (id(new).into(), new.into());
        let () = self.ask(&["HSET", &key(new), "opts", &opts.to_string()]).await;
        let () = self.ask(&["ZREM", "bull:workflow-scheduler:delayed", &id(old)]).await;
        let score = (new * 4096).to_string();
        let () = self.ask(&["ZADD", "bull:workflow-scheduler:delayed", &score, &id(new)]).await;
        let () = self.ask(&["ZADD", "bull:workflow-scheduler:repeat", &new.to_string(), scheduler]).await;
        new
    }

    /// Removes a delayed job without a trace (npm refuses to remove a scheduler's iteration).
    async fn lose(&mut self, id: &str) {
        let () = self.ask(&["ZREM", "bull:workflow-scheduler:delayed", id]).await;
        let () = self.ask(&["DEL", &format!("bull:workflow-scheduler:{id}")]).await;
    }

    /// Takes the next job as our consumer does, up to where it would run.
    async fn take(&self, token: &str) -> Job {
        let job = eventually("a job", SOON, async || fetch(&self.queue, token).await).await;
        continue_chain(&self.queue, &job).await.unwrap();
        job
    }

    async fn complete(&self, job: &Job, token: &str) {
        let ending = Ending::Completed { value: "null".into(), epoch: None };
        self.queue.finish(job, token, &ending, FetchNext { wanted: false, worker: "test" }).await.unwrap();
    }

    async fn take_and_complete(&self) -> Job {
        let job = self.take("token").await;
        self.complete(&job, "token").await;
        job
    }
}

fn queue(redis: &RedisServer, name: &str) -> Queue {
    let config = QueueConfig { name: name.into(), prefix: "bull".into(), max_job_bytes: 1024 * 1024 };
    Queue::new(&config, &redis.config(), Fate::default()).unwrap()
}

async fn fetch(queue: &Queue, token: &str) -> Option<Job> {
    match queue.fetch(token, "test").await.unwrap() {
        Fetched::Job(job) => Some(*job),
        Fetched::Nothing(_) => None,
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// When an iteration is due, by its id.
fn due(id: &str) -> i64 {
    id.rsplit(':').next().unwrap().parse().unwrap()
}
