-- Schedules: runs that begin at the times of a cron expression. The table is the truth; the workers keep one job scheduler
-- in the queue for each enabled row, whose jobs are only wake-ups.
--
-- Whoever fires a tick (schedule, due time) does so under the schedule's lock, so that a tick starts one run, whether its
-- job comes twice, late, from another scheduler or not at all.

CREATE TABLE workflow_schedule (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE CHECK (name <> ''),
    -- The definition's name: a run starts with the version that is active then.
    definition text NOT NULL CHECK (definition <> ''),
    -- As BullMQ's users write it: five fields, or six with seconds.
    cron text NOT NULL CHECK (cron <> ''),
    -- The zone of its wall clock, of the IANA database.
    zone text NOT NULL DEFAULT 'UTC' CHECK (zone <> ''),
    -- What each run starts with.
    variables jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(variables) = 'object'),
    submitter_id text,
    -- Connectors are not called; their mocks answer.
    use_mocks boolean NOT NULL DEFAULT false,
    enabled boolean NOT NULL DEFAULT true,
    -- Of ticks that were missed: none, the latest, or each of the latest `catch_up_limit` starts its run late.
    catch_up text NOT NULL DEFAULT 'one' CHECK (catch_up IN ('skip', 'one', 'all')),
    catch_up_limit integer NOT NULL DEFAULT 100 CHECK (catch_up_limit BETWEEN 1 AND 1000),
    -- While a run of the schedule has not ended, a tick starts another one, none, or one that waits for its turn.
    overlap text NOT NULL DEFAULT 'allow' CHECK (overlap IN ('allow', 'skip', 'queue')),
    -- The queue of its jobs and of its runs' wake-ups: QUEUE_PREFIX and QUEUE_NAME with a colon between.
    queue text NOT NULL DEFAULT 'bull:workflow-scheduler' CHECK (queue <> ''),
    -- Ticks up to this time are dealt with. The workers move it.
    ticked_until timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- What came of each tick that was fired. Those that were missed and not made up for have no row: they lie before
-- `ticked_until`.
CREATE TABLE schedule_tick (
    schedule_id uuid NOT NULL REFERENCES workflow_schedule ON DELETE CASCADE,
    due_at timestamptz NOT NULL,
    -- `started`; `held`: its run waits for its turn; `skipped`: a run of the schedule had not ended.
    outcome text NOT NULL CHECK (outcome IN ('started', 'held', 'skipped')),
    run_id uuid,
    noted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (schedule_id, due_at),
    CHECK ((run_id IS NULL) = (outcome = 'skipped'))
);

CREATE INDEX schedule_tick_noted_at ON schedule_tick (noted_at);

-- The schedule that started a run, and the tick; no tick where somebody asked for a run now. A schedule that is removed
-- leaves its runs as they are.
ALTER TABLE workflow_run
    ADD COLUMN schedule_id uuid,
    ADD COLUMN tick_at timestamptz,
    ADD CHECK (tick_at IS NULL OR schedule_id IS NOT NULL);

CREATE UNIQUE INDEX workflow_run_tick ON workflow_run (schedule_id, tick_at) WHERE schedule_id IS NOT NULL;
CREATE INDEX workflow_run_of_schedule ON workflow_run (schedule_id, held_back)
    WHERE schedule_id IS NOT NULL AND status IN ('pending', 'running', 'waiting');

-- A schedule that is another one than before, or goes on after a pause, has missed nothing until now.
CREATE FUNCTION restart_schedule() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.cron <> OLD.cron OR NEW.zone <> OLD.zone OR NEW.enabled AND NOT OLD.enabled THEN
        NEW.ticked_until := greatest(OLD.ticked_until, now());
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER restart_schedule BEFORE UPDATE OF cron, zone, enabled ON workflow_schedule
    FOR EACH ROW EXECUTE FUNCTION restart_schedule();

-- With a list of columns, because a tick is no change of the schedule.
CREATE TRIGGER touch_updated_at
    BEFORE UPDATE OF name, definition, cron, zone, variables, submitter_id, use_mocks, enabled, catch_up, catch_up_limit,
        overlap, queue ON workflow_schedule
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

-- Variables that could not be read would be refused at each tick, when nobody is there to be told.
CREATE FUNCTION check_schedule_variables() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    RAISE SQLSTATE 'FL025' USING MESSAGE = 'the variables of the schedule ' || NEW.name || ' are not taken: '
        || unreadable(NEW.variables);
END $$;

CREATE TRIGGER check_variables BEFORE INSERT OR UPDATE OF variables ON workflow_schedule
    FOR EACH ROW WHEN (unreadable(NEW.variables) IS NOT NULL)
    EXECUTE FUNCTION check_schedule_variables();

CREATE FUNCTION tell_schedules() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify(worker_channel(), 'schedules');
    RETURN NULL;
END $$;

CREATE TRIGGER tell_schedules AFTER INSERT OR DELETE OR UPDATE OF cron, zone, enabled, queue ON workflow_schedule
    FOR EACH STATEMENT EXECUTE FUNCTION tell_schedules();

-- Ticks of a schedule and ends of its runs happen one after the other: until the transaction has ended nobody else counts
-- the schedule's runs. Always the first lock of a tick; an end has the run's row by then, for which no tick waits.
CREATE FUNCTION lock_schedule(p_schedule uuid) RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('floh-worker schedule ' || p_schedule || ' ' || worker_channel(), 0))
$$;

