//! Finding what got lost: jobs that a fetch of ours took although its answer never came, and jobs in no list at all.

use super::{
    Queue, add_all::all_answers, connection::COMMAND_DEADLINE, error::Error, fetch::lock_duration_ms, lease::Leases,
    scripts::Script,
};
use crate::events;
use redis::Value;
use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
    time::Duration,
};

/// Active jobs whose lock begins with our prefix, and those of our name whose lock is gone: id and token in turn.
static OURS: LazyLock<Script> =
    LazyLock::new(|| Script::own("activeJobsOfOurs", 1, false, include_str!("lua/ours.lua")));
/// Puts a job that is in no list or set back to where it would wait.
static RESTORE: LazyLock<Script> =
    LazyLock::new(|| Script::own("restoreLostJob", 8, true, include_str!("lua/restore.lua")));

/// How many keys, or ids of a list, the slow sweep reads per round trip.
const PAGE: usize = 1000;
/// How many jobs are asked about at once: three commands each, and as many answers, are in memory together.
const ASKED: usize = 200;
/// Pause between two pages, so that the sweep is never felt.
const PAUSE: Duration = Duration::from_millis(20);
/// Beyond this backlog the slow sweep waits for a quieter time: it remembers eight bytes of every waiting id while it looks.
const LARGEST_BACKLOG: u64 = 4_000_000;
/// One sweep per queue and this time, whichever worker begins it, where Redis holds no more keys than [`ORDINARY_SIZE`].
const SWEEP_PERIOD: Duration = Duration::from_secs(25);
/// Keys of a Redis database that a sweep walks through in some two seconds.
const ORDINARY_SIZE: u64 = 100_000;
/// How long a sweep is put off that has too much to remember.
const PUT_OFF: Duration = Duration::from_secs(300);

/// An active job that a life of a worker held and nobody works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The job.
    pub id: String,
    /// The token that locks it; `None` where its lock has expired.
    pub token: Option<String>,
}

impl Queue {
    /// Active jobs that are locked with a token of the life that `prefix` begins, and those that were taken under the name
    /// `worker` and whose lock has expired. Without those that `leases` know, and those whose ids are no text, which fail.
    pub async fn orphans(&self, prefix: &str, worker: &str, leases: &Leases) -> Result<Vec<Orphan>, Error> {
        let found: Vec<Vec<u8>> = OURS
            .call(
                &self.link,
                COMMAND_DEADLINE,
                &[&self.keys.active],
                self.settle(),
                &[self.keys.base.as_bytes(), prefix.as_bytes(), worker.as_bytes()],
            )
            .await?;
        let held: HashSet<String> = leases.held().iter().map(|lease| lease.job_id.clone()).collect();
        let mut texts = Vec::new();
        for pair in found.chunks_exact(2) {
            match (str::from_utf8(&pair[0]), str::from_utf8(&pair[1])) {
                (Ok(id), Ok(token)) => texts.push((id.to_string(), token.to_string())),
                (Err(_), _) => self.fail_without_text(&pair[0]).await?,
                // No worker of ours made such a token.
                (Ok(_), Err(_)) => {}
            }
        }
        let orphans =
            texts.into_iter().filter(|(id, token)| !(leases.knows(token) || (token.is_empty() && held.contains(id))));
        Ok(orphans.map(|(id, token)| Orphan { id, token: Some(token).filter(|token| !token.is_empty()) }).collect())
    }

    /// Hands back active jobs locked with a token of this invocation that it does not run. Says how many.
    pub async fn hand_back_orphans(&self, leases: &Leases, worker: &str) -> Result<usize, Error> {
        #[cfg(feature = "test-jobs")]
        if crate::switches::off("orphans") {
            return Ok(0);
        }
        let prefix = leases.token_prefix();
        let mut count = 0;
        for orphan in self.orphans(&prefix, worker, leases).await? {
            if self.give_back(&orphan, &prefix).await? {
                tracing::warn!(
                    floh_job_id = %orphan.id,
                    "a fetch whose answer was lost had taken this job: handed back"
                );
                count += 1;
            }
        }
        Ok(count)
    }

    /// Fails a job whose id is no text: nobody who speaks BullMQ can run or finish it, and the stalled check would put it
    /// back for ever.
    async fn fail_without_text(&self, id: &[u8]) -> Result<(), Error> {
        let hash = [self.keys.base.as_bytes(), id].concat();
        let now = self.now_ms().await?;
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("LREM").arg(&self.keys.active).arg(0).arg(id);
        pipe.cmd("ZADD").arg(&self.keys.failed).arg(now).arg(id);
        pipe.cmd("HSET").arg(&hash).arg("finishedOn").arg(now).arg("failedReason").arg(NO_TEXT);
        pipe.cmd("DEL").arg([&hash[..], b":lock"].concat());
        all_answers(&self.link, "the end of a job whose id is no text", &pipe).await?;
        tracing::error!(message_id = events::JOB_REFUSED, "job {:?} failed: {NO_TEXT}", String::from_utf8_lossy(id));
        Ok(())
    }

