-- The ledger: who works on which job, under which epoch, and what was committed.
--
-- Everything is created in the schema that the session's search_path names (DB_SCHEMA). Functions pin that path, so
-- that they mean the same tables whoever calls them.

-- Each version of the schema says from which worker version on it may be used.
CREATE TABLE schema_version (
    version integer PRIMARY KEY,
    compatible_from text NOT NULL CHECK (compatible_from ~ '^[0-9]+\.[0-9]+\.[0-9]+$'),
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row per process life of a worker; its heartbeat tells whether the leases of that invocation are live.
CREATE TABLE worker_instance (
    invocation uuid PRIMARY KEY,
    instance text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    -- Since when it has been heard of without a gap: an outage or a suspended machine begins it anew.
    alive_since timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX worker_instance_last_seen ON worker_instance (last_seen);

-- The fencing number. It only ever grows, over all jobs.
CREATE SEQUENCE job_epoch AS bigint;

-- One row per attempt of a job, that is per (queue, job_id, job_timestamp, attempts_made).
CREATE TABLE job_execution (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL,
    job_id text NOT NULL,
    -- The job's own `timestamp` (milliseconds), so that an id that is used again is another job.
    job_timestamp bigint NOT NULL,
    -- BullMQ's `atm`.
    attempts_made integer NOT NULL,
    name text NOT NULL,
    -- BullMQ's `ats` and `processedOn` (milliseconds) of the fetch that holds the epoch.
    attempts_started integer NOT NULL,
    processed_on bigint NOT NULL,
    epoch bigint NOT NULL,
    instance text NOT NULL,
    invocation uuid NOT NULL,
    state text NOT NULL DEFAULT 'taken'
        CHECK (state IN ('taken', 'committed', 'handed_back', 'failed', 'lost')),
    -- The return value as JSON text, kept as it was written; only with the state `committed`.
    value json,
    taken_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (queue, job_id, job_timestamp, attempts_made),
    CHECK (value IS NULL OR state = 'committed')
);

CREATE INDEX job_execution_updated_at ON job_execution (updated_at);
CREATE INDEX job_execution_invocation ON job_execution (invocation) WHERE state = 'taken';

-- The application_name of a session that works under an epoch. The schema's number is part of it, because two schemas
-- in one database have a sequence each.
CREATE FUNCTION epoch_label(p_epoch bigint) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT 'floh-worker epoch ' || p_epoch || ' of ' || 'job_execution'::regclass::oid
$$;

-- Ends the sessions that work under an epoch, so that a frozen holder cannot block its successor. Only sessions of the
-- same database and role are looked at. Returns how many there were.
CREATE FUNCTION terminate_epoch(p_epoch bigint) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_count integer;
BEGIN
    PERFORM pg_stat_clear_snapshot();
    SELECT count(pg_terminate_backend(pid)) INTO v_count
        FROM pg_stat_activity
        WHERE application_name = epoch_label(p_epoch)
            AND datname = current_database() AND usename = current_user AND pid <> pg_backend_pid();
    RETURN v_count;
END $$;

-- Takes a job: outcome `taken` (with the row's id and the epoch), `committed` (with the epoch and the value that its
-- finish has not acknowledged yet), or `outranked`.
--
-- A row that somebody holds for a second is in the hands of a frozen session: those of its epoch are ended, and the
-- take goes on. Committed but not acknowledged is the only thing that suppresses a run.
CREATE FUNCTION take_job(
    p_queue text, p_job_id text, p_job_timestamp bigint, p_attempts_made integer, p_name text,
    p_attempts_started integer, p_processed_on bigint, p_instance text, p_invocation uuid, p_acknowledged bigint,
    OUT outcome text, OUT id bigint, OUT epoch bigint, OUT value json
) LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout = '1s' AS $$
#variable_conflict use_column
DECLARE
    v_row job_execution%ROWTYPE;
    v_newer boolean;
    v_same boolean;
BEGIN
    FOR v_try IN 1..4 LOOP
        BEGIN
            INSERT INTO job_execution AS j (queue, job_id, job_timestamp, attempts_made, name, attempts_started,
                    processed_on, epoch, instance, invocation)
                VALUES (p_queue, p_job_id, p_job_timestamp, p_attempts_made, p_name, p_attempts_started,
                    p_processed_on, nextval('job_epoch'), p_instance, p_invocation)
                ON CONFLICT (queue, job_id, job_timestamp, attempts_made) DO NOTHING
                RETURNING j.* INTO v_row;
            IF FOUND THEN
                outcome := 'taken'; id := v_row.id; epoch := v_row.epoch;
                RETURN;
            END IF;
            SELECT j.* INTO v_row FROM job_execution j
                WHERE j.queue = p_queue AND j.job_id = p_job_id AND j.job_timestamp = p_job_timestamp
                    AND j.attempts_made = p_attempts_made
                FOR UPDATE;
            -- Pruned between the two statements: the next turn inserts it.
            EXIT WHEN FOUND;
        EXCEPTION WHEN lock_not_available THEN
            IF v_try = 4 THEN
                RAISE;
            END IF;
            PERFORM terminate_epoch(j.epoch) FROM job_execution j
                WHERE j.queue = p_queue AND j.job_id = p_job_id AND j.job_timestamp = p_job_timestamp
                    AND j.attempts_made = p_attempts_made;
        END;
    END LOOP;
    IF v_row.id IS NULL THEN
        RAISE lock_not_available USING MESSAGE = 'the ledger row of the job came and went';
    END IF;

    v_newer := p_attempts_started > v_row.attempts_started OR p_processed_on > v_row.processed_on;
    v_same := p_attempts_started = v_row.attempts_started AND p_processed_on = v_row.processed_on
        AND p_invocation = v_row.invocation;
    id := v_row.id;

    IF NOT v_newer AND NOT v_same THEN
        outcome := 'outranked'; epoch := v_row.epoch;
    ELSIF v_row.state = 'committed' AND (v_same OR p_acknowledged IS NULL OR p_acknowledged < v_row.epoch) THEN
        -- The epoch stays: it is the one that the finish has to acknowledge.
        UPDATE job_execution j
            SET attempts_started = p_attempts_started, processed_on = p_processed_on, instance = p_instance,
                invocation = p_invocation, updated_at = now()
            WHERE j.id = v_row.id AND v_newer;
        outcome := 'committed'; epoch := v_row.epoch; value := v_row.value;
    ELSIF v_same AND v_row.state = 'taken' THEN
        -- Asked again because the first answer was lost.
        outcome := 'taken'; epoch := v_row.epoch;
    ELSE
        UPDATE job_execution j
            SET name = p_name, attempts_started = p_attempts_started, processed_on = p_processed_on,
                epoch = nextval('job_epoch'), instance = p_instance, invocation = p_invocation, state = 'taken',
                value = NULL, taken_at = now(), updated_at = now()
            WHERE j.id = v_row.id
            RETURNING j.epoch INTO epoch;
        outcome := 'taken';
        PERFORM terminate_epoch(v_row.epoch);
    END IF;
END $$;

-- Opens a fenced transaction (the caller has sent BEGIN): names the session after its epoch, and ends early where the
-- lease is already gone. Returns the transaction's number, by which its fate can be looked up if the answer to COMMIT
-- is lost.
CREATE FUNCTION begin_fenced(p_id bigint, p_epoch bigint) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('application_name', epoch_label(p_epoch), true);
    IF NOT EXISTS (SELECT FROM job_execution j WHERE j.id = p_id AND j.epoch = p_epoch AND j.state = 'taken') THEN
        RAISE SQLSTATE 'FL001' USING MESSAGE = 'the lease of epoch ' || p_epoch || ' is lost';
    END IF;
    RETURN pg_current_xact_id()::text;
END $$;

-- The fence, the last statement before COMMIT: the row stays locked until the transaction has ended, so that no take
-- can come between. A lease that was released, or whose result is committed, is over.
CREATE FUNCTION fence(p_id bigint, p_epoch bigint) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM FROM job_execution j WHERE j.id = p_id AND j.epoch = p_epoch AND j.state = 'taken' FOR SHARE;
    IF NOT FOUND THEN
        RAISE SQLSTATE 'FL001' USING MESSAGE = 'the lease of epoch ' || p_epoch || ' is lost';
    END IF;
END $$;

-- The fence of the transaction that finishes the job: its return value is committed with its effects.
CREATE FUNCTION fence_result(p_id bigint, p_epoch bigint, p_value json) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE job_execution j SET state = 'committed', value = p_value, updated_at = now()
        WHERE j.id = p_id AND j.epoch = p_epoch AND j.state = 'taken';
    IF NOT FOUND THEN
        RAISE SQLSTATE 'FL001' USING MESSAGE = 'the lease of epoch ' || p_epoch || ' is lost';
    END IF;
END $$;

INSERT INTO schema_version (version, compatible_from) VALUES (1, '0.1.0');
