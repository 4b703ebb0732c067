-- Deaths are charged by the ledger, whoever has the jobs by then; requests to cancel reach the latest attempt, and what
-- waits for its turn.

-- Process lives that ended with evidence against what they ran.
CREATE TABLE worker_death (
    invocation uuid PRIMARY KEY,
    host text NOT NULL,
    -- What systemd said: SERVICE_RESULT and EXIT_STATUS.
    evidence text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);

-- Runs that a take of another life has ended in the ledger, because the job's lock had expired: whether the life died
-- of them is not known yet. Its next heartbeat says that it did not, and removes them.
CREATE TABLE job_lost_run (
    invocation uuid NOT NULL,
    queue text NOT NULL,
    job_id text NOT NULL,
    job_timestamp bigint NOT NULL,
    name text NOT NULL,
    instance text NOT NULL,
    lost_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (invocation, queue, job_id, job_timestamp)
);

-- The lock that a death and a lost run of one life are written under: without it each could miss the other.
CREATE FUNCTION death_lock(p_invocation uuid) RETURNS bigint
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT hashtextextended('floh-worker death ' || p_invocation || ' ' || worker_channel(), 0)
$$;

-- Records how a life died, and charges it to the runs that it has lost. What it ran and nobody has taken since is
-- charged by its next take. Asked again it changes nothing. Returns the jobs that are suspected of it now.
CREATE FUNCTION record_death(p_invocation uuid, p_host text, p_evidence text) RETURNS SETOF text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(death_lock(p_invocation));
    INSERT INTO worker_death (invocation, host, evidence) VALUES (p_invocation, p_host, p_evidence)
        ON CONFLICT (invocation) DO NOTHING;
    RETURN QUERY INSERT INTO job_suspicion AS s
            (queue, job_id, job_timestamp, invocation, name, instance, host, evidence)
        SELECT l.queue, l.job_id, l.job_timestamp, l.invocation, l.name, l.instance, p_host, p_evidence
        FROM job_lost_run l WHERE l.invocation = p_invocation
        ON CONFLICT (queue, job_id, job_timestamp, invocation) DO UPDATE SET evidence = s.evidence
        RETURNING s.job_id;
END $$;

-- A take of another life ends this run. Where its life is known to have died, it is charged now. Returns how many
-- suspicions that adds.
CREATE FUNCTION lose_run(p_run job_execution) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_count integer;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(death_lock(p_run.invocation));
    INSERT INTO job_lost_run (invocation, queue, job_id, job_timestamp, name, instance)
        VALUES (p_run.invocation, p_run.queue, p_run.job_id, p_run.job_timestamp, p_run.name, p_run.instance)
        ON CONFLICT (invocation, queue, job_id, job_timestamp) DO UPDATE SET lost_at = now();
    INSERT INTO job_suspicion (queue, job_id, job_timestamp, invocation, name, instance, host, evidence)
        SELECT p_run.queue, p_run.job_id, p_run.job_timestamp, p_run.invocation, p_run.name, p_run.instance, d.host,
            d.evidence
        FROM worker_death d WHERE d.invocation = p_run.invocation
        ON CONFLICT (queue, job_id, job_timestamp, invocation) DO NOTHING;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

-- The take as before, and with it: a run that it ends in another life is remembered as lost.
CREATE OR REPLACE FUNCTION take_job(
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
        -- A run that ended in order is noted, or has completed: then only a retry by hand that resets the count of
        -- starts comes to its row.
        IF v_row.state = 'taken' AND v_row.invocation <> p_invocation
            AND p_attempts_started > v_row.attempts_started THEN
            suspicions := suspicions + lose_run(v_row);
        END IF;
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

-- Requests to cancel a job by the token of its lock, so that no other fetch of the job is meant: they also reach one
-- that waits until it may run, which the ledger does not know yet.
CREATE TABLE job_cancel_request (
    invocation uuid NOT NULL,
    job_id text NOT NULL,
    token text NOT NULL,
    reason text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (invocation, job_id)
);

-- Asks whoever runs the latest attempt of a job to cancel it. Returns who that is, and the epoch of the attempt;
-- nothing if the ledger knows of nobody. A job that has completed without a result in the ledger looks as if it still
-- ran: the queue knows.
CREATE FUNCTION ask_to_cancel(p_queue text, p_job_id text, p_reason text, OUT instance text, OUT epoch bigint)
RETURNS SETOF record
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY UPDATE job_execution j SET cancel_requested_at = now(), cancel_reason = p_reason
        WHERE j.state = 'taken' AND j.id = (SELECT l.id FROM job_execution l
            WHERE l.queue = p_queue AND l.job_id = p_job_id ORDER BY l.epoch DESC LIMIT 1)
        RETURNING j.instance, j.epoch;
    IF FOUND THEN
        PERFORM pg_notify(worker_channel(), 'cancel');
    END IF;
END $$;

CREATE OR REPLACE FUNCTION cancel_job(p_queue text, p_job_id text, p_reason text) RETURNS SETOF text
LANGUAGE sql SET search_path FROM CURRENT AS $$
    SELECT a.instance FROM ask_to_cancel(p_queue, p_job_id, p_reason) a
$$;

-- Asks the life that holds a job's lock to cancel the job. Returns its instance; nothing if it is none of ours: one
-- that has neither said yet that it lives nor taken a job.
CREATE FUNCTION ask_to_cancel_held(p_invocation uuid, p_job_id text, p_token text, p_reason text) RETURNS SETOF text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_instance text := coalesce(
        (SELECT w.instance FROM worker_instance w WHERE w.invocation = p_invocation),
        (SELECT j.instance FROM job_execution j WHERE j.invocation = p_invocation AND j.state = 'taken' LIMIT 1));
BEGIN
    IF v_instance IS NOT NULL THEN
        INSERT INTO job_cancel_request (invocation, job_id, token, reason)
            VALUES (p_invocation, p_job_id, p_token, p_reason)
            ON CONFLICT (invocation, job_id)
                DO UPDATE SET token = EXCLUDED.token, reason = EXCLUDED.reason, requested_at = now();
        PERFORM pg_notify(worker_channel(), 'cancel');
        RETURN NEXT v_instance;
    END IF;
END $$;

INSERT INTO schema_version (version, compatible_from) VALUES (8, '0.1.0');
