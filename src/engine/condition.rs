//! Comparisons on variables, as `condition` and `case` steps make them: data, not code.
//!
//! A condition is an object. `{"variable": "user.department", "equals": "Sales"}` compares; `{"and": […]}`, `{"or": […]}`
//! and `{"not": {…}}` combine. What is compared with may be a template.

use super::{
    finding::{Findings, Place},
    path::{Path, kind},
    template,
};
use chrono::{DateTime, NaiveDate};
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// The comparisons by their names.
const COMPARISONS: [(&str, Comparison); 7] = [
    ("equals", Comparison::Equals),
    ("notEquals", Comparison::NotEquals),
    ("contains", Comparison::Contains),
    ("in", Comparison::In),
    ("greaterThan", Comparison::GreaterThan),
    ("lessThan", Comparison::LessThan),
    ("exists", Comparison::Exists),
];

/// A condition that was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Every one holds; of none, it holds.
    And(Vec<Condition>),
    /// At least one holds.
    Or(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// A variable compared with a value.
    Compare {
        /// What is compared.
        path: Path,
        /// How.
        comparison: Comparison,
        /// With what; a text in it is a template.
        with: Value,
    },
}

/// How a variable is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The same JSON; 1 and 1.0 are the same number.
    Equals,
    /// Not the same.
    NotEquals,
    /// A text has this part, or a list this element.
    Contains,
    /// It is an element of this list.
    In,
    /// A number or a date that is greater.
    GreaterThan,
    /// A number or a date that is less.
    LessThan,
    /// There is a value that is not null, or (with `false`) none.
    Exists,
}

