//! Recognises a connection pooler that hands each transaction to another session.
//!
//! There, settings (our schema's search path), prepared statements and LISTEN are lost or, worse, shared with
//! strangers. Such poolers do not say what they are, so their effect is looked for: one session is marked, a second
//! one opens a transaction. If the second sees the mark, or the first no longer does while the second is busy, the
//! two are not sessions.

use super::{
    connect::{Connector, SESSION_TIMEOUT, no_session},
    error::StoreError,
};
use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// Checks that two sessions are two. Once for each [`super::Store`], and for each migration, before any of our
/// settings is sent: behind such a pooler they would land in sessions that strangers use.
pub(super) async fn check(connector: &Connector) -> Result<(), StoreError> {
    let place = connector.place.clone();
    let looked = tokio::time::timeout(SESSION_TIMEOUT, async {
        let (first, second) = (connector.open_bare().await?, connector.open_bare().await?);
        look(&first.0, &second.0).await
        // Without their clients the connections say goodbye in order and their tasks end.
    });
    match looked.await {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(reason))) => Err(StoreError::Pooler { place, reason: reason.into() }),
        Ok(Err(error)) => Err(StoreError::sort(&place, &error)),
        Err(_) => Err(StoreError::Unavailable { place, reason: no_session() }),
    }
}

/// How it was noticed that they are not, if so.
async fn look(first: &Client, second: &Client) -> Result<Option<&'static str>, Error> {
    let mark = uuid::Uuid::new_v4().to_string();
    first.batch_execute(&format!("SET floh.session = '{mark}'")).await?;
    second.batch_execute("BEGIN").await?;
    if sees(second, &mark).await? {
        return Ok(Some("two connections share a session"));
    }
    if !sees(first, &mark).await? {
        return Ok(Some("a setting was lost between two transactions"));
    }
    Ok(None)
}

async fn sees(session: &Client, mark: &str) -> Result<bool, Error> {
    let messages = session.simple_query("SELECT coalesce(current_setting('floh.session', true), '')").await?;
    Ok(messages.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some(mark))))
}
