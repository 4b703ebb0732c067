//! Starts what is to be started of a schedule, inside a transaction of the caller.

use super::{Asked, Choice, choose};
use crate::{
    cron::Timetable,
    events,
    jobs::CatchUp,
    store::{
        Client, StoreError,
        schedule::{self, FireResult, Fired, Opened, Schedule},
    },
};
use chrono::DateTime;
use serde_json::{Value, json};

/// What was done, to be told once it is committed.
#[derive(Debug)]
pub struct Settled {
    schedule: Schedule,
    choice: Choice,
    fired: Vec<Fired>,
    skipped: Option<&'static str>,
}

/// Starts the runs that a locked schedule is to start now. The inner error is a sentence: why that cannot be done.
pub async fn settle(client: &Client, opened: &Opened, asked: Asked) -> Result<Result<Settled, String>, StoreError> {
    let schedule = &opened.schedule;
    let nothing = |skipped| {
        let choice = Choice { until: schedule.ticked_until_ms, ..Choice::default() };
        Settled { schedule: schedule.clone(), choice, fired: Vec::new(), skipped: Some(skipped) }
    };
    if !schedule.enabled {
        return Ok(Ok(nothing("the schedule is paused")));
    }
    let choice = if asked == Asked::Now {
        Choice { until: schedule.ticked_until_ms, ..Choice::default() }
    } else {
        match Timetable::parse(&schedule.cron, &schedule.zone) {
            Ok(table) => choose(&table, policy(schedule), schedule.ticked_until_ms, opened.now_ms, asked),
            Err(why) => return Ok(Err(format!("the schedule {}: {why}", schedule.name))),
        }
    };
    let mut ticks: Vec<Option<i64>> = choice.start.iter().copied().map(Some).collect();
    if asked == Asked::Now {
        ticks.push(None);
    }
    if opened.definition_id.is_none() && !ticks.is_empty() {
        let Schedule { name, definition, .. } = schedule;
        return Ok(Err(format!(
            "the schedule {name} starts nothing: no version of the definition {definition} is active; publish one"
        )));
    }
    let fired = schedule::fire(client, schedule.id, opened.definition_id, &ticks, choice.until).await?;
    let skipped = choice.refused.filter(|_| ticks.is_empty());
    Ok(Ok(Settled { schedule: schedule.clone(), choice, fired, skipped }))
}

fn policy(schedule: &Schedule) -> CatchUp {
    match schedule.catch_up.as_str() {
        "skip" => CatchUp::Skip,
        "all" => CatchUp::All { most: schedule.catch_up_limit },
        _ => CatchUp::One,
    }
}

impl Settled {
    /// The job's return value.
    #[must_use]
    pub fn value(&self) -> Value {
        let runs: Vec<_> = self.fired.iter().filter_map(|fired| fired.run).collect();
        let mut value = json!({ "schedule": self.schedule.name, "runs": runs });
        let overlaps = self.fired.iter().any(|fired| fired.result == FireResult::Skipped);
        let known = self.fired.iter().any(|fired| fired.result == FireResult::Known);
        let why = match self.skipped {
            Some(why) => Some(why),
            None if overlaps => Some("a run of the schedule has not ended"),
            None if known => Some("this tick was dealt with before"),
            None => None,
        };
        if let Some(why) = why {
            value["skipped"] = why.into();
        }
        value
    }

    /// What was done, a line each.
    pub fn tell(&self) {
        let name = &self.schedule.name;
        if let Some(why) = self.skipped {
            tracing::info!(message_id = events::TICK_SKIPPED, "schedule {name}: not run: {why}");
        }
        if let Some((first, last)) = self.choice.given_up {
            tracing::warn!(
                message_id = events::TICKS_GIVEN_UP,
                "schedule {name}: ticks from {} to {} were missed and are not made up for (catch-up: {})",
                text(first),
                text(last),
                self.schedule.catch_up
            );
        }
        if !self.choice.made_up.is_empty() {
            let times: Vec<_> = self.choice.made_up.iter().copied().map(text).collect();
            tracing::warn!(
                message_id = events::TICKS_MADE_UP,
                "missed, and run now: what schedule {name} should have started at {}",
                times.join(", ")
            );
        }
        for fired in &self.fired {
            self.tell_fired(fired);
        }
    }

    fn tell_fired(&self, fired: &Fired) {
        let name = &self.schedule.name;
        let tick = fired.tick_ms.map_or_else(|| "on demand".to_string(), |ms| format!("of {}", text(ms)));
        let run = fired.run.unwrap_or_default();
        match fired.result {
            FireResult::Started => {
                tracing::info!(message_id = events::RUN_TRIGGERED, floh_run_id = %run,
                    "run {run} of {} is started by schedule {name}, {tick}", self.schedule.definition);
            }
            FireResult::Held => {
                tracing::info!(message_id = events::RUN_HELD, floh_run_id = %run,
                    "run {run} of schedule {name}, {tick}, waits until the one before it has ended");
            }
            FireResult::Skipped => {
                tracing::warn!(
                    message_id = events::TICK_OVERLAPS,
                    "schedule {name}, {tick}: nothing is started, because a run of it has not ended"
                );
            }
            FireResult::Known => {
                tracing::info!(
                    message_id = events::TICK_SKIPPED,
                    "schedule {name}, {tick}: not run: this tick was dealt with before"
                );
            }
        }
    }
}

fn text(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).map(|at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}
