//! The daemon and the clients that API servers use: npm's BullMQ 5 and 6 on one queue with it, over real servers.
//!
//! What the worker does to the jobs is in its feature `test-jobs`: `test.echo` returns its data, `test.sleep` sleeps,
//! `test.fail` fails, `test.panic` panics, `test.progress` tells progress and logs, `test.effect` writes one row through
//! the fenced transaction.

/// Makes two tests out of a function `fn name(version: u8)`: with npm's BullMQ 5 and with 6.
macro_rules! by_5_and_6 {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[test]
            fn by_5() {
                super::$name(5);
            }

            #[test]
            fn by_6() {
                super::$name(6);
            }
        })*
    };
}

mod add;
mod events;
mod flow;
mod malformed;
mod mixed;
mod pause;
mod retry;
mod schedule;
