-- A version of a definition that was published is what runs are pinned to: it does not change, whoever asks for it.

-- A draft may change and go. It is published by its status: `active` is what new runs start with, and the version that was
-- active before is `deprecated` in the same transaction. A deprecated version may be activated again: that takes back a
-- release that did not do well.
CREATE FUNCTION keep_published() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.status <> 'draft' THEN
            RAISE restrict_violation USING MESSAGE = 'version ' || OLD.version || ' of the workflow definition ' || OLD.name
                || ' was published and stays: runs refer to it';
        END IF;
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.status <> 'draft' THEN
        IF (NEW.id, NEW.name, NEW.version, NEW.category, NEW.definition)
                IS DISTINCT FROM (OLD.id, OLD.name, OLD.version, OLD.category, OLD.definition) THEN
            RAISE restrict_violation USING MESSAGE = 'version ' || OLD.version || ' of the workflow definition ' || OLD.name
                || ' was published and does not change; make a new version';
        ELSIF NEW.status = 'draft' THEN
            RAISE restrict_violation USING MESSAGE = 'version ' || OLD.version || ' of the workflow definition ' || OLD.name
                || ' was published and cannot become a draft again';
        END IF;
    ELSIF TG_OP = 'UPDATE' AND NEW.status = 'deprecated' THEN
        RAISE restrict_violation USING MESSAGE = 'version ' || OLD.version || ' of the workflow definition ' || OLD.name
            || ' is a draft: publish it before, or delete it';
    END IF;
    IF NEW.status = 'active' AND (TG_OP = 'INSERT' OR OLD.status <> 'active') THEN
        NEW.published_at := CASE WHEN TG_OP = 'INSERT' THEN coalesce(NEW.published_at, now()) ELSE now() END;
        -- One at a time for each name: the next statement sees what the one before has published.
        PERFORM pg_advisory_xact_lock(hashtextextended('floh-worker definition ' || NEW.name || ' ' || worker_channel(), 0));
        -- An INSERT that conflicts adds nothing (ON CONFLICT DO NOTHING) or fails: it deprecates nothing, either.
        IF TG_OP = 'INSERT' AND EXISTS (SELECT FROM workflow_definition d
                WHERE d.name = NEW.name AND d.version = NEW.version) THEN
            RETURN NEW;
        END IF;
        UPDATE workflow_definition d SET status = 'deprecated'
            WHERE d.name = NEW.name AND d.status = 'active' AND d.id <> NEW.id;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep_published BEFORE INSERT OR UPDATE OR DELETE ON workflow_definition
    FOR EACH ROW EXECUTE FUNCTION keep_published();

-- What people look at first: the latest runs.
CREATE INDEX workflow_run_created_at ON workflow_run (created_at DESC);

INSERT INTO schema_version (version, compatible_from) VALUES (16, '0.1.0');
