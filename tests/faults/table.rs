//! The table: one line per row, written by the row's own test into a folder that `tests/run` reads.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Makes the tests of a row out of its number in the table, its name, the parts of the worker that its controls switch
/// off (mostly there is one control), and the function that runs it.
macro_rules! row {
    ($number:literal, $name:ident, off $off:literal $(| $other:literal $(| $third:literal)?)?, $run:path) => {
        mod $name {
            #[allow(unused_imports, reason = "the path of the function may begin anywhere")]
            use super::*;

            #[test]
            fn row() {
                $crate::table::Row { number: $number, name: stringify!($name), off: None }.run($run);
            }

            #[test]
            fn control() {
                $crate::table::Row { number: $number, name: stringify!($name), off: Some($off) }.run($run);
            }

            $(#[test]
            fn another_control() {
                $crate::table::Row { number: $number, name: stringify!($name), off: Some($other) }.run($run);
            }

            $(#[test]
            fn a_third_control() {
                $crate::table::Row { number: $number, name: stringify!($name), off: Some($third) }.run($run);
            })?)?
        }
    };
}

/// So many complaints are in the table's line; the rest is in the file beside it.
const LISTED: usize = 3;

/// Which row is run, and whether as itself or as its control.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its place in the table.
    pub number: u32,
    /// Its test's name.
    pub name: &'static str,
    /// For a control: what is switched off.
    pub off: Option<&'static str>,
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
    pub complaints: Vec<String>,
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
    /// The row failed, or its control did not.
    pub fn run(&self, run: impl FnOnce(&Row) -> Verdict) {
        // A row that does not come to its end is in the table, too.
        self.write("\t\t\t\t\t\tno verdict: it did not come to its end");
        let verdict = run(self);
        let some = verdict.complaints.len().min(LISTED);
        let more = verdict.complaints.len() - some;
        let mut complaints = verdict.complaints[..some].join("; ");
        if more > 0 {
            complaints += &format!("; and {more} more");
        }
        self.keep("complaints", &verdict.complaints.join("\n"));
        let failed = !verdict.complaints.is_empty();
        let said = match (self.off, failed) {
            (None, false) => "pass".to_string(),
            (None, true) => format!("FAIL: {complaints}"),
            (Some(off), true) => format!("{off} off: fails, as it must: {complaints}"),
            (Some(off), false) => format!("FAIL: passes with {off} off: the check cannot fail"),
        };
        let slowest = verdict.slowest.map(|time| format!("{:.2} s", time.as_secs_f64())).unwrap_or_else(|| "-".into());
        let Verdict { fault, added, effects, doubled, lost, .. } = &verdict;
        self.write(&format!("{fault}\t{added}\t{effects}\t{doubled}\t{lost}\t{slowest}\t{said}"));
        println!(
            "{}: {fault}: {added} added, {effects} effects, {doubled} doubled, {lost} lost, {slowest}, {said}",
            self.name
        );
        assert_eq!(failed, self.off.is_some(), "{}: {said}", self.name);
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
