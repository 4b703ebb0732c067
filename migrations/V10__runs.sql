-- Runs are executed: what a run and its steps remember, how a run is woken, taken and carried on.
--
-- Whoever wants a run to go on raises its `wake_seq`; that writes a wake-up into the outbox in the same transaction. A
-- worker takes the run under the lease of that wake-up's job, and each step is committed by one call of commit_step, which
-- ends with the fence: a worker that has lost its job commits nothing more.

-- Functions that run with their owner's rights must not find a caller's temporary tables first.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

ALTER TABLE workflow_run
    -- The queue of its wake-ups: QUEUE_PREFIX and QUEUE_NAME with a colon between.
    ADD COLUMN queue text NOT NULL DEFAULT 'bull:workflow-scheduler' CHECK (queue <> ''),
    -- Connectors are not called; their mocks answer.
    ADD COLUMN use_mocks boolean NOT NULL DEFAULT false,
    -- A pending run that has to wait for its turn: it is not begun before that is taken back.
    ADD COLUMN held_back boolean NOT NULL DEFAULT false,
    -- Visits of steps so far.
    ADD COLUMN steps integer NOT NULL DEFAULT 0 CHECK (steps >= 0),
    -- Setting it asks for the run to be cancelled at the next boundary between two steps.
    ADD COLUMN cancel_requested_at timestamptz,
    ADD COLUMN cancel_reason text;

ALTER TABLE workflow_step
    -- The how manieth visit of the run it is, from 1; the steps in this order are the run's history.
    ADD COLUMN position integer CHECK (position > 0),
    -- The try that it is at, from 1.
    ADD COLUMN attempt integer NOT NULL DEFAULT 1 CHECK (attempt > 0),
    -- The variables that it has set: the run's variables are those of all its steps, the later ones over the earlier ones.
    ADD COLUMN variables_set jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(variables_set) = 'object'),
    -- When the waiting is over, whatever came of it.
    ADD COLUMN due_at timestamptz,
    ADD CONSTRAINT workflow_step_position UNIQUE (run_id, position);

-- Why the job failed for good, as far as its worker could say.
ALTER TABLE job_outbox ADD COLUMN failure_reason text;

-- A retry by hand brings the job back, and its reason is void.
CREATE FUNCTION forget_failure() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    NEW.failure_reason := NULL;
    RETURN NEW;
END $$;

CREATE TRIGGER forget_failure BEFORE UPDATE OF ended ON job_outbox
    FOR EACH ROW WHEN (NEW.ended IS NULL AND OLD.ended IS NOT NULL) EXECUTE FUNCTION forget_failure();

-- Whether a run may still go on. Without a search path of its own, so that it becomes a part of the statements that ask it,
-- which is many times as fast; they have theirs.
CREATE FUNCTION is_live(p_run workflow_run) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT p_run.engine = 'floh-worker' AND p_run.status IN ('pending', 'running', 'waiting')
$$;

-- A new run of ours begins at once, unless it is held back; one that is let go, or asked to be cancelled, is woken.
CREATE FUNCTION wake_on_change() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_wanted boolean := false;
BEGIN
    IF NOT is_live(NEW) THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'INSERT' THEN
        v_wanted := NEW.status = 'pending' AND NEW.wake_at IS NULL AND NOT NEW.held_back;
    ELSE
        IF OLD.cancel_requested_at IS NULL AND NEW.cancel_requested_at IS NOT NULL THEN
            NEW.held_back := false;
            v_wanted := true;
        END IF;
        v_wanted := v_wanted OR OLD.held_back AND NOT NEW.held_back;
    END IF;
    IF v_wanted THEN
        NEW.wake_at := now();
        NEW.wake_seq := NEW.wake_seq + 1;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER wake_on_change BEFORE INSERT OR UPDATE OF cancel_requested_at, held_back ON workflow_run
    FOR EACH ROW EXECUTE FUNCTION wake_on_change();

