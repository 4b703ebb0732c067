//! Workflow definitions, read and checked; and runs, which execute them.

pub mod condition;
pub mod definition;
pub mod fields;
pub mod finding;
pub mod graph;
pub mod people;
pub mod run;
pub mod steps;
pub mod validate;

pub use crate::values::{path, span, template};
pub use definition::Definition;
pub use finding::{Finding, Severity};
pub use validate::validate;
