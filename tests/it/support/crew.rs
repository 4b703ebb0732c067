//! Instances of the daemon that are started again at once where they end, as systemd would do it.

use super::worker::Worker;
use nix::sys::signal::Signal;
use std::{
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How often the end of a process is looked for.
const LOOK: Duration = Duration::from_millis(2);
/// A drain and what comes after it.
const ENDS_WITHIN: Duration = Duration::from_secs(40);

/// One process life of an instance.
#[derive(Clone, Debug)]
pub struct Life {
    pub instance: String,
    /// What it was given; with an `INVOCATION_ID` of its own, as systemd gives one to each life.
    pub environment: Vec<(String, String)>,
    pub started: Instant,
    /// How it ended, and when.
    pub ended: Option<(Instant, ExitStatus)>,
    /// What it logged, once it has ended.
    pub log: String,
}

impl Life {
    /// One of the variables that it was given.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// What is done between the end of a life and the next start, like a unit's `ExecStopPost=`.
pub type AfterEnd = Arc<dyn Fn(&Life) + Send + Sync>;

struct Post {
    worker: Worker,
    lives: Vec<Life>,
    restarts: bool,
}

/// A few instances under supervision; stopped by [`Crew::stop`], killed when dropped.
pub struct Crew {
    posts: Vec<Arc<Mutex<Post>>>,
}

impl Crew {
    /// Starts one instance per entry, with its environment, and waits until all are ready.
    ///
    /// # Panics
    /// One of them does not get ready.
    pub fn start(members: Vec<(String, Vec<(String, String)>)>, after_end: Option<AfterEnd>) -> Crew {
        let posts = members.into_iter().map(|(instance, environment)| {
            let (worker, life) = spawn(&instance, &environment);
            let post = Arc::new(Mutex::new(Post { worker, lives: vec![life], restarts: true }));
            let (weak, after_end) = (Arc::downgrade(&post), after_end.clone());
            thread::spawn(move || {
                while let Some(post) = weak.upgrade() {
                    post.lock().unwrap().supervise(after_end.as_ref());
                    drop(post);
                    thread::sleep(LOOK);
                }
            });
            post
        });
        let crew = Crew { posts: posts.collect() };
        crew.posts.iter().for_each(|post| post.lock().unwrap().worker.wait_ready());
        crew
    }

    /// How many instances there are.
    pub fn len(&self) -> usize {
        self.posts.len()
    }

    /// Sends a signal to the present life of an instance.
    pub fn signal(&self, index: usize, signal: Signal) {
        self.posts[index].lock().unwrap().worker.signal(signal);
    }

    /// The lives of an instance so far, the present one last.
    pub fn lives(&self, index: usize) -> Vec<Life> {
        self.posts[index].lock().unwrap().lives.clone()
    }

    /// Waits until the instance is in its life number `count` (the first is 1) and ready; when that life began.
    /// `None` if it is not within `limit`.
    pub fn wait_life(&self, index: usize, count: usize, limit: Duration) -> Option<Instant> {
        let end = Instant::now() + limit;
        loop {
            {
                let post = self.posts[index].lock().unwrap();
                if post.lives.len() >= count && post.worker.said("READY=1") {
                    return Some(post.lives[count - 1].started);
                }
            }
            if Instant::now() >= end {
                return None;
            }
            thread::sleep(LOOK);
        }
    }

    /// What the present life of an instance logged so far.
    pub fn log(&self, index: usize) -> String {
        self.posts[index].lock().unwrap().worker.log()
    }

    /// Stops all instances in order, as `systemctl stop` does: their lives with their logs.
    pub fn stop(&self) -> Vec<Life> {
        for post in &self.posts {
            let mut post = post.lock().unwrap();
            post.restarts = false;
            if post.lives.last().is_some_and(|life| life.ended.is_none()) {
                post.worker.signal(Signal::SIGTERM);
            }
        }
        let end = Instant::now() + ENDS_WITHIN;
        for post in &self.posts {
            while Instant::now() < end && post.lock().unwrap().lives.last().is_some_and(|life| life.ended.is_none()) {
                thread::sleep(LOOK);
            }
        }
        self.posts.iter().flat_map(|post| post.lock().unwrap().end()).collect()
    }
}

impl Post {
    fn supervise(&mut self, after_end: Option<&AfterEnd>) {
        let last = self.lives.len() - 1;
        if self.lives[last].ended.is_none()
            && let Some(status) = self.worker.try_end()
        {
            self.lives[last].ended = Some((Instant::now(), status));
            self.lives[last].log = self.worker.log();
            if let Some(after_end) = after_end {
                after_end(&self.lives[last]);
            }
            if self.restarts {
                let (worker, life) = spawn(&self.lives[last].instance, &self.lives[last].environment);
                self.worker = worker;
                self.lives.push(life);
            }
        }
    }

    /// The lives; one that has not ended is ended by force.
    fn end(&mut self) -> Vec<Life> {
        if let Some(life) = self.lives.last_mut()
            && life.ended.is_none()
        {
            life.log = self.worker.log();
            self.worker.kill();
            life.ended = Some((Instant::now(), ExitStatus::from_raw(Signal::SIGKILL as i32)));
        }
        self.lives.clone()
    }
}

fn spawn(instance: &str, environment: &[(String, String)]) -> (Worker, Life) {
    let mut environment = environment.to_vec();
    environment.retain(|(name, _)| name != "INVOCATION_ID");
    environment.push(("INVOCATION_ID".into(), Uuid::new_v4().simple().to_string()));
    let started = Instant::now();
    let worker = Worker::spawn(instance, &environment);
    (worker, Life { instance: instance.to_string(), environment, started, ended: None, log: String::new() })
}
