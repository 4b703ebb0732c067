//! From the text of an expression to six lists of values, taking and refusing what `cron-parser` does.

use super::hashed::{Draw, leading_number, replace};
use std::collections::BTreeSet;

/// More values than this in one field are refused: no field has as many different ones.
pub(super) const MOST_VALUES: u32 = 256;

/// The longest expression, in UTF-16 units.
const LONGEST: usize = 1_024;

/// The most days that each month can have.
const DAYS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// What a field can hold.
pub(super) struct Bounds {
    pub(super) name: &'static str,
    pub(super) min: u32,
    pub(super) max: u32,
    /// Characters of its own, beside those that every field may have.
    own: &'static str,
}

const SECOND: Bounds = Bounds { name: "second", min: 0, max: 59, own: "" };
const MINUTE: Bounds = Bounds { name: "minute", min: 0, max: 59, own: "" };
const HOUR: Bounds = Bounds { name: "hour", min: 0, max: 23, own: "" };
const DAY: Bounds = Bounds { name: "day of month", min: 1, max: 31, own: "L" };
const MONTH: Bounds = Bounds { name: "month", min: 1, max: 12, own: "" };
const WEEKDAY: Bounds = Bounds { name: "day of week", min: 0, max: 7, own: "L" };

/// The names that both the month and the weekday field take; which field they stand in does not matter.
const NAMES: [(&str, u32); 19] = [
    ("jan", 1),
    ("feb", 2),
    ("mar", 3),
    ("apr", 4),
    ("may", 5),
    ("jun", 6),
    ("jul", 7),
    ("aug", 8),
    ("sep", 9),
    ("oct", 10),
    ("nov", 11),
    ("dec", 12),
    ("sun", 0),
    ("mon", 1),
    ("tue", 2),
    ("wed", 3),
    ("thu", 4),
    ("fri", 5),
    ("sat", 6),
];

/// One item of a field's list after ranges and steps are spelled out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Number(u32),
    /// `L` with the digits before it: the last day, or the last such weekday, of the month.
    Last(String),
}

/// The values of one field.
#[derive(Debug)]
struct Field {
    values: BTreeSet<Value>,
    /// Written as `*` or `?`: only such a field leaves the choice of days to the other one.
    wildcard: bool,
}

impl Field {
    fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.values.iter().filter_map(|value| match value {
            Value::Number(number) => Some(*number),
            Value::Last(_) => None,
        })
    }

    fn last(&self) -> impl Iterator<Item = &str> + '_ {
        self.values.iter().filter_map(|value| match value {
            Value::Number(_) => None,
            Value::Last(text) => Some(text.as_str()),
        })
    }

    fn has_last(&self) -> bool {
        self.last().next().is_some()
    }

    fn list(&self) -> String {
        self.numbers().map(|number| number.to_string()).collect::<Vec<_>>().join(",")
    }
}

/// An expression, spelled out.
#[derive(Debug)]
pub(super) struct Fields {
    second: Field,
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
    /// `5#3`: which occurrence of the weekday in the month.
    nth: Option<u32>,
    hashed: bool,
}

impl Fields {
    /// Reads an expression: up to six fields, of which leading ones may be missing, or an alias.
    pub(super) fn read(expression: &str, seed: Option<&str>) -> Result<Self, String> {
        let expression = match expression {
            "" | "@minutely" => "0 * * * * *",
            "@yearly" | "@annually" => "0 0 0 1 1 *",
            "@monthly" => "0 0 0 1 * *",
            "@weekly" => "0 0 0 * * 0",
            "@daily" => "0 0 0 * * *",
            "@hourly" => "0 0 * * * *",
            "@secondly" => "* * * * * *",
            "@weekdays" => "0 0 0 * * 1-5",
            "@weekends" => "0 0 0 * * 0,6",
            other => other,
        };
        if expression.encode_utf16().count() > LONGEST {
            return Err(format!("it is longer than {LONGEST} characters"));
        }
        let written: Vec<&str> = expression.trim_matches(is_space).split(is_space).filter(|s| !s.is_empty()).collect();
        if written.is_empty() || written.len() > 6 {
            return Err(format!("it has {} fields; five are expected, or six with seconds", written.len()));
        }
        let mut texts = ["0", "*", "*", "*", "*", "*"];
        let missing = texts.len() - written.len();
        texts[missing..].copy_from_slice(&written);
        let [second, minute, hour, day, month, weekday] = texts;

        let mut draw = Draw::new(seed);
        let second = field(&SECOND, second, second, &mut draw)?;
        let minute = field(&MINUTE, minute, minute, &mut draw)?;
        let hour = field(&HOUR, hour, hour, &mut draw)?;
        let months = values(&MONTH, month, &mut draw)?;
        let days = values(&DAY, day, &mut draw)?;
        let (weekday_text, nth) = nth_weekday(weekday)?;
        let weekday = field(&WEEKDAY, weekday_text, weekday, &mut draw)?;
        let day = finish(&DAY, in_month(days, &months), day)?;
        let month = finish(&MONTH, months, month)?;
        let fields = Self { second, minute, hour, day, month, weekday, nth, hashed: draw.used };
        if fields.month.values.len() == 1 && !fields.possible() {
            return Err("the day of month never comes in that month".to_string());
        }
        Ok(fields)
    }

