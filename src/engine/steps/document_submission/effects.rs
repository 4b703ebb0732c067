//! What is written of a document, each with its audit row.

use super::question;
use crate::{
    engine::run::{Effect, EffectError},
    store::{
        FencedTransaction,
        audit_write::{self, Audited},
        document::{self, Document, Verdict},
    },
};
use futures_util::future::BoxFuture;
use serde_json::json;
use uuid::Uuid;

/// A document was handed in.
pub struct Submit {
    /// The document.
    pub document: Document,
}

impl Effect for Submit {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            let one = &self.document;
            document::submit(transaction, one).await?;
            let state = json!({
                "type": one.kind, "userId": one.user_id, "email": one.email, "reference": one.reference,
                "metadata": one.metadata, "submittedAt": question::time(one.submitted_at), "stepId": one.step,
            });
            let audited = Audited {
                entity: "document",
                entity_id: &one.id.to_string(),
                action: "document.submitted",
                run: one.run,
                previous: None,
                new: Some(state),
            };
            Ok(audit_write::write(transaction, &audited).await?)
        })
    }
}

/// It was looked at, or nobody has to.
pub struct Decide {
    /// The run.
    pub run: Uuid,
    /// What was said.
    pub verdict: Verdict,
}

impl Effect for Decide {
    fn apply<'a>(&'a self, transaction: &'a FencedTransaction) -> BoxFuture<'a, Result<(), EffectError>> {
        Box::pin(async move {
            let verdict = &self.verdict;
            let Some((kind, user)) = document::decide(transaction, verdict).await? else {
                let why = format!("the document {} is not there to be reviewed any more", verdict.document);
                return Err(EffectError::Refused(why));
            };
            let (status, action) = match verdict.approved {
                true => ("approved", "document.approved"),
                false => ("rejected", "document.rejected"),
            };
            let state = json!({
                "status": status, "type": kind, "userId": user, "reviewedBy": verdict.by, "reason": verdict.reason,
                "validUntil": verdict.valid_until.filter(|_| verdict.approved).map(question::time),
            });
            let audited = Audited {
                entity: "document",
                entity_id: &verdict.document.to_string(),
                action,
                run: self.run,
                previous: Some(json!({"status": "submitted"})),
                new: Some(state),
            };
            Ok(audit_write::write(transaction, &audited).await?)
        })
    }
}
