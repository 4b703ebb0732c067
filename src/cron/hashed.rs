//! `H` in an expression: a value that stands for "some time in this range", the same for the same seed.
//!
//! The numbers must be those of `cron-parser`, whose seeds are FNV-1a hashes and whose numbers come from mulberry32.

use super::fields::{Bounds, MOST_VALUES};

/// The numbers from which the fields' values are drawn, one for each field in reading order.
pub(super) struct Draw {
    state: u32,
    /// Whether a field has asked for one: all fields take one, so that the others' stay what they are.
    pub(super) used: bool,
}

impl Draw {
    /// The sequence of a seed, or one by chance.
    pub(super) fn new(seed: Option<&str>) -> Self {
        let state = match seed.filter(|seed| !seed.is_empty()) {
            Some(seed) => {
                seed.encode_utf16().fold(2_166_136_261, |h, unit| (h ^ u32::from(unit)).wrapping_mul(16_777_619))
            }
            None => rand::random(),
        };
        Self { state, used: false }
    }

    /// The next number, at least 0 and below 1.
    pub(super) fn next(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x6d2b_79f5);
        let mut t = self.state;
        t = (t ^ (t >> 15)).wrapping_mul(t | 1);
        t ^= t.wrapping_add((t ^ (t >> 7)).wrapping_mul(t | 61));
        f64::from(t ^ (t >> 14)) / 4_294_967_296.0
    }
}

/// Replaces each `H`, `H/step`, `H(from-to)` and `H(from-to)/step` of a field by the values drawn for it.
pub(super) fn replace(field: &str, bounds: &Bounds, drawn: f64) -> Result<String, String> {
    let mut out = String::new();
    let mut count = 0;
    let mut rest = field;
    while let Some(at) = rest.find('H') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let mut range = (bounds.min, bounds.max);
        if let Some((from, to, after)) = range_in_brackets(rest) {
            range = usable(from, to, bounds)?;
            rest = after;
        }
        match rest.strip_prefix('/').map(leading_number) {
            Some((Some(step), after)) => {
                rest = after;
                if step == 0 {
                    return Err(format!("the {} field has a step of 0", bounds.name));
                }
                count += (range.1 - range.0 + 1).div_ceil(step);
                if count > MOST_VALUES {
                    return Err(format!("the {} field has too many values", bounds.name));
                }
                out.push_str(&stepped(range, step, drawn));
            }
            _ => out.push_str(&one(range, drawn).to_string()),
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The values of a range that are a step apart, moved along by the number drawn; one value where the step leaves none.
fn stepped((min, max): (u32, u32), step: u32, drawn: f64) -> String {
    let offset = scaled(drawn, step);
    let mut values = Vec::new();
    let mut value = u64::from(min / step * step) + u64::from(offset);
    while value <= u64::from(max) {
        if value >= u64::from(min) {
            values.push(value.to_string());
        }
        value += u64::from(step);
    }
    if values.is_empty() { one((min, max), drawn).to_string() } else { values.join(",") }
}

fn one((min, max): (u32, u32), drawn: f64) -> u32 {
    min + scaled(drawn, max - min + 1)
}

/// The number drawn, scaled to `0..size`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and size")]
fn scaled(drawn: f64, size: u32) -> u32 {
    (drawn * f64::from(size)).floor() as u32
}

fn usable(from: u32, to: u32, bounds: &Bounds) -> Result<(u32, u32), String> {
    let range = (from.max(bounds.min), to.min(bounds.max));
    if from > to || range.0 > range.1 {
        return Err(format!("the {} field has no value from {from} to {to}", bounds.name));
    }
    Ok(range)
}

/// `(from-to)` at the beginning of a text, and what follows it.
fn range_in_brackets(text: &str) -> Option<(u32, u32, &str)> {
    let (from, rest) = leading_number(text.strip_prefix('(')?);
    let (to, rest) = leading_number(rest.strip_prefix('-')?);
    Some((from?, to?, rest.strip_prefix(')')?))
}

/// The digits at the beginning of a text as a number (at most `u32::MAX`), and what follows them.
pub(super) fn leading_number(text: &str) -> (Option<u32>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() { (None, rest) } else { (Some(digits.parse().unwrap_or(u32::MAX)), rest) }
}
