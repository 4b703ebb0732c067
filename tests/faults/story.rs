//! What the queue's event stream tells of each job: when it was added, started (each time) and done, by Redis' clock.

use crate::support::fleet::Event;
use std::collections::BTreeMap;

/// One job's times, in milliseconds.
#[derive(Debug, Default, Clone)]
pub struct Told {
    pub added: Option<u64>,
    pub starts: Vec<u64>,
    pub handed_back: Vec<u64>,
    pub completed: Option<u64>,
}

/// All jobs of which the stream says something, by id.
#[derive(Debug, Default)]
pub struct Story(pub BTreeMap<String, Told>);

impl Story {
    pub fn read(events: &[Event]) -> Story {
        let mut jobs: BTreeMap<String, Told> = BTreeMap::new();
        for event in events {
            let Some(id) = &event.job else { continue };
            let job = jobs.entry(id.clone()).or_default();
            match event.name.as_str() {
                "added" => job.added = Some(event.at),
                "active" => job.starts.push(event.at),
                // Out of `active` it comes back unfinished.
                "waiting" if event.entry.get::<String>("prev").is_some_and(|prev| prev == "active") => {
                    job.handed_back.push(event.at);
                }
                "completed" => job.completed = Some(event.at),
                _ => {}
            }
        }
        Story(jobs)
    }

    /// The completed jobs, each with the start that led to its end, the earliest such start first. A start that led to
    /// nothing (a fetch whose answer was lost) is no pick-up.
    pub fn pick_ups(&self) -> Vec<(u64, &str)> {
        let mut starts: Vec<(u64, &str)> = self
            .0
            .iter()
            .filter_map(|(id, job)| job.completed.and(job.starts.last()).map(|start| (*start, id.as_str())))
            .collect();
        starts.sort_unstable();
        starts
    }

    /// The first pick-up of a job that was added at `since` or later.
    pub fn first_pick_up(&self, since: u64) -> Option<u64> {
        let new = |id: &str| self.0[id].added.is_some_and(|added| added >= since);
        self.pick_ups().into_iter().find(|(_, id)| new(id)).map(|(at, _)| at)
    }

    /// The longest time that a job waited after it was handed back, and which job that was.
    pub fn longest_wait_after_hand_back(&self) -> Option<(u64, &str)> {
        let waits = self.0.iter().flat_map(|(id, job)| {
            job.handed_back.iter().filter_map(move |at| {
                let next = job.starts.iter().find(|start| *start >= at)?;
                Some((next - at, id.as_str()))
            })
        });
        waits.max()
    }

    /// The longest time from a job's first start to the start that led to its end, and which job that was.
    pub fn longest_wait_for_restart(&self) -> Option<(u64, &str)> {
        let waits = self.0.iter().filter_map(|(id, job)| {
            let (first, last) = (job.starts.first()?, job.completed.and(job.starts.last())?);
            Some((last - first, id.as_str()))
        });
        waits.max()
    }
}
