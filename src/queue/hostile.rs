//! What strangers can write into Redis, read by everything that reads it: nothing panics, and nothing is lost on the way.
//!
//! The release gate runs these with many more cases: `PROPTEST_CASES`.

use super::{
    Job,
    fetch::{Fetched, read_fetched},
    json,
    lease::pack,
    options::Options,
};
use proptest::{collection::vec, prelude::*, sample::select};
use redis::Value as Answer;
use serde_json::{Map, Value};

/// Most of a hash's names mean something.
const NAMES: [&str; 14] = [
    "name",
    "data",
    "opts",
    "timestamp",
    "processedOn",
    "atm",
    "ats",
    "stc",
    "rjk",
    "defa",
    "stacktrace",
    "parent",
    "floh:epoch",
    "other",
];
const OPTIONS: [&str; 20] = [
    "attempts",
    "backoff",
    "lifo",
    "removeOnComplete",
    "removeOnFail",
    "stackTraceLimit",
    "keepLogs",
    "fpof",
    "cpof",
    "idof",
    "rdof",
    "type",
    "delay",
    "jitter",
    "count",
    "age",
    "limit",
    "repeat",
    "pattern",
    "every",
];
/// Numbers at the edges of every type, and some in between.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3i64..100).prop_map(Value::from),
        select(vec![1e308, -1e308, 0.1, -0.5, 9_007_199_254_740_993.0]).prop_map(Value::from),
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        ".{0,12}".prop_map(Value::from),
        "[0-9*/,LW# -]{1,14}".prop_map(Value::from),
        select(vec!["fixed", "exponential", "UTC", "Europe/Berlin", "* * * * *", "2026-11-24T12:00:00Z", "NaN"])
            .prop_map(Value::from),
    ]
}

/// JSON whose objects mostly have these names.
pub(crate) fn json_with(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 24, 6, move |inner| {
        let name = prop_oneof![4 => select(names).prop_map(str::to_string), 1 => ".{0,6}"];
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::Array),
            vec((name, inner), 0..8).prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// JSON, text that nearly is, and bytes that are nothing.
fn field() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        json_with(&OPTIONS).prop_map(|value| value.to_string().into_bytes()),
        (json_with(&OPTIONS), any::<prop::sample::Index>()).prop_map(|(value, end)| {
            let bytes = value.to_string().into_bytes();
            bytes[..end.index(bytes.len().max(1)).min(bytes.len())].to_vec()
        }),
        ".{0,20}".prop_map(String::into_bytes),
        "[-+0-9.eE]{0,20}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..20),
    ]
}

fn hash() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let name =
        prop_oneof![9 => select(&NAMES[..]).prop_map(|name| name.as_bytes().to_vec()), 1 => vec(any::<u8>(), 0..8)];
    vec((name, field()), 0..16)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_hash_of_anything_is_a_job_or_has_a_defect(id in ".{0,12}", hash in hash(), most in 0usize..64) {
        let fields = hash.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        let job = Job::read(id.clone(), fields, most);
        prop_assert_eq!(&job.id, &id);
        // A byte that is no UTF-8 becomes a character of three.
        prop_assert!(job.data.len() <= 3 * most, "data of {} bytes", job.data.len());
        let last = |name: &[u8]| hash.iter().rfind(|field| field.0 == name).map_or(&[][..], |field| &field.1);
        let data = last(b"data");
        let short = hash.iter().all(|(name, value)| value.len() <= most || !matches!(&name[..], b"name" | b"opts"));
        let sound = short && !last(b"name").is_empty() && (1..=most).contains(&data.len()) && str::from_utf8(data).is_ok();
        prop_assert_eq!(job.defect.is_none(), sound, "{:?}", job.defect);
        // What is asked of every job before and after it runs.
        let _ = (job.data(), job.attempt(), job.is_last_attempt(), job.due_ms(), job.is_stall_verdict());
        prop_assert!(!job.stacktrace_with(Some("a stack")).is_empty() || job.options.stack_traces == Some(0));
        prop_assert!(job.options.attempts() >= 1);
    }

    #[test]
    fn options_of_anything_cost_only_themselves(value in json_with(&OPTIONS)) {
        let text = value.to_string();
        let options = Options::parse(Some(&text));
        prop_assert!(options.attempts() >= 1);
        match value.as_object() {
            Some(given) => prop_assert_eq!(options.raw.len(), given.len(), "{:?}", options.mistakes),
            None => prop_assert_eq!(options.mistakes.len(), 1),
        }
        prop_assert!(options.mistakes.iter().all(|mistake| !mistake.is_empty()));
    }

    #[test]
    fn text_that_nearly_is_json_is_read_or_refused(bytes in field(), cut in "(\\\\u[dD][89abAB][0-9a-f]{0,2}|\\\\|\"|é){0,4}") {
        let text = format!("\"{cut}\"{}", String::from_utf8_lossy(&bytes));
        let _ = (json::read(&text), json::read(&cut), json::read(&String::from_utf8_lossy(&bytes)));
        // What serde reads is read as serde does.
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            prop_assert_eq!(json::read(&text).ok(), Some(value));
        }
    }

    #[test]
    fn an_answer_of_anything_is_read_or_refused(bytes in vec(any::<u8>(), 0..40), hash in hash(), id in ".{0,8}") {
        let _ = read_fetched("script", &Answer::BulkString(bytes), 100);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let flat: Vec<String> = hash.into_iter().flat_map(|(name, value)| [text(name), text(value)]).collect();
        let answer = Answer::BulkString(pack(&(flat, &id, 0, 0)).unwrap());
        prop_assert!(matches!(read_fetched("script", &answer, 100), Ok(Fetched::Job(job)) if job.id == id));
    }
}
