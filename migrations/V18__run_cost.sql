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

-- A run that has asked nobody writes nothing at its end, and tells nobody: a NOTIFY makes other commits wait.
CREATE OR REPLACE FUNCTION run_leaves_approvals() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM close_approvals(NEW.id, NULL, NULL)
        WHERE EXISTS (SELECT FROM approval a WHERE a.run_id = NEW.id AND a.status IN ('waiting', 'pending'));
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION run_leaves_questions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM close_questions(NEW.id, NULL, NULL)
        WHERE EXISTS (SELECT FROM question q WHERE q.run_id = NEW.id AND q.status = 'pending');
    RETURN NULL;
END $$;

INSERT INTO schema_version (version, compatible_from) VALUES (18, '0.1.0');
