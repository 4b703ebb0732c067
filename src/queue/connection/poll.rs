//! What the sentinels answered so far, and what follows from it.
//!
//! They are all asked at once, so that a dead one holds nothing up, and they may disagree: one that was cut off, or has
//! just come back, names the primary of yesterday. So the address that most of them name is tried first.

use crate::queue::error::Error;

/// Host name or address, and port, as a sentinel gives them.
pub(super) type Address = (String, u16);

/// The answers to one question, by sentinel.
pub(super) struct Poll {
    answers: Vec<Option<Result<Address, Error>>>,
}

impl Poll {
    /// Nobody of so many has answered yet.
    pub(super) fn new(sentinels: usize) -> Poll {
        Poll { answers: (0..sentinels).map(|_| None).collect() }
    }

    /// One has answered, or will not.
    pub(super) fn record(&mut self, sentinel: usize, answer: Result<Address, Error>) {
        if let Some(slot) = self.answers.get_mut(sentinel) {
            *slot = Some(answer);
        }
    }

    /// Whether all have answered, or will not.
    pub(super) fn is_complete(&self) -> bool {
        self.answers.iter().all(Option::is_some)
    }

    /// What more than half of all sentinels name, whether or not the others have answered.
    pub(super) fn majority(&self) -> Option<&Address> {
        self.named().find(|address| self.votes(address) * 2 > self.answers.len())
    }

    /// What most of them name and was not tried yet. Where two have as many votes, the word of `favourite` counts more.
    pub(super) fn leader(&self, tried: &[Address], favourite: usize) -> Option<&Address> {
        let favoured = self.answers.get(favourite).and_then(Option::as_ref).and_then(|answer| answer.as_ref().ok());
        let candidates = self.named().filter(|address| !tried.contains(address));
        // The last of equal ones is taken by max_by_key, and the first is meant.
        candidates.rev().max_by_key(|address| (self.votes(address), favoured == Some(address)))
    }

    /// Whether anything but `address` and what was tried is named.
    pub(super) fn has_other(&self, tried: &[Address], address: &Address) -> bool {
        self.named().any(|other| other != address && !tried.contains(other))
    }

    /// The first sentinel that names this address.
    pub(super) fn voter(&self, address: &Address) -> Option<usize> {
        self.answers.iter().position(|answer| matches!(answer, Some(Ok(named)) if named == address))
    }

    /// Why sentinels named nothing, by sentinel.
    pub(super) fn failures(&self) -> impl Iterator<Item = (usize, &Error)> {
        self.answers.iter().enumerate().filter_map(|(index, answer)| Some((index, answer.as_ref()?.as_ref().err()?)))
    }

    fn named(&self) -> impl DoubleEndedIterator<Item = &Address> {
        self.answers.iter().flatten().filter_map(|answer| answer.as_ref().ok())
    }

    fn votes(&self, address: &Address) -> usize {
        self.named().filter(|named| *named == address).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        ("10.0.0.1".to_string(), port)
    }

    /// A poll in which 0 stands for no answer yet, and 1 for a failure.
    fn poll(answers: &[u16]) -> Poll {
        let mut poll = Poll::new(answers.len());
        for (index, port) in answers.iter().enumerate().filter(|(_, port)| **port != 0) {
            let failed = Error::unavailable("x", "is down");
            poll.record(index, if *port == 1 { Err(failed) } else { Ok(at(*port)) });
        }
        poll
    }

    #[test]
    fn more_than_half_of_all_is_a_majority() {
        for (answers, majority) in [
            (&[7, 7, 0][..], Some(at(7))),
            (&[8, 7, 7], Some(at(7))),
            (&[7], Some(at(7))),
            (&[7, 0, 0], None),
            (&[7, 1, 1], None),
            (&[7, 7, 8, 8], None),
            (&[7, 8], None),
            (&[1, 1, 1], None),
        ] {
            assert_eq!(poll(answers).majority().cloned(), majority, "{answers:?}");
        }
    }

    #[test]
    fn the_leader_has_most_votes_and_then_the_favourite_s() {
        for (answers, favourite, leader) in [
            (&[8, 7, 7][..], 0, Some(at(7))),
            (&[8, 7, 0], 1, Some(at(7))),
            (&[8, 7, 0], 0, Some(at(8))),
            (&[8, 7, 1], 2, Some(at(8))),
            (&[1, 0, 7], 9, Some(at(7))),
            (&[1, 0, 1], 0, None),
        ] {
            assert_eq!(poll(answers).leader(&[], favourite).cloned(), leader, "{answers:?}");
        }
        assert_eq!(poll(&[8, 7, 7]).leader(&[at(7)], 1), Some(&at(8)), "what was tried is passed over");
        assert_eq!(poll(&[7, 7]).leader(&[at(7)], 0), None);
    }

    #[test]
    fn what_is_still_open_is_known() {
        assert!(!poll(&[7, 1, 0]).is_complete() && poll(&[7, 1]).is_complete());
        assert!(poll(&[7, 8]).has_other(&[], &at(7)) && !poll(&[7, 8]).has_other(&[at(8)], &at(7)));
        assert_eq!((poll(&[1, 7, 7]).voter(&at(7)), poll(&[1, 7]).voter(&at(9))), (Some(1), None));
        assert_eq!(poll(&[1, 7, 1]).failures().map(|(index, _)| index).collect::<Vec<_>>(), [0, 2]);
    }
}
