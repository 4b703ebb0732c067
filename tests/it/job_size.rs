//! A job's data has a limit, which holds wherever a job is fetched: alone, or inside the end of another one.

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

const LIMIT: usize = 64;

/// Checks that this fetch brought the job, refused and without its data.
fn assert_refused(fetched: Fetched, id: &str) -> Job {
    let Fetched::Job(job) = fetched else { panic!("nothing was fetched: {fetched:?}") };
    assert_eq!((job.id.as_str(), job.data.as_str()), (id, ""));
    let reason = job.defect.as_deref().unwrap_or_else(|| panic!("{id} is accepted"));
    assert_eq!(reason, "the job's data has 111 bytes, more than the 64 that are allowed");
    *job
}

#[tokio::test]
async fn the_limit_holds_in_a_fetch_and_in_the_fetch_inside_every_kind_of_finish() {
    let server = RedisServer::start();
    let names = QueueConfig { name: "q".into(), prefix: "bull".into(), max_job_bytes: LIMIT };
    let queue = Queue::new(&names, &server.config(), Fate::default()).unwrap();
    let large = NewJob::new("large", json!({"text": "x".repeat(100)}));
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
    // What fits is read: of 64 bytes, 11 are around the text.
    let id = queue.add(&NewJob::new("fits", json!({"text": "x".repeat(LIMIT - 11)}))).await.unwrap();
    match queue.fetch("other", "test").await.unwrap() {
        Fetched::Job(job) => assert_eq!((job.id, job.data.len(), job.defect), (id, LIMIT, None)),
        nothing => panic!("{nothing:?}"),
    }
}
