//! What every row needs: servers, two workers under supervision, the load, the fault's after-effects measured, and the
//! count at the end.

use crate::{
    story::Story,
    support::{
        crew::{AfterEnd, Crew, Life},
        fleet::Fleet,
        load::{Added, Load},
        wait_for,
    },
    table::{Kind, Row, Verdict},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// Jobs a second.
pub const RATE: u32 = 50;
/// What a pick-up may take.
pub const PICK_UP_WITHIN: Duration = Duration::from_secs(5);
/// After the load everything is done within this: sooner than a lock expires, so nothing may wait for that.
const DRAINED_WITHIN: Duration = Duration::from_secs(25);
/// What is late is waited for this long, to tell it from what is lost.
const LATE_WITHIN: Duration = Duration::from_secs(110);
/// A pick-up is looked for no longer than this, by a row and by a control.
const GIVE_UP: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(8)];

/// Who works, and on what.
pub struct Plan {
    /// One entry per worker: its settings, over those of the fleet.
    pub workers: Vec<BTreeMap<&'static str, String>>,
    /// The jobs take up to this many milliseconds.
    pub spread: u32,
    /// What is done after the end of each process life.
    pub after_end: Option<AfterEnd>,
    /// What the producer connects to, if it is not Redis itself.
    pub producer: Option<Value>,
    /// Added to the producer's environment.
    pub producer_environment: Vec<(&'static str, String)>,
}

impl Plan {
    /// Workers with these numbers of jobs at a time.
    pub fn workers(concurrency: &[u32]) -> Plan {
        let one = |jobs: &u32| BTreeMap::from([("WORKER_CONCURRENCY", jobs.to_string())]);
        Plan {
            workers: concurrency.iter().map(one).collect(),
            spread: 15,
            after_end: None,
            producer: None,
            producer_environment: Vec::new(),
        }
    }

    /// Two workers: one as it comes, with one job at a time, one with four.
    pub fn usual() -> Plan {
        Plan::workers(&[1, 4])
    }

    /// A setting for all of them.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Plan {
        self.workers.iter_mut().for_each(|settings| _ = settings.insert(name, value.to_string()));
        self
    }
}

/// A row under way.
pub struct Stage {
    pub row: Row,
    pub fleet: Fleet,
    pub crew: Crew,
    load: Option<Load>,
    /// Keys of jobs that were added beside the load.
    pub keys: BTreeSet<String>,
    /// True where the row ends workers itself.
    pub deaths_expected: bool,
    /// What may be lost, because Redis lost it.
    pub excused: BTreeSet<String>,
    /// How many effects each key must have, where that is not one.
    pub wanted: BTreeMap<String, u64>,
    fault: String,
    slowest: Option<Duration>,
    complaints: Vec<(Kind, String)>,
    probes: usize,
}

/// Milliseconds of the machine's clock, which Redis shares.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

impl Stage {
    /// Starts everything and returns when the load is being worked on.
    pub fn start(row: &Row, fault: impl Into<String>, plan: impl FnOnce(&Fleet) -> Plan) -> Stage {
        Stage::start_on(Fleet::start_durable(), row, fault, plan)
    }

    /// The same on servers that the row made.
    pub fn start_on(fleet: Fleet, row: &Row, fault: impl Into<String>, plan: impl FnOnce(&Fleet) -> Plan) -> Stage {
        let plan = plan(&fleet);
        let members = plan.workers.iter().enumerate().map(|(index, settings)| {
            let mut settings: Vec<(&str, &str)> =
                settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
            settings.push(("FLOH_TEST_OFF", row.off.unwrap_or_default()));
            let instance = (index + 1).to_string();
            let mut environment = fleet.instance_environment(&instance, &settings);
            // A setting without a value takes one of the fleet's away.
            environment.retain(|(_, value)| !value.is_empty());
            (instance, environment)
        });
        let crew = Crew::start(members.collect(), plan.after_end);
        let usual = json!({"host": "127.0.0.1", "port": fleet.redis.port()});
        let environment: Vec<(&str, &str)> =
            plan.producer_environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let load = Load::start(plan.producer.as_ref().unwrap_or(&usual), RATE, "load", plan.spread, &environment);
        let mut stage = Stage {
            row: *row,
            fleet,
            crew,
            load: Some(load),
            keys: BTreeSet::new(),
            deaths_expected: false,
            excused: BTreeSet::new(),
            wanted: BTreeMap::new(),
            fault: fault.into(),
            slowest: None,
            complaints: Vec::new(),
            probes: 0,
        };
        let completed = stage.fleet.key("completed");
        wait_for("the load is worked on", Duration::from_secs(30), || {
            (stage.fleet.redis::<u64>("ZCARD", &[&completed]) >= u64::from(RATE)).then_some(())
        });
        stage
    }

