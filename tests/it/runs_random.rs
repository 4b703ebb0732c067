//! Random valid definitions, with branches, loops that wait, errors, retries, timeouts and people, executed by workers that
//! are killed at random: every run ends or waits, no committed step is repeated, no decision is lost, and what is stored equals
//! a replay of the step rows.
//!
//! `FLOH_RANDOM_RUNS` says how many, `FLOH_RANDOM_SEED` makes the definitions and what people want those of an earlier time.

mod definitions;
mod people;
mod replay;

use crate::support::{Fleet, wait_for, worker::Worker};
use definitions::random_definition;
use floh_worker::engine::{Severity, validate};
use people::{Decisions, decide};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use replay::{asked, check_decisions, check_replay};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    env,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// Definitions, with one run each.
const RUNS: u32 = 40;
/// Of so many.
const LIMIT: Duration = Duration::from_secs(120);

/// A number from the environment.
fn setting<T: FromStr>(name: &str) -> Option<T> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, and not `{value}`")))
}

/// A run that was started: its id, its definition, and the variables that it was given.
type Started = (String, Value, Value);

/// A random definition and its run; none where the definition turned out to be invalid.
fn start(fleet: &Fleet, random: &mut StdRng, number: u32) -> Option<Started> {
    let definition = random_definition(random, number);
    let errors: Vec<_> = validate(&definition).1.into_iter().filter(|one| one.severity == Severity::Error).collect();
    // A step that both ways lead past cannot be reached; the rest of the definition is as good.
    if !errors.is_empty() {
        assert!(errors.iter().all(|one| one.code == "UNREACHABLE_STEP"), "{errors:#?}\n{definition:#}");
        return None;
    }
    let given = json!({"n": random.random_range(0..8)});
    let row = fleet.define(&definition);
    Some((fleet.start_run(&row, &given), definition, given))
}

/// Two workers, of which any may die at any time.
struct Mortals<'a> {
    fleet: &'a Fleet,
    workers: [Worker; 2],
}

impl Mortals<'_> {
    fn worker(fleet: &Fleet, index: usize) -> Worker {
        let settings = [("WORKER_CONCURRENCY", "4"), ("CONNECTOR_ALLOWED_HOSTS", "localhost")];
        fleet.worker(["1", "2"][index], &settings)
    }

    fn of(fleet: &Fleet) -> Mortals<'_> {
        Mortals { fleet, workers: [0, 1].map(|index| Mortals::worker(fleet, index)) }
    }

    /// One of them is killed, and another takes its place.
    fn kill_one(&mut self, random: &mut StdRng) {
        let index = usize::from(random.random_bool(0.5));
        self.workers[index].kill();
        self.workers[index] = Mortals::worker(self.fleet, index);
    }
}

/// Lets the deciders go home, also where the test fails.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts so many, kills workers meanwhile, and waits until all have ended.
fn execute(fleet: &Fleet, random: &mut StdRng, count: u32) -> Vec<Started> {
    let mut mortals = Mortals::of(fleet);
    let mut runs = Vec::new();
    for number in 0..count {
        runs.extend(start(fleet, random, number));
        if number % 10 == 9 {
            mortals.kill_one(random);
        }
    }
    // Most of them wait for somebody by now.
    mortals.kill_one(random);
    wait_for("the runs' ends", LIMIT * count.div_ceil(RUNS), || {
        let open = "SELECT id FROM floh_worker.workflow_run WHERE status IN ('pending', 'running', 'waiting')";
        fleet.sql(open).is_empty().then_some(())
    });
    // Approvals that somebody held when their step ended are closed a moment later.
    wait_for("nothing to be left to decide", LIMIT, || {
        let open = "SELECT id FROM floh_worker.approval WHERE status IN ('waiting', 'pending')
            UNION ALL SELECT id FROM floh_worker.question WHERE status = 'pending'";
        fleet.sql(open).is_empty().then_some(())
    });
    mortals.workers.iter_mut().for_each(Worker::stop);
    runs
}

#[test]
fn random_definitions_end_and_their_runs_equal_a_replay_of_their_steps() {
    let seed = setting("FLOH_RANDOM_SEED").unwrap_or_else(|| rand::rng().next_u64());
    let count = setting("FLOH_RANDOM_RUNS").unwrap_or(RUNS);
    println!("FLOH_RANDOM_SEED={seed} FLOH_RANDOM_RUNS={count}");
    let mut random = StdRng::seed_from_u64(seed);
    let fleet = Fleet::start();
    let ended = AtomicBool::new(false);
    let (postgres, flag) = (&fleet.postgres, &ended);
    let (runs, decisions) = thread::scope(|scope| {
        let deciders = ["ada", "eve"].map(|who| scope.spawn(move || decide(postgres, seed, who, flag)));
        let at_end = AtEnd(flag);
        let runs = execute(&fleet, &mut random, count);
        drop(at_end);
        (runs, deciders.map(|decider| decider.join().unwrap()))
    });
    assert!(runs.len() > count as usize / 2, "only {} of {count} definitions are valid", runs.len());
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (id, definition, given) in &runs {
        let (run, steps) = (fleet.run(id), fleet.steps(id));
        check_replay(definition, given, &run, &steps, &asked(&fleet, id));
        *seen.entry(run.status).or_default() += 1;
        for step in steps {
            *seen.entry(step.outcome.unwrap_or_default()).or_default() += 1;
        }
    }
    check_decisions(&fleet, &decisions);
    check_variety(&seen, &decisions, runs.len());
}

/// Where all ended alike, the definitions were not what they should be. What comes once in ten definitions need not come in
/// forty, but in four hundred.
fn check_variety(seen: &BTreeMap<String, usize>, decisions: &[Decisions], definitions: usize) {
    println!("{seen:?}");
    for word in ["completed", "failed", "success", "error"] {
        assert!(seen.contains_key(word), "nothing was {word}: {seen:?}");
    }
    let rare = ["approved", "rejected", "expired", "timeout"];
    let least = if definitions < 200 { 2 } else { rare.len() };
    assert!(rare.iter().filter(|word| seen.contains_key(**word)).count() >= least, "{seen:?}");
    for one in decisions {
        println!("{} decisions taken, {} refused", one.taken.len(), one.refused);
        assert!(!one.taken.is_empty() && one.refused > 0);
    }
}
