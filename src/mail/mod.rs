//! Mail: messages out of templates, and their way to an SMTP server. Knows no run and no table.

pub mod template;

pub use template::{Kind, Template, TemplateError};
