//! Expressions and instants by chance: mostly what people write, some of it twisted.

use super::{HOUR, changes};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};

/// The maker and its source of chance.
pub struct Maker(pub StdRng);

struct Range {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const SIXTY: Range = Range { min: 0, max: 59, names: &[] };
const HOURS: Range = Range { min: 0, max: 23, names: &[] };
const DAYS: Range = Range { min: 1, max: 31, names: &[] };
const MONTHS: Range = Range {
    min: 1,
    max: 12,
    names: &["jan", "FEB", "Mar", "apr", "MAY", "jun", "jul", "Aug", "sep", "OCT", "nov", "DEC"],
};
const WEEKDAYS: Range = Range { min: 0, max: 7, names: &["sun", "MON", "Tue", "wed", "THU", "fri", "SAT"] };

impl Maker {
    fn number(&mut self, range: &Range) -> u32 {
        self.0.random_range(range.min..=range.max)
    }

    fn atom(&mut self, range: &Range) -> String {
        match self.0.random_range(0..4) {
            0 if !range.names.is_empty() => (*range.names.choose(&mut self.0).unwrap()).to_string(),
            1 => format!("{:02}", self.number(range)),
            _ => self.number(range).to_string(),
        }
    }

    fn item(&mut self, range: &Range) -> String {
        let (a, b) = (self.number(range), self.number(range));
        let step = self.0.random_range(1..=range.max / 2 + 1);
        match self.0.random_range(0..8) {
            0 => format!("{}-{}", a.min(b), a.max(b)),
            1 => format!("{}-{}/{step}", a.min(b), a.max(b)),
            2 => format!("{a}/{step}"),
            _ => self.atom(range),
        }
    }

    fn field(&mut self, range: &Range) -> String {
        let step = self.0.random_range(1..=range.max / 2 + 1);
        match self.0.random_range(0..12) {
            0..=3 => "*".to_string(),
            4 => format!("*/{step}"),
            5 => format!("?/{step}"),
            6 => "?".to_string(),
            7 => {
                let count = self.0.random_range(2..5);
                (0..count).map(|_| self.item(range)).collect::<Vec<_>>().join(",")
            }
            _ => self.item(range),
        }
    }

    fn day(&mut self) -> String {
        match self.0.random_range(0..10) {
            0 => "L".to_string(),
            1 => format!("L,{}", self.number(&DAYS)),
            2 => format!("{}L", self.number(&DAYS)),
            3..=5 => "*".to_string(),
            _ => self.field(&DAYS),
        }
    }

    fn weekday(&mut self) -> String {
        match self.0.random_range(0..14) {
            0 => format!("{}L", self.number(&WEEKDAYS)),
            1 => format!("{}L", WEEKDAYS.names.choose(&mut self.0).unwrap()),
            2 => format!("{}#{}", self.atom(&WEEKDAYS), self.0.random_range(1..=5)),
            3 => format!("{},{}L", self.number(&WEEKDAYS), self.number(&WEEKDAYS)),
            4 => format!("*#{}", self.0.random_range(1..=5)),
            5..=7 => "*".to_string(),
            _ => self.field(&WEEKDAYS),
        }
    }

    /// As people write it: the minute and the hour mostly given, in the hours in which clocks change.
    fn usual(&mut self) -> String {
        let minute = match self.0.random_range(0..4) {
            0 => format!("*/{}", [5, 10, 15, 20, 30].choose(&mut self.0).unwrap()),
            1 => self.field(&SIXTY),
            _ => self.number(&SIXTY).to_string(),
        };
        let hour = match self.0.random_range(0..6) {
            0 => "*".to_string(),
            1 => self.field(&HOURS),
            2 => "1-4".to_string(),
            3 => "*/2".to_string(),
            _ => self.0.random_range(0..5_u32).to_string(),
        };
        let (day, month, weekday) = (self.day(), self.field(&MONTHS), self.weekday());
        match self.0.random_range(0..6) {
            0 => format!("{} {minute} {hour} {day} {month} {weekday}", self.field(&SIXTY)),
            1..=3 => format!("{minute} {hour} * * *"),
            4 => format!("{minute} {hour} {day} {month} *"),
            _ => format!("{minute} {hour} {day} {month} {weekday}"),
        }
    }

    fn any(&mut self) -> String {
        format!(
            "{} {} {} {} {} {}",
            self.field(&SIXTY),
            self.field(&SIXTY),
            self.field(&HOURS),
            self.day(),
            self.field(&MONTHS),
            self.weekday()
        )
    }

    fn hashed(&mut self) -> String {
        let mut part = |range: &Range| {
            let (a, b) = (self.number(range), self.number(range));
            let step = self.0.random_range(1..=range.max);
            match self.0.random_range(0..6) {
                0 => "H".to_string(),
                1 => format!("H/{step}"),
                2 => format!("H({}-{})", a.min(b), a.max(b)),
                3 => format!("H({}-{})/{step}", a.min(b), a.max(b)),
                4 => format!("H({a}-{b}),H/{step}"),
                _ => "*".to_string(),
            }
        };
        format!(
            "{} {} {} {} {} {}",
            part(&SIXTY),
            part(&SIXTY),
            part(&HOURS),
            part(&DAYS),
            part(&MONTHS),
            part(&WEEKDAYS)
        )
    }

    fn alias(&mut self) -> String {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "hourly", "minutely", "secondly", "weekdays"];
        let alias = format!("@{}", known.choose(&mut self.0).unwrap());
        match self.0.random_range(0..4) {
            0 => format!("{alias} "),
            1 => alias.to_uppercase(),
            _ => alias,
        }
    }

    /// A usual expression with characters taken out, put in or changed, or with fields missing or in excess.
    fn twisted(&mut self) -> String {
        let whole = if self.0.random() { self.usual() } else { self.any() };
        let mut text: Vec<char> = whole.chars().collect();
        for _ in 0..self.0.random_range(1..=2) {
            let at = self.0.random_range(0..text.len());
            let put = *"0123456789*?,-/#LW+ \t@xajHh(".chars().collect::<Vec<_>>().choose(&mut self.0).unwrap();
            match self.0.random_range(0..3) {
                0 => text[at] = put,
                1 => text.insert(at, put),
                _ if text.len() > 1 => {
                    text.remove(at);
                }
                _ => {}
            }
        }
        let text: String = text.into_iter().collect();
        match self.0.random_range(0..6) {
            0 => text.split(' ').skip(self.0.random_range(1..4)).collect::<Vec<_>>().join("  "),
            1 => format!("{text} {}", self.number(&WEEKDAYS)),
            _ => text,
        }
    }

    pub fn expression(&mut self) -> (String, Option<String>) {
        match self.0.random_range(0..20) {
            0 => (self.alias(), None),
            1 | 2 => (self.any(), None),
            3 | 4 => (self.hashed(), Some(format!("seed-{}", self.0.random::<u16>()))),
            5..=7 => (self.twisted(), Some("a seed, should an H turn up".to_string())),
            _ => (self.usual(), None),
        }
    }

    /// Instants over the years, half of them shortly before or after the zone's clocks change.
    pub fn starts(&mut self, zone: &str) -> Vec<i64> {
        let (first, last) = (1_262_304_000_000_i64, 1_924_992_000_000);
        let mut starts: Vec<i64> = (0..2).map(|_| self.0.random_range(first..last)).collect();
        let year = self.0.random_range(2010..2030);
        for change in changes(zone, year) {
            starts.push(change + self.0.random_range(-30 * HOUR..3 * HOUR));
            starts.push(change + self.0.random_range(-18..=18) * HOUR / 6);
        }
        starts
    }
}
