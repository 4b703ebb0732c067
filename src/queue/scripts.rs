//! BullMQ's own Lua scripts, as published, each wrapped in a few lines of ours.
//!
//! The text between the wrapper's lines comes out of the `bullmq-official` package at build time (see `build.rs`). The
//! wrapper adds two things that must happen in the same atomic step:
//!
//! * **Redis' clock.** The argument that carries the time is replaced by Redis `TIME`, so that a host whose clock is off
//!   neither delays nor hurries a job.
//! * **The pause of 5.x clients.** While such a client pauses the queue, waiting jobs live in the list `paused`, and its
//!   `resume()` renames that list over `wait`. What a 6.x script pushed to `wait` meanwhile would be destroyed; so after
//!   each script that may push there, `wait` is moved behind `paused`, for our queue and for the queue of a finished
//!   child's parent. A script that gave out a job has seen that our queue is not paused: it is spared.
//!
//! Redis runs scripts one at a time, and a call inside one costs it a microsecond or more. So what runs for every job
//! calls as little as it can, and a job is answered as one piece of MessagePack: that is read in a tenth of the time that
//! a list of twenty strings takes.

use super::{connection::Link, error::Error};
use redis::{Cmd, FromRedisValue, Value, aio::ConnectionLike};
use std::{sync::LazyLock, time::Duration};

/// Moves `wait` behind `paused` where a 5.x client paused the queue: the right end of a list is next.
const SETTLE: &str = "
local function settle(wait, paused, meta)
  local state = redis.call('HMGET', meta, 'paused', 'version')
  if state[1] and ((state[2] and string.find(state[2], '^bullmq:5')) or redis.call('EXISTS', paused) == 1) then
    while redis.call('RPOPLPUSH', wait, paused) do end
  end
end
";

/// One script, ready to be called.
pub struct Script {
    /// BullMQ's name of it.
    pub name: &'static str,
    keys: usize,
    pushes: bool,
    text: String,
    sha: String,
}

struct Source {
    name: &'static str,
    keys: usize,
    text: &'static str,
    /// Index in ARGV of the time, if the script is told one.
    clock: Option<usize>,
    /// Whether it may push to `wait`.
    pushes: bool,
    /// Index in KEYS of the hash of a job whose parent's queue it may push to.
    child: Option<usize>,
    /// Whether it may give out a job: what it answers is one string of MessagePack then.
    fetches: bool,
    /// Whether it ends a job, and writes down the result that this acknowledges.
    acknowledges: bool,
    /// More Lua to run after it.
    after: &'static str,
}

/// What most scripts have in common.
const PLAIN: Source = Source {
    name: "",
    keys: 0,
    text: "",
    clock: None,
    pushes: false,
    child: None,
    fetches: false,
    acknowledges: false,
    after: "",
};

/// BullMQ's hand-back of a job with a priority sets no marker: every worker that blocks would sleep on.
const WAKE_FOR_PRIORITIZED: &str = "
if redis.call('HEXISTS', KEYS[5], 'paused') == 0 and redis.call('EXISTS', KEYS[7]) == 1 then
  redis.call('ZADD', KEYS[8], 0, '0')
end
";

/// A committed result is acknowledged by a finish that has gone through, not by one that was refused: among the script's own
/// fields it would be written before the script looks where the job is. One that ended the job and then failed, as at the job
/// that it was to fetch, has gone through.
const ACKNOWLEDGE: &str = "
local done, result = pcall(bullmq)
local refused = done and type(result) == 'number' and result < 0
if ARGV[10] ~= '' and not refused and redis.call('ZSCORE', KEYS[11], ARGV[1]) then
  redis.call('HSET', KEYS[12], 'floh:epoch', ARGV[10])
end
if not done then error(result, 0) end
";

