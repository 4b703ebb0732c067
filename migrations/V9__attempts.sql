-- All attempts of a job count, whichever of them the queue hands out.

-- The take as before, and with it: the other attempts of the job count too. A Redis that went back in time (a failover, an old
-- copy) may hand out an attempt whose successor has been taken, or has committed and was not acknowledged: the one loses its
-- lease, the other's result stands, and the job is not run again. A fetch from before that attempt is outranked.
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
    v_other job_execution%ROWTYPE;
    v_live job_execution%ROWTYPE;
    v_committed job_execution%ROWTYPE;
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
            v_live := NULL;
            v_committed := NULL;
            FOR v_other IN SELECT j.* FROM job_execution j
                WHERE j.queue = p_queue AND j.job_id = p_job_id AND j.job_timestamp = p_job_timestamp
                    AND j.attempts_made <> p_attempts_made AND j.state IN ('taken', 'committed')
                ORDER BY j.processed_on FOR UPDATE
            LOOP
                IF v_other.state = 'taken' THEN
                    v_live := v_other;
                ELSIF p_acknowledged IS NULL OR p_acknowledged < v_other.epoch THEN
                    v_committed := v_other;
                END IF;
            END LOOP;
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
                WHERE j.queue = p_queue AND j.job_id = p_job_id AND j.job_timestamp = p_job_timestamp;
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

    -- The counters of another attempt say nothing about it: a retry by hand may have reset them. Only the time does.
    IF v_live.processed_on >= p_processed_on OR v_committed.id IS NOT NULL THEN
        IF v_new THEN
            DELETE FROM job_execution j WHERE j.id = v_row.id;
        END IF;
        IF v_committed.id IS NULL THEN
            outcome := 'outranked';
        ELSE
            outcome := 'committed';
            id := v_committed.id;
            epoch := v_committed.epoch;
            value := v_committed.value;
        END IF;
        RETURN;
    ELSIF v_new THEN
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

    IF v_live.id IS NOT NULL THEN
        PERFORM terminate_epoch(j.epoch) FROM job_execution j
            WHERE j.queue = p_queue AND j.job_id = p_job_id AND j.job_timestamp = p_job_timestamp
                AND j.attempts_made <> p_attempts_made AND j.state = 'taken';
        UPDATE job_execution j SET state = 'lost', updated_at = now()
            WHERE j.queue = p_queue AND j.job_id = p_job_id AND j.job_timestamp = p_job_timestamp
                AND j.attempts_made <> p_attempts_made AND j.state = 'taken';
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

INSERT INTO schema_version (version, compatible_from) VALUES (9, '0.1.0');
