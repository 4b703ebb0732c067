-- Approvals: who was asked, what was decided, and by whom. A decision is one UPDATE, whoever writes it:
--
--   UPDATE approval SET status = 'approved', decided_by = 'u-1' WHERE id = …
--
-- The rules are here, so that they hold for every writer: what cannot be decided is refused with a sentence, and a decision
-- wakes the run in the same transaction. Decisions on one run are made one after the other, because each locks its row and
-- then the run; so exactly one of them settles the step, and none counts after it.
--
-- Locks are taken in the order approval, workflow_run, workflow_step. Whoever comes from the other side (a step or a run
-- that ends) never waits for an approval that somebody holds: see close_approvals.

-- Functions that run with their owner's rights must not find a caller's temporary tables first.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE approval (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    run_id uuid NOT NULL,
    step_id text NOT NULL,
    visit integer NOT NULL,
    -- Which of the step's approvers, from 1. A reassignment keeps it.
    position integer NOT NULL CHECK (position > 0),
    mode text NOT NULL CHECK (mode IN ('single', 'sequential', 'parallel')),
    -- How many of the step's approvers have to approve.
    quorum integer NOT NULL CHECK (quorum > 0),
    -- Who decides, as the definition names them: an id or an address; and what was known of them when they were asked.
    approver text NOT NULL CHECK (approver <> ''),
    approver_id text,
    approver_email text,
    approver_name text,
    title text,
    message text,
    -- `waiting`: not asked yet, because somebody else decides first. `void`: nothing is to be decided any more.
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('waiting', 'pending', 'approved', 'rejected', 'expired', 'void', 'reassigned')),
    asked_at timestamptz,
    due_at timestamptz CHECK (isfinite(due_at)),
    decided_by text,
    decided_at timestamptz,
    reason text,
    -- Whether the approver is told that something is to be decided.
    notify boolean NOT NULL DEFAULT true,
    -- `remindAfter`, `remindEvery`, `reassignAfter` in seconds, `maxReminders`, and `reassignTo`, a person.
    escalation jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(escalation) = 'object'),
    -- Reminders so far, and the time of the last one.
    reminders integer NOT NULL DEFAULT 0 CHECK (reminders >= 0),
    reminded_at timestamptz,
    reassigned_from uuid UNIQUE REFERENCES approval ON DELETE CASCADE,
    reassigned_to uuid REFERENCES approval DEFERRABLE INITIALLY DEFERRED,
    reassigned_because text,
    created_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (run_id, step_id, visit) REFERENCES workflow_step (run_id, step_id, visit) ON DELETE CASCADE,
    CHECK (status <> 'pending' OR asked_at IS NOT NULL),
    CHECK ((status IN ('approved', 'rejected')) = (decided_at IS NOT NULL)),
    CHECK (status NOT IN ('approved', 'rejected') OR decided_by <> ''),
    CHECK ((status = 'reassigned') = (reassigned_to IS NOT NULL))
);

-- Each place among the approvers of a visit is one person's.
CREATE UNIQUE INDEX approval_place ON approval (run_id, step_id, visit, position)
    WHERE status NOT IN ('reassigned', 'void');
CREATE INDEX approval_visit ON approval (run_id, step_id, visit);
-- What a person has to decide.
CREATE INDEX approval_of_id ON approval (approver_id) WHERE status = 'pending';
CREATE INDEX approval_of_email ON approval (lower(approver_email)) WHERE status = 'pending';
CREATE INDEX approval_pending ON approval (asked_at, id) WHERE status = 'pending';

