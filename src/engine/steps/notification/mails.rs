//! Sends the mails of a step: one to each recipient.

use super::{
    progress::{Next, Progress},
    recipients::Recipient,
    texts::{Filler, Texts},
};
use crate::{
    engine::run::{Ending, Visit},
    mail::{Message, MessageId},
    store::run::StepStatus,
};
use serde_json::Map;
use tokio::time::Instant;

/// Sends a mail to each of them.
pub async fn send(visit: &Visit<'_>, recipients: &[Recipient], texts: &Texts) -> Ending {
    let mailer = &visit.tools.mailer;
    if let Err(error) = mailer.sender() {
        return Ending::failed(error.reason);
    }
    let mut filler = texts.of_visit(visit);
    // All of them are looked at before the first one is sent, and none is kept: together they may be larger than the memory.
    for recipient in recipients {
        if let Err(why) = mail(visit, recipient, &mut filler) {
            return Ending::failed(why);
        }
    }
    let mut progress = Progress::of(visit.result, visit.waits);
    let begun = Instant::now();
    for recipient in recipients {
        let Some(to) = recipient.email.as_deref().filter(|to| !progress.knows(to)) else { continue };
        match progress.next(begun.elapsed()) {
            Next::Send => {}
            Next::Note => return go_on_later(visit, &progress),
            Next::GiveUp => break,
        }
        let mail = match mail(visit, recipient, &mut filler) {
            Ok(mail) => mail,
            Err(why) => {
                progress.refused(to, &why);
                continue;
            }
        };
        let asked = Instant::now();
        match mailer.send(&mail).await {
            Ok(()) => progress.sent(to),
            Err(error) if error.passing => {
                progress.put_off(to, &error.reason, asked.elapsed());
                if !error.reached {
                    break;
                }
            }
            Err(error) => progress.refused(to, &error.reason),
        }
    }
    let (result, set) = (progress.result(), Map::new());
    match progress.failure() {
        None => Ending::Done { outcome: "success".into(), set, result, effects: Vec::new() },
        Some((reason, passing)) => {
            Ending::Failed { reason, outcome: "error", set, result, passing, effects: Vec::new() }
        }
    }
}

/// Notes what has become of the mails, and goes on at once: a long list is no reason to do all of it again after a crash, nor
/// to keep a worker from stopping.
fn go_on_later(visit: &Visit<'_>, progress: &Progress) -> Ending {
    Ending::Waits {
        status: StepStatus::WaitingResponse,
        until: Some(visit.now),
        result: progress.noted(),
        assignment: None,
        effects: Vec::new(),
    }
}

fn mail(visit: &Visit<'_>, recipient: &Recipient, filler: &mut Filler<'_>) -> Result<Message, String> {
    let [subject, text, html] = filler.fill(recipient)?;
    let to = recipient.mailbox()?;
    Ok(Message {
        id: MessageId::of_visit(visit.run, &visit.step.id, visit.number, &to.email),
        to,
        subject: subject.unwrap_or_else(|| visit.step.name.clone()),
        text,
        html,
    })
}
