//! Recognises a connection pooler that hands each transaction to another session.
//!
//! There, settings (our schema's search path), prepared statements and LISTEN are lost or, worse, shared with
//! strangers. Such poolers do not say what they are, so their effect is looked for: one session is marked, a second
//! one opens a transaction. If the second sees the mark, or the first no longer does while the second is busy, the
//! two are not sessions.

use super::{
    client::Client,
    connect::{ANSWER_TIMEOUT, Connector},
    error::StoreError,
};

const READ_MARK: &str = "SELECT coalesce(current_setting('floh.session', true), '')";

/// Once per [`super::Store`]: that two sessions are two.
pub(super) async fn check(first: &Client, connector: &Connector) -> Result<(), StoreError> {
    let place = &connector.place;
    let pooler = |reason: &str| StoreError::Pooler { place: place.clone(), reason: reason.into() };
    let mark = uuid::Uuid::new_v4().to_string();
    first.batch_execute(&format!("SET floh.session = '{mark}'")).await?;

    let (second, task) = connector.open_within().await?;
    let seen_by_second = tokio::time::timeout(ANSWER_TIMEOUT, async {
        second.batch_execute("BEGIN").await?;
        let row = second.simple_query(READ_MARK).await?;
        Ok::<_, tokio_postgres::Error>(row.iter().any(
            |message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some(&*mark)),
        ))
    });
    let seen_by_second = seen_by_second.await;
    let seen_by_first = match &seen_by_second {
        Ok(Ok(false)) => first.batch_value(READ_MARK).await.map(|value| value.as_deref() == Some(&*mark)),
        _ => Ok(true),
    };
    // Without its client the connection says goodbye in order and its task ends.
    drop((second, task));
    match (seen_by_second, seen_by_first) {
        (Ok(Ok(true)), _) => Err(pooler("two connections share a session")),
        (Ok(Ok(false)), Ok(true)) => Ok(()),
        (Ok(Ok(false)), Ok(false)) => Err(pooler("a setting was lost between two transactions")),
        (Ok(Err(error)), _) => Err(StoreError::sort(place, &error)),
        (Err(_), _) => Err(StoreError::Unavailable { place: place.clone(), reason: "no answer in time".into() }),
        (_, Err(error)) => Err(error),
    }
}