    /// Hands back an active job with the token that locks it, or with a new one that `prefix` begins where its lock has
    /// expired. False if somebody was faster, or if Redis refuses this one job.
    pub async fn give_back(&self, orphan: &Orphan, prefix: &str) -> Result<bool, Error> {
        match self.try_give_back(orphan, prefix).await {
            // What is wrong with one job must not keep the others from being found.
            Err(error) if !error.concerns_all() => {
                tracing::warn!(floh_job_id = %orphan.id, "not handed back: {error}");
                Ok(false)
            }
            other => other,
        }
    }

    async fn try_give_back(&self, orphan: &Orphan, prefix: &str) -> Result<bool, Error> {
        let token = match &orphan.token {
            Some(token) => token.clone(),
            None => match self.lock_anew(&orphan.id, prefix).await? {
                Some(token) => token,
                None => return Ok(false),
            },
        };
        // A counter that is no number ends the fetching script half-way, each time.
        self.mend_fields(&orphan.id).await?;
        Ok(self.hand_back(&orphan.id, &token).await?.is_ok())
    }

    /// Locks an active job whose lock expired; `None` if somebody was faster.
    async fn lock_anew(&self, id: &str, prefix: &str) -> Result<Option<String>, Error> {
        let token = format!("{prefix}found:{id}");
        let mut command = redis::cmd("SET");
        command.arg(self.keys.lock(id)).arg(&token).arg("NX").arg("PX").arg(lock_duration_ms());
        let set: Option<String> = self.link.query(&command, "SET", COMMAND_DEADLINE).await?;
        Ok(set.map(|_| token))
    }

