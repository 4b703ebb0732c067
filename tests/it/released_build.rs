//! A build without the feature `test-jobs`, as it is released: it has no job that exists for tests only.

use crate::support::{Fleet, worker::binary};
use serde_json::json;
use std::{fs, time::Duration};

#[test]
fn the_names_of_test_jobs_are_unknown() {
    let mut fleet = Fleet::start();
    let _worker = fleet.worker("1", &[]);
    for name in [
        "test.echo",
        "test.sleep",
        "test.hang",
        "test.fail",
        "test.panic",
        "test.abort",
        "test.segfault",
        "test.effect",
        "test.tick",
        "test.progress",
    ] {
        let id = fleet.add(6, name, json!({"reason": "a handler ran", "message": "a handler ran"}), json!({}));
        let job = fleet.wait_state(6, &id, "failed", Duration::from_secs(30));
        let reason = job["failedReason"].as_str().unwrap();
        assert!(reason.starts_with(&format!("no handler for a job named {name:?}")), "{reason}");
        assert!(!reason.replace(name, "").contains("test."), "a test job is known: {reason}");
    }
    let tables = fleet.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'test_effect'");
    assert_eq!(tables[0][0].as_deref(), Some("0"), "nothing is prepared for test jobs");
}

#[test]
fn the_binary_does_not_hold_them() {
    let content = fs::read(binary("floh-worker")).unwrap();
    let holds = |text: &str| content.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(!holds("test_effect"), "code of the test jobs is in the binary");
    assert!(!holds("FLOH_TEST_OFF"), "parts of the worker can be switched off");
    assert!(!holds("FLOH_TEST_KILL"), "the worker can be killed at a point of a run");
    assert!(holds("no handler for a job named"), "the search finds what is there");
}
