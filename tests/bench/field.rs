//! The servers that all workers are measured against, and what is read of them while one works.

use crate::{
    subject::Subject,
    support::{
        PostgresServer, RedisServer, child,
        peer::QUEUE,
        postgres::{self, DATABASE, PASSWORD, SCHEMA, USER},
        process::{Guarded, run},
        worker::binary,
    },
};
use floh_worker::{
    config::QueueConfig,
    queue::{Queue, add::NewJob, connection::Fate},
};
use futures_util::{StreamExt, stream};
use nix::{
    sys::signal::Signal,
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// No single measurement may take longer.
const LIMIT: Duration = Duration::from_secs(300);
/// How often the queue is looked at while a worker works.
const LOOK: Duration = Duration::from_millis(5);
/// Under this prefix are the jobs of the measurements in which only one worker is there at a time.
pub const PREFIX: &str = "bull";

const UNIT: &str = include_str!("../../systemd/floh-worker@.service");

/// One Redis without persistence, and what the driver does with it.
pub struct Field {
    pub redis: RedisServer,
    pub connection: redis::Connection,
    redis_pid: i32,
    runtime: Runtime,
}

impl Field {
    pub fn start() -> Field {
        let redis = RedisServer::start();
        let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
        let info: String = redis::cmd("INFO").arg("server").query(&mut connection).unwrap();
        let pid = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Field { redis, connection, redis_pid: pid.trim().parse().unwrap(), runtime }
    }

    /// Empties Redis.
    pub fn clear(&mut self) {
        redis::cmd("FLUSHALL").arg("SYNC").exec(&mut self.connection).unwrap();
    }

    /// The queue under `prefix`.
    pub fn queue(&self, prefix: &str) -> Queue {
        let config = QueueConfig { name: QUEUE.into(), prefix: prefix.into(), max_job_bytes: 1024 * 1024 };
        Queue::new(&config, &self.redis.config(), Fate::default()).unwrap()
    }

    /// Runs what is asynchronous.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Adds `count` jobs with BullMQ's own script, many at a time over one connection.
    pub fn fill(&self, count: u64, name: &str) {
        let queue = self.queue(PREFIX);
        let job = NewJob { remove_on_complete: true, ..NewJob::new(name, serde_json::json!({})) };
        self.wait(async {
            let mut added = stream::iter(0..count).map(|_| queue.add(&job)).buffer_unordered(256);
            while let Some(id) = added.next().await {
                id.unwrap();
            }
        });
    }

    /// Adds one job and returns its id.
    pub fn add(&self, prefix: &str, name: &str, data: Value) -> String {
        let job = NewJob { remove_on_complete: true, ..NewJob::new(name, data) };
        self.wait(self.queue(prefix).add(&job)).unwrap()
    }

    /// Redis' clock, microseconds.
    pub fn now_us(&mut self) -> f64 {
        let (seconds, micros): (f64, f64) = redis::cmd("TIME").query(&mut self.connection).unwrap();
        seconds * 1e6 + micros
    }

    /// When (milliseconds by Redis' clock) the job became active, each time.
    pub fn starts(&mut self, prefix: &str, id: &str) -> Vec<f64> {
        let key = format!("{prefix}:{QUEUE}:events");
        let stream: redis::streams::StreamRangeReply =
            redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(&mut self.connection).unwrap();
        let active = stream.ids.iter().filter(|entry| {
            entry.get::<String>("event").as_deref() == Some("active")
                && entry.get::<String>("jobId").as_deref() == Some(id)
        });
        active.map(|entry| entry.id.split_once('-').unwrap().0.parse().unwrap()).collect()
    }

    /// Watches `worker` finish `total` jobs, which are all there; what it took between the tenth and the ninetieth
    /// hundredth of them, so that neither start nor end counts.
    pub fn watch(&mut self, worker: i32, total: u64) -> Stretch {
        let begin = Instant::now();
        let mut samples = Vec::new();
        loop {
            let sample = self.sample(worker, total);
            let done = sample.done;
            samples.push(sample);
            if done >= total {
                break;
            }
            assert!(begin.elapsed() < LIMIT, "{done} of {total} jobs are done after {LIMIT:?}");
            thread::sleep(LOOK);
        }
        let completed: u64 =
            redis::cmd("ZCARD").arg(format!("{PREFIX}:{QUEUE}:completed")).query(&mut self.connection).unwrap();
        let failed: u64 =
            redis::cmd("ZCARD").arg(format!("{PREFIX}:{QUEUE}:failed")).query(&mut self.connection).unwrap();
        assert_eq!((completed, failed), (0, 0), "every job completes and is removed, whoever works");
        let first = samples.iter().find(|sample| sample.done * 10 >= total).unwrap();
        let last = samples.iter().rev().find(|sample| sample.done * 10 <= total * 9);
        let last = last.filter(|last| last.done > first.done).unwrap_or_else(|| samples.last().unwrap());
        Stretch {
            jobs: (last.done - first.done) as f64,
            seconds: (last.at_us - first.at_us) / 1e6,
            worker: (last.worker - first.worker).as_secs_f64(),
            redis: (last.redis - first.redis).as_secs_f64(),
            own: (last.own - first.own).as_secs_f64(),
            machine: last.machine - first.machine,
        }
    }

    /// How many jobs wait or run, and when that was by Redis' clock, microseconds.
    pub fn left(&mut self) -> (f64, u64) {
        let (wait, active) = (format!("{PREFIX}:{QUEUE}:wait"), format!("{PREFIX}:{QUEUE}:active"));
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("TIME").cmd("LLEN").arg(wait).cmd("LLEN").arg(active);
        let ((seconds, micros), waiting, running): ((f64, f64), u64, u64) = pipe.query(&mut self.connection).unwrap();
        (seconds * 1e6 + micros, waiting + running)
    }

    fn sample(&mut self, worker: i32, total: u64) -> Sample {
        let (at_us, left) = self.left();
        Sample {
            at_us,
            done: total - left,
            worker: cpu(worker),
            redis: cpu(self.redis_pid),
            own: clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap().into(),
            machine: machine_busy(),
        }
    }
}

struct Sample {
    at_us: f64,
    done: u64,
    worker: Duration,
    redis: Duration,
    own: Duration,
    machine: f64,
}

/// What a worker did in the measured part; all times in seconds.
#[derive(Clone, Copy)]
pub struct Stretch {
    pub jobs: f64,
    pub seconds: f64,
    /// CPU time of the worker's process.
    pub worker: f64,
    /// CPU time of Redis.
    pub redis: f64,
    /// CPU time of the driver, which only looks.
    own: f64,
    /// CPU time of everything on the machine.
    machine: f64,
}

impl Stretch {
    pub fn rate(&self) -> f64 {
        self.jobs / self.seconds
    }

    /// How many cores everything else kept busy: strangers, and PostgreSQL where it takes part.
    pub fn others(&self) -> f64 {
        (self.machine - self.worker - self.redis - self.own).max(0.0) / self.seconds
    }
}

fn cpu(pid: i32) -> Duration {
    clock_getcpuclockid(Pid::from_raw(pid)).and_then(clock_gettime).unwrap().into()
}

/// Seconds that all cores together were busy since the machine's start, those that its host took away included.
fn machine_busy() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let numbers: Vec<f64> = stat.lines().next().unwrap().split_whitespace().flat_map(str::parse).collect();
    // user, nice, system, irq, softirq, steal: without idle and iowait. Always in hundredths of a second.
    [0, 1, 2, 5, 6, 7].iter().map(|index| numbers[*index]).sum::<f64>() / 100.0
}

