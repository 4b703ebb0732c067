//! What people are told in the application itself.

use super::{Client, StoreError};
use uuid::Uuid;

/// A notification of a visit of a step to one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNotification {
    /// The person's id, if there is one.
    pub user_id: Option<String>,
    /// Else the address.
    pub email: Option<String>,
    /// The run that says it.
    pub run: Uuid,
    /// The step.
    pub step: String,
    /// The visit.
    pub visit: i32,
    /// What it is about, in a word.
    pub kind: &'static str,
    /// In one line.
    pub title: String,
    /// The rest.
    pub body: String,
    /// Where more can be seen.
    pub link: Option<String>,
}

/// Writes notifications, inside the caller's transaction. One that this visit wrote before is left as it is: it may have been
/// read. Returns how many are new.
///
/// # Errors
/// What PostgreSQL said.
pub async fn notify(client: &Client, notifications: &[NewNotification]) -> Result<u64, StoreError> {
    const INSERT: &str = "
        INSERT INTO notification (user_id, email, run_id, step_id, visit, kind, title, body, link)
            SELECT n.user_id, n.email, $3, $4, $5, $6, $7, $8, $9
            FROM unnest($1::text[], $2::text[]) AS n (user_id, email)
            ON CONFLICT DO NOTHING";
    let mut written = 0;
    for told in notifications.chunk_by(same_text) {
        let Some(first) = told.first() else { continue };
        let users: Vec<_> = told.iter().map(|one| one.user_id.as_deref()).collect();
        let emails: Vec<_> = told.iter().map(|one| one.email.as_deref()).collect();
        written += client
            .execute(
                INSERT,
                &[
                    &users,
                    &emails,
                    &first.run,
                    &first.step,
                    &first.visit,
                    &first.kind,
                    &first.title,
                    &first.body,
                    &first.link,
                ],
            )
            .await?;
    }
    Ok(written)
}

/// Whether two differ in nothing but who is told.
fn same_text(one: &NewNotification, other: &NewNotification) -> bool {
    let text = |n: &NewNotification| NewNotification { user_id: None, email: None, ..n.clone() };
    text(one) == text(other)
}
