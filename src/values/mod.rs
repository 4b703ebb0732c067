//! JSON values as definitions write them: paths to them, texts with them in it, spans of time. Knows neither steps nor
//! connectors, and is used by both.

pub mod path;
pub mod size;
pub mod span;
pub mod template;