    /// Looks slowly through the queue's keys for jobs that are in no list or set, and puts them back. `None` if
    /// another worker has done so lately; else how many were found.
    ///
    /// The keys are found by `SCAN`, which visits every key of the Redis database, also those of others. So how lately
    /// depends on its size: 25 s for up to 100,000 keys, and in proportion for more (a million: 250 s). A sweep takes
    /// about a tenth of that, however large the database is.
    pub async fn restore_lost_jobs(&self) -> Result<Option<usize>, Error> {
        let guard = format!("{}floh-worker:sweep", self.keys.base);
        let mut first = redis::cmd("SET");
        first.arg(&guard).arg("1").arg("NX").arg("PX").arg(milliseconds(SWEEP_PERIOD));
        let first: Option<String> = self.link.query(&first, "SET", COMMAND_DEADLINE).await?;
        if first.is_none() {
            return Ok(None);
        }
        let size: u64 = self.link.query(&redis::cmd("DBSIZE"), "DBSIZE", COMMAND_DEADLINE).await?;
        let waiting = self.waiting_ids().await?;
        let period = if waiting.is_none() { PUT_OFF } else { sweep_period(size) };
        let mut guard_for = redis::cmd("PEXPIRE");
        guard_for.arg(&guard).arg(milliseconds(period));
        let _: i64 = self.link.query(&guard_for, "PEXPIRE", COMMAND_DEADLINE).await?;
        let Some(waiting) = waiting else {
            tracing::info!("more than {LARGEST_BACKLOG} jobs wait: the search for lost jobs is put off");
            return Ok(Some(0));
        };
        let mut restored = 0;
        let mut cursor = 0u64;
        // What waited when the sweep began needs no second look. For the rest the script looks, atomically: a job that
        // moved meanwhile is in none of our ids, yet it is somewhere.
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{}*", glob_escape(&self.keys.base)));
            scan.arg("COUNT").arg(PAGE).arg("TYPE").arg("hash");
            let (next, keys): (u64, Vec<Vec<u8>>) = self.link.query(&scan, "SCAN", COMMAND_DEADLINE).await?;
            let texts = keys.iter().filter_map(|key| str::from_utf8(key).ok());
            let ids = texts.filter_map(|key| self.job_id(key)).filter(|id| !waiting.holds(id.as_bytes()));
            for id in self.perhaps_lost(&ids.collect::<Vec<_>>()).await? {
                restored += usize::from(self.restore(&id).await?);
            }
            if next == 0 {
                return Ok(Some(restored));
            }
            cursor = next;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Puts those of these jobs back that are in no list or set, at once and whatever the size of the database; how many.
    /// `waiting` is read where it is needed, and may be used again for the next ones: what came into a list since is looked
    /// for there.
    pub async fn restore_if_lost(&self, ids: &[String], waiting: &mut Option<Waiting>) -> Result<usize, Error> {
        let suspects = self.perhaps_lost(ids).await?;
        if suspects.is_empty() {
            return Ok(0);
        }
        if waiting.is_none() {
            *waiting = self.waiting_ids().await?;
        }
        // Where more wait than can be remembered, a look for each in a list of that length would stop Redis.
        let Some(waiting) = waiting else { return Ok(0) };
        let mut restored = 0;
        for id in suspects.iter().filter(|id| !waiting.holds(id.as_bytes())) {
            restored += usize::from(self.restore(id).await?);
        }
        Ok(restored)
    }

    /// Of these jobs those that have not ended, are not delayed and not among the prioritized: most have or are, and that is
    /// asked for many at once.
    async fn perhaps_lost(&self, ids: &[String]) -> Result<Vec<String>, Error> {
        let mut lost = Vec::new();
        for asked in ids.chunks(ASKED) {
            let mut pipe = redis::pipe();
            for id in asked {
                pipe.cmd("HEXISTS").arg(self.keys.job(id)).arg("finishedOn");
                pipe.cmd("ZSCORE").arg(&self.keys.delayed).arg(id);
                pipe.cmd("ZSCORE").arg(&self.keys.prioritized).arg(id);
            }
            let answers = all_answers(&self.link, "the state of jobs", &pipe).await?;
            let found = asked.iter().zip(answers.chunks_exact(3));
            lost.extend(
                found.filter(|(_, found)| **found == [Value::Int(0), Value::Nil, Value::Nil]).map(|(id, _)| id.clone()),
            );
        }
        Ok(lost)
    }

    /// The ids in `wait` and `paused`; `None` if there are too many to remember.
    async fn waiting_ids(&self) -> Result<Option<Waiting>, Error> {
        let mut waiting = Waiting::default();
        for list in [&self.keys.wait, &self.keys.paused] {
            let length: u64 = self.link.query(redis::cmd("LLEN").arg(list), "LLEN", COMMAND_DEADLINE).await?;
            if length > LARGEST_BACKLOG {
                return Ok(None);
            }
            // Grown step by step it would be in memory twice, at the last step.
            waiting.fingerprints.reserve(usize::try_from(length).unwrap_or_default());
            let mut from = 0;
            loop {
                let mut range = redis::cmd("LRANGE");
                range.arg(list).arg(from).arg(from + PAGE - 1);
                let chunk: Vec<Vec<u8>> = self.link.query(&range, "LRANGE", COMMAND_DEADLINE).await?;
                if chunk.is_empty() {
                    break;
                }
                waiting.note(&chunk);
                from += PAGE;
            }
        }
        waiting.fingerprints.sort_unstable();
        Ok(Some(waiting))
    }

    /// The id in a key, if the key can be a job's hash.
    fn job_id(&self, key: &str) -> Option<String> {
        const OTHERS: [&str; 2] = ["meta", "repeat"];
        const PARTS: [&str; 6] = [":logs", ":dependencies", ":processed", ":failed", ":unsuccessful", ":lock"];
        let id = key.strip_prefix(&self.keys.base)?;
        let other = OTHERS.contains(&id)
            || PARTS.iter().any(|part| id.ends_with(part))
            || ["metrics:", "dn:", "de:", "floh-worker:"].iter().any(|prefix| id.starts_with(prefix));
        (!other && !id.is_empty()).then(|| id.to_string())
    }

    /// Puts one job back if it is in no list or set, atomically.
    pub(super) async fn restore(&self, id: &str) -> Result<bool, Error> {
        let keys = &self.keys;
        let hash = keys.job(id);
        let answer: Value = RESTORE
            .call(
                &self.link,
                COMMAND_DEADLINE,
                &[
                    &hash,
                    &keys.active,
                    &keys.delayed,
                    &keys.prioritized,
                    &keys.completed,
                    &keys.failed,
                    &keys.waiting_children,
                    &keys.marker,
                ],
                self.settle(),
                &[id.as_bytes(), keys.priority_counter.as_bytes(), keys.events.as_bytes()],
            )
            .await?;
        let restored = answer == Value::Int(1);
        if restored {
            tracing::warn!(floh_job_id = %id, "a job that was in no list or set waits again");
        }
        Ok(restored)
    }
}

/// The ids that waited at some moment, by eight bytes each. Two of them may look alike, once in so many billions: a lost job
/// is then taken for a waiting one until the next look, which draws other bytes.
#[derive(Default)]
pub struct Waiting {
    seed: RandomState,
    fingerprints: Vec<u64>,
}

impl Waiting {
    fn note(&mut self, ids: &[Vec<u8>]) {
        self.fingerprints.extend(ids.iter().map(|id| self.seed.hash_one(&id[..])));
    }

    fn holds(&self, id: &[u8]) -> bool {
        self.fingerprints.binary_search(&self.seed.hash_one(id)).is_ok()
    }
}

/// Why such a job fails.
const NO_TEXT: &str = "its id is not UTF-8";

/// How long after a sweep's beginning the next one may begin, by the number of keys.
fn sweep_period(keys: u64) -> Duration {
    SWEEP_PERIOD.mul_f64((keys as f64 / ORDINARY_SIZE as f64).max(1.0))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A key prefix as a `SCAN` pattern: the characters that mean something to it are escaped.
fn glob_escape(text: &str) -> String {
    text.chars().flat_map(|c| "*?[]\\^-".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_database_is_walked_through_less_often() {
        for (keys, seconds) in [(0, 25), (100_000, 25), (1_000_000, 250), (100_000_000, 25_000)] {
            assert_eq!(sweep_period(keys), Duration::from_secs(seconds), "{keys} keys");
        }
    }
}
