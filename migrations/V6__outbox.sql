-- Jobs that a transaction wants added to the queue, written with its effects. Any worker sends them after the commit.
--
-- The row is the wake-up's identity. It stays until the job has ended, so that a Redis which was wiped gets it again; and
-- because only the latest take of the row may commit, and its end is committed with the effects, none runs twice.

CREATE TABLE job_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL CHECK (queue <> ''),
    -- The job's id in the queue, one per wake-up: not empty, no integer, no colon (BullMQ refuses those).
    job_id text NOT NULL CHECK (job_id ~ '[^0-9]' AND job_id !~ ':'),
    name text NOT NULL CHECK (name <> ''),
    data jsonb NOT NULL DEFAULT '{}',
    -- Not before this time, by the database's clock.
    due_at timestamptz NOT NULL DEFAULT now(),
    priority integer NOT NULL DEFAULT 0 CHECK (priority >= 0),
    attempts integer NOT NULL DEFAULT 4 CHECK (attempts > 0),
    -- The tick of a schedule that this job makes up for.
    tick_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    sent_at timestamptz,
    -- The epoch of the latest take.
    epoch bigint,
    ended_at timestamptz,
    ended text CHECK (ended IN ('completed', 'failed')),
    UNIQUE (queue, job_id),
    CHECK ((ended_at IS NULL) = (ended IS NULL))
);

CREATE INDEX job_outbox_unsent ON job_outbox (queue, id) WHERE sent_at IS NULL AND ended_at IS NULL;
CREATE INDEX job_outbox_pending ON job_outbox (queue, id) WHERE sent_at IS NOT NULL AND ended_at IS NULL;
CREATE INDEX job_outbox_ended_at ON job_outbox (ended_at) WHERE ended_at IS NOT NULL;

CREATE FUNCTION tell_outbox() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify(worker_channel(), 'outbox');
    RETURN NULL;
END $$;

CREATE TRIGGER tell_outbox AFTER INSERT ON job_outbox
    FOR EACH STATEMENT EXECUTE FUNCTION tell_outbox();

ALTER TABLE job_execution ADD COLUMN outbox_id bigint;

-- The job's take as before, and with it:
--
-- * `suspicions`: how many workers died while it ran. From the third on the outcome is `quarantined`: it is not run.
-- * `outbox`, `tick_at`: the row of the outbox that the job is, and the tick that it makes up for. Where that row has
--   completed before, the outcome is `done`: the queue got it twice. One that failed was brought back by hand, and runs.
DROP FUNCTION take_job(text, text, bigint, integer, text, integer, bigint, text, uuid, bigint);

CREATE FUNCTION take_job(
    p_queue text, p_job_id text, p_job_timestamp bigint, p_attempts_made integer, p_name text,
    p_attempts_started integer, p_processed_on bigint, p_instance text, p_invocation uuid, p_acknowledged bigint,
    OUT outcome text, OUT id bigint, OUT epoch bigint, OUT value json, OUT suspicions integer, OUT outbox bigint,
    OUT tick_at timestamptz
) LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout = '1s' AS $$
#variable_conflict use_column
DECLARE
    v_row job_execution%ROWTYPE;
    v_outbox job_outbox%ROWTYPE;
    v_new boolean;
    v_newer boolean;
    v_same boolean;