-- What a visit's approvals come to: `approved`, `rejected`, `expired`, or nothing yet. `p_open` names one that counts as not
-- decided.
CREATE FUNCTION approval_outcome(p_run uuid, p_step text, p_visit integer, p_open uuid DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT CASE
        WHEN n.mode = 'single' AND n.rejected > 0 THEN 'rejected'
        WHEN n.approved >= n.quorum THEN 'approved'
        WHEN n.approved + n.open + n.expired < n.quorum AND n.rejected > 0 THEN 'rejected'
        WHEN n.approved + n.open < n.quorum AND n.expired > 0 THEN 'expired'
    END
    FROM (SELECT max(a.mode) AS mode, max(a.quorum) AS quorum,
            count(*) FILTER (WHERE a.status = 'approved' AND a.id IS DISTINCT FROM p_open) AS approved,
            count(*) FILTER (WHERE a.status = 'rejected' AND a.id IS DISTINCT FROM p_open) AS rejected,
            count(*) FILTER (WHERE a.status = 'expired') AS expired,
            count(*) FILTER (WHERE a.status IN ('waiting', 'pending') OR a.id = p_open) AS open
        FROM approval a WHERE a.run_id = p_run AND a.step_id = p_step AND a.visit = p_visit) n
$$;

-- Whether a visit still waits for decisions.
CREATE FUNCTION is_to_be_decided(p_run uuid, p_step text, p_visit integer) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT EXISTS (SELECT FROM workflow_run r JOIN workflow_step s ON s.run_id = r.id
        WHERE r.id = p_run AND is_live(r) AND s.step_id = p_step AND s.visit = p_visit
            AND s.status IN ('running', 'waiting_approval'))
$$;

-- Why an approval cannot be decided any more, for people.
CREATE FUNCTION approval_obstacle(p_approval approval) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT CASE p_approval.status
        WHEN 'waiting' THEN 'is not asked for yet: somebody else decides first'
        WHEN 'pending' THEN CASE WHEN p_approval.due_at <= clock_timestamp()
            THEN 'has expired at ' || p_approval.due_at::text END
        WHEN 'expired' THEN 'has expired at ' || coalesce(p_approval.due_at::text, 'an unknown time')
        WHEN 'void' THEN 'is void: its step was decided by others, or has ended'
        WHEN 'reassigned' THEN 'was reassigned to ' || coalesce(
            (SELECT a.approver FROM approval a WHERE a.id = p_approval.reassigned_to), 'somebody else')
        ELSE 'was decided already: ' || p_approval.status || ' by ' || p_approval.decided_by || ' at '
            || p_approval.decided_at::text
    END
$$;

-- What a change of status asks for. Columns that a change does not need stay as they are: see keep_approval.
CREATE FUNCTION change_approval() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF OLD.status NOT IN ('waiting', 'pending') THEN
        RAISE SQLSTATE 'FL020' USING MESSAGE = 'approval ' || OLD.id || ' ' || approval_obstacle(OLD);
    ELSIF NEW.status IN ('approved', 'rejected') THEN
        IF approval_obstacle(OLD) IS NOT NULL THEN
            RAISE SQLSTATE 'FL020' USING MESSAGE = 'approval ' || OLD.id || ' ' || approval_obstacle(OLD);
        ELSIF coalesce(NEW.decided_by, '') !~ '\S' THEN
            RAISE SQLSTATE 'FL021' USING MESSAGE = 'a decision says who made it: decided_by is missing';
        ELSIF NEW.status = 'rejected' AND coalesce(NEW.reason, '') !~ '\S' THEN
            RAISE SQLSTATE 'FL021' USING MESSAGE = 'a rejection says why: reason is missing';
        END IF;
        NEW.decided_at := clock_timestamp();
    ELSIF NEW.status = 'void' THEN
        IF is_to_be_decided(OLD.run_id, OLD.step_id, OLD.visit)
                AND approval_outcome(OLD.run_id, OLD.step_id, OLD.visit) IS NULL THEN
            RAISE SQLSTATE 'FL022' USING MESSAGE = 'approval ' || OLD.id || ' is still to be decided, so it cannot be void';
        END IF;
    ELSIF NEW.status = 'expired' THEN
        IF OLD.due_at IS NULL OR OLD.due_at > clock_timestamp() THEN
            RAISE SQLSTATE 'FL022' USING MESSAGE = 'approval ' || OLD.id || ' has not expired';
        END IF;
    ELSIF NEW.status = 'pending' AND OLD.status = 'waiting' THEN
        IF EXISTS (SELECT FROM approval a WHERE a.run_id = OLD.run_id AND a.step_id = OLD.step_id AND a.visit = OLD.visit
                AND a.position < OLD.position AND a.status IN ('waiting', 'pending')) THEN
            RAISE SQLSTATE 'FL022' USING MESSAGE = 'approval ' || OLD.id || ' ' || approval_obstacle(OLD);
        END IF;
        NEW.asked_at := clock_timestamp();
    ELSIF NEW.status IS DISTINCT FROM 'reassigned' OR OLD.status <> 'pending' THEN
        RAISE SQLSTATE 'FL022' USING MESSAGE = 'approval ' || OLD.id || ' is ' || OLD.status
            || ': it can become approved or rejected, and not ' || coalesce(NEW.status, 'nothing');
    END IF;
    RETURN NEW;
END $$;

-- Fires where the statement names one of them, also when it does not change it: deciding twice the same way is refused, too.
CREATE TRIGGER change_approval BEFORE UPDATE OF status, decided_by, decided_at, reason ON approval
    FOR EACH ROW EXECUTE FUNCTION change_approval();

-- Who was asked, and when, is history.
CREATE FUNCTION keep_approval() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_may text[] := CASE
        WHEN NEW.status = OLD.status THEN '{reminders,reminded_at}'
        WHEN NEW.status IN ('approved', 'rejected') THEN '{status,decided_by,decided_at,reason}'
        WHEN NEW.status = 'pending' THEN '{status,asked_at}'
        WHEN NEW.status = 'reassigned' THEN '{status,reassigned_to,reassigned_because}'
        ELSE '{status}'
    END;
    v_others text;
BEGIN
    IF to_jsonb(NEW) - v_may IS DISTINCT FROM to_jsonb(OLD) - v_may THEN
        SELECT string_agg(n.key, ', ' ORDER BY n.key) INTO v_others
            FROM jsonb_each(to_jsonb(NEW) - v_may) n JOIN jsonb_each(to_jsonb(OLD)) o USING (key)
            WHERE n.value IS DISTINCT FROM o.value;
        RAISE SQLSTATE 'FL022' USING MESSAGE = 'approval ' || OLD.id || ': ' || v_others
            || ' cannot be changed; a decision sets status, decided_by and reason';
    END IF;
    RETURN NEW;
END $$;

-- After change_approval: triggers fire in the order of their names.
CREATE TRIGGER keep_approval BEFORE UPDATE ON approval FOR EACH ROW EXECUTE FUNCTION keep_approval();

-- A decision wakes its run, which also puts decisions on the same run in a row: each sees those before it. One that comes
-- after the step was settled, or has ended, is refused. The one that settles it leaves nothing open, except what others hold
-- at this moment: they wait for the run, and are refused then.
CREATE FUNCTION approval_decided() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    -- A statement of its own: those after it see what was committed while it waited for the run.
    v_live boolean := wake_run(NEW.run_id);
    v_outcome text;
BEGIN
    IF NOT v_live OR NOT is_to_be_decided(NEW.run_id, NEW.step_id, NEW.visit) THEN
        RAISE SQLSTATE 'FL020' USING MESSAGE = 'approval ' || NEW.id
            || ' cannot be decided any more: its step or its run has ended';
    END IF;
    v_outcome := approval_outcome(NEW.run_id, NEW.step_id, NEW.visit, NEW.id);
    IF v_outcome IS NOT NULL THEN
        RAISE SQLSTATE 'FL020' USING MESSAGE = 'approval ' || NEW.id
            || ' cannot be decided any more: its step is ' || v_outcome || ' by others';
    END IF;
    v_outcome := approval_outcome(NEW.run_id, NEW.step_id, NEW.visit);
    UPDATE workflow_step s SET assignment_state = coalesce(v_outcome, 'partly_decided')
        WHERE s.run_id = NEW.run_id AND s.step_id = NEW.step_id AND s.visit = NEW.visit;
    IF v_outcome IS NOT NULL THEN
        UPDATE approval a SET status = 'void' WHERE a.id IN (SELECT o.id FROM approval o
            WHERE o.run_id = NEW.run_id AND o.step_id = NEW.step_id AND o.visit = NEW.visit
                AND o.status IN ('waiting', 'pending')
            FOR UPDATE SKIP LOCKED);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER approval_decided AFTER UPDATE OF status ON approval
    FOR EACH ROW WHEN (NEW.status IN ('approved', 'rejected')) EXECUTE FUNCTION approval_decided();

-- Whoever is asked is told, reminded, and replaced in the end: jobs for their times, written with the question.
CREATE FUNCTION approval_asked() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO job_outbox (queue, job_id, name, data, due_at)
        SELECT r.queue, j.id, j.name, jsonb_build_object('approvalId', NEW.id) || j.data,
            NEW.asked_at + make_interval(secs => j.after)
        FROM workflow_run r, (VALUES
            ('remind-' || NEW.id || '-0', 'escalation-reminder', '{"number": 0}'::jsonb,
                CASE WHEN NEW.notify THEN 0 END),
            ('remind-' || NEW.id || '-1', 'escalation-reminder', '{"number": 1}',
                (NEW.escalation ->> 'remindAfter')::double precision),
            ('reassign-' || NEW.id, 'escalation-reassignment', '{}',
                (NEW.escalation ->> 'reassignAfter')::double precision)) j (id, name, data, after)
        WHERE r.id = NEW.run_id AND j.after IS NOT NULL
        ON CONFLICT (queue, job_id) DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER approval_asked_first AFTER INSERT ON approval
    FOR EACH ROW WHEN (NEW.status = 'pending') EXECUTE FUNCTION approval_asked();
CREATE TRIGGER approval_asked_then AFTER UPDATE OF status ON approval
    FOR EACH ROW WHEN (OLD.status = 'waiting' AND NEW.status = 'pending') EXECUTE FUNCTION approval_asked();

-- Somebody else is asked instead. What was before is kept: the row of who was asked says why and refers to the new one.
CREATE FUNCTION reassign_approval(
    p_approval uuid, p_approver text, p_id text, p_email text, p_name text, p_because text
) RETURNS uuid
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_old approval%ROWTYPE;
    v_new uuid := gen_random_uuid();
BEGIN
    SELECT a.* INTO v_old FROM approval a WHERE a.id = p_approval FOR UPDATE;
    IF v_old.id IS NULL THEN
        RAISE SQLSTATE 'FL023' USING MESSAGE = 'there is no approval ' || coalesce(p_approval::text, 'without an id');
    ELSIF approval_obstacle(v_old) IS NOT NULL THEN
        RAISE SQLSTATE 'FL020' USING MESSAGE = 'approval ' || v_old.id || ' ' || approval_obstacle(v_old);
    END IF;
    PERFORM FROM workflow_run r WHERE r.id = v_old.run_id FOR NO KEY UPDATE;
    IF NOT is_to_be_decided(v_old.run_id, v_old.step_id, v_old.visit) THEN
        RAISE SQLSTATE 'FL020' USING MESSAGE = 'approval ' || v_old.id
            || ' cannot be reassigned any more: its step or its run has ended';
    ELSIF EXISTS (SELECT FROM approval a
            WHERE a.run_id = v_old.run_id AND a.step_id = v_old.step_id AND a.visit = v_old.visit
                AND a.status <> 'reassigned' AND (a.approver_id = p_id OR lower(a.approver_email) = lower(p_email))) THEN
        RAISE SQLSTATE 'FL024' USING MESSAGE = 'approval ' || v_old.id || ' cannot be reassigned to ' || p_approver
            || ', who is asked in this step already';
    END IF;
    UPDATE approval a SET status = 'reassigned', reassigned_to = v_new, reassigned_because = p_because
        WHERE a.id = v_old.id;
    INSERT INTO approval (id, run_id, step_id, visit, position, mode, quorum, approver, approver_id, approver_email,
            approver_name, title, message, asked_at, due_at, notify, escalation, reassigned_from)
        VALUES (v_new, v_old.run_id, v_old.step_id, v_old.visit, v_old.position, v_old.mode, v_old.quorum, p_approver,
            p_id, p_email, p_name, v_old.title, v_old.message, clock_timestamp(), v_old.due_at, v_old.notify,
            v_old.escalation - '{reassignAfter,reassignTo}'::text[], v_old.id);
    UPDATE workflow_step s SET assignment_state = 'reassigned'
        WHERE s.run_id = v_old.run_id AND s.step_id = v_old.step_id AND s.visit = v_old.visit;
    RETURN v_new;
END $$;

-- Nothing is to be decided any more. The caller may hold the run, for which somebody who holds an approval may wait: such
-- rows are left alone, and a job closes them when that decision has been refused.
CREATE FUNCTION close_approvals(p_run uuid, p_step text, p_visit integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE approval a SET status = 'void' WHERE a.id IN (SELECT o.id FROM approval o
        WHERE o.run_id = p_run AND (p_step IS NULL OR o.step_id = p_step AND o.visit = p_visit)
            AND o.status IN ('waiting', 'pending')
        FOR UPDATE SKIP LOCKED);
    INSERT INTO job_outbox (queue, job_id, name, data, due_at)
        SELECT r.queue, 'close-' || a.id, 'escalation-reminder', jsonb_build_object('approvalId', a.id),
            clock_timestamp() + interval '1 second'
        FROM approval a JOIN workflow_run r ON r.id = a.run_id
        WHERE a.run_id = p_run AND (p_step IS NULL OR a.step_id = p_step AND a.visit = p_visit)
            AND a.status IN ('waiting', 'pending')
        ON CONFLICT (queue, job_id) DO NOTHING;
END $$;

CREATE FUNCTION step_leaves_approvals() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM close_approvals(NEW.run_id, NEW.step_id, NEW.visit);
    RETURN NULL;
END $$;

CREATE TRIGGER step_leaves_approvals AFTER UPDATE OF status ON workflow_step
    FOR EACH ROW WHEN (OLD.status = 'waiting_approval' AND NEW.status NOT IN ('waiting_approval', 'running'))
    EXECUTE FUNCTION step_leaves_approvals();

-- A run that somebody ends by hand leaves its steps as they are.
CREATE FUNCTION run_leaves_approvals() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM close_approvals(NEW.id, NULL, NULL);
    RETURN NULL;
END $$;

CREATE TRIGGER run_leaves_approvals AFTER UPDATE OF status ON workflow_run
    FOR EACH ROW WHEN (OLD.status <> NEW.status
        AND NEW.status IN ('completed', 'failed', 'cancelled'))
    EXECUTE FUNCTION run_leaves_approvals();

-- These run with the rights of the schema's owner, as triggers only.
REVOKE ALL ON FUNCTION change_approval(), approval_decided(), approval_asked(), step_leaves_approvals(),
    run_leaves_approvals(), close_approvals(uuid, text, integer) FROM PUBLIC;

INSERT INTO schema_version (version, compatible_from) VALUES (13, '0.1.0');
