//! Mail: messages out of templates, and their way to an SMTP server. Knows no run and no table.

pub mod address;
pub mod message;
pub mod smtp;
pub mod template;

pub use message::{Message, MessageId};
pub use smtp::{Mailer, SendError};
pub use template::{Kind, Template, TemplateError};
