//! Workers whose clocks are wrong, by libfaketime. Every time in the queue is Redis' own, so delays, retries and ticks
//! are what they are with right clocks.

use crate::{
    stage::{Plan, Stage, now_ms},
    story::Story,
    table::{Kind, Row, Verdict},
};
use serde_json::json;
use std::{collections::BTreeSet, fs, path::PathBuf, thread::sleep, time::Duration};

row!(24, clocks_wrong, off "redis-time" => Time, wrong);

/// A start may be later than it is due by this, on a busy machine.
const LATE_BY: u64 = 1000;
/// Redis' clock and the events' differ by less than this.
const EARLY_BY: u64 = 20;

fn wrong(row: &Row) -> Verdict {
    let seconds = row.choose(6, 30);
    let fault = format!("clocks of two workers 5 minutes fast and slow, for {seconds} s");
    let mut stage = Stage::start(row, fault, |_| {
        let mut plan = Plan::workers(&[4, 4, 1]);
        for (settings, offset) in plan.workers.iter_mut().zip(["+300s", "-300s"]) {
            settings.insert("LD_PRELOAD", faketime().display().to_string());
            settings.insert("FAKETIME", offset.into());
            // Leases and deadlines count by the clocks that no hand moves.
            settings.insert("FAKETIME_DONT_FAKE_MONOTONIC", "1".into());
        }
        plan
    });
    let repeat = json!({"pattern": "* * * * * *", "tz": "UTC"});
    let template = json!({"name": "test.tick", "data": {}, "opts": {"attempts": 1, "removeOnComplete": false}});
    stage.fleet.call(6, "upsertScheduler", json!({"scheduler": "each-second", "repeat": repeat, "template": template}));
    let mut delayed = Vec::new();
    for second in 0..seconds {
        for delay in [500, 1200, 2000] {
            let key = format!("delayed-{second}-{delay}");
            let opts = json!({"attempts": 1, "removeOnComplete": false, "jobId": key, "delay": delay});
            stage.fleet.add(6, "test.effect", json!({"key": key}), opts);
            stage.keys.insert(key.clone());
            delayed.push((key, delay));
        }
        let opts = json!({"attempts": 2, "backoff": 700, "removeOnFail": false, "jobId": format!("failing-{second}")});
        stage.fleet.add(6, "test.fail", json!({"reason": "no"}), opts);
        sleep(Duration::from_secs(1));
    }
    stage.fleet.call(6, "removeScheduler", json!({"scheduler": "each-second"}));
    sleep(Duration::from_secs(3));
    let story = Story::read(&stage.fleet.stream());
    judge_delays(&mut stage, &story, &delayed);
    judge_retries(&mut stage, &story);
    judge_ticks(&mut stage, &story, seconds);
    for (worker, minutes) in [(0, 5), (1, -5)] {
        let log = stage.crew.log(worker);
        let off = log.lines().next().and_then(minutes_off);
        let right = off.is_some_and(|off| (off - minutes).abs() < 2);
        assert!(right, "libfaketime does not work: {off:?} minutes: {log}");
    }
    stage.end()
}

fn judge_delays(stage: &mut Stage, story: &Story, delayed: &[(String, u64)]) {
    for (key, delay) in delayed {
        let told = story.0.get(key).cloned().unwrap_or_default();
        // The delay counts from the producer's own time, which is a little before Redis has the job.
        let hash = stage.fleet.key(key);
        let added: Option<u64> = stage.fleet.redis("HGET", &[&hash, &"timestamp"]);
        let (Some(added), Some(start)) = (added, told.starts.first()) else {
            stage.complain(Kind::Time, format!("{key} was not started"));
            continue;
        };
        let due = added + delay;
        stage.complain_if(start + EARLY_BY < due, Kind::Time, || format!("{key} was started {} ms early", due - start));
        let late = Duration::from_millis(start.saturating_sub(due));
        stage.note(Kind::Time, &format!("{key} was started late"), late, Duration::from_millis(LATE_BY));
    }
}

fn judge_retries(stage: &mut Stage, story: &Story) {
    for (id, told) in story.0.iter().filter(|(id, _)| id.starts_with("failing-")) {
        let [first, second] = told.starts[..] else {
            stage.complain(Kind::Time, format!("{id} started {} times instead of twice", told.starts.len()));
            continue;
        };
        let wrong = second - first < 700 - EARLY_BY || second - first > 700 + LATE_BY;
        stage.complain_if(wrong, Kind::Time, || format!("{id} was retried after {} ms instead of 700", second - first));
    }
}

/// One job for each second, at that second. The job's id ends with the time when it is due.
fn judge_ticks(stage: &mut Stage, story: &Story, seconds: u64) {
    let mut dues = BTreeSet::new();
    for (id, told) in story.0.iter().filter(|(id, _)| id.starts_with("repeat:each-second:")) {
        let (Some(due), Some(start)) =
            (id.rsplit(':').next().and_then(|due| due.parse::<u64>().ok()), told.starts.first())
        else {
            continue;
        };
        dues.insert(due);
        let wrong = start + EARLY_BY < due || *start > due + LATE_BY;
        stage.complain_if(wrong, Kind::Time, || format!("the tick of {due} was started at {start}"));
    }
    let gaps = dues.iter().zip(dues.iter().skip(1)).filter(|(one, next)| *next - *one != 1000).count();
    stage.complain_if(gaps > 0 || (dues.len() as u64) < seconds - 1, Kind::Time, || {
        format!("{} ticks in {seconds} s, with {gaps} gaps", dues.len())
    });
    let effects = stage.fleet.effects();
    let twice = dues.iter().filter(|due| effects.get(&due.to_string()) != Some(&1)).count();
    stage.complain_if(twice > 0, Kind::Doubled, || format!("{twice} ticks were not run once"));
}

/// How many minutes the time at a log line's start is away from now.
fn minutes_off(line: &str) -> Option<i64> {
    let time = chrono::DateTime::parse_from_rfc3339(line.split(' ').next()?).ok()?;
    Some((time.timestamp() - i64::try_from(now_ms() / 1000).unwrap()) / 60)
}

fn faketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    folders
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file())
        .expect("libfaketime (apt install libfaketime)")
}
