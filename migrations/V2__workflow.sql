-- Definitions, runs and steps: the truth about every workflow. Job queues only carry wake-ups.
--
-- Other programs start a run with a plain INSERT into workflow_run; every column that they leave out has a default
-- that means "a new run, for this engine".

-- One row per version of a definition, so that a run that refers to a row is pinned to what it started with.
CREATE TABLE workflow_definition (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL CHECK (name <> ''),
    version integer NOT NULL DEFAULT 1 CHECK (version > 0),
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'active', 'deprecated')),
    category text,
    definition jsonb NOT NULL CHECK (jsonb_typeof(definition) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    UNIQUE (name, version)
);

-- New runs start with the active version.
CREATE UNIQUE INDEX workflow_definition_active ON workflow_definition (name) WHERE status = 'active';

CREATE TABLE workflow_run (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    definition_id uuid NOT NULL REFERENCES workflow_definition,
    -- Whose run it is. An engine never touches the runs of another.
    engine text NOT NULL DEFAULT 'floh-worker' CHECK (engine <> ''),
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'running', 'waiting', 'completed', 'failed', 'cancelled')),
    submitter_id text,
    variables jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(variables) = 'object'),
    -- The step that is next or under way, by its id in the definition.
    current_step text,
    -- The ledger row and the epoch of the job that works on the run; both NULL when none does. The ledger knows whether
    -- that lease is live, so a long step needs no writes here.
    lease_execution bigint,
    lease_epoch bigint,
    -- When the run is to be woken; NULL when no wake-up is pending. Whoever takes the run clears it. The number grows
    -- with each wake-up, so that each has an identity of its own.
    wake_at timestamptz,
    wake_seq bigint NOT NULL DEFAULT 0 CHECK (wake_seq >= 0),
    failure_reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    -- The last progress: kept by a trigger.
    updated_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CHECK ((lease_execution IS NULL) = (lease_epoch IS NULL)),
    CHECK (failure_reason IS NULL OR status IN ('failed', 'cancelled'))
);

CREATE INDEX workflow_run_definition ON workflow_run (definition_id);
-- Runs without progress, oldest first: small, because few of all runs are running at a time.
CREATE INDEX workflow_run_running ON workflow_run (engine, updated_at, id) WHERE status = 'running';
CREATE INDEX workflow_run_wake_at ON workflow_run (wake_at) WHERE wake_at IS NOT NULL;

-- One row per visit of a step: a loop visits a step again.
CREATE TABLE workflow_step (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    run_id uuid NOT NULL REFERENCES workflow_run ON DELETE CASCADE,
    -- Its id in the definition.
    step_id text NOT NULL CHECK (step_id <> ''),
    visit integer NOT NULL DEFAULT 1 CHECK (visit > 0),
    type text NOT NULL CHECK (type <> ''),
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'running', 'waiting_approval', 'waiting_response', 'completed', 'failed',
            'skipped', 'cancelled')),
    assignment_state text,
    -- The outcome that chose the edge: success, error, approved, a case's label and so on.
    outcome text,
    result jsonb,
    failure_reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    UNIQUE (run_id, step_id, visit)
);

-- Every change is progress, whoever writes it. An UPDATE that sets updated_at itself is left alone.
CREATE FUNCTION touch_updated_at() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER touch_updated_at BEFORE UPDATE ON workflow_definition
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
CREATE TRIGGER touch_updated_at BEFORE UPDATE ON workflow_run
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
CREATE TRIGGER touch_updated_at BEFORE UPDATE ON workflow_step
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

INSERT INTO schema_version (version, compatible_from) VALUES (2, '0.1.0');