-- What PostgreSQL keeps as JSON, and no program reads as such; NULL if it is nothing of that. Nesting counts as runs count it
-- when a step sets a variable.
CREATE FUNCTION unreadable(p_variables jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT AS $$
    SELECT CASE
        WHEN jsonb_path_exists(p_variables, '$.**{65}') THEN 'they are nested deeper than 64 levels'
        WHEN jsonb_path_exists(p_variables, '$.** ? (@.type() == "number" && (@ > 1.7e308 || @ < -1.7e308))') THEN
            'they have a number in them that is too large'
    END
$$;

-- Variables that could not be read would hold up their run until its job has failed for good: who writes them is told.
CREATE FUNCTION check_variables() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    RAISE SQLSTATE 'FL025' USING MESSAGE = 'the variables of the run ' || NEW.id || ' are not taken: '
        || unreadable(NEW.variables);
END $$;

CREATE TRIGGER check_new_variables BEFORE INSERT ON workflow_run
    FOR EACH ROW WHEN (NEW.engine = 'floh-worker' AND unreadable(NEW.variables) IS NOT NULL)
    EXECUTE FUNCTION check_variables();
-- What steps set has been looked at by the worker: with it the number of steps grows.
CREATE TRIGGER check_variables BEFORE UPDATE OF variables ON workflow_run
    FOR EACH ROW WHEN (NEW.engine = 'floh-worker' AND NEW.steps = OLD.steps
        AND NEW.variables IS DISTINCT FROM OLD.variables AND unreadable(NEW.variables) IS NOT NULL)
    EXECUTE FUNCTION check_variables();

-- Every wake-up of a run is a job, one per number. One whose time has not come is over when another one takes its place, or
-- the run has ended: a wait of a month that ends within the hour leaves nothing to be looked after for a month. One that is
-- due stays, because a job may be about to take it.
CREATE FUNCTION send_wake_up() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.wake_at > now() AND (NEW.wake_seq > OLD.wake_seq OR NOT is_live(NEW)) THEN
        UPDATE job_outbox SET ended = 'completed', ended_at = now() WHERE id IN (SELECT o.id FROM job_outbox o
            WHERE o.queue = OLD.queue AND o.job_id = 'resume-' || OLD.id || '-' || OLD.wake_seq
                AND o.epoch IS NULL AND o.ended_at IS NULL AND o.due_at > now()
            FOR UPDATE SKIP LOCKED);
    END IF;
    IF is_live(NEW) AND NEW.wake_at IS NOT NULL AND NOT NEW.held_back
            AND (TG_OP = 'INSERT' OR NEW.wake_seq > OLD.wake_seq) THEN
        INSERT INTO job_outbox (queue, job_id, name, data, due_at)
            VALUES (NEW.queue, 'resume-' || NEW.id || '-' || NEW.wake_seq, 'resume-run',
                jsonb_build_object('runId', NEW.id, 'seq', NEW.wake_seq), NEW.wake_at)
            ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;

-- Without a list of columns, because another trigger may have raised the number.
CREATE TRIGGER send_wake_up AFTER INSERT OR UPDATE ON workflow_run
    FOR EACH ROW EXECUTE FUNCTION send_wake_up();

-- Something happened that a run may be waiting for. A run that is under way looks at it before it waits.
CREATE FUNCTION wake_run(p_run uuid) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE workflow_run r SET wake_at = now(), wake_seq = r.wake_seq + 1
        WHERE r.id = p_run AND is_live(r) AND NOT r.held_back;
    RETURN FOUND;
END $$;

-- Ends a run that is not under way by a commit of its own: its open step is closed with it.
CREATE FUNCTION fail_run(p_run uuid, p_reason text) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE workflow_run r SET status = 'failed', failure_reason = p_reason, finished_at = now(), wake_at = NULL,
            lease_execution = NULL, lease_epoch = NULL
        WHERE r.id = p_run AND is_live(r);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE workflow_step s SET status = 'failed', failure_reason = p_reason, finished_at = now()
        WHERE s.run_id = p_run AND s.status IN ('pending', 'running', 'waiting_approval', 'waiting_response');
    RETURN true;
END $$;

-- A wake-up that failed for good fails its run, unless the run was not its business any more: another job works on it, and
-- looks at what woke it before it waits. A run that one attempt of the job took is the business of all its attempts. One that
-- somebody else took off the queue (another consumer, who knows nothing of runs) comes again.
CREATE FUNCTION end_of_wake_up() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_run uuid := (NEW.data ->> 'runId')::uuid;
    v_seq bigint := (NEW.data ->> 'seq')::bigint;
BEGIN
    IF NEW.ended = 'failed' THEN
        PERFORM fail_run(r.id, coalesce(NEW.failure_reason, 'the job ' || NEW.job_id || ' failed'))
            FROM workflow_run r
            WHERE r.id = v_run AND (r.wake_seq = v_seq AND r.wake_at IS NOT NULL AND r.lease_execution IS NULL
                -- Whatever its epoch: each take of the same attempt has another one.
                OR EXISTS (SELECT FROM job_execution j WHERE j.id = r.lease_execution
                    AND j.queue = NEW.queue AND j.job_id = NEW.job_id));
    ELSE
        PERFORM wake_run(r.id) FROM workflow_run r
            WHERE r.id = v_run AND r.wake_seq = v_seq AND r.wake_at IS NOT NULL
                -- Ours may have had it before, and handed it back.
                AND NOT EXISTS (SELECT FROM job_execution j
                    WHERE j.queue = NEW.queue AND j.job_id = NEW.job_id AND j.state = 'committed');
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER end_of_wake_up AFTER UPDATE OF ended ON job_outbox
    FOR EACH ROW WHEN (NEW.name = 'resume-run' AND NEW.ended IS NOT NULL AND OLD.ended IS NULL
        AND NEW.data ->> 'runId' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' AND NEW.data ->> 'seq' ~ '^[0-9]{1,18}$')
    EXECUTE FUNCTION end_of_wake_up();

-- Takes a run for a job: `taken` with all that is needed to go on, or why not: `missing`, `foreign` (another engine's),
-- `ended`, `held` (its turn has not come), `busy` (another job works on it, and looks at what has woken it before it waits),
-- `stale` (it waits, and a later wake-up than this one is on its way). Asked again by the same job it gives the same answer. A
-- job that the queue lost and got again is the same one: whoever had it before cannot commit any more.
CREATE FUNCTION take_run(
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
    IF v_run.current_step IS NOT NULL THEN
        IF v_run.status = 'pending' THEN
            -- Tried again by hand, and held back since: its step begins now, and so does the step's time.
            UPDATE workflow_step s SET started_at = taken_at
                WHERE s.run_id = p_run AND s.step_id = v_run.current_step AND s.status = 'running';
        END IF;
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

-- Commits what one visit of a step came to, and begins the next one, all in one statement. `p_change` holds
--
-- * `step`: its `id`, `type`, `visit`, `attempt`, and its new `status`, `outcome`, `result`, `reason`, `assignment`, `due`;
-- * `set`: the variables that it has set;
-- * `run`: the run's new `status` and `reason`;
-- * `next`: `id` and `type` of the step that follows, if one does;
-- * `seen`: the number of the last wake-up before the step was looked at.
--
-- Outcomes: `committed` (also where it had been before: asking again changes nothing), `woken` (it was to wait, and what it
-- waits for may have happened meanwhile: the run goes on), `overtaken` (its waiting was to time out, and the run was woken
-- after the step was looked at: nothing is committed, and it is looked at again), `ended` (the run has been ended by
-- somebody), `moved` (another job has it).
CREATE FUNCTION commit_step(
    p_run uuid, p_execution bigint, p_epoch bigint, p_change jsonb,
    OUT outcome text, OUT next_visit integer, OUT cancel_reason text, OUT committed_at timestamptz, OUT wake_seq bigint
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    v_run workflow_run%ROWTYPE;
    v_step jsonb := p_change -> 'step';
    v_id text := v_step ->> 'id';
    v_visit integer := (v_step ->> 'visit')::integer;
    v_due timestamptz := (v_step ->> 'due')::timestamptz;
    v_status text := p_change -> 'run' ->> 'status';
    v_next text := p_change -> 'next' ->> 'id';
    v_open boolean := v_step ->> 'status' NOT IN ('completed', 'failed', 'skipped', 'cancelled');
    v_woken boolean;
    v_wake_at timestamptz;
BEGIN
    SELECT r.* INTO v_run FROM workflow_run r WHERE r.id = p_run FOR UPDATE;
    committed_at := clock_timestamp();
    wake_seq := v_run.wake_seq;
    IF v_run.cancel_requested_at IS NOT NULL THEN
        cancel_reason := coalesce(v_run.cancel_reason, '');
    END IF;
    IF EXISTS (SELECT FROM workflow_step s WHERE s.run_id = p_run AND s.step_id = v_id AND s.visit = v_visit
            AND s.status IN ('completed', 'failed', 'skipped', 'cancelled'))
        AND (v_run.lease_epoch IS NOT DISTINCT FROM p_epoch OR NOT is_live(v_run) AND v_run.status = v_status) THEN
        -- Committed before; the answer was lost.
        outcome := 'committed';
        SELECT max(s.visit) INTO next_visit FROM workflow_step s WHERE s.run_id = p_run AND s.step_id = v_next;
        RETURN;
    ELSIF v_run.id IS NULL OR NOT is_live(v_run) THEN
        outcome := 'ended';
        RETURN;
    ELSIF v_run.lease_epoch IS DISTINCT FROM p_epoch OR v_run.lease_execution IS DISTINCT FROM p_execution THEN
        outcome := 'moved';
        RETURN;
    ELSIF v_step ->> 'outcome' = 'timeout' AND v_run.wake_seq > (p_change ->> 'seen')::bigint
        AND EXISTS (SELECT FROM workflow_step s WHERE s.run_id = p_run AND s.step_id = v_id AND s.visit = v_visit
            AND s.status IN ('waiting_approval', 'waiting_response')) THEN
        -- Something woke the run after the step was looked at. It may be an answer, which counts if it came in time.
        outcome := 'overtaken';
        RETURN;
    END IF;

    -- By its number and not by `wake_at`, which this clears: asked again, it is still woken.
    v_woken := v_status = 'waiting' AND (v_run.wake_seq > (p_change ->> 'seen')::bigint OR v_due <= committed_at);
    INSERT INTO workflow_step AS s (run_id, step_id, visit, type, status, assignment_state, outcome, result,
            failure_reason, started_at, finished_at, position, attempt, variables_set, due_at)
        VALUES (p_run, v_id, v_visit, v_step ->> 'type', v_step ->> 'status', v_step ->> 'assignment',
            v_step ->> 'outcome', nullif(v_step -> 'result', 'null'), v_step ->> 'reason', committed_at,
            CASE WHEN NOT v_open THEN committed_at END, v_run.steps + 1, (v_step ->> 'attempt')::integer,
            coalesce(p_change -> 'set', '{}'), v_due)
        ON CONFLICT (run_id, step_id, visit) DO UPDATE SET status = excluded.status, outcome = excluded.outcome,
            assignment_state = coalesce(excluded.assignment_state, s.assignment_state),
            result = coalesce(excluded.result, s.result),
            failure_reason = CASE WHEN s.status = 'pending' AND excluded.status = 'pending'
                THEN coalesce(excluded.failure_reason, s.failure_reason) ELSE excluded.failure_reason END,
            started_at = coalesce(s.started_at, excluded.started_at), finished_at = excluded.finished_at,
            attempt = excluded.attempt, variables_set = excluded.variables_set, due_at = excluded.due_at
        RETURNING greatest(v_run.steps, s.position) INTO v_run.steps;
    IF v_next IS NOT NULL THEN
        v_run.steps := v_run.steps + 1;
        INSERT INTO workflow_step (run_id, step_id, visit, type, status, started_at, position)
            SELECT p_run, v_next, coalesce(max(s.visit), 0) + 1, p_change -> 'next' ->> 'type', 'running', committed_at,
                v_run.steps
            FROM workflow_step s WHERE s.run_id = p_run AND s.step_id = v_next
            RETURNING visit INTO next_visit;
    END IF;
    v_wake_at := CASE
        WHEN v_woken OR v_status IN ('completed', 'failed', 'cancelled') THEN NULL
        WHEN v_status = 'waiting' THEN v_due
        -- What came meanwhile is looked at before the run waits.
        ELSE v_run.wake_at
    END;
    UPDATE workflow_run r SET
            status = CASE WHEN v_woken THEN 'running' ELSE v_status END,
            failure_reason = p_change -> 'run' ->> 'reason',
            variables = CASE WHEN coalesce(p_change -> 'set', '{}') = '{}' THEN r.variables
                ELSE r.variables || (p_change -> 'set') END,
            current_step = coalesce(v_next, v_id), steps = v_run.steps, wake_at = v_wake_at,
            wake_seq = r.wake_seq + CASE WHEN v_wake_at IS DISTINCT FROM v_run.wake_at AND v_wake_at IS NOT NULL THEN 1
                ELSE 0 END,
            finished_at = CASE WHEN v_status IN ('completed', 'failed', 'cancelled') THEN committed_at END,
            lease_execution = CASE WHEN v_woken OR v_status = 'running' THEN r.lease_execution END,
            lease_epoch = CASE WHEN v_woken OR v_status = 'running' THEN r.lease_epoch END
        WHERE r.id = p_run;
    outcome := CASE WHEN v_woken THEN 'woken' ELSE 'committed' END;
    PERFORM fence(p_execution, p_epoch);
END $$;

-- A job has worked on a run for long enough: another one goes on. False if the run is not the job's any more.
CREATE FUNCTION hand_on_run(p_run uuid, p_execution bigint, p_epoch bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_handed_on boolean;
BEGIN
    UPDATE workflow_run r SET wake_at = now(), wake_seq = r.wake_seq + 1, lease_execution = NULL, lease_epoch = NULL
        WHERE r.id = p_run AND is_live(r) AND r.lease_execution = p_execution AND r.lease_epoch = p_epoch;
    v_handed_on := FOUND;
    PERFORM fence(p_execution, p_epoch);
    RETURN v_handed_on;
END $$;

-- A failed run goes on with another visit of the step at which it failed. Returns false for a run that has not failed.
CREATE FUNCTION retry_run(p_run uuid) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_run workflow_run%ROWTYPE;
BEGIN
    SELECT r.* INTO v_run FROM workflow_run r
        WHERE r.id = p_run AND r.engine = 'floh-worker' AND r.status = 'failed' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO workflow_step (run_id, step_id, visit, type, status, started_at, position)
        SELECT p_run, s.step_id, s.visit + 1, s.type, 'running', clock_timestamp(), v_run.steps + 1
        FROM workflow_step s WHERE s.run_id = p_run AND s.step_id = v_run.current_step ORDER BY s.visit DESC LIMIT 1;
    IF FOUND THEN
        v_run.steps := v_run.steps + 1;
    END IF;
    UPDATE workflow_run r SET status = CASE WHEN v_run.current_step IS NULL THEN 'pending' ELSE 'running' END,
            failure_reason = NULL, finished_at = NULL, cancel_requested_at = NULL, cancel_reason = NULL,
            steps = v_run.steps, wake_at = now(), wake_seq = r.wake_seq + 1, lease_execution = NULL, lease_epoch = NULL
        WHERE r.id = p_run;
    RETURN true;
END $$;

-- These run with the rights of the schema's owner, as triggers only.
REVOKE ALL ON FUNCTION send_wake_up() FROM PUBLIC;

INSERT INTO schema_version (version, compatible_from) VALUES (10, '0.1.0');
