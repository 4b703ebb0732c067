-- Jobs that were running when their worker died, and requests to cancel a running job.

-- One row per job and process life that ended, by the evidence of systemd, while the job ran. It is kept by job and not
-- by attempt: a job that kills its worker at every second attempt is no better. Interruptions (a drain, an outage, a
-- power loss) leave no row.
CREATE TABLE job_suspicion (
    queue text NOT NULL,
    job_id text NOT NULL,
    -- The job's own `timestamp` (milliseconds).
    job_timestamp bigint NOT NULL,
    -- The process life that died.
    invocation uuid NOT NULL,
    name text NOT NULL,
    instance text NOT NULL,
    host text NOT NULL,
    -- What systemd said: SERVICE_RESULT and EXIT_STATUS.
    evidence text NOT NULL,
    suspected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue, job_id, job_timestamp, invocation)
);

CREATE INDEX job_suspicion_suspected_at ON job_suspicion (suspected_at);

ALTER TABLE job_execution
    DROP CONSTRAINT job_execution_state_check,
    ADD CONSTRAINT job_execution_state_check
        CHECK (state IN ('taken', 'committed', 'handed_back', 'failed', 'lost', 'quarantined')),
    -- Somebody wants the running attempt to end; the next take forgets it.
    ADD COLUMN cancel_requested_at timestamptz,
    ADD COLUMN cancel_reason text;

CREATE INDEX job_execution_quarantined ON job_execution (updated_at) WHERE state = 'quarantined';

-- What the workers listen on: the name holds the schema, because two schemas of one database have workers of their own.
CREATE FUNCTION worker_channel() RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT 'floh_worker.' || current_schema()
$$;

-- Charges a death to the jobs (of those that the caller found active in Redis) that ran in the process life that died.
-- Asked again it changes nothing. Returns the jobs that are suspected of it now.
CREATE FUNCTION suspect_jobs(p_invocation uuid, p_queue text, p_job_ids text[], p_host text, p_evidence text)
RETURNS SETOF text
LANGUAGE sql SET search_path FROM CURRENT AS $$
    INSERT INTO job_suspicion AS s (queue, job_id, job_timestamp, invocation, name, instance, host, evidence)
        SELECT DISTINCT ON (j.job_id, j.job_timestamp) j.queue, j.job_id, j.job_timestamp, j.invocation, j.name,
            j.instance, p_host, p_evidence
        FROM job_execution j
        WHERE j.invocation = p_invocation AND j.state = 'taken' AND j.queue = p_queue AND j.job_id = ANY (p_job_ids)
        ON CONFLICT (queue, job_id, job_timestamp, invocation) DO UPDATE SET evidence = s.evidence
        RETURNING s.job_id
$$;

-- Asks whoever runs a job to cancel it. Returns the instances that were asked; none if nobody runs it.
CREATE FUNCTION cancel_job(p_queue text, p_job_id text, p_reason text) RETURNS SETOF text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    RETURN QUERY UPDATE job_execution j SET cancel_requested_at = now(), cancel_reason = p_reason
        WHERE j.queue = p_queue AND j.job_id = p_job_id AND j.state = 'taken'
        RETURNING j.instance;
    PERFORM pg_notify(worker_channel(), 'cancel');
END $$;

INSERT INTO schema_version (version, compatible_from) VALUES (5, '0.1.0');