/// A PostgreSQL with the durability of Debian's defaults, and daemons on it and on the field's Redis.
pub struct Database {
    pub postgres: PostgresServer,
    folder: TempDir,
}

/// What the tests switch off is on again, and what they make small is as Debian ships it.
const DEBIAN: &str = "\
fsync = on
synchronous_commit = on
full_page_writes = on
shared_buffers = 128MB
min_wal_size = 80MB
max_wal_size = 1GB
max_connections = 100
autovacuum_naptime = 1min
";

impl Database {
    pub fn start() -> Database {
        let postgres = PostgresServer::start_with(DEBIAN, |data| {
            // The tests' servers have small segments.
            let mut command = Command::new("setpriv");
            if let Some(user) = postgres::server_user() {
                command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--init-groups"]);
                run(Command::new("chown").arg("-R").arg(format!("{user}:")).arg(data.parent().unwrap()));
            }
            run(command
                .arg("--")
                .arg(postgres::binaries().join("pg_resetwal"))
                .arg("--wal-segsize=16")
                .arg("-D")
                .arg(data));
        });
        let folder = tempfile::Builder::new().prefix("floh-bench-").tempdir().unwrap();
        let database = Database { postgres, folder };
        let prepare =
            |command: &mut Command| _ = command.arg("migrate").env_clear().envs(database.postgres.environment());
        let migrated = child::run(&binary("flohctl"), prepare, b"", Duration::from_secs(60));
        assert!(migrated.status.success(), "flohctl migrate: {}", migrated.stderr);
        database
    }