macro_rules! bullmq {
    ($name:literal, $keys:literal) => {
        include_str!(concat!(env!("BULLMQ_COMMANDS"), "/", $name, "-", $keys, ".lua"))
    };
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $keys:literal $(, $field:ident $value:expr)*;)*) => {
        $($(#[$doc])*
        pub static $constant: LazyLock<Script> = LazyLock::new(|| Script::wrap(&Source {
            name: $name, keys: $keys, text: bullmq!($name, $keys), $($field: $value,)* ..PLAIN
        }));)*
        /// All of them, for loading and for tests.
        pub fn all() -> Vec<&'static Script> {
            vec![$(&$constant),*]
        }
    };
}

scripts! {
    /// Fetch.
    MOVE_TO_ACTIVE = "moveToActive", 11, clock Some(2), pushes true, fetches true;
    /// Finish, and fetch the next.
    MOVE_TO_FINISHED = "moveToFinished", 14, clock Some(2), pushes true, child Some(12), fetches true, acknowledges true;
    /// Retry after a delay, and fetch the next.
    MOVE_TO_DELAYED = "moveToDelayed", 11, clock Some(2), pushes true, fetches true;
    /// Retry at once.
    RETRY_JOB = "retryJob", 11, clock Some(2), pushes true;
    /// Hand-back.
    MOVE_JOB_FROM_ACTIVE_TO_WAIT = "moveJobFromActiveToWait", 9, pushes true, after WAKE_FOR_PRIORITIZED;
    /// Renewal of all locks.
    EXTEND_LOCKS = "extendLocks", 1;
    /// Stalled check.
    MOVE_STALLED_JOBS_TO_WAIT = "moveStalledJobsToWait", 9, clock Some(3), pushes true;
    /// Add to `wait`.
    ADD_STANDARD_JOB = "addStandardJob", 9, pushes true;
    /// Add to `delayed`.
    ADD_DELAYED_JOB = "addDelayedJob", 6;
    /// Add by priority.
    ADD_PRIORITIZED_JOB = "addPrioritizedJob", 9;
    /// Make or change a job scheduler.
    ADD_JOB_SCHEDULER = "addJobScheduler", 11, clock Some(7), pushes true;
    /// A job scheduler's next iteration.
    UPDATE_JOB_SCHEDULER = "updateJobScheduler", 12, clock Some(5), pushes true;
    /// Bring back a failed or completed job.
    REPROCESS_JOB = "reprocessJob", 9, pushes true;
    /// Remove a job scheduler and its next iteration.
    REMOVE_JOB_SCHEDULER = "removeJobScheduler", 3;
    /// A line in a job's log.
    ADD_LOG = "addLog", 2;
    /// A job's progress.
    UPDATE_PROGRESS = "updateProgress", 3;
}

impl Script {
    fn wrap(source: &Source) -> Script {
        let mut text = String::with_capacity(source.text.len() + 2000);
        text.push_str("local function bullmq()\n");
        text.push_str(source.text);
        text.push_str("\nend\n");
        if source.pushes {
            text.push_str(SETTLE);
        }
        let clock = source.clock;
        #[cfg(feature = "test-jobs")]
        let clock = clock.filter(|index| !host_clock(*index, &mut text));
        if let Some(index) = clock {
            // Seconds and the first three of six digits: a concatenation costs less than formatting a number.
            text.push_str(&format!(
                "local time = redis.call('TIME')\nARGV[{index}] = time[1] .. string.sub('00000' .. time[2], -6, -4)\n"
            ));
        }
        if let Some(index) = source.child {
            text.push_str(&format!("local parent = redis.call('HGET', KEYS[{index}], 'parent')\n"));
        }
        text.push_str(if source.acknowledges { ACKNOWLEDGE } else { "local result = bullmq()\n" });
        if source.pushes {
            let keys = source.keys;
            let settle = format!("settle(KEYS[{}], KEYS[{}], KEYS[{}])\n", keys + 1, keys + 2, keys + 3);
            if source.fetches {
                text.push_str("if not (type(result) == 'table' and type(result[1]) == 'table') then\n  ");
                text.push_str(&settle);
                text.push_str("end\n");
            } else {
                text.push_str(&settle);
            }
        }
        if source.child.is_some() {
            text.push_str(
                "if parent then\n  local known, decoded = pcall(cjson.decode, parent)\n  \
                 local queue = known and type(decoded) == 'table' and decoded['queueKey']\n  \
                 if type(queue) == 'string' then settle(queue .. ':wait', queue .. ':paused', queue .. ':meta') end\nend\n",
            );
        }
        text.push_str(source.after);
        if source.fetches {
            text.push_str("if type(result) == 'table' then return cmsgpack.pack(result) end\n");
        }
        text.push_str("return result\n");
        Script::new(source.name, source.keys, source.pushes, text)
    }