    /// Whether any day can match: of the days of month at least one exists in one of the months. A restricted day of
    /// week always has days.
    pub(super) fn possible(&self) -> bool {
        !self.weekday.wildcard
            || self.day.has_last()
            || self.month.numbers().any(|month| {
                let days = DAYS.get(month as usize - 1).copied().unwrap_or(31);
                self.day.numbers().any(|day| day <= days)
            })
    }

    /// Whether an `H` was given a value.
    pub(super) fn hashed(&self) -> bool {
        self.hashed
    }

    /// Whether all hours of the day are wanted.
    pub(super) fn every_hour(&self) -> bool {
        self.hour.values.len() == 24
    }

    /// The expression as six plain lists, as `croner` reads them.
    pub(super) fn to_lists(&self) -> String {
        let day = if self.day.wildcard {
            "*".to_string()
        } else {
            let last = self.day.has_last().then_some("L".to_string());
            self.day.numbers().map(|day| day.to_string()).chain(last).collect::<Vec<_>>().join(",")
        };
        let weekday = if self.weekday.wildcard {
            "*".to_string()
        } else {
            // 7 only ever comes out of a range, which then gave 0 too.
            let plain = self.weekday.numbers().filter(|day| *day < 7).map(|day| match self.nth {
                Some(nth) => format!("{day}#{nth}"),
                None => day.to_string(),
            });
            let last = self.weekday.last().filter_map(|text| text.chars().next()?.to_digit(10));
            plain.chain(last.map(|day| format!("{}L", day % 7))).collect::<Vec<_>>().join(",")
        };
        let (second, minute, hour, month) =
            (self.second.list(), self.minute.list(), self.hour.list(), self.month.list());
        format!("{second} {minute} {hour} {day} {month} {weekday}")
    }
}

/// White space as JavaScript counts it.
fn is_space(c: char) -> bool {
    (c.is_whitespace() && c != '\u{85}') || c == '\u{feff}'
}

fn field(bounds: &Bounds, text: &str, written: &str, draw: &mut Draw) -> Result<Field, String> {
    finish(bounds, values(bounds, text, draw)?, written)
}

/// Checks what only the finished list shows.
fn finish(bounds: &Bounds, values: Vec<Value>, written: &str) -> Result<Field, String> {
    let mut seen = BTreeSet::new();
    for value in values {
        if let Value::Last(text) = &value {
            let digits = text.strip_suffix('L').unwrap_or("LL");
            if digits.len() > 2 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!("the {} field holds `{text}`", bounds.name));
            }
            if digits.is_empty() && bounds.name == WEEKDAY.name {
                return Err("an L in the day of week field needs the weekday before it".to_string());
            }
        }
        if seen.contains(&value) {
            return Err(format!("the {} field holds a value twice", bounds.name));
        }
        seen.insert(value);
    }
    Ok(Field { values: seen, wildcard: written == "*" || written == "?" })
}

/// With one month only, its missing days are dropped, unless nothing would be left.
fn in_month(days: Vec<Value>, months: &[Value]) -> Vec<Value> {
    let [Value::Number(month)] = months else { return days };
    let most = DAYS.get((*month as usize).saturating_sub(1)).copied().unwrap_or(31);
    let kept: Vec<_> = days.iter().filter(|day| !matches!(day, Value::Number(n) if *n > most)).cloned().collect();
    if kept.is_empty() { days } else { kept }
}

