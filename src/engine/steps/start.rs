//! `start`: where a run begins.

use super::{StepType, words};
use crate::{
    engine::{
        fields::Fields,
        run::{Ending, Visit},
    },
    store::StoreError,
};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

/// The first step.
pub struct Start;

impl StepType for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    fn check(&self, _config: &Fields<'_>) {}

    fn outcomes(&self, _config: &Map<String, Value>) -> Vec<String> {
        words(&["success"])
    }

    fn failures(&self, _config: &Map<String, Value>) -> Vec<&'static str> {
        Vec::new()
    }

    /// A run comes here only by beginning, and that is the run's own business.
    fn execute<'a>(&'a self, _visit: &'a Visit<'a>) -> BoxFuture<'a, Result<Ending, StoreError>> {
        Box::pin(async { Ok(Ending::done("success")) })
    }
}
