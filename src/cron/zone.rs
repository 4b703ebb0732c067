//! Wall clocks: from an instant to the local time and back, with what happens where the clock jumps.

use chrono::{DateTime, FixedOffset, MappedLocalTime, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};

/// How far local time can be from UTC, with room to spare.
const WIDEST: TimeDelta = TimeDelta::hours(48);

/// The zone in which an expression's wall clock runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// A zone of the IANA database.
    Named(Tz),
    /// A constant distance from UTC (`UTC+3`).
    Fixed(FixedOffset),
}

impl From<Tz> for Zone {
    fn from(zone: Tz) -> Self {
        Self::Named(zone)
    }
}

/// What a wall-clock time is in a zone, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Local {
    /// An instant.
    Once(i64),
    /// Two instants, because the clock was set back; the earlier one first.
    Twice(i64, i64),
    /// No instant, because the clock was set forward over it.
    Never {
        /// How much the clock was set forward.
        length: TimeDelta,
        /// What the clock showed then.
        resumes: NaiveDateTime,
    },
}

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Self = Self::Named(Tz::UTC);

    /// Reads a zone as npm's clients write it: an IANA name in any case, `UTC`, `UTC+3`, `UTC-5:30` (less than a day),
    /// `local`.
    ///
    /// # Errors
    /// A sentence that names the zone.
    pub fn parse(name: &str) -> Result<Self, String> {
        let lower = name.to_ascii_lowercase();
        if lower == "local" || lower == "system" {
            return Ok(Self::of_this_machine());
        }
        if lower == "utc" || lower == "gmt" {
            return Ok(Self::UTC);
        }
        if let Some(rest) = lower.strip_prefix("utc") {
            return fixed(rest).map(Self::Fixed).ok_or_else(|| format!("the zone `{name}` is not a distance from UTC"));
        }
        TZ_VARIANTS
            .iter()
            .find(|zone| zone.name().eq_ignore_ascii_case(name))
            .map(|zone| Self::Named(*zone))
            .ok_or_else(|| format!("the zone `{name}` is not in the IANA database"))
    }

    /// The zone of this machine: what npm's clients use for a schedule that names none. The environment's `TZ` counts
    /// first, then the system's setting; UTC where neither can be read.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let named = |name: &str| TZ_VARIANTS.iter().find(|zone| zone.name() == name).map(|zone| Self::Named(*zone));
        std::env::var("TZ")
            .ok()
            .and_then(|name| named(name.trim_start_matches(':')))
            .or_else(|| iana_time_zone::get_timezone().ok().and_then(|name| named(&name)))
            .unwrap_or(Self::UTC)
    }

    /// What the clock shows at an instant, to the second.
    pub(super) fn local(self, instant: i64) -> Option<NaiveDateTime> {
        let utc = DateTime::<Utc>::from_timestamp(instant.div_euclid(1_000), 0)?.naive_utc();
        // Near the ends of the calendar chrono's zones panic instead of answering.
        utc.checked_sub_signed(WIDEST)?;
        utc.checked_add_signed(WIDEST)?;
        Some(match self {
            Self::Named(zone) => zone.from_utc_datetime(&utc).naive_local(),
            Self::Fixed(offset) => offset.from_utc_datetime(&utc).naive_local(),
        })
    }

    /// What the clock shows at an instant, for people, with its distance from UTC.
    pub(super) fn text(self, instant: i64) -> Option<String> {
        const FORMAT: &str = "%a %Y-%m-%d %H:%M:%S %:z";
        self.local(instant)?;
        let utc = DateTime::<Utc>::from_timestamp_millis(instant)?;
        Some(match self {
            Self::Named(zone) => utc.with_timezone(&zone).format(FORMAT).to_string(),
            Self::Fixed(offset) => utc.with_timezone(&offset).format(FORMAT).to_string(),
        })
    }

    /// The instants at which the clock shows a time.
    pub(super) fn resolve(self, civil: NaiveDateTime) -> Option<Local> {
        civil.checked_sub_signed(WIDEST)?;
        civil.checked_add_signed(WIDEST)?;
        let mapped = match self {
            Self::Named(zone) => zone.from_local_datetime(&civil).map(|at| at.timestamp_millis()),
            Self::Fixed(offset) => offset.from_local_datetime(&civil).map(|at| at.timestamp_millis()),
        };
        match mapped {
            MappedLocalTime::Single(at) => Some(Local::Once(at)),
            MappedLocalTime::Ambiguous(a, b) => Some(Local::Twice(a.min(b), a.max(b))),
            MappedLocalTime::None => {
                let middle = civil.and_utc().timestamp();
                let shows_later = |second: i64| self.local(second * 1_000).is_some_and(|clock| clock > civil);
                let jump =
                    first_second(middle - WIDEST.num_seconds(), middle + WIDEST.num_seconds(), shows_later) * 1_000;
                let (before, resumes) = (self.local(jump - 1_000)?, self.local(jump)?);
                Some(Local::Never { length: resumes - before - TimeDelta::seconds(1), resumes })
            }
        }
    }

    /// The first instant at which the clock shows a time, if it ever does.
    pub(super) fn earliest(self, civil: NaiveDateTime) -> Option<i64> {
        match self.resolve(civil)? {
            Local::Once(at) | Local::Twice(at, _) => Some(at),
            Local::Never { .. } => None,
        }
    }

    /// Where an instant lies in the first pass of a time that is repeated for at least `shortest`: the instant and the
    /// wall-clock time at which the second pass begins.
    pub(super) fn second_pass(
        self,
        clock: NaiveDateTime,
        instant: i64,
        shortest: TimeDelta,
    ) -> Option<(i64, NaiveDateTime)> {
        let Local::Twice(first, second) = self.resolve(clock)? else { return None };
        if instant >= second || second - first < shortest.num_milliseconds() {
            return None;
        }
        let set_back = self.set_back(first, second)?;
        Some((set_back, self.local(set_back)?))
    }

    /// Where an instant lies in the second pass of a repeated time: when that began.
    pub(super) fn began_second_pass(self, instant: i64) -> Option<i64> {
        let Local::Twice(first, second) = self.resolve(self.local(instant)?)? else { return None };
        if instant < second { None } else { self.set_back(first, second) }
    }

    /// When the clock was set back, between the two instants at which it shows the same.
    fn set_back(self, first: i64, second: i64) -> Option<i64> {
        // Within the first pass the clock is ahead of where it is in the second.
        let distance = |at: i64| self.local(at).map(|local| local.and_utc().timestamp() - at.div_euclid(1_000));
        let later = distance(second)?;
        Some(first_second(first / 1_000, second / 1_000, |at| distance(at * 1_000) == Some(later)) * 1_000)
    }
}

