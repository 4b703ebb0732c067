//! The kinds of log events: one `MESSAGE_ID` each, so that `journalctl MESSAGE_ID=…` finds all of a kind and
//! `journalctl -x` explains them (`systemd/floh-worker.catalog`, which a test compares with this list).
//!
//! An event is logged as
//!
//! ```
//! # let (id, name, took_ms) = ("42", "stuck-run-recovery", 12);
//! tracing::info!(
//!     message_id = floh_worker::events::JOB_COMPLETED,
//!     floh_job_id = %id,
//!     floh_job_name = %name,
//!     took_ms,
//!     "job completed",
//! );
//! ```
//!
//! In the journal every field appears under its own name in capitals (`FLOH_JOB_ID=42`). On a terminal the `floh_` is
//! left out and the `message_id` not shown. Fields that hold for all lines of a job belong into a span around it
//! ([`job_span!`](crate::job_span)). Names that the journal gives a meaning (`message`, `priority`, `unit`,
//! `code_file`, `syslog_identifier`, see systemd.journal-fields(7)) must not be used for other things.
//!
//! These are plain values: any module may use them.

/// One constant per kind, and the list of them all.
macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $id:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $id;)*

        /// Every kind of event: its constant's name and its id.
        pub const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

events! {
    /// The process began to start.
    WORKER_STARTED = "9cd97313a33241e6a3dc9172a8d191f6";
    /// Everything answered; jobs are fetched from now on.
    WORKER_READY = "b40457a36dbb4ed8a7cad0e4b67efbfa";
    /// No new jobs; running ones may finish.
    WORKER_DRAINING = "1aeacd24d00f4435a3f94436170dd3a2";
    /// The end after a drain.
    WORKER_STOPPED = "96c24aa0afe543b098a48e9e5ad87241";
    /// The end for another reason.
    WORKER_FAILED = "d8a4364e75ce4fe2ad8df7358a4526b6";
    /// A mistake in the configuration, one event each.
    CONFIG_MISTAKE = "36010f81ff3b4cafaf7b99b3b6b797c8";
    /// Something odd or notable in the configuration, one event each.
    CONFIG_NOTICE = "e4e49a875e2543b0b662e9bc990bf1c4";
    /// Redis, PostgreSQL or another service does not answer.
    DEPENDENCY_DOWN = "ede627dbd461421d9a2d38f0e1e25aab";
    /// It answers again.
    DEPENDENCY_UP = "322103b9113e460ebf240f4bc80ba2e5";
    /// Redis' primary is another server than before.
    PRIMARY_CHANGED = "4476de65ff634829a24078d7c0b2aee3";
    /// The database's schema is missing or too old; the worker waits for it.
    SCHEMA_WAITING = "1facaef93bca401ea1b06ad4424c8190";
    /// The database's schema is too new for this worker.
    SCHEMA_REFUSED = "e589dbede83d417daa83d507e0a68ae4";
    /// An attempt at a job began.
    JOB_STARTED = "90b8a88470094aa0b2867f811d894a3f";
    /// The job is done.
    JOB_COMPLETED = "f62383806f3b4e579e903b0d8e233901";
    /// The job failed for good and is retained.
    JOB_FAILED = "19098c244f5649aabc6eb722e4d99e70";
    /// The attempt failed; another one follows.
    JOB_RETRIED = "6eff6bf19d9944e7823c97975dcdbbcf";
    /// The job was interrupted and given back to the queue, without an attempt charged.
    JOB_HANDED_BACK = "488e02bc95684460a15f48068659d6b3";
    /// The job was interrupted and could not be given back; it waits until its lock expires.
    JOB_ABANDONED = "378dde56c51b41cc9237dee4feea30b0";
    /// The lease on the job was lost while it ran; its work was cancelled.
    JOB_LOST = "e617e26f831b45d5a705df5b2ceaf8e0";
    /// A job whose worker vanished was put back into the queue.
    JOB_STALLED = "83bc9f28ef0b473ba359f12920b98441";
    /// The job could not be run at all: an unknown name, or data that cannot be read.
    JOB_REFUSED = "b9aa62e01f36408f82c6008baef19da1";
    /// Workers died while the job ran: it is suspected, and runs alone from now on.
    JOB_SUSPECTED = "5d0c9f1b6a1e4c6f8b1a4e0d5a7c3f92";
    /// Too many workers died while the job ran: it is failed and not run again until somebody releases it.
    JOB_QUARANTINED = "c1f4a3d27be84c0f9a6e52b7d80e1c35";
    /// The job ran longer than it may.
    JOB_TIMED_OUT = "2a7e6c58f0b94d7fb3c1d94e8a605b17";
    /// Somebody asked for the running job to be cancelled.
    JOB_CANCELLED = "8e3b5d90c6a24f1d97f02c4b6a1de853";
    /// What the previous life of this instance held was given back.
    PREDECESSOR_RECLAIMED = "b7d15f3e9c0a4826ae4d13f57c92e06a";
    /// The cgroup's memory is nearly used up: no new job is taken, or the worker restarts.
    MEMORY_PRESSURE = "f40a9be26d7c4e3c8152d6b39e0f7a41";
    /// Wake-ups that the queue had lost were sent again.
    WAKE_UPS_RESTORED = "39c2e84fb51d47a0be6713d9f5ca8260";
    /// A row of the outbox cannot become a job.
    WAKE_UP_REFUSED = "6b1f0c9de27a4b85a3d47ce051f8926d";
    /// A step of a run is done.
    STEP_COMPLETED = "57a42025c25f49759b5aebf9aeefe2b9";
    /// A step of a run failed.
    STEP_FAILED = "950592745ceb433ebc90bb34fee7e273";
    /// A step of a run failed and is tried again.
    STEP_RETRIED = "a3df2f50d37942c2b9560457466d1f71";
    /// A run waits for a person or a time.
    RUN_WAITING = "ad54fe226db448d3aec76b67b07ae4e9";
    /// A run has ended well.
    RUN_COMPLETED = "ffdf1e0028e14f339a0ed2414fb0d16c";
    /// A run has failed.
    RUN_FAILED = "e31a599d41b942b89f00e458163cbde9";
    /// A run was cancelled.
    RUN_CANCELLED = "f407a94827bc4a30bfe9bb5b04c8fd9c";
    /// An approver was told that something is to be decided.
    APPROVER_ASKED = "912428d1c77d49d2838766c065d37085";
    /// An approver who has not decided was reminded.
    APPROVER_REMINDED = "99d38d1c64794ff6ac93c3868278bc7f";
    /// Somebody else is asked to decide.
    APPROVAL_REASSIGNED = "90cfacb6d1cc4dd28eba3841cd4f61a4";
    /// Somebody else should have been asked, and could not be.
    APPROVAL_NOT_REASSIGNED = "90b0624658294cf3a265cc4da83d8b9f";
    /// A run was started by a job or a tick.
    RUN_TRIGGERED = "4b0f6d8a2c7e4f0e9d51a3c6b8e72f14";
    /// A run of a schedule waits until the one before it has ended.
    RUN_HELD = "e27c1b9058d3467fb1a60d94f3c5827e";
    /// A tick of a schedule started nothing, because a run of it had not ended.
    TICK_OVERLAPS = "93d5e0f7a1b84c62870fd2e6b49c13a5";
    /// Ticks of a schedule that were missed are not made up for.
    TICKS_GIVEN_UP = "0a7be3c64f1d4925b8e89f0c25d7361b";
    /// A schedule cannot be kept, because of its expression or its zone.
    SCHEDULE_REFUSED = "c85f2e01d97a4b3ea64b70d31f9e28c6";
    /// Ticks of a periodic job that were missed are run now.
    TICKS_MADE_UP = "d4c8a57f13e64920b6e9017ad5f2c38b";
    /// One option of a job could not be read and is ignored.
    JOB_OPTION_IGNORED = "4959e49d3ffb4412b28b3df494871c38";
    /// The queue was paused.
    QUEUE_PAUSED = "dad9ef34dba644a4a433a74dada17856";
    /// The queue goes on.
    QUEUE_RESUMED = "9f4396bcd9a841a291403bd5bc06b277";
    /// A job scheduler was added, or changed to what the configuration says.
    SCHEDULER_ADDED = "6df581582656483085d1ae3296670cdd";
    /// A job scheduler was left as it is.
    SCHEDULER_SKIPPED = "55ef05ffabc3441f886b25d54e2d68cd";
    /// A periodic job was not run because another job has run the same tick.
    TICK_SKIPPED = "18b4aa8ef82048cb8231e7f2b8cfc083";
    /// A checkpoint over the audit log was signed, now or by a worker that may have ended before it could say so.
    CHECKPOINT_MADE = "0330c949f4cd45a39846689a2a029ae9";
    /// Runs without progress were failed.
    RUNS_FAILED_AS_STUCK = "f2f20d8b193e4883b2bc9d0b29898d5f";
    /// Runs that had lost their wake-up were woken.
    RUNS_WOKEN = "84e0029d9d32468788be6b90058715f3";
}

