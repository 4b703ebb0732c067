//! What an installation has, for one test: Redis, a migrated PostgreSQL, instances of the daemon, a BullMQ client.

use super::{
    PostgresServer, RedisServer, child,
    peer::{Peer, QUEUE},
    proxy::Proxy,
    worker::{Worker, binary},
};
use floh_worker::{
    config::QueueConfig,
    queue::{Queue, add::NewJob, connection::Fate},
};
use redis::{Connection, FromRedisValue, ToRedisArgs};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Servers of its own, and what is done with them. Everything ends with it.
pub struct Fleet {
    pub peer: Peer,
    pub redis: RedisServer,
    pub postgres: PostgresServer,
    pub connection: Connection,
    runtime: Runtime,
    folder: TempDir,
}

impl Fleet {
    /// Starts the servers; the database was migrated by `flohctl migrate`. The workers' own periodic jobs are left to
    /// a scheduler that never makes any, so that tests may count jobs at every quarter of an hour.
    pub fn start() -> Fleet {
        Fleet::start_with_periodic_jobs().without_periodic_jobs()
    }

    /// The same with servers that keep their data over a restart and a crash.
    pub fn start_durable() -> Fleet {
        let redis = RedisServer::start_with(&["--appendonly", "yes"]);
        let postgres = PostgresServer::start_migrated("synchronous_commit = on");
        Fleet::build(redis, postgres).without_periodic_jobs()
    }

    fn without_periodic_jobs(mut self) -> Fleet {
        let fleet = &mut self;
        let (schedulers, id) = (fleet.key("repeat"), "tests:floh-worker:none");
        fleet.redis::<()>("ZADD", &[&schedulers, &"4102444800000", &id]);
        let fields = ["name", "stuck-run-recovery", "pattern", "0 0 1 1 *", "tz", "UTC"];
        let mut arguments: Vec<&(dyn ToBytes + Sync)> = vec![];
        let hash = format!("{schedulers}:{id}");
        arguments.push(&hash);
        arguments.extend(fields.iter().map(|field| field as &(dyn ToBytes + Sync)));
        fleet.redis::<()>("HSET", &arguments);
        self
    }

    /// The same, and the workers make their own schedulers.
    pub fn start_with_periodic_jobs() -> Fleet {
        Fleet::build(RedisServer::start(), PostgresServer::start_migrated(""))
    }

    fn build(redis: RedisServer, postgres: PostgresServer) -> Fleet {
        let peer = Peer::of(&redis);
        let connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = tempfile::Builder::new().prefix("floh-it-fleet-").tempdir().unwrap();
        Fleet { peer, redis, postgres, connection, runtime, folder }
    }

    /// A proxy in front of Redis, for a worker whose `REDIS_PORT` is its port.
    pub fn proxy(&self) -> Proxy {
        self.runtime.block_on(Proxy::start(([127, 0, 0, 1], self.redis.port()).into()))
    }

    /// A proxy in front of PostgreSQL, for a worker whose `DB_PORT` is its port.
    pub fn postgres_proxy(&self) -> Proxy {
        self.runtime.block_on(Proxy::start(([127, 0, 0, 1], self.postgres.port()).into()))
    }

    /// The connection anew, after a fault: waits until Redis answers.
    pub fn reconnect(&mut self) {
        let client = redis::Client::open(self.redis.url()).unwrap();
        self.connection = super::wait_for("Redis answers", Duration::from_secs(30), || {
            let mut connection = client.get_connection_with_timeout(Duration::from_secs(2)).ok()?;
            redis::cmd("PING").query::<String>(&mut connection).ok().map(|_| connection)
        });
    }

    /// Everything anew, after another server has taken the place of the one before.
    pub fn follow(&mut self) {
        self.reconnect();
        self.peer = Peer::of(&self.redis);
    }

