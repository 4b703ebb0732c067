//! `floh_worker::cron` against npm's `cron-parser`, expression by expression: what is refused, and when it runs,
//! in several zones, over changes of the clocks. The expressions are made by chance from a fixed seed.

mod maker;

use crate::support::node;
use chrono::{DateTime, Datelike, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use floh_worker::cron::{Cron, Zone};
use maker::Maker;
use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};
use std::{fmt::Write, time::Duration};

const EXPRESSIONS: usize = 1_000;
const RUNS: usize = 4;
const HOUR: i64 = 3_600_000;

const ZONES: [&str; 14] = [
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Los_Angeles",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Havana",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Pacific/Chatham",
    "UTC+3",
];

#[derive(Serialize)]
struct Question {
    expression: String,
    zone: &'static str,
    seed: Option<String>,
    starts: Vec<i64>,
    count: usize,
}

#[derive(Deserialize, Debug)]
struct Answer {
    refused: Option<String>,
    runs: Option<Vec<Vec<i64>>>,
}

fn ask(questions: &[Question]) -> Vec<Answer> {
    let mut lines = String::new();
    for question in questions {
        writeln!(lines, "{}", serde_json::to_string(question).unwrap()).unwrap();
    }
    let printed = node::run("cron-parity.mjs", &[], &lines, Duration::from_secs(300));
    let answers: Vec<Answer> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), questions.len());
    answers
}

/// The instants of a year at which a zone's clocks change.
fn changes(zone: &str, year: i32) -> Vec<i64> {
    let Ok(zone) = zone.parse::<Tz>() else { return Vec::new() };
    let offset = |minute: i64| {
        let at = DateTime::<Utc>::from_timestamp(minute * 60, 0).unwrap().naive_utc();
        zone.offset_from_utc_datetime(&at).fix().local_minus_utc()
    };
    let start = Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).unwrap().timestamp() / 60;
    (start..start + 366 * 1_440)
        .step_by(1_440)
        .filter(|day| offset(*day) != offset(day + 1_440))
        .filter_map(|day| (day..day + 1_440).find(|minute| offset(*minute) != offset(minute + 1)))
        .map(|minute| (minute + 1) * 60_000)
        .collect()
}

/// Whether a zone's clocks change in the way in which `cron-parser` loses its track: not by whole hours, not on the hour,
/// or over midnight. `cron` says what we do instead.
fn is_odd(zone: &str, change: i64) -> bool {
    let zone: Tz = zone.parse().unwrap();
    let clock = |ms: i64| DateTime::from_timestamp_millis(ms).unwrap().with_timezone(&zone).naive_local();
    let (before, after) = (clock(change - 1) + TimeDelta::milliseconds(1), clock(change));
    let whole = (after - before).num_minutes() % 60 == 0 && before.minute() == 0;
    !whole || before.hour() == 0 || after.hour() == 0
}

/// A difference that is kept: around an odd change, and `cron-parser` runs later than we do, never, or goes back.
fn is_kept(zone: &str, from: i64, ours: Option<i64>, theirs: Option<i64>) -> bool {
    let Some(ours) = ours else { return false };
    let year = DateTime::from_timestamp_millis(ours).unwrap().year();
    let near = changes(zone, year)
        .into_iter()
        .any(|change| (from - 3 * HOUR..=ours + 3 * HOUR).contains(&change) && is_odd(zone, change));
    near && theirs.is_none_or(|theirs| ours < theirs || theirs <= from)
}

fn ours(question: &Question) -> Result<Vec<Vec<i64>>, String> {
    let cron = Cron::parse_seeded(&question.expression, question.seed.as_deref())?;
    let zone = Zone::parse(question.zone)?;
    let run = |start: &i64| {
        let runs = std::iter::successors(Some(*start), |from| cron.next_after(*from, zone));
        runs.skip(1).take(question.count).collect()
    };
    Ok(question.starts.iter().map(run).collect())
}

fn shown(instant: Option<&i64>, zone: &str) -> String {
    let Some(at) = instant.and_then(|ms| DateTime::from_timestamp_millis(*ms)) else { return "never".into() };
    match zone.parse::<Tz>() {
        Ok(zone) => at.with_timezone(&zone).to_rfc3339(),
        Err(_) => at.to_rfc3339(),
    }
}