    /// The environment of an instance, with what its unit sets.
    pub fn environment(&self, field: &Field, instance: &str, settings: &[(&str, &str)]) -> Vec<(String, String)> {
        let state = self.folder.path().join(format!("state-{instance}"));
        fs::create_dir_all(&state).unwrap();
        let port = field.redis.port().to_string();
        let redis = [("REDIS_HOST", "127.0.0.1"), ("REDIS_PORT", &port), ("WORKER_MODE", "separate")];
        let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        let mut all: Vec<_> = self.postgres.environment().into_iter().map(|(n, v)| (n.to_string(), v)).collect();
        let set = UNIT.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
        all.extend(set.map(|variable| own(&variable)));
        all.extend(redis.iter().chain(settings).map(own));
        all.push(("STATE_DIRECTORY".into(), state.display().to_string()));
        all
    }

    /// A daemon that logs as it does by default, to nobody.
    pub fn daemon(&self, field: &Field, concurrency: usize) -> Guarded {
        let concurrency = concurrency.to_string();
        let environment = self.environment(field, "bench", &[("WORKER_CONCURRENCY", &concurrency)]);
        Guarded::spawn(&binary("floh-worker"), None, Signal::SIGKILL, |command| {
            command.arg("bench").env_clear().envs(environment);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        })
    }

    /// Lets as many clients of pgbench as `clients` do `script` at least `times` times together, all as often, over the same
    /// kind of connection as a worker's. How often per second, from their first to their last.
    pub fn pgbench(&self, script: &str, clients: usize, times: u64) -> f64 {
        let file = self.folder.path().join("pgbench.sql");
        fs::write(&file, script).unwrap();
        let each = times.div_ceil(clients as u64).to_string();
        let prepare = |command: &mut Command| {
            // `n` counts for the scripts that want to count.
            command.args([
                "-n",
                "-M",
                "prepared",
                "-j",
                "2",
                "-D",
                "n=0",
                "-c",
                &clients.to_string(),
                "-t",
                &each,
                "-f",
            ]);
            command.arg(&file).args(["-h", "127.0.0.1", "-p", &self.postgres.port().to_string(), "-U", USER, DATABASE]);
            command.env("PGPASSWORD", PASSWORD).env("PGOPTIONS", format!("-c search_path={SCHEMA}"));
        };
        let done = child::run(&postgres::binaries().join("pgbench"), prepare, b"", LIMIT);
        let rate = done.stdout.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        rate.filter(|_| done.status.success())
            .unwrap_or_else(|| panic!("pgbench: {}\n{}{}", done.status, done.stdout, done.stderr))
    }

    /// How many rows of a table got the time that is in `column` per second, between the first tenth and the last tenth of
    /// them: so no start counts, whoever wrote them.
    pub fn rate(&self, field: &Field, table: &str, column: &str) -> f64 {
        let at =
            |part: f64| format!("percentile_disc({part}) WITHIN GROUP (ORDER BY extract(epoch FROM {column})::float8)");
        self.ask(field, &format!("SELECT 0.8 * count(*) / ({} - {}) FROM {SCHEMA}.{table}", at(0.9), at(0.1)))
    }

    /// One number out of the database.
    pub fn ask(&self, field: &Field, query: &str) -> f64 {
        field.wait(async {
            let row = self.postgres.admin().await.query_one(query, &[]).await.unwrap();
            row.get::<_, Option<f64>>(0).unwrap_or_default()
        })
    }

    /// Runs SQL as the superuser.
    pub fn sql(&self, field: &Field, sql: &str) {
        field.wait(async { self.postgres.admin().await.batch_execute(sql).await }).unwrap();
    }
}

/// A subject on the field's Redis.
pub fn subject(field: &Field, kind: crate::subject::Kind, concurrency: usize, prefix: &str) -> Subject {
    Subject::spawn(kind, &field.redis.url(), concurrency, prefix)
}