    /// A script whose text is ours. With `pushes` it finds the queue's `wait`, `paused` and `meta` behind its keys, and
    /// the function `settle` to call when it has pushed.
    pub fn own(name: &'static str, keys: usize, pushes: bool, text: &str) -> Script {
        Script::new(name, keys, pushes, format!("{}{text}", if pushes { SETTLE } else { "" }))
    }

    /// The same script with lines of ours before it, which see its keys and arguments and may return in its place.
    pub fn guarded(&self, guard: &str) -> Script {
        Script::new(self.name, self.keys, self.pushes, format!("{guard}\n{}", self.text))
    }

    fn new(name: &'static str, keys: usize, pushes: bool, text: String) -> Script {
        let sha = redis::Script::new(&text).get_hash().to_string();
        Script { name, keys, pushes, text, sha }
    }

    /// How many KEYS it has, those of the wrapper not counted.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// The command that calls the script by its hash, for a pipeline: the caller deals with a server that does not know it.
    pub fn by_hash(&self, keys: &[&str], settle: [&str; 3], arguments: &[&[u8]]) -> Cmd {
        self.command("EVALSHA", &self.sha, keys, settle, arguments)
    }

    fn command(&self, verb: &str, script: &str, keys: &[&str], settle: [&str; 3], arguments: &[&[u8]]) -> Cmd {
        debug_assert_eq!(keys.len(), self.keys, "{}", self.name);
        let number = keys.len() + if self.pushes { settle.len() } else { 0 };
        let length: usize = keys.iter().map(|key| key.len()).chain(arguments.iter().map(|a| a.len())).sum();
        // Three settle keys, the script and the number beside them.
        let mut command = Cmd::with_capacity(keys.len() + arguments.len() + 6, length + script.len() + 200);
        command.arg(verb).arg(script).arg(number).arg(keys);
        if self.pushes {
            command.arg(&settle[..]);
        }
        for argument in arguments {
            command.arg(*argument);
        }
        #[cfg(feature = "test-jobs")]
        if crate::switches::off("redis-time") {
            command.arg(chrono::Utc::now().timestamp_millis());
        }
        command
    }

    /// Calls the script. `settle` are the queue's `wait`, `paused` and `meta`, for scripts that may push to `wait`.
    pub async fn call<T: FromRedisValue>(
        &self,
        link: &Link,
        deadline: Duration,
        keys: &[&str],
        settle: [&str; 3],
        arguments: &[&[u8]],
    ) -> Result<T, Error> {
        let by_hash = self.by_hash(keys, settle, arguments);
        link.with(self.name, deadline, async |mut connection| {
            // An error answer of the server comes as a value here.
            match connection.req_packed_command(&by_hash).await.and_then(Value::extract_error) {
                // A restarted Redis has forgotten the script: this call brings it again, later ones use the hash.
                Err(error) if error.code() == Some("NOSCRIPT") => {
                    connection.req_packed_command(&self.command("EVAL", &self.text, keys, settle, arguments)).await
                }
                other => other,
            }
            .and_then(Value::extract_error)
            .and_then(|value| T::from_redis_value(value).map_err(Into::into))
        })
        .await
    }
}

/// Where Redis' clock is switched off, the host's comes behind the script's own arguments.
#[cfg(feature = "test-jobs")]
fn host_clock(index: usize, text: &mut String) -> bool {
    let off = crate::switches::off("redis-time");
    if off {
        text.push_str(&format!("ARGV[{index}] = ARGV[#ARGV]\n"));
    }
    off
}