#[test]
fn expressions_run_when_cron_parser_runs_them() {
    let mut maker = Maker(StdRng::seed_from_u64(20_261_124));
    let mut questions = Vec::new();
    for _ in 0..EXPRESSIONS {
        let (expression, seed) = maker.expression();
        for _ in 0..2 {
            let zone = *ZONES.choose(&mut maker.0).unwrap();
            let starts = maker.starts(zone);
            questions.push(Question { expression: expression.clone(), zone, seed: seed.clone(), starts, count: RUNS });
        }
    }
    let answers = ask(&questions);
    let mut wrong = Vec::new();
    let (mut refused, mut compared, mut kept) = (0, 0, 0);
    for (question, answer) in questions.iter().zip(&answers) {
        let Question { expression, zone, seed, starts, .. } = question;
        match (ours(question), &answer.runs) {
            (Err(_), None) => refused += 1,
            (Err(why), Some(_)) => wrong.push(format!("`{expression}` {seed:?} only we refuse: {why}")),
            (Ok(_), None) => wrong.push(format!("`{expression}` {seed:?} only npm refuses: {:?}", answer.refused)),
            (Ok(ours), Some(theirs)) => {
                for ((start, ours), theirs) in starts.iter().zip(&ours).zip(theirs) {
                    compared += 1;
                    let Some(n) = (0..RUNS).find(|n| ours.get(*n) != theirs.get(*n)) else { continue };
                    let from = if n == 0 { *start } else { ours[n - 1] };
                    if is_kept(zone, from, ours.get(n).copied(), theirs.get(n).copied()) {
                        kept += 1;
                        continue;
                    }
                    wrong.push(format!(
                        "`{expression}` {zone} from {}: ours {}, npm {}",
                        shown(Some(&from), zone),
                        shown(ours.get(n), zone),
                        shown(theirs.get(n), zone)
                    ));
                }
            }
        }
    }
    println!("{refused} refused by both, {compared} compared, {kept} differences kept");
    assert!(refused > 300 && compared > 6_000, "the expressions have become too easy: {refused}, {compared}");
    assert!(kept * 50 < compared, "more than 2 % of {compared} are differences that we keep: {kept}");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// What the generator would hardly make: the corners of the grammar, each one alone.
#[test]
fn corners_of_the_grammar_are_taken_and_refused_alike() {
    const CORNERS: [&str; 72] = [
        "",
        " ",
        "*",
        "5",
        "5 5",
        "5 5 5 5",
        "* * * * * * *",
        "\u{a0}5 5 * * *\u{feff}",
        "5\u{85}5 * * *",
        "60 * * * *",
        "59 24 * * *",
        "0 0 0 * *",
        "0 0 32 * *",
        "0 0 1 13 *",
        "0 0 1 0 *",
        "0 0 * * 8",
        "0 0 * * 7",
        "0 0 * * 0,7",
        "0 0 * * 5-7",
        "0 0 * * 0-7",
        "0 0 * * 7-7",
        "0 0 * * 6-0",
        "0 0 * * 1/2",
        "0 0 * * 7/2",
        "0 0 * * sat-sun",
        "0 0 * * sun-sat",
        "0 0 * jan mon",
        "0 0 * mon jan",
        "0 0 * * monday",
        "0 0 * * mo",
        "0 0 * * FRIL",
        "0 0 * * L",
        "0 0 * * 5L",
        "0 0 * * 5l",
        "0 0 * * 55L",
        "0 0 * * 5#0",
        "0 0 * * 5#6",
        "0 0 * * 5#5",
        "0 0 * * 5#05",
        "0 0 * * 1,2#1",
        "0 0 * * 1-2#1",
        "0 0 * * ?#2",
        "0 0 * * 5L#2",
        "0 0 * * #",
        "0 0 L * *",
        "0 0 LW * *",
        "0 0 15W * *",
        "0 0 L-3 * *",
        "0 0 LL * *",
        "0 0 L,L * *",
        "0 0 L,15L * *",
        "0 0 30 2 *",
        "0 0 30 2 1",
        "0 0 29-31 2 *",
        "0 0 30,30 2 1",
        "0 0 31 4,6 *",
        "1,1 * * * *",
        "1-3,2 * * * *",
        "1-3-5 * * * *",
        "1- * * * *",
        "-1 * * * *",
        "3-1 * * * *",
        "*/0 * * * *",
        "*/60 * * * *",
        "*/* * * * *",
        "0 0 */* * *",
        "/5 * * * *",
        "5/ * * * *",
        "1,,2 * * * *",
        "*/5/5 * * * *",
        "0x5 * * * *",
        "+5 * * * *",
    ];
    let question = |expression: &str| Question {
        expression: expression.to_string(),
        zone: "UTC",
        seed: None,
        starts: vec![1_790_000_000_000],
        count: RUNS,
    };
    let long = format!("{} * * * *", vec!["5"; 600].join(","));
    let mut questions: Vec<_> = CORNERS.iter().map(|corner| question(corner)).collect();
    questions.push(question(&long));
    for (question, answer) in questions.iter().zip(ask(&questions)) {
        let ours = ours(question);
        assert_eq!(ours.as_ref().ok(), answer.runs.as_ref(), "`{}`: {ours:?}, {answer:?}", question.expression);
    }
}

#[test]
fn zones_are_known_alike() {
    let names = [
        "UTC",
        "utc",
        "GMT",
        "Etc/UTC",
        "europe/berlin",
        "UTC+3",
        "UTC-5:30",
        "utc+14",
        "Mars/Base",
        "CET",
        "Asia/Calcutta",
    ];
    let questions: Vec<_> = names
        .iter()
        .map(|zone| Question {
            expression: "0 5 * * *".into(),
            zone,
            seed: None,
            starts: vec![1_790_000_000_000],
            count: 1,
        })
        .collect();
    for (question, answer) in questions.iter().zip(ask(&questions)) {
        assert_eq!(ours(question).ok(), answer.runs, "{}", question.zone);
    }
}
