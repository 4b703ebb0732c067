//! A mail that a job sends, and what is to be said of it.

use super::JobError;
use crate::{
    engine::run::Engine,
    mail::{Message, MessageId, address},
};

/// What became of a mail.
pub enum Told {
    /// It is sent, or never will be; what is to be said of that in the journal: nothing, or why there is none.
    Done(String),
    /// The server does not take it for now: why.
    Later(String),
}

/// Sends a mail to an address and a name.
///
/// # Errors
/// The server does not take it for good.
pub async fn mail(
    engine: &Engine,
    (email, name): (Option<&str>, Option<&str>),
    subject: String,
    text: String,
    id: MessageId,
) -> Result<Told, JobError> {
    let mailer = &engine.tools().mailer;
    let to = match email.map(address::parse) {
        None => return Ok(Told::Done(", without a mail: there is no address".into())),
        Some(Err(why)) => return Ok(Told::Done(format!(", without a mail: {why}"))),
        Some(Ok(mailbox)) => name.map_or_else(|| mailbox.clone(), |name| address::named(&mailbox, name)),
    };
    if let Err(why) = mailer.sender() {
        return Ok(Told::Done(format!(", without a mail: {why}")));
    }
    match mailer.send(&Message { to, subject, text: Some(text), html: None, id }).await {
        Ok(()) => Ok(Told::Done(String::new())),
        Err(error) if error.passing => Ok(Told::Later(format!("the mail is not sent: {error}"))),
        Err(error) => Err(JobError::Fail(format!("the mail is not sent: {error}"))),
    }
}
