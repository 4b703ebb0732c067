//! Panics become failures with a reason and a stack.

use futures_util::FutureExt;
use std::{any::Any, backtrace::Backtrace, cell::RefCell, future::Future, panic::AssertUnwindSafe, time::Duration};

/// How long something that panicked rests before it begins again.
const REST: Duration = Duration::from_millis(500);

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A caught panic.
#[derive(Debug)]
pub struct Panic {
    /// What it said, and where.
    pub message: String,
    /// The stack at that place, if the hook of [`install_hook`] saw it.
    pub stack: Option<String>,
}

/// Makes panics leave their stack behind for [`catch`], and a line in the log instead of raw text on stderr.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
        let message = text(info.payload());
        tracing::error!("panic{place}: {message}");
        let stack = format!("panic: {message}\n    in{place}\n{}", Backtrace::force_capture());
        LAST.with(|last| *last.borrow_mut() = Some(stack));
    }));
}

/// Runs a future; a panic in it is an error.
pub async fn catch<T>(future: impl Future<Output = T>) -> Result<T, Panic> {
    #[cfg(feature = "test-jobs")]
    if crate::switches::off("panics") {
        return Ok(future.await);
    }
    // The value that panicked is dropped with the future, so nothing broken is looked at afterwards.
    AssertUnwindSafe(future)
        .catch_unwind()
        .await
        .map_err(|payload| Panic { message: text(payload.as_ref()), stack: LAST.with(|last| last.borrow_mut().take()) })
}

/// Runs what has no end: after a panic it begins again, with a line in the log and a pause.
pub async fn again<F: Future<Output = ()>>(what: &str, mut begin: impl FnMut() -> F) {
    while let Err(panic) = catch(begin()).await {
        tracing::error!("{what} begins again after a panic: {}", panic.message);
        tokio::time::sleep(REST).await;
    }
}

fn text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, time::Instant};

    #[tokio::test]
    async fn a_panic_is_an_error_with_its_message() {
        let caught = catch(async {
            if true {
                panic!("no {}", "luck")
            }
        })
        .await;
        assert_eq!(caught.unwrap_err().message, "no luck");
    }

    #[tokio::test]
    async fn what_panics_begins_again_after_a_rest_and_its_neighbours_go_on() {
        let (begun, since) = (Cell::new(0), Instant::now());
        let fragile = again("the fragile one", || async {
            begun.set(begun.get() + 1);
            assert!(begun.get() > 3, "not yet");
        });
        let steady = async {
            tokio::time::sleep(REST / 2).await;
            begun.get()
        };
        let ((), meanwhile) = tokio::join!(fragile, steady);
        assert_eq!(meanwhile, 1, "it does not spin");
        assert_eq!(begun.get(), 4);
        assert!(since.elapsed() >= REST * 3, "{:?}", since.elapsed());
    }
}
