-- What a wake-up may be, and an attempt that failed and is tried again.

-- A failed attempt after which another one follows is not the end of its job: a tick that waited for its retry when the
-- queue was lost is made up for, one that failed for good is not.
ALTER TABLE job_execution
    DROP CONSTRAINT job_execution_state_check,
    ADD CONSTRAINT job_execution_state_check
        CHECK (state IN ('taken', 'committed', 'handed_back', 'retried', 'failed', 'lost', 'quarantined'));

-- The queue refuses more data, has no time called infinity, and no priority beyond this.
ALTER TABLE job_outbox
    ADD CONSTRAINT job_outbox_data_size CHECK (octet_length(data::text) <= 1048576),
    ADD CONSTRAINT job_outbox_due_at_finite CHECK (isfinite(due_at)),
    ADD CONSTRAINT job_outbox_tick_at_finite CHECK (isfinite(tick_at)),
    ADD CONSTRAINT job_outbox_priority_limit CHECK (priority <= 2097152);

INSERT INTO schema_version (version, compatible_from) VALUES (7, '0.1.0');