/// The span around one attempt at a job: every line logged inside carries who it is about.
///
/// ```
/// let span = floh_worker::job_span!(id = "42", name = "stuck-run-recovery", attempt = 1);
/// span.in_scope(|| tracing::info!("half done"));
/// ```
///
/// `FLOH_RUN_ID` and `FLOH_STEP_ID` can be recorded later: `span.record("floh_run_id", …)`, each once.
#[macro_export]
macro_rules! job_span {
    (id = $id:expr, name = $name:expr, attempt = $attempt:expr) => {
        ::tracing::error_span!(
            "job",
            floh_job_id = %$id,
            floh_job_name = %$name,
            floh_attempt = $attempt,
            floh_run_id = ::tracing::field::Empty,
            floh_step_id = ::tracing::field::Empty,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::ALL;
    use std::collections::{BTreeMap, BTreeSet};

    const CATALOG: &str = include_str!("../systemd/floh-worker.catalog");

    #[test]
    fn ids_are_128_bits_and_unique() {
        let ids: BTreeSet<_> = ALL.iter().map(|(_, id)| id).collect();
        assert_eq!(ids.len(), ALL.len());
        let plain = |id: &str| id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        assert!(ids.iter().all(|id| plain(id)));
    }

    #[test]
    fn the_catalogue_explains_exactly_these_events() {
        let mut entries = BTreeMap::new();
        // Without an empty line before it, journalctl takes an entry for a part of the one before.
        assert_eq!(CATALOG.matches("\n-- ").count(), CATALOG.matches("\n\n-- ").count());
        for entry in CATALOG.split("\n-- ").skip(1) {
            let (id, text) = entry.split_once('\n').unwrap();
            assert!(entries.insert(id, text).is_none(), "{id} twice");
            let (head, body) = text.split_once("\n\n").unwrap_or_else(|| panic!("{id}: no empty line after the head"));
            assert!(head.starts_with("Subject: ") && head.contains("\nDefined-By: floh-worker"), "{id}: {head}");
            assert!(body.trim().len() > 40, "{id}: no explanation");
        }
        for (name, id) in ALL {
            assert!(entries.remove(id).is_some(), "{name} ({id}) has no entry");
        }
        assert!(entries.is_empty(), "unknown entries: {entries:?}");
    }
}
