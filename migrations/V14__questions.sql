-- What people are asked besides approvals: forms, documents, reviews of them, consents, acceptances.
--
-- One plain UPDATE answers a question, checks the answer and wakes the run. A wrong answer is refused here and now, where
-- whoever gives it still sees why.

-- Functions that run with their owner's rights must not find a caller's temporary tables first.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE question (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    kind text NOT NULL CHECK (kind IN ('prompt', 'document', 'review', 'consent', 'acceptance')),
    -- The visit of the step that asks, and its try.
    run_id uuid NOT NULL,
    step_id text NOT NULL,
    visit integer NOT NULL,
    attempt integer NOT NULL DEFAULT 1 CHECK (attempt > 0),
    -- Who is asked. Of somebody outside only the address is known.
    assignee_id text,
    assignee_email text,
    title text,
    message text,
    -- What the answer has to hold: a list of {name, type, required, label, options}.
    fields jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(fields) = 'array'),
    -- What kind of document is asked for, and the one that is reviewed.
    document_type text,
    document_id uuid REFERENCES document,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'answered', 'approved', 'rejected', 'expired', 'void')),
    answer jsonb CHECK (jsonb_typeof(answer) = 'object'),
    reason text,
    answered_by text,
    answered_at timestamptz,
    -- No answer is taken from then on.
    due_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (run_id, step_id, visit) REFERENCES workflow_step (run_id, step_id, visit) ON DELETE CASCADE,
    CHECK (assignee_id IS NOT NULL OR assignee_email IS NOT NULL)
);

CREATE INDEX question_step ON question (run_id, step_id, visit);
CREATE INDEX question_document ON question (document_id) WHERE document_id IS NOT NULL;
CREATE INDEX question_assignee ON question (assignee_id) WHERE status = 'pending';
CREATE INDEX question_assignee_email ON question (lower(assignee_email)) WHERE status = 'pending';

CREATE TRIGGER touch_updated_at BEFORE UPDATE ON question
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