/// The distance from UTC after the word: `+3`, `-05:30`.
fn fixed(text: &str) -> Option<FixedOffset> {
    let sign = match text.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':').unwrap_or((text.get(1..)?, "00"));
    let digits = |part: &str, lengths: std::ops::RangeInclusive<usize>| {
        let plain = lengths.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        if plain { part.parse::<i32>().ok() } else { None }
    };
    FixedOffset::east_opt(sign * (digits(hours, 1..=2)? * 3_600 + digits(minutes, 2..=2)? * 60))
}

/// The first second in a range for which a question that turns from no to yes once is answered by yes.
fn first_second(mut low: i64, mut high: i64, yes: impl Fn(i64) -> bool) -> i64 {
    while low < high {
        let middle = low + (high - low) / 2;
        if yes(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_read_as_npm_clients_write_them() {
        assert_eq!(Zone::parse("europe/berlin"), Ok(Zone::Named(Tz::Europe__Berlin)));
        assert_eq!(Zone::parse("UTC"), Ok(Zone::UTC));
        assert_eq!(Zone::parse("utc+3"), Ok(Zone::Fixed(FixedOffset::east_opt(10_800).unwrap())));
        assert_eq!(Zone::parse("UTC-5:30"), Ok(Zone::Fixed(FixedOffset::east_opt(-19_800).unwrap())));
        for wrong in ["", "Europe/Atlantis", "utc+", "utc3", "utc+100", "utc+1:5", "utc+é", "utc+99"] {
            assert!(Zone::parse(wrong).is_err(), "{wrong}");
        }
    }
}
