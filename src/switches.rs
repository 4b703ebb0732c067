//! Parts of the worker that a test can switch off (feature `test-jobs`): a test of a fault shows with it that it would
//! see the fault's damage. Nothing of this is in a released build.

use std::sync::LazyLock;

static OFF: LazyLock<Vec<String>> = LazyLock::new(|| {
    let list = std::env::var("FLOH_TEST_OFF").unwrap_or_default();
    list.split(',').map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect()
});

/// Whether `FLOH_TEST_OFF`, a list with commas, names this part.
pub fn off(name: &str) -> bool {
    OFF.iter().any(|off| off == name)
}
