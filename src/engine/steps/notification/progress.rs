//! What has become of the mails of a visit so far.
//!
//! While the step sends, it is noted as its result now and then; between two tries the result has those who have got their
//! mail. So nobody who has got it gets it again because the server refused another one, or the worker was stopped.

use crate::engine::run::storable;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// After so long it is noted what has become of the mails, before the others are sent.
const NOTE_AFTER: Duration = Duration::from_secs(10);

/// So much time a try may lose to mails that the server did not take for now: twice its silence. One whose answer takes
/// longer is not well, and is left in peace until the next try. One that says "later" to a few people at once is well, and
/// the others get their mail.
const MOST_LOST: Duration = Duration::from_secs(45);

/// The mails of a visit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// Who has got it.
    sent: BTreeSet<String>,
    /// Who was refused for good in this try.
    refused: Vec<Unsent>,
    /// Who was put off in this try.
    put_off: Vec<Unsent>,
    /// For how long the server was waited for by those who were put off.
    lost_ms: u64,
}

/// A mail that was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Unsent {
    to: String,
    why: String,
}

impl Unsent {
    fn new(to: &str, why: &str) -> Unsent {
        // It is stored, and the server's words are among it.
        Unsent { to: to.to_string(), why: storable::sentence(why) }
    }
}

/// What to do before the next mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is sent.
    Send,
    /// The progress is noted; then the step goes on.
    Note,
    /// The others wait for the next try.
    GiveUp,
}

impl Progress {
    /// As a result has it. In a new try (`goes_on` is false) everybody who has not got it is tried again.
    pub fn of(result: Option<&Value>, goes_on: bool) -> Progress {
        let noted = result.and_then(|result| Progress::deserialize(result).ok()).unwrap_or_default();
        if goes_on { noted } else { Progress { sent: noted.sent, ..Progress::default() } }
    }

    /// Whether this try has nothing to do for an address any more, under this spelling or another one.
    pub fn knows(&self, address: &str) -> bool {
        let unsent = self.refused.iter().chain(&self.put_off).map(|one| &one.to);
        self.sent.iter().chain(unsent).any(|known| known.eq_ignore_ascii_case(address))
    }

    /// The server has taken it over.
    pub fn sent(&mut self, to: &str) {
        self.sent.insert(to.to_string());
    }

    /// It will not be sent.
    pub fn refused(&mut self, to: &str, why: &str) {
        self.refused.push(Unsent::new(to, why));
    }

    /// It was not sent for now, which took so long.
    pub fn put_off(&mut self, to: &str, why: &str, took: Duration) {
        self.put_off.push(Unsent::new(to, why));
        self.lost_ms = self.lost_ms.saturating_add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    }

    /// What to do before the next mail, so long after the last note.
    pub fn next(&self, since_note: Duration) -> Next {
        if Duration::from_millis(self.lost_ms) >= MOST_LOST {
            Next::GiveUp
        } else if since_note >= NOTE_AFTER {
            Next::Note
        } else {
            Next::Send
        }
    }

    /// All of it, for whoever goes on.
    pub fn noted(&self) -> Option<Value> {
        serde_json::to_value(self).ok()
    }

    /// Who has got it, when the try is over.
    pub fn result(&self) -> Option<Value> {
        Some(json!({ "sent": self.sent }))
    }

    /// Why not everybody has got it, in a sentence, and whether that may pass; nothing if everybody has.
    pub fn failure(&self) -> Option<(String, bool)> {
        let refused: Vec<String> = self.refused.iter().map(|one| format!("{}: {}", one.to, one.why)).collect();
        let refused = refused.join("; ");
        match (self.put_off.first(), &refused[..]) {
            (None, "") => None,
            (None, refused) => Some((format!("not every mail was sent: {refused}"), false)),
            (Some(Unsent { to, why }), "") => Some((format!("the mail to {to} was not sent: {why}"), true)),
            (Some(Unsent { to, why }), refused) => {
                Some((format!("the mail to {to} was not sent: {why}; refused for good: {refused}"), true))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    /// What is read from a note, by whoever goes on or tries again.
    fn read(progress: &Progress, goes_on: bool) -> Progress {
        Progress::of(progress.noted().as_ref(), goes_on)
    }

    #[test]
    fn what_was_noted_is_what_goes_on() {
        let mut progress = Progress::default();
        progress.put_off("bob@example.org", "451 later", SOON);
        progress.refused("eve@example.org", "550 no such user\0");
        progress.sent("ada@example.org");
        assert_eq!(progress.next(SOON), Next::Send);
        assert_eq!(progress.next(NOTE_AFTER), Next::Note, "neither a refusal nor a delay is a reason to note nothing");
        let on = read(&progress, true);
        assert_eq!(on, progress);
        assert!(["ADA@example.org", "Bob@example.org", "eve@example.org"].iter().all(|to| on.knows(to)));
        assert!(!on.knows("zoe@example.org"));
        let (why, passing) = on.failure().unwrap();
        assert_eq!(
            why,
            "the mail to bob@example.org was not sent: 451 later; refused for good: eve@example.org: 550 no such user\u{fffd}"
        );
        assert!(passing);
        assert_eq!(storable::refusal(&on.noted().unwrap()), None);
        // The next try asks for everybody who has not got it.
        let again = read(&progress, false);
        assert!(again.knows("ada@example.org") && !again.knows("bob@example.org") && !again.knows("eve@example.org"));
        assert_eq!((again.failure(), again.result()), (None, Some(json!({"sent": ["ada@example.org"]}))));
        assert_eq!(Progress::of(again.result().as_ref(), true), again);
    }

    #[test]
    fn everybody_who_was_refused_is_named_in_the_end() {
        let mut progress = Progress::default();
        for to in ["bob@example.org", "eve@example.org"] {
            progress.refused(to, "550 no");
            progress = read(&progress, true);
        }
        let why = "not every mail was sent: bob@example.org: 550 no; eve@example.org: 550 no";
        assert_eq!(progress.failure(), Some((why.to_string(), false)));
    }

    #[test]
    fn a_server_that_is_silent_is_not_asked_for_each_recipient_in_turn() {
        let mut progress = Progress::default();
        progress.put_off("a@example.org", "did not answer", Duration::from_secs(30));
        assert_eq!(progress.next(Duration::from_secs(30)), Next::Note, "it may be this recipient's fault");
        progress = read(&progress, true);
        assert_eq!(progress.next(Duration::ZERO), Next::Send);
        progress.put_off("b@example.org", "did not answer", Duration::from_secs(30));
        assert_eq!(progress.next(Duration::from_secs(30)), Next::GiveUp);
        assert_eq!(read(&progress, false).next(Duration::ZERO), Next::Send);
        // Whoever answers at once may say no to all of them.
        let mut quick = Progress::default();
        (0..200).for_each(|number| quick.put_off(&format!("{number}@example.org"), "451 later", SOON));
        assert_eq!(quick.next(SOON), Next::Send);
    }

    #[test]
    fn a_result_of_another_form_is_none() {
        for other in [json!(null), json!([]), json!({"told": []}), json!({"sent": 5})] {
            assert_eq!(Progress::of(Some(&other), true), Progress::default(), "{other}");
        }
        assert_eq!(Progress::of(None, true), Progress::default());
    }
}
