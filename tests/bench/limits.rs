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
not log. With ledger it is the daemon, in the environment that its unit sets, running `test.echo`, which logs a line for each job, to
/dev/null.";

/// What limits a figure, as it was found on the machine of the results that are kept; who measures anew looks anew.
pub fn of(key: &str) -> &'static str {
    LIMITS.iter().find(|(known, _)| *known == key).map_or("not known", |(_, text)| text)
}

const LIMITS: [(&str, &str); 8] = [
    (
        "growth",
        "Elsewhere, of 2.2 MB, 1.4 came with the first 100,000 jobs, 0.6 MB with the next 400,000 and 0.2 MB with the last 500,000. No \
         object stays: of 9.3 million allocations in 52,000 jobs 953 bytes were not freed. What grows is the heap of glibc, \
         by what it needs at once at most, as when lost jobs are searched for; before all threads shared one heap and that \
         search took smaller portions it was 5.5 MB.",
    ),
    (
        "latency",
        "The machine: from round to round the same worker's p99 was 1.5 to 13.1 ms, the official crate's 3.0 to 8.2 ms and that \
         of Node's 5.9 to 11.7 ms. On another machine it was 1.0 ms, and 0.85 × the official crate's.",
    ),
    (
        "ledger-rate",
        "Found when the machine was twice as fast: one at a time a job takes 686 µs, of which the transactions are \
         342 µs (pgbench's); fetch and finish in \
         Redis, the look at the lock after the take, and the worker's own 171 µs of CPU come one after the other and \
         cannot overlap. 8 at a time the two cores are shared by all: PostgreSQL with 0.95, the worker with 0.40 and \
         Redis with 0.30 cores, where pgbench has the machine for PostgreSQL alone.",
    ),
    (
        "memory",
        "11.8 of 15.1 MB are pages of the program's file and its libraries, which are the kernel's to take back; 3.3 MB are its \
         own. An earlier commit had 14.9 MB on another machine.",
    ),
    (
        "plain-rate",
        "Found when the machine was twice as fast: 1 at a time: 152 µs a job beside 141; 3.5 µs of that are in Redis, \
         where each script of ours also asks \
         whether a 5.x client has paused the queue (24.4 commands a job beside 22.5), 5.5 µs are CPU of the worker. 8 \
         at a time: Redis is busy for 0.77 cores only and the worker for 0.25, so both wait for each other: a turn of \
         eight jobs takes 476 µs, of which Redis works 363. The eight go in step over one connection: in a trace of \
         its system calls 72 % of the commands left together with three or more others, and 60 % of the answers were \
         read six or more at once. The official crate keeps Redis at 0.96 cores. 64 at a time Redis has no time left \
         (0.99), and the difference is within the spread: a second run of the same build found 1.13 × (1.03 to 1.21), \
         and 0.84 × (0.78 to 0.88) at 8.",
    ),
    (
        "start",
        "By itself on the idle machine the same program takes 20 ms, with and without asking PostgreSQL for TLS: in a trace of \
         its system calls a quarter of that is gone before the first connection, and more than half goes into PostgreSQL's first three \
         sessions, one after the other. What is beyond that is what else the machine has to do.",
    ),
    (
        "runs-rate",
        "What comes before and after the steps of a run, and the sandbox: by a profile 8 at a time the server has 63 % of the \
         machine, the sandbox and the worker 11 % each.",
    ),
    (
        "runs-rows",
        "What a step's commit is: pgbench alone does not reach it by the same statement. Without the checks and triggers of \
         the two tables, which PostgreSQL prepares anew in each statement, pgbench makes 1.4 times as many of these commits \
         8 at a time; with a statement for the commonest case alone, which updates the step's row instead of inserting over \
         it and has the fence in it, 1.25 times as many. By a profile 8 at a time the server has 63 % of the machine, the \
         sandbox and the worker 11 % each.",
    ),
];
