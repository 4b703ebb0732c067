//! Workflow definitions: read, checked, and the parts that they are made of.

pub mod condition;
pub mod definition;
pub mod fields;
pub mod finding;
pub mod graph;
pub mod path;
pub mod span;
pub mod steps;
pub mod template;
pub mod validate;

pub use definition::Definition;
pub use finding::{Finding, Severity};
pub use validate::validate;