impl Condition {
    /// Reads a condition; `None` where it is none, and then the findings say why.
    pub fn read(value: &Value, place: &Place, findings: &mut Findings) -> Option<Condition> {
        const EXPECTED: &str =
            "expected {\"variable\": PATH, COMPARISON: VALUE}, {\"and\": [...]}, {\"or\": [...]} or {\"not\": {...}}";
        let Some(members) = value.as_object() else {
            findings.error(
                "BAD_CONDITION",
                place,
                format!("a condition is an object, and this is {}; {EXPECTED}", kind(value)),
            );
            return None;
        };
        if members.contains_key("variable") {
            return compare(members, place, findings);
        }
        let mut entries = members.iter();
        match (entries.next(), entries.next()) {
            (Some((name, parts)), None) if name == "and" || name == "or" => {
                let place = place.field(name);
                let Some(parts) = parts.as_array().filter(|parts| !parts.is_empty()) else {
                    findings.error(
                        "BAD_CONDITION",
                        &place,
                        format!("`{name}` combines a list of conditions, at least one"),
                    );
                    return None;
                };
                let read: Vec<_> = parts
                    .iter()
                    .enumerate()
                    .map(|(index, part)| Condition::read(part, &place.index(index), findings))
                    .collect();
                let parts = read.into_iter().collect::<Option<Vec<_>>>()?;
                Some(if name == "and" { Condition::And(parts) } else { Condition::Or(parts) })
            }
            (Some((name, part)), None) if name == "not" => {
                Condition::read(part, &place.field(name), findings).map(|part| Condition::Not(Box::new(part)))
            }
            _ => {
                findings.error("BAD_CONDITION", place, EXPECTED);
                None
            }
        }
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// A sentence: a path leads nowhere (`exists` asks for that), or the two cannot be compared so.
    pub fn holds(&self, variables: &Map<String, Value>) -> Result<bool, String> {
        match self {
            Condition::And(parts) => {
                for part in parts {
                    if !part.holds(variables)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Condition::Or(parts) => {
                for part in parts {
                    if part.holds(variables)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Condition::Not(part) => Ok(!part.holds(variables)?),
            Condition::Compare { path, comparison: Comparison::Exists, with } => {
                let exists = path.find(variables).is_ok_and(|value| !value.is_null());
                Ok(exists == with.as_bool().unwrap_or(true))
            }
            Condition::Compare { path, comparison, with } => {
                let value = path.find(variables).map_err(|missing| missing.to_string())?;
                let with = template::fill_all(with, variables)?;
                comparison.holds(value, &with).map_err(|why| format!("`{path}`: {why}"))
            }
        }
    }

    /// Every path that is asked for without `exists`, and so has to lead somewhere.
    pub fn needed<'a>(&'a self, paths: &mut Vec<&'a Path>) {
        match self {
            Condition::And(parts) | Condition::Or(parts) => parts.iter().for_each(|part| part.needed(paths)),
            Condition::Not(part) => part.needed(paths),
            Condition::Compare { path, .. } => paths.push(path),
        }
    }
}

impl Comparison {
    fn holds(self, value: &Value, with: &Value) -> Result<bool, String> {
        let unfit = |what: &str| Err(format!("{} and {} cannot be compared by {what}", kind(value), kind(with)));
        match self {
            Comparison::Equals => Ok(same(value, with)),
            Comparison::NotEquals => Ok(!same(value, with)),
            Comparison::Exists => Ok(!value.is_null()),
            Comparison::Contains => match (value, with) {
                (Value::String(text), Value::String(part)) => Ok(text.contains(part.as_str())),
                (Value::Array(list), element) => Ok(list.iter().any(|one| same(one, element))),
                _ => unfit("contains"),
            },
            Comparison::In => match with {
                Value::Array(list) => Ok(list.iter().any(|one| same(one, value))),
                _ => unfit("in"),
            },
            Comparison::GreaterThan => {
                order(value, with).map_or_else(|| unfit("greaterThan"), |o| Ok(o == Ordering::Greater))
            }
            Comparison::LessThan => order(value, with).map_or_else(|| unfit("lessThan"), |o| Ok(o == Ordering::Less)),
        }
    }
}

fn compare(members: &Map<String, Value>, place: &Place, findings: &mut Findings) -> Option<Condition> {
    let path = match members.get("variable").and_then(Value::as_str).map(Path::parse) {
        Some(Ok(path)) => Some(path),
        Some(Err(why)) => {
            findings.error("BAD_PATH", &place.field("variable"), why);
            None
        }
        None => {
            findings.error(
                "BAD_PATH",
                &place.field("variable"),
                "the path of a variable is a text, such as user.email",
            );
            None
        }
    };
    let mut others = members.iter().filter(|(name, _)| *name != "variable");
    let (Some((name, with)), None) = (others.next(), others.next()) else {
        let names: Vec<_> = COMPARISONS.iter().map(|(name, _)| *name).collect();
        findings.error(
            "BAD_CONDITION",
            place,
            format!("beside `variable` stands one comparison: {}", names.join(", ")),
        );
        return None;
    };
    let place = place.field(name);
    let Some((_, comparison)) = COMPARISONS.iter().find(|(known, _)| known == name) else {
        findings.error("BAD_CONDITION", &place, format!("`{name}` is no comparison"));
        return None;
    };
    let wrong = match comparison {
        Comparison::Exists if !with.is_boolean() => Some("`exists` is true or false"),
        Comparison::In if !with.is_array() && !with.is_string() => Some("`in` names a list, or a template of one"),
        Comparison::GreaterThan | Comparison::LessThan if !with.is_number() && !with.is_string() => {
            Some("only numbers and dates are greater or less")
        }
        _ => None,
    };
    if let Some(wrong) = wrong {
        findings.error("BAD_CONDITION", &place, wrong);
        return None;
    }
    Some(Condition::Compare { path: path?, comparison: *comparison, with: with.clone() })
}

/// The same JSON, numbers by value.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|o| same(value, o)))
        }
        _ => one == other,
    }
}

/// Two numbers, or two dates (`2026-03-29` or with a time and an offset).
fn order(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64()?.partial_cmp(&other.as_f64()?),
        (Value::String(one), Value::String(other)) => Some(date(one)?.cmp(&date(other)?)),
        _ => None,
    }
}

