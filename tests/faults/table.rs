//! The table: one line per row, written by the row's own test into a folder that `tests/run` reads.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Makes the tests of a row out of its number in the table, its name, its controls (mostly there is one) and the function
/// that runs it. A control is the part of the worker that it switches off, and the kinds of complaint of which it must
/// make at least one: `"fence" => Stale Doubled`.
macro_rules! row {
    ($number:literal, $name:ident,
        off $off:literal => $($kind:ident)+
        $(| $other:literal => $($other_kind:ident)+ $(| $third:literal => $($third_kind:ident)+)?)?,
        $run:path) => {
        mod $name {
            #[allow(unused_imports, reason = "the path of the function may begin anywhere")]
            use super::*;
            use $crate::table::{Kind, Row};

            const ROW: Row = Row { number: $number, name: stringify!($name), off: None, sees: &[] };

            #[test]
            fn row() {
                ROW.run($run);
            }

            #[test]
            fn control() {
                Row { off: Some($off), sees: &[$(Kind::$kind),+], ..ROW }.run($run);
            }

            $(#[test]
            fn another_control() {
                Row { off: Some($other), sees: &[$(Kind::$other_kind),+], ..ROW }.run($run);
            }

            $(#[test]
            fn a_third_control() {
                Row { off: Some($third), sees: &[$(Kind::$third_kind),+], ..ROW }.run($run);
            })?)?
        }
    };
}

/// So many complaints are in the table's line; the rest is in the file beside it.
const LISTED: usize = 3;

/// What a complaint is about. A control has to make one of the kind that the part which it switches off is there to
/// prevent; what else goes wrong meanwhile (on a busy machine something may) does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A job has no effect.
    Lost,
    /// It has more than one.
    Doubled,
    /// After the load has ended, jobs stay undone.
    Undone,
    /// The next job was picked up too late, or not at all.
    PickedUpLate,
    /// A job that was under way ran again too late, or not at all.
    RanAgainLate,
    /// A lock was not renewed, or its job was started by another worker meanwhile.
    NotRenewed,
    /// A job paid with an attempt for what was not its fault.
    Charged,
    /// A worker that had lost the job committed its effect, or could have.
    Stale,
    /// A successor had to wait for a stale predecessor.
    HeldUp,
    /// What PostgreSQL knows did not come back to Redis.
    NotRestored,
    /// A retry by hand did nothing.
    NotRetried,
    /// A panic is not its job's failure.
    Panic,
    /// A handler that hangs is not its job's failure.
    Hang,
    /// A job that kills its worker is not put aside.
    Killer,
    /// Something was started earlier or later than it was due.
    Time,
    /// A worker did not do what a process has to: come back, drain, end only when told to.
    Process,
    /// The row itself could not be as it is meant.
    Setup,
}

/// Which row is run, and whether as itself or as its control.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its place in the table.
    pub number: u32,
    /// Its test's name.
    pub name: &'static str,
    /// For a control: what is switched off.
    pub off: Option<&'static str>,
    /// For a control: what it has to complain of.
    pub sees: &'static [Kind],
}

/// What a row found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The fault, as the table says it.
    pub fault: String,
    /// Jobs that Redis said it has.
    pub added: usize,
    /// Keys with an effect in PostgreSQL.
    pub effects: usize,
    /// Keys with more than one.
    pub doubled: usize,
    /// Jobs without one.
    pub lost: usize,
    /// From a fault's end (half-open: from its start) to the start of the first job that was added after it, or to the
    /// first start by each worker, if that is later; the slowest of all.
    pub slowest: Option<Duration>,
    /// Everything that is not as it must be.
    pub complaints: Vec<(Kind, String)>,
}

impl Row {
    /// True for the length that is meant; else the faults are short. A control sees enough in a short one.
    pub fn is_full(&self) -> bool {
        self.off.is_none() && env::var("FLOH_FAULTS").is_ok_and(|length| length == "full")
    }

    /// One of two lengths, or numbers.
    pub fn choose<T>(&self, short: T, full: T) -> T {
        if self.is_full() { full } else { short }
    }

    /// A name for files.
    fn label(&self) -> String {
        let control = self.off.map(|off| format!("-without-{}", off.replace([' ', ','], "-"))).unwrap_or_default();
        format!("{:02}-{}{control}", self.number, self.name)
    }

    /// Runs the row and writes its line.
    ///
    /// # Panics
    /// The row failed, or its control did not, or not by what it is for.
    pub fn run(&self, run: impl FnOnce(&Row) -> Verdict) {
        // A row that does not come to its end is in the table, too.
        self.write("\t\t\t\t\t\tno verdict: it did not come to its end");
        let verdict = run(self);
        // What a control is for comes first.
        let mut complaints = verdict.complaints.clone();
        complaints.sort_by_key(|(kind, _)| !self.sees.contains(kind));
        let all: Vec<String> = complaints.iter().map(|(kind, what)| format!("{kind:?}: {what}")).collect();
        self.keep("complaints", &all.join("\n"));
        let mut listed: Vec<&str> = complaints.iter().take(LISTED).map(|(_, what)| what.as_str()).collect();
        let more = format!("and {} more", complaints.len().saturating_sub(LISTED));
        if complaints.len() > LISTED {
            listed.push(&more);
        }
        let listed = listed.join("; ");
        let seen = self.is_seen_in(&verdict.complaints);
        let said = match self.off {
            None if complaints.is_empty() => "pass".to_string(),
            None => format!("FAIL: {listed}"),
            Some(off) if seen => format!("{off} off: fails, as it must: {listed}"),
            Some(off) if complaints.is_empty() => format!("FAIL: passes with {off} off: the check cannot fail"),
            Some(off) => format!("FAIL: with {off} off it complains, but of none of {:?}: {listed}", self.sees),
        };
        let as_meant = if self.off.is_some() { seen } else { complaints.is_empty() };
        let slowest = verdict.slowest.map(|time| format!("{:.2} s", time.as_secs_f64())).unwrap_or_else(|| "-".into());
        let Verdict { fault, added, effects, doubled, lost, .. } = &verdict;
        self.write(&format!("{fault}\t{added}\t{effects}\t{doubled}\t{lost}\t{slowest}\t{said}"));
        println!(
            "{}: {fault}: {added} added, {effects} effects, {doubled} doubled, {lost} lost, {slowest}, {said}",
            self.name
        );
        assert!(as_meant, "{}: {said}", self.name);
    }

    /// Whether a control has seen what it is for.
    pub fn is_seen_in(&self, complaints: &[(Kind, String)]) -> bool {
        complaints.iter().any(|(kind, _)| self.sees.contains(kind))
    }

    /// Keeps something to read beside the table.
    pub fn keep(&self, ending: &str, content: &str) {
        fs::write(folder().join(format!("{}.{ending}", self.label())), content).unwrap();
    }

    fn write(&self, line: &str) {
        let control = if self.off.is_some() { " (control)" } else { "" };
        self.keep("row", &format!("{}{control}\t{line}\n", self.name));
    }
}

/// Where `tests/run` looks.
fn folder() -> PathBuf {
    let folder = env::var_os("FLOH_FAULTS_RESULTS")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults"), PathBuf::from);
    fs::create_dir_all(&folder).unwrap();
    folder
}
