//! What the connections of one process share: when one of them has reason to be rebuilt, all have.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// A counter that all links of a process share; raising it condemns every connection made before.
#[derive(Debug, Clone, Default)]
pub struct Fate(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    generation: watch::Sender<u64>,
    /// Where the primary was when a link last connected to it; only sentinels can say another one.
    primary: Mutex<Option<String>>,
}

impl Fate {
    /// The generation that a connection made now belongs to.
    pub(super) fn current(&self) -> u64 {
        *self.0.generation.borrow()
    }

    /// Condemns the connections of a generation; whether this was the first to do so.
    pub(super) fn condemn(&self, generation: u64) -> bool {
        #[cfg(feature = "test-jobs")]
        if crate::switches::off("reconnect") {
            return false;
        }
        self.0.generation.send_if_modified(|current| {
            // Only the first of many complaints about one generation counts.
            let first = *current == generation;
            *current += u64::from(first);
            first
        })
    }

    /// Waits until the present generation is condemned. Called before a connection is taken, it misses nothing.
    pub(super) fn condemned(&self) -> impl Future<Output = ()> + use<> {
        let mut generation = self.0.generation.subscribe();
        async move {
            // The sender lives in every link, so it cannot be gone while one waits.
            let _ = generation.changed().await;
        }
    }

    /// Waits until a connection of this generation is condemned.
    pub(super) fn left(&self, generation: u64) -> impl Future<Output = ()> + use<> {
        let mut present = self.0.generation.subscribe();
        async move {
            let _ = present.wait_for(|present| *present != generation).await;
        }
    }

    /// A link connected to the primary at this address; answers with the one before, if that was another.
    pub(super) fn connected_to(&self, address: &str) -> Option<String> {
        let mut primary = self.0.primary.lock().unwrap_or_else(PoisonError::into_inner);
        if primary.as_deref() == Some(address) {
            return None;
        }
        primary.replace(address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::Fate;
    use futures_util::FutureExt;

    #[test]
    fn many_complaints_about_one_generation_condemn_once() {
        let fate = Fate::default();
        let (before, waiting) = (fate.current(), fate.condemned());
        assert!(fate.condemn(before));
        assert!(!fate.condemn(before) && !fate.clone().condemn(before));
        assert_eq!(fate.current(), before + 1);
        assert!(waiting.now_or_never().is_some());
        assert!(fate.condemned().now_or_never().is_none(), "the new generation is not condemned");
        assert!(fate.left(before).now_or_never().is_some());
        assert!(fate.left(fate.current()).now_or_never().is_none());
    }

    #[test]
    fn another_primary_is_told_once() {
        let fate = Fate::default();
        assert_eq!(fate.connected_to("a:1"), None);
        assert_eq!(fate.connected_to("b:1").as_deref(), Some("a:1"));
        assert_eq!(fate.connected_to("b:1"), None);
    }
}
