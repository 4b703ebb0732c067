//! `end`: where a run ends, and how.

use super::{StepType, needed};
use crate::{
    engine::{
        fields::Fields,
        run::{Ending, Visit},
    },
    store::{StoreError, run::RunStatus},
};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

/// A last step.
pub struct End;

impl StepType for End {
    fn name(&self) -> &'static str {
        "end"
    }

    fn check(&self, config: &Fields<'_>) {
        let failed = config.word("status", &[("completed", false), ("failed", true), ("cancelled", true)]);
        if config.maybe_text("reason").is_none() && failed == Some(true) {
            config.wrong("MISSING", "reason", "a run that does not end as completed has a `reason`");
        }
    }

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        Vec::new()
    }

    fn failures(&self, _config: &Map<String, Value>) -> Vec<&'static str> {
        Vec::new()
    }

    fn execute<'a>(&'a self, visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async {
            let config = match visit.config() {
                Ok(config) => config,
                Err(why) => return Ok(Ending::failed(why)),
            };
            let status = match config.get("status").and_then(Value::as_str) {
                Some("failed") => RunStatus::Failed,
                Some("cancelled") => RunStatus::Cancelled,
                _ => return Ok(Ending::Ends { status: RunStatus::Completed, reason: None }),
            };
            Ok(match needed(&config, "reason") {
                Ok(reason) => Ending::Ends { status, reason: Some(reason) },
                Err(why) => Ending::failed(why),
            })
        })
    }
}