-- A day, or a time with its zone, as RFC 3339 writes them.
CREATE FUNCTION is_date(p_text text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF p_text !~ '^\d{4}-\d{2}-\d{2}(T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d))?$' THEN
        RETURN false;
    END IF;
    -- The 30th of February has the right form, too.
    PERFORM left(p_text, 10)::date;
    RETURN true;
EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
    RETURN false;
END $$;

-- Whether a value names somebody: a person's id or address, any other address, or an object with one of them.
CREATE FUNCTION names_person(p_value jsonb) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT CASE jsonb_typeof(p_value)
        WHEN 'string' THEN EXISTS (SELECT FROM app_user u WHERE u.id = btrim(p_value #>> '{}'))
            OR btrim(p_value #>> '{}') ~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$'
                AND octet_length(btrim(p_value #>> '{}')) <= 254
        WHEN 'object' THEN CASE
            WHEN jsonb_typeof(coalesce(p_value -> 'id', 'null')) = 'null' THEN
                jsonb_typeof(p_value -> 'email') = 'string' AND names_person(p_value -> 'email')
            ELSE jsonb_typeof(p_value -> 'id') = 'string'
                AND EXISTS (SELECT FROM app_user u WHERE u.id = p_value ->> 'id') END
        ELSE false END
$$;

-- What is wrong with a value for a field of a form; NULL if nothing is.
CREATE FUNCTION field_problem(p_field jsonb, p_value jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    v_name text := p_field ->> 'name';
    v_type text := coalesce(p_field ->> 'type', 'string');
    v_kind text := jsonb_typeof(coalesce(p_value, 'null'));
    v_options jsonb := nullif(nullif(p_field -> 'options', 'null'), '[]');
BEGIN
    IF v_kind = 'null' OR v_kind = 'string' AND btrim(p_value #>> '{}') = '' THEN
        RETURN CASE
            WHEN (p_field ->> 'required')::boolean THEN format('"%s" is required', v_name)
            WHEN v_kind = 'string' AND v_type <> 'string' THEN format('"%s" is empty: leave it out instead', v_name)
            END;
    END IF;
    IF NOT (CASE v_type
        WHEN 'date' THEN v_kind = 'string' AND is_date(p_value #>> '{}')
        WHEN 'user' THEN names_person(p_value)
        ELSE v_kind = v_type END)
    THEN
        RETURN format('"%s" has to be %s', v_name, CASE v_type
            WHEN 'string' THEN 'a text' WHEN 'number' THEN 'a number' WHEN 'boolean' THEN 'true or false'
            WHEN 'date' THEN 'a date such as 2026-03-29 or 2026-03-29T12:00:00Z'
            WHEN 'user' THEN 'a person''s id or address' WHEN 'array' THEN 'a list' ELSE 'an object' END);
    END IF;
    -- Of a list, each element is one of the options.
    IF v_options IS NOT NULL AND EXISTS (
        SELECT FROM jsonb_array_elements(CASE v_type WHEN 'array' THEN p_value ELSE jsonb_build_array(p_value) END) AS given
        WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(v_options) AS one WHERE one = given))
    THEN
        RETURN format('"%s" has to be one of: %s', v_name,
            (SELECT string_agg(one #>> '{}', ', ') FROM jsonb_array_elements(v_options) AS one));
    END IF;
    RETURN NULL;
END $$;

-- Everything that is wrong with the answer to a form; NULL if nothing is. What is fine here is fine for the run's
-- variables, too.
CREATE FUNCTION answer_problem(p_fields jsonb, p_answer jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT CASE
        WHEN coalesce(jsonb_typeof(p_answer), 'null') <> 'object' THEN
            'an answer is an object with a member for each field'
        WHEN octet_length(p_answer::text) > 262144 THEN 'it is larger than 256 KiB'
        WHEN jsonb_path_exists(p_answer, '$.**{60}') THEN 'it is nested too deep'
        -- What a double cannot hold, no program reads as JSON.
        WHEN jsonb_path_exists(p_answer, '$.** ? (@.type() == "number" && (@ > 1.7e308 || @ < -1.7e308))') THEN
            'it has a number in it that is too large'
        ELSE (SELECT string_agg(problem, '; ' ORDER BY place) FROM (
            SELECT f.place, field_problem(f.field, p_answer -> (f.field ->> 'name')) AS problem
                FROM jsonb_array_elements(p_fields) WITH ORDINALITY AS f (field, place)
            UNION ALL
            SELECT 1000000, format('"%s" was not asked for', key) FROM jsonb_object_keys(p_answer) AS key
                WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(p_fields) AS field WHERE field ->> 'name' = key)
        ) AS found) END
$$;

-- Whether a visit still waits for answers.
CREATE FUNCTION is_to_be_answered(p_run uuid, p_step text, p_visit integer) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT EXISTS (SELECT FROM workflow_run r JOIN workflow_step s ON s.run_id = r.id
        WHERE r.id = p_run AND is_live(r) AND s.step_id = p_step AND s.visit = p_visit
            AND s.status IN ('waiting_approval', 'waiting_response'))
$$;

-- Why a question cannot be answered any more, for people.
CREATE FUNCTION question_obstacle(p_question question) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT CASE p_question.status
        WHEN 'pending' THEN CASE
            WHEN p_question.due_at <= clock_timestamp() THEN 'has expired at ' || p_question.due_at::text
            WHEN NOT is_to_be_answered(p_question.run_id, p_question.step_id, p_question.visit) THEN
                'does not matter any more: its step or its run has ended' END
        WHEN 'expired' THEN 'has expired at ' || coalesce(p_question.due_at::text, 'an unknown time')
        WHEN 'void' THEN 'is void: its step has ended, or went on without it'
        ELSE 'was answered already: ' || p_question.status || ' by ' || p_question.answered_by || ' at '
            || p_question.answered_at::text
    END
$$;

-- What is wrong with an answer; NULL if nothing is.
CREATE FUNCTION question_problem(p_question question) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT CASE
        WHEN btrim(coalesce(p_question.answered_by, '')) = '' THEN 'an answer says who gave it: answered_by is missing'
        WHEN p_question.kind IN ('prompt', 'document') THEN CASE
            WHEN p_question.status <> 'answered' THEN
                'a ' || p_question.kind || ' is answered, and not ' || p_question.status
            ELSE answer_problem(p_question.fields, p_question.answer) END
        WHEN p_question.status = 'answered' THEN 'a ' || p_question.kind || ' is approved or rejected, and not answered'
        WHEN p_question.answer IS NOT NULL THEN 'a ' || p_question.kind || ' has no answer beside its status and reason'
        WHEN p_question.status = 'rejected' AND p_question.kind <> 'consent'
            AND btrim(coalesce(p_question.reason, '')) = '' THEN 'a rejection says why: reason is missing'
    END
$$;

-- A question is answered once, in time, and rightly.
CREATE FUNCTION answer_question() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    v_why text;
BEGIN
    IF NEW.status IN ('answered', 'approved', 'rejected') OR OLD.status <> 'pending' THEN
        v_why := question_obstacle(OLD);
        IF v_why IS NOT NULL THEN
            RAISE SQLSTATE 'FL020' USING MESSAGE = 'question ' || OLD.id || ' ' || v_why;
        END IF;
        v_why := question_problem(NEW);
        IF v_why IS NOT NULL THEN
            RAISE SQLSTATE 'FL021' USING MESSAGE = 'question ' || OLD.id || ' is not answered: ' || v_why;
        END IF;
        NEW.answered_at := clock_timestamp();
        RETURN NEW;
    END IF;
    v_why := CASE
        WHEN (NEW.answer, NEW.reason, NEW.answered_by, NEW.answered_at) IS DISTINCT FROM
            (OLD.answer, OLD.reason, OLD.answered_by, OLD.answered_at) THEN
            'is not answered: an answer comes with the status answered, approved or rejected'
        WHEN NEW.status = 'expired' AND (OLD.due_at IS NULL OR OLD.due_at > clock_timestamp()) THEN 'has not expired' END;
    IF v_why IS NOT NULL THEN
        RAISE SQLSTATE 'FL022' USING MESSAGE = 'question ' || OLD.id || ' ' || v_why;
    END IF;
    RETURN NEW;
END $$;

-- Fires where the statement names one of them, also when it does not change it: the same answer twice is refused, too.
CREATE TRIGGER answer_question BEFORE UPDATE OF status, answer, reason, answered_by, answered_at ON question
    FOR EACH ROW EXECUTE FUNCTION answer_question();

-- What was asked, and whom, is history.
CREATE FUNCTION keep_question() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_may text[] := '{status,answer,reason,answered_by,answered_at,updated_at}';
BEGIN
    IF to_jsonb(NEW) - v_may IS DISTINCT FROM to_jsonb(OLD) - v_may THEN
        RAISE SQLSTATE 'FL022' USING MESSAGE = 'question ' || OLD.id
            || ': an answer sets status, answer, reason and answered_by; nothing else can be changed';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep_question BEFORE UPDATE ON question FOR EACH ROW EXECUTE FUNCTION keep_question();

-- Whoever is asked is told, by a job that is written with the question. What is to be accepted tells for itself.
CREATE FUNCTION question_asked() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO job_outbox (queue, job_id, name, data)
        SELECT r.queue, 'ask-' || NEW.id, 'escalation-reminder', jsonb_build_object('questionId', NEW.id)
        FROM workflow_run r WHERE r.id = NEW.run_id
        ON CONFLICT (queue, job_id) DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER question_asked AFTER INSERT ON question
    FOR EACH ROW WHEN (NEW.status = 'pending' AND NEW.kind <> 'acceptance') EXECUTE FUNCTION question_asked();

-- An answer wakes the run; so does a question that somebody withdraws while the step waits for it. The run is locked here,
-- after the question: whoever has the run never waits for a question. An answer that waited here while the step or the run
-- ended comes too late, and is refused.
CREATE FUNCTION question_answered() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.status = 'void' AND NOT is_to_be_answered(NEW.run_id, NEW.step_id, NEW.visit) THEN
        RETURN NULL;
    END IF;
    -- A statement of its own: those after it see what was committed while it waited for the run.
    PERFORM wake_run(NEW.run_id);
    IF NEW.status <> 'void' AND NOT is_to_be_answered(NEW.run_id, NEW.step_id, NEW.visit) THEN
        RAISE SQLSTATE 'FL020' USING MESSAGE = 'question ' || NEW.id
            || ' cannot be answered any more: its step or its run has ended';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER question_answered AFTER UPDATE OF status ON question
    FOR EACH ROW WHEN (OLD.status = 'pending' AND NEW.status IN ('answered', 'approved', 'rejected', 'void'))
    EXECUTE FUNCTION question_answered();

-- What was asked and nobody has answered does not matter any more. The caller may hold the run, for which somebody who holds a
-- question may wait: such rows are left alone, and a job closes them when that answer has been refused.
CREATE FUNCTION close_questions(p_run uuid, p_step text, p_visit integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE question q SET status = CASE WHEN q.due_at <= clock_timestamp() THEN 'expired' ELSE 'void' END
        WHERE q.id IN (SELECT o.id FROM question o
            WHERE o.run_id = p_run AND (p_step IS NULL OR o.step_id = p_step AND o.visit = p_visit)
                AND o.status = 'pending'
            FOR NO KEY UPDATE SKIP LOCKED);
    INSERT INTO job_outbox (queue, job_id, name, data, due_at)
        SELECT r.queue, 'close-' || q.id, 'escalation-reminder', jsonb_build_object('questionId', q.id, 'close', true),
            clock_timestamp() + interval '1 second'
        FROM question q JOIN workflow_run r ON r.id = q.run_id
        WHERE q.run_id = p_run AND (p_step IS NULL OR q.step_id = p_step AND q.visit = p_visit)
            AND q.status = 'pending'
        ON CONFLICT (queue, job_id) DO NOTHING;
END $$;

CREATE FUNCTION step_leaves_questions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM close_questions(NEW.run_id, NEW.step_id, NEW.visit);
    RETURN NULL;
END $$;

-- Steps that have never waited have asked nobody: for them this costs nothing.
CREATE TRIGGER step_leaves_questions AFTER UPDATE OF status ON workflow_step
    FOR EACH ROW WHEN (OLD.status IN ('pending', 'waiting_approval', 'waiting_response')
        AND NEW.status IN ('completed', 'failed', 'skipped', 'cancelled'))
    EXECUTE FUNCTION step_leaves_questions();

-- A run that somebody ends by hand leaves its steps as they are.
CREATE FUNCTION run_leaves_questions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM close_questions(NEW.id, NULL, NULL);
    RETURN NULL;
END $$;

CREATE TRIGGER run_leaves_questions AFTER UPDATE OF status ON workflow_run
    FOR EACH ROW WHEN (OLD.status <> NEW.status
        AND NEW.status IN ('completed', 'failed', 'cancelled'))
    EXECUTE FUNCTION run_leaves_questions();

-- These run with the rights of the schema's owner, as triggers only.
REVOKE ALL ON FUNCTION answer_question(), question_asked(), question_answered(), step_leaves_questions(), run_leaves_questions(),
    close_questions(uuid, text, integer) FROM PUBLIC;

INSERT INTO schema_version (version, compatible_from) VALUES (14, '0.1.0');