/// A date alone is its midnight in UTC.
fn date(text: &str) -> Option<i64> {
    let moment = DateTime::parse_from_rfc3339(text).map(|moment| moment.timestamp_micros());
    moment.ok().or_else(|| Some(text.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Result<Condition, Vec<String>> {
        let mut findings = Findings::default();
        let condition = Condition::read(value, &Place::default().field("if"), &mut findings);
        condition.ok_or_else(|| findings.into_list().iter().map(ToString::to_string).collect())
    }

    fn holds(condition: Value) -> Result<bool, String> {
        let all = json!({
            "user": {"department": "Sales", "level": 3, "roles": ["a", {"n": 1.0}], "since": "2026-03-29"},
            "wanted": "Sales", "list": ["Sales", "IT"], "nothing": null
        });
        read(&condition).unwrap().holds(all.as_object().unwrap())
    }

    #[test]
    fn every_comparison_holds_or_not() {
        for (condition, expected) in [
            (json!({"variable": "user.department", "equals": "Sales"}), true),
            (json!({"variable": "user.department", "equals": "{{wanted}}"}), true),
            (json!({"variable": "user.department", "notEquals": "IT"}), true),
            (json!({"variable": "user.level", "equals": 3.0}), true),
            (json!({"variable": "user.level", "equals": "3"}), false),
            (json!({"variable": "user.department", "contains": "ale"}), true),
            (json!({"variable": "user.roles", "contains": {"n": 1}}), true),
            (json!({"variable": "user.roles", "contains": "b"}), false),
            (json!({"variable": "user.department", "in": ["IT", "{{wanted}}"]}), true),
            (json!({"variable": "user.department", "in": "{{list}}"}), true),
            (json!({"variable": "user.level", "greaterThan": 2}), true),
            (json!({"variable": "user.level", "lessThan": 3}), false),
            (json!({"variable": "user.since", "lessThan": "2026-03-29T00:00:01+00:00"}), true),
            (json!({"variable": "user.since", "greaterThan": "2026-03-29T01:00:00+02:00"}), true),
            (json!({"variable": "user.email", "exists": true}), false),
            (json!({"variable": "nobody.email", "exists": false}), true),
            (json!({"variable": "nothing", "exists": false}), true),
            (
                json!({"and": [{"variable": "wanted", "exists": true}, {"not": {"variable": "wanted", "equals": "IT"}}]}),
                true,
            ),
            (json!({"or": [{"variable": "wanted", "equals": "IT"}, {"variable": "wanted", "equals": "Sales"}]}), true),
        ] {
            assert_eq!(holds(condition.clone()), Ok(expected), "{condition}");
        }
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_an_error_that_names_it() {
        for (condition, words) in [
            (json!({"variable": "user.mail", "equals": 1}), "`user.mail` has no value"),
            (json!({"variable": "wanted", "equals": "{{user.mail}}"}), "`user.mail` has no value"),
            (
                json!({"variable": "user.level", "greaterThan": "2"}),
                "a number and a text cannot be compared by greaterThan",
            ),
            (
                json!({"variable": "wanted", "lessThan": "2026-01-01"}),
                "a text and a text cannot be compared by lessThan",
            ),
            (json!({"variable": "user.level", "contains": 3}), "cannot be compared by contains"),
            (json!({"variable": "user.level", "in": "{{wanted}}"}), "cannot be compared by in"),
        ] {
            let why = holds(condition.clone()).unwrap_err();
            assert!(why.contains(words), "{condition}: {why}");
        }
    }

    #[test]
    fn a_later_part_is_not_asked_for_once_the_answer_is_known() {
        let missing = json!({"variable": "nobody", "equals": 1});
        assert_eq!(holds(json!({"or": [{"variable": "wanted", "exists": true}, missing]})), Ok(true));
        assert_eq!(holds(json!({"and": [{"variable": "wanted", "exists": false}, missing]})), Ok(false));
    }

    #[test]
    fn all_that_is_wrong_is_found_at_once_and_placed() {
        let wrong = json!({"and": [
            {"variable": "a b", "equals": 1},
            {"variable": "a"},
            {"variable": "a", "equals": 1, "in": []},
            {"variable": "a", "matches": "x"},
            {"variable": 5, "exists": "yes"},
            {"or": []},
            {"xor": []},
            7,
        ]});
        let found = read(&wrong).unwrap_err();
        let places: Vec<_> = found.iter().map(|line| line.split_once(": ").unwrap().0.to_string()).collect();
        assert_eq!(
            places,
            [
                "error BAD_PATH at if.and[0].variable",
                "error BAD_CONDITION at if.and[1]",
                "error BAD_CONDITION at if.and[2]",
                "error BAD_CONDITION at if.and[3].matches",
                "error BAD_PATH at if.and[4].variable",
                "error BAD_CONDITION at if.and[4].exists",
                "error BAD_CONDITION at if.and[5].or",
                "error BAD_CONDITION at if.and[6]",
                "error BAD_CONDITION at if.and[7]",
            ]
        );
    }
}
