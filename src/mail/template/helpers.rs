//! The helpers of templates: what `{{name value …}}` and `(name value …)` compute. There are no others.

use super::{
    date,
    fill::{Budget, Found, No, kind, member, size},
};
use serde_json::Value;
use std::{borrow::Cow, cmp::Ordering, ops::RangeInclusive};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Helper {
    Eq,
    Ne,
    Gt,
    Gte,
    Lt,
    Lte,
    And,
    Or,
    Not,
    Default,
    Lookup,
    FormatDate,
}

const HELPERS: [(&str, Helper); 12] = [
    ("eq", Helper::Eq),
    ("ne", Helper::Ne),
    ("gt", Helper::Gt),
    ("gte", Helper::Gte),
    ("lt", Helper::Lt),
    ("lte", Helper::Lte),
    ("and", Helper::And),
    ("or", Helper::Or),
    ("not", Helper::Not),
    ("default", Helper::Default),
    ("lookup", Helper::Lookup),
    ("formatDate", Helper::FormatDate),
];

/// The helper of this name.
pub(super) fn find(name: &str) -> Option<Helper> {
    HELPERS.iter().find(|(known, _)| *known == name).map(|(_, helper)| *helper)
}

/// All names.
pub(super) fn names() -> Vec<&'static str> {
    HELPERS.iter().map(|(name, _)| *name).collect()
}

impl Helper {
    /// As templates call it.
    pub(super) fn name(self) -> &'static str {
        HELPERS.iter().find(|(_, helper)| *helper == self).map_or("", |(name, _)| name)
    }

    /// How many values it takes.
    pub(super) fn takes(self) -> RangeInclusive<usize> {
        match self {
            Helper::Not => 1..=1,
            Helper::FormatDate => 1..=2,
            Helper::And | Helper::Or | Helper::Default => 2..=usize::MAX,
            _ => 2..=2,
        }
    }

    /// Whether it asks if a value is there, so that a missing one is no error.
    pub(super) fn may_miss(self) -> bool {
        matches!(self, Helper::And | Helper::Or | Helper::Not | Helper::Default)
    }
}

/// What `#if` takes for true, as in JavaScript: not null, not false, not empty (text or list), and not zero, unless that counts.
pub(super) fn is_true(value: &Value, zero_counts: bool) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => zero_counts || number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(_) => true,
    }
}

/// Computes it. The number of values was checked when the template was read.
pub(super) fn call<'a>(
    helper: Helper,
    values: Vec<Found<'a>>,
    zone: Option<&Value>,
    budget: &mut Budget,
) -> Result<Found<'a>, No> {
    let flag = |flag: bool| Ok(Cow::Owned(Value::Bool(flag)));
    match (helper, &values[..]) {
        (Helper::Eq, [one, other]) => flag(same(one, other, budget)?),
        (Helper::Ne, [one, other]) => flag(!same(one, other, budget)?),
        (Helper::Gt, [one, other]) => flag(order(helper, one, other)? == Ordering::Greater),
        (Helper::Gte, [one, other]) => flag(order(helper, one, other)? != Ordering::Less),
        (Helper::Lt, [one, other]) => flag(order(helper, one, other)? == Ordering::Less),
        (Helper::Lte, [one, other]) => flag(order(helper, one, other)? != Ordering::Greater),
        (Helper::And, all) => flag(all.iter().all(|one| is_true(one, false))),
        (Helper::Or, all) => flag(all.iter().any(|one| is_true(one, false))),
        (Helper::Not, [one]) => flag(!is_true(one, false)),
        (Helper::Lookup, [of, name]) => lookup(of, name),
        (Helper::FormatDate, [value, rest @ ..]) => {
            let pattern = rest.first().map(AsRef::as_ref);
            let text = date::format(value, pattern, zone).map_err(No::Wrong)?;
            Ok(Cow::Owned(Value::String(text)))
        }
        (Helper::Default, _) => {
            let filled = |one: &Found<'_>| !one.is_null() && one.as_str() != Some("");
            let found = values.into_iter().reduce(|before, next| if filled(&before) { before } else { next });
            found.ok_or_else(|| No::Wrong("`default` takes values".to_string()))
        }
        _ => Err(No::Wrong(format!("`{}` takes another number of values", helper.name()))),
    }
}

/// Whether two values are the same JSON; 1 and 1.0 are the same number.
fn same(one: &Value, other: &Value, budget: &mut Budget) -> Result<bool, No> {
    Ok(match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::String(one), Value::String(other)) => {
            budget.spend(one.len().min(other.len()) / 64)?;
            one == other
        }
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => {
            let cost = size(one, budget)?;
            budget.spend(cost)?;
            one == other
        }
        _ => one == other,
    })
}

/// Numbers by size, texts by their letters.
fn order(helper: Helper, one: &Value, other: &Value) -> Result<Ordering, No> {
    let ordering = match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => Some(one.cmp(&other)),
            _ => one.as_f64().zip(other.as_f64()).and_then(|(one, other)| one.partial_cmp(&other)),
        },
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        _ => None,
    };
    ordering.ok_or_else(|| {
        let why =
            format!("`{}` compares two numbers or two texts, not {} and {}", helper.name(), kind(one), kind(other));
        No::Wrong(why)
    })
}

fn lookup<'a>(of: &Found<'a>, name: &Value) -> Result<Found<'a>, No> {
    let key = match name {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        other => return Err(No::Wrong(format!("`lookup` takes a name or an index, not {}", kind(other)))),
    };
    let shown: String = key.chars().take(80).collect();
    member(of, &key).ok_or_else(|| No::Missing(format!("`lookup` finds no `{shown}` in {}", kind(of))))
}
