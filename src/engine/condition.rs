//! Comparisons on variables, as `condition` and `case` steps make them: data, not code.
//!
//! A condition is an object. `{"variable": "user.department", "equals": "Sales"}` compares; `{"and": […]}`, `{"or": […]}`
//! and `{"not": {…}}` combine. What is compared with may be a template.

use super::{
    finding::{Findings, Place},
    path::{Path, kind},
    template::{self, Template},
};
use chrono::{DateTime, NaiveDate};
use serde_json::{Map, Number, Value};
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

    /// Every path that is compared, also by `exists`: a variable that is never there is a mistake there, too.
    pub fn paths<'a>(&'a self, paths: &mut Vec<&'a Path>) {
        match self {
            Condition::And(parts) | Condition::Or(parts) => parts.iter().for_each(|part| part.paths(paths)),
            Condition::Not(part) => part.paths(paths),
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
            Comparison::GreaterThan => ordered(value, with).map(|order| order == Ordering::Greater),
            Comparison::LessThan => ordered(value, with).map(|order| order == Ordering::Less),
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
        Comparison::Exists if !with.is_boolean() => Some("`exists` is true or false".to_string()),
        Comparison::In if !may_be_list(with) => {
            Some("`in` names a list, or a template that is one path to a list and nothing else".to_string())
        }
        Comparison::GreaterThan | Comparison::LessThan if !may_have_order(with) => {
            Some(format!("{} is neither a number nor a date such as 2026-03-29", shown(with)))
        }
        _ => None,
    };
    if let Some(wrong) = wrong {
        findings.error("BAD_CONDITION", &place, wrong);
        return None;
    }
    Some(Condition::Compare { path: path?, comparison: *comparison, with: with.clone() })
}

/// Whether it is a list, or may be one when it is filled in. What is wrong with a template is said elsewhere.
fn may_be_list(with: &Value) -> bool {
    match with {
        Value::Array(_) => true,
        Value::String(text) => Template::parse(text).map_or(true, |template| template.is_value()),
        _ => false,
    }
}

/// Whether it is a number or a date, or may be one when it is filled in.
fn may_have_order(with: &Value) -> bool {
    match with {
        Value::Number(_) => true,
        Value::String(text) => {
            date(text).is_some() || Template::parse(text).map_or(true, |template| template.paths().next().is_some())
        }
        _ => false,
    }
}

/// The same JSON, numbers by value.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => numbers(one, other) == Some(Ordering::Equal),
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
fn ordered(one: &Value, other: &Value) -> Result<Ordering, String> {
    let order = match (one, other) {
        (Value::Number(one), Value::Number(other)) => numbers(one, other),
        (Value::String(one), Value::String(other)) => date(one).zip(date(other)).map(|(one, other)| one.cmp(&other)),
        _ => None,
    };
    // The values are left out: they may be what nobody should read in a journal.
    order.ok_or_else(|| {
        format!("only two numbers or two dates are greater or less, and here are {} and {}", kind(one), kind(other))
    })
}

/// By value, all digits of whole numbers: ids are numbers, too.
fn numbers(one: &Number, other: &Number) -> Option<Ordering> {
    let whole = |number: &Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        (Some(one), None) => whole_and_broken(one, other.as_f64()?),
        (None, Some(other)) => whole_and_broken(other, one.as_f64()?).map(Ordering::reverse),
        (None, None) => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}

/// Without making either what the other is, where that would round it.
fn whole_and_broken(whole: i128, broken: f64) -> Option<Ordering> {
    // Beyond what an i128 can be it becomes the last one, which is beyond every whole number here, too.
    let below = broken.floor() as i128;
    let rest = broken - broken.floor();
    Some(whole.cmp(&below).then(if rest > 0.0 { Ordering::Less } else { Ordering::Equal }))
}

/// A value's kind, and itself where it is short.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 40;
    let what = kind(value);
    match value {
        Value::String(text) if text.chars().count() > LONGEST => {
            format!("{what} that begins with {:?}", text.chars().take(LONGEST).collect::<String>())
        }
        Value::String(text) => format!("{what} {text:?}"),
        Value::Number(number) => format!("{what} {number}"),
        Value::Bool(flag) => format!("{what} {flag}"),
        Value::Null | Value::Array(_) | Value::Object(_) => what.to_string(),
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
                json!({"variable": "user.level", "greaterThan": "2026-01-01"}),
                "only two numbers or two dates are greater or less, and here are a number and a text",
            ),
            (
                json!({"variable": "wanted", "lessThan": "2026-01-01"}),
                "greater or less, and here are a text and a text",
            ),
            (json!({"variable": "user.since", "lessThan": "{{user.roles}}"}), "here are a text and a list"),
            (json!({"variable": "user.level", "contains": 3}), "cannot be compared by contains"),
            (json!({"variable": "user.level", "in": "{{wanted}}"}), "cannot be compared by in"),
        ] {
            let why = holds(condition.clone()).unwrap_err();
            assert!(why.contains(words), "{condition}: {why}");
        }
    }

    #[test]
    fn whole_numbers_are_compared_to_their_last_digit() {
        let ordered = |one: Value, other: Value| ordered(&one, &other).unwrap();
        for (less, greater) in [
            (json!(9_007_199_254_740_992_u64), json!(9_007_199_254_740_993_u64)),
            (json!(9_007_199_254_740_992.0), json!(9_007_199_254_740_993_u64)),
            (json!(-1), json!(u64::MAX)),
            (json!(i64::MIN), json!(u64::MAX)),
            (json!(u64::MAX), json!(1e300)),
            (json!(-1e300), json!(i64::MIN)),
            (json!(3), json!(3.5)),
            (json!(-3.5), json!(-3)),
            (json!(0.25), json!(0.5)),
        ] {
            assert_eq!(ordered(less.clone(), greater.clone()), Ordering::Less, "{less} {greater}");
            assert_eq!(ordered(greater.clone(), less.clone()), Ordering::Greater, "{greater} {less}");
            assert!(!same(&less, &greater), "{less} {greater}");
        }
        assert!(same(&json!(1), &json!(1.0)) && same(&json!(-0.0), &json!(0)));
        assert!(same(&json!(9_007_199_254_740_992_u64), &json!(9_007_199_254_740_992.0)));
    }

    #[test]
    fn what_can_never_hold_is_found() {
        for (comparison, with, words) in [
            ("in", json!("Sales"), "a template that is one path"),
            ("in", json!("all of {{list}}"), "a template that is one path"),
            ("greaterThan", json!("abc"), "a text \"abc\" is neither a number nor a date such as 2026-03-29"),
            ("lessThan", json!("5"), "a text \"5\" is neither"),
            ("lessThan", json!(true), "a boolean true is neither"),
        ] {
            let found = read(&json!({"variable": "a", comparison: with})).unwrap_err();
            let place = format!("error BAD_CONDITION at if.{comparison}: ");
            assert!(found.len() == 1 && found[0].starts_with(&place) && found[0].contains(words), "{with}: {found:?}");
        }
        for (comparison, with) in [
            ("in", json!("{{list}}")),
            ("in", json!(["Sales"])),
            ("lessThan", json!("{{year}}-01-01")),
            ("lessThan", json!("2026-03-29T01:00:00+02:00")),
            ("greaterThan", json!(5)),
        ] {
            assert!(read(&json!({"variable": "a", comparison: with})).is_ok(), "{comparison} {with}");
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
