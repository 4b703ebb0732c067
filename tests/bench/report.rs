//! The results: tables, what was to be reached, and the file that is made of both.

use crate::{Scale, host, limits};
use std::{collections::HashSet, fmt::Write};

/// Median, least and most of the rounds.
#[derive(Clone, Copy)]
pub struct Spread {
    pub median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Spread { median, least: sorted[0], most: sorted[sorted.len() - 1] }
    }

    /// Of the quotients round by round: what two measure in the same minute.
    pub fn of_ratios(ones: &[f64], others: &[f64]) -> Spread {
        Spread::of(&ones.iter().zip(others).map(|(one, other)| one / other).collect::<Vec<_>>())
    }

    pub fn text(&self, digits: usize) -> String {
        let [median, least, most] = [self.median, self.least, self.most].map(|value| number(value, digits));
        format!("{median} ({least} to {most})")
    }

    /// As a factor.
    pub fn times(&self) -> String {
        format!("{:.2} × ({:.2} to {:.2})", self.median, self.least, self.most)
    }
}

/// With commas between thousands.
pub fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// A table; each column as wide as its longest cell.
pub struct Table(Vec<Vec<String>>);

impl Table {
    pub fn new(header: &[&str]) -> Table {
        Table(vec![header.iter().map(ToString::to_string).collect()])
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.0[0].len(), "as many cells as columns");
        self.0.push(cells.to_vec());
    }

    fn text(&self) -> String {
        let width = |column: usize| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.0[0].len()).map(width).collect();
        let mut text = String::new();
        for (index, row) in self.0.iter().enumerate() {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
            if index == 0 {
                let rules = widths.iter().map(|width| "-".repeat(*width));
                let _ = writeln!(text, "| {} |", rules.collect::<Vec<_>>().join(" | "));
            }
        }
        text
    }
}

/// What was to be reached, and was or was not.
struct Goal {
    key: &'static str,
    row: [String; 4],
    reached: bool,
}

/// Everything that a run found.
pub struct Report {
    scale: Scale,
    facts: Vec<(&'static str, String)>,
    load: String,
    sections: String,
    goals: Vec<Goal>,
}

impl Report {
    pub fn begin(scale: Scale) -> Report {
        Report { scale, facts: host::facts(), load: host::load(), sections: String::new(), goals: Vec::new() }
    }

    pub fn section(&mut self, title: &str, text: &str, table: Table) {
        let table = table.text();
        println!("{title}\n{table}");
        let _ = write!(self.sections, "\n## {title}\n\n{text}\n\n{table}");
    }

    /// `share` is how much of it was found: 1 or more if it is reached. `key` names the entry of `limits.rs` that says what
    /// stands in the way.
    pub fn goal(&mut self, key: &'static str, what: &str, wanted: &str, found: &str, share: f64) {
        let verdict = if share >= 1.0 { "reached".to_string() } else { format!("no: {:.0} % of it", share * 100.0) };
        let row = [what.to_string(), wanted.to_string(), found.to_string(), verdict];
        self.goals.push(Goal { key, row, reached: share >= 1.0 });
    }

    /// The file.
    pub fn finish(self) -> String {
        let mut text = String::from("# Measured\n\nWritten by `./tests/run bench`; not edited by hand.\n\n");
        let mut goals = Table::new(&["figure", "to reach", "found", "reached"]);
        for goal in &self.goals {
            goals.row(goal.row.clone());
        }
        text.push_str(&goals.text());
        let mut missed: Vec<&str> = self.goals.iter().filter(|goal| !goal.reached).map(|goal| goal.key).collect();
        let mut said = HashSet::new();
        missed.retain(|key| said.insert(*key));
        if !missed.is_empty() {
            text.push_str("\nWhat limits the figures that are not reached:\n\n");
            for key in missed {
                let _ = writeln!(text, "- {}", limits::of(key));
            }
        }
        text.push_str("\n## Where and how\n\n");
        let mut facts = Table::new(&["", ""]);
        for (name, value) in self.facts {
            facts.row([name.to_string(), value]);
        }
        facts.row(["load at the start".to_string(), self.load]);
        facts.row(["load at the end".to_string(), host::load()]);
        text.push_str(&facts.text());
        let _ = write!(text, "\n{}\n", limits::HOW.replace("ROUNDS", &self.scale.rounds.to_string()));
        text.push_str(&self.sections);
        text
    }
}
