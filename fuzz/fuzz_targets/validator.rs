//! Anything as a workflow definition: what is JSON is read, and what is wrong with it is said in findings.
#![no_main]

use floh_worker::engine::{Severity, validate};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &[u8]| {
    let Ok(document) = serde_json::from_slice::<Value>(text) else { return };
    let (definition, findings) = validate(&document);
    for finding in &findings {
        assert!(!finding.message.is_empty(), "{document}");
    }
    if findings.iter().all(|finding| finding.severity != Severity::Error) {
        assert!(definition.steps.iter().any(|step| step.kind.name() == "start"), "{document}");
        assert!(definition.steps.iter().any(|step| step.kind.name() == "end"), "{document}");
    }
});
