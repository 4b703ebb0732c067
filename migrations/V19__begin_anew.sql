-- What a run begins with, and how long a step may take that somebody had begun before.

-- Taken as in V10, but for two things: a run that begins keeps those of its variables alone that its definition declares, and
-- the time of a step that was cut off begins anew.
CREATE OR REPLACE FUNCTION take_run(
    p_run uuid, p_seq bigint, p_execution bigint, p_epoch bigint,
    OUT outcome text, OUT definition_id uuid, OUT submitter_id text, OUT variables jsonb, OUT use_mocks boolean,
    OUT cancel_reason text, OUT created_at timestamptz, OUT step_id text, OUT visit integer, OUT attempt integer,
    OUT step_status text, OUT result jsonb, OUT step_started_at timestamptz, OUT due_at timestamptz, OUT taken_at timestamptz,
    OUT steps integer, OUT wake_seq bigint
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    v_run workflow_run%ROWTYPE;
    v_step workflow_step%ROWTYPE;
BEGIN
    SELECT r.* INTO v_run FROM workflow_run r WHERE r.id = p_run FOR UPDATE;
    taken_at := clock_timestamp();
    outcome := CASE
        WHEN v_run.id IS NULL THEN 'missing'
        WHEN v_run.engine <> 'floh-worker' THEN 'foreign'
        WHEN NOT is_live(v_run) THEN 'ended'
        WHEN v_run.held_back THEN 'held'
        WHEN v_run.lease_epoch <> p_epoch AND EXISTS (SELECT FROM job_execution j, job_execution m
            WHERE j.id = v_run.lease_execution AND j.epoch = v_run.lease_epoch AND j.state = 'taken'
                AND m.id = p_execution AND (m.queue, m.job_id) <> (j.queue, j.job_id)) THEN 'busy'
        WHEN v_run.status = 'waiting' AND v_run.wake_at IS NOT NULL AND p_seq < v_run.wake_seq THEN 'stale'
        ELSE 'taken'
    END;
    IF outcome <> 'taken' THEN
        RETURN;
    END IF;
    UPDATE workflow_run r SET status = 'running', started_at = coalesce(r.started_at, taken_at), wake_at = NULL,
            lease_execution = p_execution, lease_epoch = p_epoch
        WHERE r.id = p_run;
    definition_id := v_run.definition_id;
    submitter_id := v_run.submitter_id;
    variables := v_run.variables;
    use_mocks := v_run.use_mocks;
    created_at := v_run.created_at;
    steps := v_run.steps;
    wake_seq := v_run.wake_seq;
    IF v_run.cancel_requested_at IS NOT NULL THEN
        cancel_reason := coalesce(v_run.cancel_reason, '');
    END IF;
    IF v_run.current_step IS NULL THEN
        -- What the definition does not declare could be taken for what a step has set.
        SELECT coalesce(jsonb_object_agg(given.key, given.value), '{}') INTO variables
            FROM jsonb_each(v_run.variables) AS given
            WHERE to_jsonb(given.key) IN (SELECT jsonb_path_query(d.definition, '$.variables[*].name')
                FROM workflow_definition d WHERE d.id = v_run.definition_id);
        UPDATE workflow_run r SET variables = take_run.variables
            WHERE r.id = p_run AND v_run.variables <> take_run.variables;
    ELSE
        -- Whoever had the step is gone (a crash, an outage, a drain, a retry by hand that was held back): it begins now, and so
        -- does its time.
        UPDATE workflow_step s SET started_at = taken_at
            WHERE s.run_id = p_run AND s.step_id = v_run.current_step AND s.status = 'running';
        SELECT s.* INTO v_step FROM workflow_step s WHERE s.run_id = p_run AND s.step_id = v_run.current_step
            ORDER BY s.visit DESC LIMIT 1;
        step_id := v_run.current_step;
        visit := v_step.visit;
        attempt := v_step.attempt;
        step_status := v_step.status;
        result := v_step.result;
        step_started_at := v_step.started_at;
        due_at := v_step.due_at;
    END IF;
    PERFORM fence(p_execution, p_epoch);
END $$;

INSERT INTO schema_version (version, compatible_from) VALUES (19, '0.1.0');
