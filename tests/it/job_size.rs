//! A job's data and its options have a limit, which holds wherever a job is fetched: alone, or inside the end of another
//! one.

use crate::support::RedisServer;
use floh_worker::{
    config::QueueConfig,
    queue::{
        Job, Queue,
        add::NewJob,
        connection::Fate,
        fetch::Fetched,
        finish::{Ending, FetchNext, Finished, Reason},
    },
};
use serde_json::json;
use std::time::Duration;

const LIMIT: usize = 512;

/// Checks that this fetch brought the job, refused and without its data.
fn assert_refused(fetched: Fetched, id: &str) -> Job {
    let Fetched::Job(job) = fetched else { panic!("nothing was fetched: {fetched:?}") };
    assert_eq!((job.id.as_str(), job.data.as_str()), (id, ""));
    let reason = job.defect.as_deref().unwrap_or_else(|| panic!("{id} is accepted"));
    assert_eq!(reason, "the job's data has 611 bytes, more than the 512 that are allowed");
    *job
}

#[tokio::test]
async fn the_limit_holds_in_a_fetch_and_in_the_fetch_inside_every_kind_of_finish() {
    let server = RedisServer::start();
    let names = QueueConfig { name: "q".into(), prefix: "bull".into(), max_job_bytes: LIMIT };
    let queue = Queue::new(&names, &server.config(), Fate::default()).unwrap();
    let large = NewJob::new("large", json!({"text": "x".repeat(600)}));
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(queue.add(&large).await.unwrap());
    }
    let next = FetchNext { wanted: true, worker: "test" };
    let reason = || Reason { text: "no".into(), stacktrace: vec![], refused: false };
    let endings = [
        Ending::Completed { value: "null".into(), epoch: None },
        Ending::Failed(reason()),
        Ending::Retried(reason(), Duration::from_secs(600)),
    ];
    let mut job = assert_refused(queue.fetch("token", "test").await.unwrap(), &ids[0]);
    for (ending, id) in endings.iter().zip(&ids[1..]) {
        match queue.finish(&job, "token", ending, next).await.unwrap() {
            Finished::Done(fetched) => job = assert_refused(fetched, id),
            Finished::Refused(refusal) => panic!("{ending:?}: {refusal:?}"),
        }
    }
    // What fits is read: of 512 bytes, 11 are around the text.
    let id = queue.add(&NewJob::new("fits", json!({"text": "x".repeat(LIMIT - 11)}))).await.unwrap();
    match queue.fetch("other", "test").await.unwrap() {
        Fetched::Job(job) => assert_eq!((job.id, job.data.len(), job.defect), (id, LIMIT, None)),
        nothing => panic!("{nothing:?}"),
    }
}

#[tokio::test]
async fn options_beyond_the_limit_are_not_read_and_the_job_fails_with_that_reason() {
    let server = RedisServer::start();
    let names = QueueConfig { name: "q".into(), prefix: "bull".into(), max_job_bytes: LIMIT };
    let queue = Queue::new(&names, &server.config(), Fate::default()).unwrap();
    let id = queue.add(&NewJob::new("x", json!({}))).await.unwrap();
    let options = format!(r#"{{"attempts":7,"note":"{}"}}"#, "x".repeat(LIMIT));
    let mut command = redis::cmd("HSET");
    command.arg(queue.keys.job(&id)).arg("opts").arg(&options);
    let _: i64 = queue.link.query(&command, "HSET", Duration::from_secs(3)).await.unwrap();
    let Fetched::Job(job) = queue.fetch("token", "test").await.unwrap() else { panic!("nothing was fetched") };
    let reason = format!("the job's options have {} bytes, more than the {LIMIT} that are allowed", options.len());
    assert_eq!((job.defect.as_ref(), job.options.raw.len()), (Some(&reason), 0));
    let ending = Ending::Failed(Reason { text: reason.clone(), stacktrace: vec![], refused: true });
    let done = queue.finish(&job, "token", &ending, FetchNext { wanted: false, worker: "test" }).await.unwrap();
    assert!(matches!(done, Finished::Done(_)), "{done:?}");
    let mut command = redis::cmd("HGET");
    command.arg(queue.keys.job(&id)).arg("failedReason");
    let told: String = queue.link.query(&command, "HGET", Duration::from_secs(3)).await.unwrap();
    assert_eq!(told, reason);
}
