//! A mail that a job sends, and what is to be said of it.

use super::JobError;
use crate::{
    engine::run::Engine,
    mail::{Message, MessageId, address},
};

/// Sends a mail to an address and a name. Returns what is to be said of it in the journal: nothing, or why there is none.
///
/// # Errors
/// The server does not take it, for now or for good.
pub async fn mail(
    engine: &Engine,
    (email, name): (Option<&str>, Option<&str>),
    subject: String,
    text: String,
    id: MessageId,
) -> Result<String, JobError> {
    let mailer = &engine.tools().mailer;
    let to = match email.map(address::parse) {
        None => return Ok(", without a mail: there is no address".into()),
        Some(Err(why)) => return Ok(format!(", without a mail: {why}")),
        Some(Ok(mailbox)) => name.map_or_else(|| mailbox.clone(), |name| address::named(&mailbox, name)),
    };
    if let Err(why) = mailer.sender() {
        return Ok(format!(", without a mail: {why}"));
    }
    match mailer.send(&Message { to, subject, text: Some(text), html: None, id }).await {
        Ok(()) => Ok(String::new()),
        Err(error) if error.passing => Err(JobError::Retry(format!("the mail is not sent: {error}"))),
        Err(error) => Err(JobError::Fail(format!("the mail is not sent: {error}"))),
    }
}
