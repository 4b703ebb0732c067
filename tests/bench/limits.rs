//! The words of the results: how it was measured, and what stands in the way of a figure that is not reached.

/// How it was measured. `ROUNDS` is replaced.
pub const HOW: &str = "\
Every cell is the median of ROUNDS rounds with the least and the most; factors are medians of the quotients round by round.
In each round all workers have their turn, one after the other, each a process of its own, against the same servers: one
Redis over TCP on loopback without persistence, and one PostgreSQL with the durability that Debian ships (fsync,
synchronous_commit and full_page_writes on; shared_buffers 128 MB; 100 connections). The driver only looks, every 5 ms.

The jobs are in the queue before a worker starts, with removeOnComplete, and the part between the first tenth and the last
tenth of them is measured, so that no start counts. CPU times are those of the processes, by their own clocks; \"others\" is
what the rest of the machine used at the same time: the programs of strangers, and what its host took away.
Without a ledger our worker is this library's consumer with its renewal thread and a handler that does nothing; it does
not log. With ledger it is the daemon, running `test.echo`, which logs a line for each job, to /dev/null.";

/// What limits a figure.
pub fn of(key: &str) -> &'static str {
    LIMITS.iter().find(|(known, _)| *known == key).map_or("not known", |(_, text)| text)
}

const LIMITS: [(&str, &str); 0] = [];
