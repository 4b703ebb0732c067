//! How people are told something outside of a transaction: what jobs need of mail, so that they know no server.

use crate::queue::BoxFuture;

/// Something for one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The same however often it is sent, so that a repeated one can be recognised.
    pub key: String,
    /// The address.
    pub to: String,
    /// The person's name.
    pub name: Option<String>,
    /// In a line.
    pub subject: String,
    /// In full.
    pub text: String,
}

/// Why somebody was not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// Another try may go better.
    #[error("{0}")]
    ForNow(String),
    /// No try will.
    #[error("{0}")]
    ForGood(String),
}

/// Tells people something.
pub trait Notifier: Send + Sync + 'static {
    /// Whether there is a way to do it.
    fn is_there(&self) -> bool;

    /// Hands a message over to whoever delivers it.
    fn tell<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Result<(), Untold>>;
}

/// Without a way: nobody is told anything.
pub struct Silence;

impl Notifier for Silence {
    fn is_there(&self) -> bool {
        false
    }

    fn tell<'a>(&'a self, _message: &'a Message) -> BoxFuture<'a, Result<(), Untold>> {
        Box::pin(async { Ok(()) })
    }
}