BEGIN
    suspicions := (SELECT count(*) FROM job_suspicion s
        WHERE s.queue = p_queue AND s.job_id = p_job_id AND s.job_timestamp = p_job_timestamp);
    FOR v_try IN 1..4 LOOP
        BEGIN
            INSERT INTO job_execution AS j (queue, job_id, job_timestamp, attempts_made, name, attempts_started,
                    processed_on, epoch, instance, invocation)
                VALUES (p_queue, p_job_id, p_job_timestamp, p_attempts_made, p_name, p_attempts_started,
                    p_processed_on, nextval('job_epoch'), p_instance, p_invocation)
                ON CONFLICT (queue, job_id, job_timestamp, attempts_made) DO NOTHING
                RETURNING j.* INTO v_row;
            v_new := FOUND;
            IF NOT v_new THEN
                SELECT j.* INTO v_row FROM job_execution j
                    WHERE j.queue = p_queue AND j.job_id = p_job_id AND j.job_timestamp = p_job_timestamp
                        AND j.attempts_made = p_attempts_made
                    FOR UPDATE;
            END IF;
            -- Locked in the order of the fences. The row may have been pruned between the two statements: the next turn
            -- inserts it.
            IF v_row.id IS NOT NULL THEN
                SELECT o.* INTO v_outbox FROM job_outbox o WHERE o.queue = p_queue AND o.job_id = p_job_id FOR UPDATE;
                EXIT;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            IF v_try = 4 THEN
                RAISE;
            END IF;
            v_row := NULL;
            PERFORM terminate_epoch(j.epoch) FROM job_execution j
                WHERE j.queue = p_queue AND j.job_id = p_job_id AND j.job_timestamp = p_job_timestamp
                    AND j.attempts_made = p_attempts_made;
            PERFORM terminate_epoch(o.epoch) FROM job_outbox o WHERE o.queue = p_queue AND o.job_id = p_job_id;
        END;
    END LOOP;
    IF v_row.id IS NULL THEN
        RAISE lock_not_available USING MESSAGE = 'the ledger row of the job came and went';
    END IF;

    v_newer := p_attempts_started > v_row.attempts_started OR p_processed_on > v_row.processed_on;
    v_same := p_attempts_started = v_row.attempts_started AND p_processed_on = v_row.processed_on
        AND p_invocation = v_row.invocation;
    id := v_row.id;
    epoch := v_row.epoch;
    outbox := v_outbox.id;
    tick_at := v_outbox.tick_at;

    IF v_new THEN
        outcome := 'taken';
    ELSIF NOT v_newer AND NOT v_same THEN
        outcome := 'outranked';
        RETURN;
    ELSIF v_row.state = 'committed' AND (v_same OR p_acknowledged IS NULL OR p_acknowledged < v_row.epoch) THEN
        -- The epoch stays: it is the one that the finish has to acknowledge.
        UPDATE job_execution j
            SET attempts_started = p_attempts_started, processed_on = p_processed_on, instance = p_instance,
                invocation = p_invocation, updated_at = now()
            WHERE j.id = v_row.id AND v_newer;
        outcome := 'committed';
        value := v_row.value;
        RETURN;
    ELSIF v_same AND v_row.state = 'taken' THEN
        -- Asked again because the first answer was lost.
        outcome := 'taken';
    ELSE
        UPDATE job_execution j
            SET name = p_name, attempts_started = p_attempts_started, processed_on = p_processed_on,
                epoch = nextval('job_epoch'), instance = p_instance, invocation = p_invocation, state = 'taken',
                value = NULL, cancel_requested_at = NULL, cancel_reason = NULL,
                taken_at = now(), updated_at = now()
            WHERE j.id = v_row.id
            RETURNING j.epoch INTO epoch;
        outcome := 'taken';
        PERFORM terminate_epoch(v_row.epoch);
    END IF;

    IF v_outbox.ended = 'completed' THEN
        DELETE FROM job_execution j WHERE j.id = v_row.id;
        outcome := 'done';
    ELSIF suspicions >= 3 THEN
        UPDATE job_execution j SET state = 'quarantined', updated_at = now() WHERE j.id = v_row.id;
        outcome := 'quarantined';
    ELSIF v_outbox.id IS NOT NULL THEN
        UPDATE job_execution j SET outbox_id = v_outbox.id WHERE j.id = v_row.id;
        IF v_outbox.epoch IS NOT NULL AND v_outbox.epoch <> epoch THEN
            PERFORM terminate_epoch(v_outbox.epoch);
        END IF;
        UPDATE job_outbox o SET epoch = take_job.epoch, ended = NULL, ended_at = NULL,
                sent_at = coalesce(o.sent_at, now())
            WHERE o.id = v_outbox.id;
    END IF;
END $$;

-- Whether a lease is still the latest, in the ledger and, for a job of the outbox, there too. The rows stay locked until
-- the transaction has ended, so that no take can come between.
CREATE OR REPLACE FUNCTION fence(p_id bigint, p_epoch bigint) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_outbox bigint;
BEGIN
    SELECT j.outbox_id INTO v_outbox FROM job_execution j
        WHERE j.id = p_id AND j.epoch = p_epoch AND j.state = 'taken' FOR SHARE;
    IF FOUND AND v_outbox IS NOT NULL THEN
        PERFORM FROM job_outbox o WHERE o.id = v_outbox AND o.epoch = p_epoch AND o.ended_at IS NULL FOR SHARE;
    END IF;
    IF NOT FOUND THEN
        RAISE SQLSTATE 'FL001' USING MESSAGE = 'the lease of epoch ' || p_epoch || ' is lost';
    END IF;
END $$;

-- The fence of the transaction that finishes the job: its return value, and the end of its wake-up, are committed with
-- its effects.
CREATE OR REPLACE FUNCTION fence_result(p_id bigint, p_epoch bigint, p_value json) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_outbox bigint;
BEGIN
    UPDATE job_execution j SET state = 'committed', value = p_value, updated_at = now()
        WHERE j.id = p_id AND j.epoch = p_epoch AND j.state = 'taken'
        RETURNING j.outbox_id INTO v_outbox;
    IF FOUND AND v_outbox IS NOT NULL THEN
        UPDATE job_outbox o SET ended = 'completed', ended_at = now()
            WHERE o.id = v_outbox AND o.epoch = p_epoch AND o.ended_at IS NULL;
    END IF;
    IF NOT FOUND THEN
        RAISE SQLSTATE 'FL001' USING MESSAGE = 'the lease of epoch ' || p_epoch || ' is lost';
    END IF;
END $$;

INSERT INTO schema_version (version, compatible_from) VALUES (6, '0.1.0');