/// Splits `5#3` into the weekday and its occurrence.
fn nth_weekday(text: &str) -> Result<(&str, Option<u32>), String> {
    let Some((weekday, nth)) = text.split_once('#') else { return Ok((text, None)) };
    match (text.contains([',', '-', '/']), nth.parse::<u32>()) {
        (false, Ok(nth @ 1..=5)) => Ok((weekday, Some(nth))),
        _ => Err("the day of week field takes one weekday, # and a number from 1 to 5, and nothing beside".to_string()),
    }
}

/// The values of a field's text, ranges and steps spelled out, in the order in which they were written.
fn values(bounds: &Bounds, text: &str, draw: &mut Draw) -> Result<Vec<Value>, String> {
    let drawn = draw.next();
    let text = if bounds.name == MONTH.name || bounds.name == WEEKDAY.name { names(text)? } else { text.to_string() };
    let brackets = text.contains("H(");
    let plain = |c: char| c.is_ascii_digit() || "?,*H/-".contains(c) || bounds.own.contains(c);
    if text.is_empty() || !text.chars().all(|c| plain(c) || (brackets && "()".contains(c))) {
        return Err(format!("the {} field is `{text}`", bounds.name));
    }
    draw.used |= text.contains('H');
    let everything = format!("{}-{}", bounds.min, bounds.max);
    let text = replace(&text.replace(['*', '?'], &everything), bounds, drawn)?;
    let mut values = Vec::new();
    for item in text.split(',') {
        if values.len() > MOST_VALUES as usize {
            return Err(format!("the {} field has too many values", bounds.name));
        }
        add_item(bounds, item, &mut values)?;
    }
    Ok(values)
}

/// Adds one item of a list: a number, a range, either with a step, or something with `L`.
fn add_item(bounds: &Bounds, item: &str, values: &mut Vec<Value>) -> Result<(), String> {
    let wrong = || format!("the {} field holds `{item}`, expected are {} to {}", bounds.name, bounds.min, bounds.max);
    let parts: Vec<&str> = item.split('/').collect();
    let (range, step) = match parts[..] {
        [single] if !single.contains('-') => {
            values.push(single_value(bounds, single).ok_or_else(wrong)?);
            return Ok(());
        }
        [range] => (range.to_string(), 1),
        [range, step] => {
            let range = if range.contains('-') { range.to_string() } else { format!("{range}-{}", bounds.max) };
            // Digits that something follows count as the number they begin with, as JavaScript reads them.
            (range, leading_number(step).0.ok_or_else(wrong)?)
        }
        _ => return Err(wrong()),
    };
    let mut ends = range.split('-').map(|end| leading_number(end).0);
    let (Some(Some(min)), Some(Some(max))) = (ends.next(), ends.next()) else { return Err(wrong()) };
    if min < bounds.min || max > bounds.max || min > max || step == 0 {
        return Err(wrong());
    }
    let sunday = bounds.name == WEEKDAY.name && max % 7 == 0 && (max - min) % step == 0;
    if sunday && min != 0 {
        values.push(Value::Number(0));
    }
    values.extend((min..=max).step_by(step as usize).map(Value::Number));
    Ok(())
}

fn single_value(bounds: &Bounds, text: &str) -> Option<Value> {
    if bounds.own.contains('L') && text.contains('L') {
        return Some(Value::Last(text.to_string()));
    }
    match leading_number(text) {
        (Some(number), "") if (bounds.min..=bounds.max).contains(&number) => {
            Some(Value::Number(if bounds.name == WEEKDAY.name { number % 7 } else { number }))
        }
        _ => None,
    }
}

/// Replaces the names of months and weekdays by their numbers: each run of letters is read three at a time.
fn names(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        match rest.get(..3) {
            Some(name) if name.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
                let lower = name.to_ascii_lowercase();
                let (_, number) = NAMES
                    .iter()
                    .find(|(known, _)| *known == lower)
                    .ok_or_else(|| format!("`{name}` is neither a month nor a weekday"))?;
                out.push_str(&number.to_string());
                rest = &rest[3..];
            }
            _ => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    Ok(out)
}
