//! The steps of a definition as a graph: numbers for steps, in the order of the file.

use super::definition::Definition;
use std::collections::{BTreeMap, BTreeSet};

/// Edges in both directions, each with its outcome.
pub struct Graph<'a> {
    after: Vec<Vec<(usize, &'a str)>>,
    before: Vec<Vec<(usize, &'a str)>>,
}

impl<'a> Graph<'a> {
    /// Of a definition. An edge to a step that does not exist is none, and neither is one to an id that several steps have.
    #[must_use]
    pub fn of(definition: &'a Definition) -> Graph<'a> {
        let mut numbers: BTreeMap<&str, usize> =
            definition.steps.iter().enumerate().map(|(number, step)| (step.id.as_str(), number)).collect();
        let mut ids = BTreeSet::new();
        for (id, _) in definition.ids.iter().filter(|(id, _)| !ids.insert(id.as_str())) {
            numbers.remove(id.as_str());
        }
        let mut graph =
            Graph { after: vec![Vec::new(); definition.steps.len()], before: vec![Vec::new(); definition.steps.len()] };
        for (from, step) in definition.steps.iter().enumerate() {
            for transition in &step.transitions {
                if let Some(to) = numbers.get(transition.to.as_str()) {
                    graph.after[from].push((*to, &transition.on));
                    graph.before[*to].push((from, &transition.on));
                }
            }
        }
        graph
    }

    /// The steps from which an edge leads here, and its outcome.
    pub fn before(&self, step: usize) -> impl Iterator<Item = (usize, &'a str)> + '_ {
        self.before[step].iter().copied()
    }

    /// The groups of steps that can be gone round in, over the edges that count alone; each in the order of the file. An edge
    /// is told by the step that it leaves and its outcome.
    pub fn cycles(&self, counts: impl Fn(usize, &str) -> bool) -> Vec<Vec<usize>> {
        let number = self.after.len();
        let after: Vec<Vec<(usize, &str)>> = (0..number)
            .map(|from| self.after[from].iter().copied().filter(|(_, on)| counts(from, on)).collect())
            .collect();
        let before: Vec<Vec<(usize, &str)>> = (0..number)
            .map(|to| self.before[to].iter().copied().filter(|(from, on)| counts(*from, on)).collect())
            .collect();
        // By Kosaraju: what is finished last in one direction is where a group is entered in the other.
        let mut order = Vec::with_capacity(number);
        let mut seen = vec![false; number];
        for step in 0..number {
            walk(&after, step, &mut seen, &mut order);
        }
        let mut seen = vec![false; number];
        let mut cycles = Vec::new();
        for step in order.into_iter().rev() {
            let mut group = Vec::new();
            walk(&before, step, &mut seen, &mut group);
            group.sort_unstable();
            if group.len() > 1 || group.first().is_some_and(|only| after[*only].iter().any(|(to, _)| to == only)) {
                cycles.push(group);
            }
        }
        cycles.sort_unstable();
        cycles
    }
}

/// Visits everything unseen that can be reached, and appends each step when all behind it are done. Without recursion: a
/// chain may be as long as a definition.
fn walk(edges: &[Vec<(usize, &str)>], start: usize, seen: &mut [bool], done: &mut Vec<usize>) {
    if std::mem::replace(&mut seen[start], true) {
        return;
    }
    let mut path = vec![(start, 0)];
    while let Some((step, next)) = path.last_mut() {
        match edges[*step].get(*next) {
            Some((to, _)) => {
                *next += 1;
                if !std::mem::replace(&mut seen[*to], true) {
                    path.push((*to, 0));
                }
            }
            None => {
                done.push(*step);
                path.pop();
            }
        }
    }
}
