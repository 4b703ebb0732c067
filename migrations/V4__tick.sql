-- Ticks of periodic jobs: each is run once, however many schedulers announce it.

-- The job that claimed a tick keeps it: its retries and its runs after a crash are the same tick, any other job of the
-- same name and due time is not run.
CREATE TABLE job_tick (
    name text NOT NULL,
    due_at timestamptz NOT NULL,
    queue text NOT NULL,
    job_id text NOT NULL,
    -- The job's own `timestamp` (milliseconds).
    job_timestamp bigint NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, due_at)
);

CREATE INDEX job_tick_claimed_at ON job_tick (claimed_at);

INSERT INTO schema_version (version, compatible_from) VALUES (4, '0.1.0');