    /// The environment file's variables, as an instance gets them.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut variables: BTreeMap<String, String> =
            self.postgres.environment().into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        variables.insert("REDIS_HOST".into(), "127.0.0.1".into());
        variables.insert("REDIS_PORT".into(), self.redis.port().to_string());
        variables.insert("WORKER_MODE".into(), "separate".into());
        variables
    }

    /// Starts an instance and waits until it is ready; `settings` are added to the environment or replace its values.
    pub fn worker(&self, instance: &str, settings: &[(&str, &str)]) -> Worker {
        let mut worker = self.spawn_worker(instance, settings);
        worker.wait_ready();
        worker
    }

    /// The same without waiting.
    pub fn spawn_worker(&self, instance: &str, settings: &[(&str, &str)]) -> Worker {
        Worker::spawn(instance, &self.instance_environment(instance, settings))
    }

    /// What the unit gives an instance: the environment file's variables, with `settings` added to them or in their
    /// place, and a state folder that is the same for each life of the instance.
    pub fn instance_environment(&self, instance: &str, settings: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut environment = self.environment();
        environment.extend(settings.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        let state = self.state_folder(instance);
        fs::create_dir_all(&state).unwrap();
        environment.entry("STATE_DIRECTORY".into()).or_insert(state.display().to_string());
        environment.into_iter().collect()
    }

    /// The state folder that an instance gets unless its settings say otherwise.
    pub fn state_folder(&self, instance: &str) -> PathBuf {
        self.folder.path().join(format!("state-{instance}"))
    }

    /// What the unit's `ExecStopPost=` does after an instance has ended: `unit_invocation` is the `INVOCATION_ID` that it
    /// was started with.
    pub fn record_end(&self, instance: &str, unit_invocation: &str, result: &str, status: &str) {
        let variables = [
            ("STATE_DIRECTORY", self.state_folder(instance).display().to_string()),
            ("INVOCATION_ID", unit_invocation.into()),
            ("SERVICE_RESULT", result.into()),
            ("EXIT_STATUS", status.into()),
        ];
        let prepare = |command: &mut std::process::Command| {
            command.args(["--record-end", instance]).env_clear().envs(variables);
        };
        let ended = child::run(&binary("floh-worker"), prepare, b"", Duration::from_secs(10));
        assert!(ended.status.success(), "{}", ended.stderr);
    }

    /// Runs `flohctl ARGUMENTS` with the instances' environment.
    pub fn flohctl(&self, arguments: &[&str]) -> child::Finished {
        self.flohctl_with(arguments, &[])
    }

    /// The same with `settings` added to the environment.
    pub fn flohctl_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> child::Finished {
        let mut environment = self.environment();
        environment.extend(settings.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        let prepare = |command: &mut std::process::Command| {
            command.args(arguments).env_clear().envs(environment);
        };
        child::run(&binary("flohctl"), prepare, b"", Duration::from_secs(60))
    }

    /// See [`Peer::call`].
    pub fn call(&mut self, version: u8, op: &str, arguments: Value) -> Value {
        self.peer.call(version, op, arguments)
    }

    /// Adds a job to the worker's queue with BullMQ `version` and returns its id.
    pub fn add(&mut self, version: u8, name: &str, data: Value, opts: Value) -> String {
        let job = self.call(version, "add", json!({"name": name, "data": data, "opts": opts}));
        job["id"].as_str().expect("an added job has an id").to_string()
    }

    /// Adds a job to the worker's queue as our own code does and returns its id.
    pub fn add_ours(&mut self, job: NewJob) -> String {
        self.try_add_ours(job).unwrap()
    }

    /// The same, with the error as its text.
    pub fn try_add_ours(&mut self, job: NewJob) -> Result<String, String> {
        self.runtime.block_on(async {
            let queue =
                Queue::new(&queue_config(), &self.redis.config(), Fate::default()).map_err(|e| e.to_string())?;
            queue.add(&job).await.map_err(|e| e.to_string())
        })
    }

    /// Runs the stalled check as a worker does, the guard that spares the others theirs set aside.
    pub fn check_stalled(&mut self) {
        let guard = self.key("stalled-check");
        self.redis::<()>("DEL", &[&guard]);
        let queue = Queue::new(&queue_config(), &self.redis.config(), Fate::default()).unwrap();
        self.runtime.block_on(queue.check_stalled()).unwrap();
    }

    /// What BullMQ `version` knows of a job; `Null` if there is none.
    pub fn job(&mut self, version: u8, id: &str) -> Value {
        self.call(version, "job", json!({"job": id}))
    }

    /// Waits until BullMQ `version` sees the job in `state`; returns what it knows of the job then.
    ///
    /// # Panics
    /// Not within `limit`; the message holds what the client saw last.
    pub fn wait_state(&mut self, version: u8, id: &str, state: &str, limit: Duration) -> Value {
        let end = Instant::now() + limit;
        loop {
            let job = self.job(version, id);
            if job["state"] == state {
                return job;
            }
            assert!(Instant::now() < end, "job {id} is not {state} within {limit:?}: {job:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the worker's queue has as many jobs in each state as `wanted` says (an object of counts).
    pub fn wait_counts(&mut self, version: u8, wanted: Value, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let counts = self.call(version, "counts", json!({}));
            let wanted = wanted.as_object().unwrap();
            if wanted.iter().all(|(state, number)| counts[state] == *number) {
                return;
            }
            assert!(Instant::now() < end, "not {wanted:?} within {limit:?}, but {counts}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// The key of the worker's queue with this ending.
    pub fn key(&self, ending: &str) -> String {
        format!("bull:{QUEUE}:{ending}")
    }

    /// Runs a Redis command.
    pub fn redis<T: FromRedisValue>(&mut self, command: &str, arguments: &[&(dyn ToBytes + Sync)]) -> T {
        let mut command = redis::cmd(command);
        for argument in arguments {
            command.arg(argument.to_bytes());
        }
        command.query(&mut self.connection).unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }

    /// The queue's event stream as it is in Redis.
    pub fn stream(&mut self) -> Vec<Event> {
        self.stream_since(0)
    }

    /// The same from a time on (Redis' milliseconds).
    pub fn stream_since(&mut self, since: u64) -> Vec<Event> {
        let key = self.key("events");
        let entries: redis::streams::StreamRangeReply = self.redis("XRANGE", &[&key, &since, &"+"]);
        let event = |entry: redis::streams::StreamId| {
            let field = |name: &str| entry.get::<String>(name);
            let (at, _) = entry.id.split_once('-').unwrap();
            Event { at: at.parse().unwrap(), name: field("event").unwrap_or_default(), job: field("jobId"), entry }
        };
        entries.ids.into_iter().map(event).collect()
    }

    /// When (Redis' milliseconds) the job became active, each time.
    pub fn starts(&mut self, id: &str) -> Vec<u64> {
        let mut events = self.stream();
        events.retain(|event| event.name == "active" && event.job.as_deref() == Some(id));
        events.iter().map(|event| event.at).collect()
    }

    /// The ids of the jobs in the order in which they became active.
    pub fn start_order(&mut self) -> Vec<String> {
        self.stream().into_iter().filter(|event| event.name == "active").filter_map(|event| event.job).collect()
    }

    /// Rows of a query by a superuser, each column as text.
    pub fn sql(&self, query: &str) -> Vec<Vec<Option<String>>> {
        self.runtime.block_on(async {
            let rows = self.postgres.admin().await.simple_query(query).await.unwrap();
            let rows = rows.into_iter().filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            rows.map(|row| (0..row.len()).map(|i| row.get(i).map(ToString::to_string)).collect()).collect()
        })
    }

    /// Waits until a job's handler has a transaction open.
    pub fn wait_in_transaction(&self, limit: Duration) {
        let query = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'floh-worker epoch %'";
        super::wait_for("a job's transaction", limit, || (!self.sql(query).is_empty()).then_some(()));
    }

    /// Charges the death of a worker to a job, as if it had run there. Some job must have run before, because the ledger
    /// names the queue.
    pub fn suspect(&mut self, id: &str) {
        let timestamp = self.job(6, id)["timestamp"].as_i64().expect("a job has a timestamp");
        let charged = self.sql(&format!(
            "INSERT INTO floh_worker.job_suspicion (queue, job_id, job_timestamp, invocation, name, instance, host, evidence)
                SELECT queue, '{id}', {timestamp}, gen_random_uuid(), 'test', '9', 'elsewhere', 'oom-kill (KILL)'
                FROM floh_worker.job_execution LIMIT 1 RETURNING 1"
        ));
        assert_eq!(charged.len(), 1, "no job has run yet");
    }

    /// When (milliseconds) the transaction of each key began that `test.effect` has committed.
    pub fn effect_times(&self) -> BTreeMap<String, i64> {
        let query = "SELECT key, floor(extract(epoch FROM at) * 1000)::bigint FROM floh_worker.test_effect";
        let rows = self.sql(query).into_iter();
        rows.map(|row| (row[0].clone().unwrap(), row[1].as_deref().unwrap().parse().unwrap())).collect()
    }

    /// How often each key was written by `test.effect` and committed.
    pub fn effects(&self) -> BTreeMap<String, u64> {
        let query = "SELECT key, count(*) FROM floh_worker.test_effect GROUP BY key";
        let rows = self.sql(query).into_iter();
        rows.map(|row| (row[0].clone().unwrap(), row[1].as_deref().unwrap().parse().unwrap())).collect()
    }
}

fn queue_config() -> QueueConfig {
    QueueConfig { name: QUEUE.into(), prefix: "bull".into(), max_job_bytes: 1024 * 1024 }
}

/// One entry of the event stream.
#[derive(Debug)]
pub struct Event {
    /// Redis' milliseconds.
    pub at: u64,
    pub name: String,
    pub job: Option<String>,
    pub entry: redis::streams::StreamId,
}

/// An argument of a Redis command.
pub trait ToBytes {
    fn to_bytes(&self) -> Vec<u8>;
}

impl<T: ToRedisArgs> ToBytes for T {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_redis_args().concat()
    }
}