    /// The keys of the load's jobs that Redis has taken so far.
    pub fn loaded(&self) -> BTreeSet<String> {
        self.load.as_ref().unwrap().keys()
    }

    /// Adds words to what the table calls the fault.
    pub fn tell(&mut self, words: &str) {
        self.fault += words;
    }

    /// Something is not as it must be.
    pub fn complain(&mut self, kind: Kind, what: impl Into<String>) {
        self.complaints.push((kind, what.into()));
    }

    /// The same if `wrong`.
    pub fn complain_if(&mut self, wrong: bool, kind: Kind, what: impl FnOnce() -> String) {
        if wrong {
            self.complain(kind, what());
        }
    }

    /// True where a control has seen what it is for: the rest of its faults would only take time.
    pub fn is_seen(&self) -> bool {
        self.row.is_seen_in(&self.complaints)
    }

    /// Notes a time for the table, and complains if it is over the limit.
    pub fn note(&mut self, kind: Kind, what: &str, took: Duration, limit: Duration) {
        self.slowest = self.slowest.max(Some(took));
        self.complain_if(took > limit, kind, || format!("{what}: {:.2} s", took.as_secs_f64()));
    }

    /// Measures from `since` (the machine's milliseconds) until a job that was added later is picked up, and until each
    /// worker has picked up a job; the later of both is the answer, in the table too.
    pub fn pick_up(&mut self, since: u64) {
        self.fleet.reconnect();
        self.probes += 1;
        let key = format!("probe-{}", self.probes);
        self.load.as_mut().unwrap().probe(&key);
        let end = Instant::now() + GIVE_UP[usize::from(self.row.off.is_some())];
        loop {
            let story = Story::read(&self.fleet.stream_since(since));
            let first = story.first_pick_up(since);
            let by_worker = self.first_by_worker(&story);
            if let Some(first) = first
                && by_worker.len() == self.crew.len()
            {
                let last = by_worker.into_values().max().unwrap_or(first).max(first);
                self.note(Kind::PickedUpLate, "the next pick-up", Duration::from_millis(last - since), PICK_UP_WITHIN);
                return;
            }
            if Instant::now() >= end {
                let took = Duration::from_millis(now_ms() - since);
                let seen: Vec<_> = by_worker.keys().collect();
                let what = format!("no pick-up (a new job: {first:?}, workers seen: {seen:?})");
                self.note(Kind::PickedUpLate, &what, took, Duration::ZERO);
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// When each worker (by the name that BullMQ shows) first picked up a job that it completed.
    fn first_by_worker(&mut self, story: &Story) -> BTreeMap<String, u64> {
        let mut first = BTreeMap::new();
        for chunk in story.pick_ups().chunks(200) {
            let mut pipe = redis::pipe();
            for (_, id) in chunk {
                pipe.cmd("HGET").arg(self.fleet.key(id)).arg("pb");
            }
            let workers: Vec<Option<String>> = pipe.query(&mut self.fleet.connection).unwrap();
            for ((at, _), worker) in chunk.iter().zip(workers) {
                if let Some(worker) = worker {
                    first.entry(worker).or_insert(*at);
                }
            }
            if first.len() == self.crew.len() {
                break;
            }
        }
        first
    }

    /// Ends the load, waits until everything is done, counts, stops the workers.
    pub fn end(mut self) -> Verdict {
        thread::sleep(self.row.choose(Duration::from_millis(1500), Duration::from_secs(10)));
        let mut added = self.load.take().unwrap().stop();
        added.keys.append(&mut self.keys);
        self.fleet.reconnect();
        self.drain();
        let mut verdict = self.count(&added);
        self.look_at_attempts(&added);
        self.stop_workers();
        verdict.fault = self.fault;
        verdict.slowest = self.slowest;
        verdict.complaints.append(&mut self.complaints);
        verdict
    }

    fn drain(&mut self) {
        let start = Instant::now();
        let mut complained = false;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            if !complained && start.elapsed() > DRAINED_WITHIN {
                let what = format!("not done {} s after the load: {}", DRAINED_WITHIN.as_secs(), left.join(", "));
                self.complain(Kind::Undone, what);
                complained = true;
                // A control has seen what it is for.
                if self.row.off.is_some() {
                    return;
                }
            }
            if start.elapsed() > LATE_WITHIN {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What is not done yet: how many jobs in which list or set.
    fn left(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        for (name, command) in
            [("wait", "LLEN"), ("active", "LLEN"), ("paused", "LLEN"), ("prioritized", "ZCARD"), ("delayed", "ZCARD")]
        {
            let key = self.fleet.key(name);
            let mut number: u64 = self.fleet.redis(command, &[&key]);
            if name == "delayed" && number > 0 {
                // The next iteration of a schedule is always there.
                let ids: Vec<String> = self.fleet.redis("ZRANGE", &[&key, &0, &-1]);
                number = ids.iter().filter(|id| !id.starts_with("repeat:")).count() as u64;
            }
            if number > 0 {
                left.push(format!("{number} in {name}"));
            }
        }
        left
    }

    fn count(&mut self, added: &Added) -> Verdict {
        let effects = self.fleet.effects();
        let wanted = |key: &String| self.wanted.get(key).copied().unwrap_or(1);
        let doubled: Vec<&String> =
            effects.iter().filter(|(key, times)| **times > wanted(key)).map(|(key, _)| key).collect();
        let seldom: Vec<String> = self
            .wanted
            .iter()
            .filter(|(key, wanted)| effects.get(*key) < Some(*wanted))
            .map(|(key, wanted)| format!("{key} has {:?} effects instead of {wanted}", effects.get(key)))
            .collect();
        let lost: Vec<&String> =
            added.keys.iter().filter(|key| !effects.contains_key(*key) && !self.excused.contains(*key)).collect();
        let some = |keys: &[&String]| keys.iter().take(5).map(|key| key.as_str()).collect::<Vec<_>>().join(", ");
        let said = [(Kind::Doubled, "doubled", &doubled), (Kind::Lost, "lost", &lost)].map(|(kind, what, keys)| {
            (!keys.is_empty()).then(|| (kind, format!("{} {what} ({})", keys.len(), some(keys))))
        });
        let seldom = seldom.into_iter().map(|what| (Kind::NotRetried, what));
        self.complaints.extend(said.into_iter().flatten().chain(seldom));
        Verdict {
            added: added.keys.len(),
            effects: effects.len(),
            doubled: doubled.len(),
            lost: lost.len(),
            ..Verdict::default()
        }
    }

    /// Every job has been charged the one attempt that completed it, where it was not to have more effects.
    fn look_at_attempts(&mut self, added: &Added) {
        let mut wrong = Vec::new();
        let keys: Vec<&String> = added.keys.iter().filter(|key| !self.wanted.contains_key(*key)).collect();
        for chunk in keys.chunks(1000) {
            let mut pipe = redis::pipe();
            for key in chunk {
                pipe.cmd("HMGET").arg(self.fleet.key(key)).arg(&["atm", "failedReason"]);
            }
            let told: Vec<(Option<u32>, Option<String>)> = pipe.query(&mut self.fleet.connection).unwrap();
            for (key, (made, reason)) in chunk.iter().zip(told) {
                // One that is not done has been counted as such.
                if made.is_some_and(|made| made != 1) || reason.is_some() {
                    wrong.push(format!("{key}: attemptsMade {made:?}, {}", reason.unwrap_or_default()));
                }
            }
        }
        if let Some(first) = wrong.first() {
            let sentence = format!("{} jobs were charged wrongly, such as {first}", wrong.len());
            self.complain(Kind::Charged, sentence);
        }
    }

    fn stop_workers(&mut self) {
        let lives = self.crew.stop();
        let mut wrong = Vec::new();
        for index in 0..self.crew.len() {
            let instance = (index + 1).to_string();
            let own: Vec<&Life> = lives.iter().filter(|life| life.instance == instance).collect();
            let code = own.last().and_then(|life| life.ended).and_then(|(_, status)| status.code());
            if code != Some(0) {
                wrong.push(format!("worker {instance} did not drain well in the end ({code:?})"));
            }
            if own.len() > 1 && !self.deaths_expected {
                let first = own[0].ended.map(|(_, status)| status.to_string()).unwrap_or_default();
                wrong.push(format!("worker {instance} ended by itself {} times ({first})", own.len() - 1));
            }
        }
        self.complaints.extend(wrong.into_iter().map(|what| (Kind::Process, what)));
        let logs = lives.iter().map(|life| format!("--- instance {} ---\n{}\n", life.instance, life.log));
        self.row.keep("log", &logs.collect::<String>());
    }
}