-- Fires ticks of a schedule that the caller has locked, in their order, and notes that all up to p_until are dealt with. A
-- tick that is NULL is a run without one. What came of each, as in schedule_tick; `known` is a tick that was fired before.
CREATE FUNCTION fire_schedule(
    p_schedule uuid, p_definition uuid, p_ticks timestamptz[], p_until timestamptz
) RETURNS TABLE (tick timestamptz, result text, run uuid)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_schedule workflow_schedule%ROWTYPE;
    v_busy boolean;
BEGIN
    SELECT s.* INTO STRICT v_schedule FROM workflow_schedule s WHERE s.id = p_schedule;
    v_busy := EXISTS (SELECT FROM workflow_run r
        WHERE r.schedule_id = p_schedule AND r.status IN ('pending', 'running', 'waiting'));
    FOREACH tick IN ARRAY p_ticks LOOP
        run := NULL;
        IF EXISTS (SELECT FROM schedule_tick t WHERE t.schedule_id = p_schedule AND t.due_at = tick)
            OR EXISTS (SELECT FROM workflow_run r WHERE r.schedule_id = p_schedule AND r.tick_at = tick) THEN
            result := 'known';
            RETURN NEXT;
            CONTINUE;
        END IF;
        result := CASE
            WHEN NOT v_busy OR v_schedule.overlap = 'allow' THEN 'started'
            WHEN v_schedule.overlap = 'queue' THEN 'held'
            ELSE 'skipped'
        END;
        IF result <> 'skipped' THEN
            INSERT INTO workflow_run (definition_id, submitter_id, variables, use_mocks, queue, held_back, schedule_id,
                    tick_at)
                VALUES (p_definition, v_schedule.submitter_id, v_schedule.variables, v_schedule.use_mocks,
                    v_schedule.queue, result = 'held', p_schedule, tick)
                RETURNING id INTO run;
            v_busy := true;
        END IF;
        IF tick IS NOT NULL THEN
            INSERT INTO schedule_tick (schedule_id, due_at, outcome, run_id) VALUES (p_schedule, tick, result, run);
        END IF;
        RETURN NEXT;
    END LOOP;
    UPDATE workflow_schedule s SET ticked_until = p_until WHERE s.id = p_schedule AND s.ticked_until < p_until;
END $$;

-- Lets the oldest run of a schedule that waits for its turn begin, if no other one is under way. One that somebody has
-- locked is passed over: he is ending it.
CREATE FUNCTION let_next_run_go(p_schedule uuid) RETURNS uuid
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_run uuid;
BEGIN
    PERFORM lock_schedule(p_schedule);
    PERFORM FROM workflow_run r
        WHERE r.schedule_id = p_schedule AND r.status IN ('pending', 'running', 'waiting') AND NOT r.held_back;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    SELECT r.id INTO v_run FROM workflow_run r
        WHERE r.schedule_id = p_schedule AND r.status IN ('pending', 'running', 'waiting') AND r.held_back
        ORDER BY coalesce(r.tick_at, r.created_at), r.created_at, r.id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
    UPDATE workflow_run r SET held_back = false WHERE r.id = v_run;
    RETURN v_run;
END $$;

CREATE FUNCTION end_of_scheduled_run() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM let_next_run_go(NEW.schedule_id);
    RETURN NULL;
END $$;

CREATE TRIGGER end_of_scheduled_run AFTER UPDATE OF status ON workflow_run
    FOR EACH ROW WHEN (NEW.schedule_id IS NOT NULL AND OLD.status IN ('pending', 'running', 'waiting')
        AND NEW.status NOT IN ('pending', 'running', 'waiting'))
    EXECUTE FUNCTION end_of_scheduled_run();

-- A failed run that somebody lets go on is one of its schedule's runs again: beside another one that has not ended it goes on
-- where ticks start one, and waits for its turn where they do. The schedule that skips ticks lets nothing run beside it.
-- Whoever does so need not read schedules.
CREATE FUNCTION retry_of_scheduled_run() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    v_overlap text;
    v_other uuid;
BEGIN
    PERFORM lock_schedule(NEW.schedule_id);
    SELECT s.overlap INTO v_overlap FROM workflow_schedule s WHERE s.id = NEW.schedule_id AND s.overlap <> 'allow';
    IF FOUND THEN
        SELECT r.id INTO v_other FROM workflow_run r
            WHERE r.schedule_id = NEW.schedule_id AND r.status IN ('pending', 'running', 'waiting') AND r.id <> NEW.id
            ORDER BY r.held_back, r.created_at, r.id LIMIT 1;
    END IF;
    IF v_other IS NOT NULL AND v_overlap = 'skip' THEN
        RAISE SQLSTATE 'FL030' USING MESSAGE = 'run ' || NEW.id || ' is not tried again: run ' || v_other
            || ' of the same schedule has not ended, and the schedule lets no two run at once';
    ELSIF v_other IS NOT NULL THEN
        -- As one that has not begun: nothing looks after a run that waits for its turn.
        NEW.status := 'pending';
        NEW.held_back := true;
        NEW.wake_at := NULL;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER retry_of_scheduled_run BEFORE UPDATE OF status ON workflow_run
    FOR EACH ROW WHEN (NEW.schedule_id IS NOT NULL AND OLD.status = 'failed' AND NEW.status IN ('pending', 'running'))
    EXECUTE FUNCTION retry_of_scheduled_run();

-- This runs with the rights of the schema's owner, as a trigger only.
REVOKE ALL ON FUNCTION retry_of_scheduled_run() FROM PUBLIC;

INSERT INTO schema_version (version, compatible_from) VALUES (15, '0.1.0');
