-- What a step's commit costs: a run changes with each of its steps, and most of its steps wake nobody and ask nobody.

-- Functions that run with their owner's rights must not find a caller's temporary tables first.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Where no index has the time of the last change, and the page has room, a change leaves the indexes as they are. The runs
-- that are under way are few: whoever wants them in the order of that time sorts them.
DROP INDEX workflow_run_running;
CREATE INDEX workflow_run_running ON workflow_run (engine, id) WHERE status = 'running';
ALTER TABLE workflow_run SET (fillfactor = 70);
ALTER TABLE workflow_step SET (fillfactor = 80);

-- Looked at before the function is called. Still without a list of columns, because another trigger may have raised the number.
DROP TRIGGER send_wake_up ON workflow_run;
CREATE TRIGGER send_first_wake_up AFTER INSERT ON workflow_run
    FOR EACH ROW EXECUTE FUNCTION send_wake_up();
CREATE TRIGGER send_wake_up AFTER UPDATE ON workflow_run
    FOR EACH ROW WHEN (NEW.wake_seq > OLD.wake_seq OR OLD.wake_at IS NOT NULL) EXECUTE FUNCTION send_wake_up();

-- As before; a run that has asked nobody writes nothing at its end, and tells nobody: a NOTIFY makes other commits wait.
CREATE OR REPLACE FUNCTION close_approvals(p_run uuid, p_step text, p_visit integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM approval a WHERE a.run_id = p_run AND a.status IN ('waiting', 'pending')) THEN
        RETURN;
    END IF;
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

CREATE OR REPLACE FUNCTION close_questions(p_run uuid, p_step text, p_visit integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM question q WHERE q.run_id = p_run AND q.status = 'pending') THEN
        RETURN;
    END IF;
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

INSERT INTO schema_version (version, compatible_from) VALUES (18, '0.1.0');
