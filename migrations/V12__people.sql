-- People, their roles and their documents.
--
-- An API server keeps people and roles with plain SQL, under ids of its own; steps of runs write here, too. A person or a
-- role that anything refers to is not deleted: people are disabled.

CREATE TABLE app_user (
    id text PRIMARY KEY DEFAULT gen_random_uuid()::text CHECK (id <> ''),
    email text NOT NULL CHECK (email ~ '^[^@[:space:]]+@[^@[:space:]]+$' AND length(email) <= 254),
    display_name text NOT NULL CHECK (display_name <> ''),
    -- At the end of a statement or transaction, so that people can be imported in any order.
    manager_id text REFERENCES app_user ON DELETE SET NULL DEFERRABLE,
    attributes jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(attributes) = 'object')
        -- What a double cannot hold, no program reads as JSON.
        CHECK (NOT jsonb_path_exists(attributes, '$.** ? (@.type() == "number" && (@ > 1.7e308 || @ < -1.7e308))')),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK (manager_id <> id)
);

-- An address is one person's, however it is written.
CREATE UNIQUE INDEX app_user_email ON app_user (lower(email));
CREATE INDEX app_user_manager ON app_user (manager_id) WHERE manager_id IS NOT NULL;

CREATE TABLE role (
    id text PRIMARY KEY DEFAULT gen_random_uuid()::text CHECK (id <> ''),
    name text NOT NULL UNIQUE CHECK (name <> ''),
    description text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Who has the role needs an approved document of each of these types that is still valid.
CREATE TABLE role_required_document (
    role_id text NOT NULL REFERENCES role ON DELETE CASCADE,
    document_type text NOT NULL CHECK (document_type <> ''),
    PRIMARY KEY (role_id, document_type)
);

CREATE INDEX role_required_document_type ON role_required_document (document_type);

-- Who has, or had, which role. A grant is a row; once it has ended it stays as it is, and another grant is another row.
CREATE TABLE role_assignment (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id text NOT NULL REFERENCES app_user,
    role_id text NOT NULL REFERENCES role,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked', 'expired')),
    granted_at timestamptz NOT NULL DEFAULT now(),
    -- Without it the role stays until it is revoked.
    expires_at timestamptz,
    -- Why, and by whom: a person (an id or an address), or the visit of a step. Not by reference: runs may be removed.
    reason text,
    granted_by text,
    run_id uuid,
    step_id text,
    visit integer,
    ended_at timestamptz,
    end_reason text,
    ended_by text,
    ended_run_id uuid,
    ended_step_id text,
    ended_visit integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((status = 'active') = (ended_at IS NULL)),
    CHECK (expires_at > granted_at)
);

CREATE UNIQUE INDEX role_assignment_active ON role_assignment (user_id, role_id) WHERE status = 'active';
CREATE INDEX role_assignment_expires_at ON role_assignment (expires_at, id)
    WHERE status = 'active' AND expires_at IS NOT NULL;
CREATE INDEX role_assignment_user ON role_assignment (user_id, granted_at);
CREATE INDEX role_assignment_role ON role_assignment (role_id, user_id) WHERE status = 'active';

-- What a person handed in. Only a reference is stored, never the document itself.
CREATE TABLE document (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    -- Whose it is: a person, or somebody outside of whom only the address is known.
    user_id text REFERENCES app_user,
    email text,
    type text NOT NULL CHECK (type <> ''),
    status text NOT NULL DEFAULT 'submitted' CHECK (status IN ('submitted', 'approved', 'rejected', 'expired')),
    -- Where it is: an address, or a key in another system.
    reference text NOT NULL CHECK (reference <> ''),
    metadata jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    submitted_at timestamptz NOT NULL DEFAULT now(),
    -- Without it the document stays valid.
    valid_until timestamptz,
    reviewed_at timestamptz,
    reviewed_by text,
    review_reason text,
    -- The visit of the step that asked for it.
    run_id uuid,
    step_id text,
    visit integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK (user_id IS NOT NULL OR email IS NOT NULL),
    CHECK (status <> 'rejected' OR coalesce(review_reason, '') <> '')
);

CREATE INDEX document_user ON document (user_id, type, status);
CREATE INDEX document_email ON document (lower(email)) WHERE email IS NOT NULL;
CREATE INDEX document_valid_until ON document (valid_until, id) WHERE status = 'approved' AND valid_until IS NOT NULL;

CREATE TRIGGER touch_updated_at BEFORE UPDATE ON app_user
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
CREATE TRIGGER touch_updated_at BEFORE UPDATE ON role
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
CREATE TRIGGER touch_updated_at BEFORE UPDATE ON role_assignment
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
CREATE TRIGGER touch_updated_at BEFORE UPDATE ON document
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

-- A grant that has ended is history; the end has a time, whoever writes it.
CREATE FUNCTION end_role_assignment() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF OLD.status <> 'active' AND NEW.status <> OLD.status THEN
        RAISE EXCEPTION 'the role assignment % has ended (%): grant the role again instead', OLD.id, OLD.status
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF NEW.status <> 'active' THEN
        NEW.ended_at := coalesce(NEW.ended_at, now());
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER end_role_assignment BEFORE UPDATE OF status ON role_assignment
    FOR EACH ROW EXECUTE FUNCTION end_role_assignment();

-- The types of documents that a role requires and a person does not have, approved and valid.
CREATE FUNCTION missing_documents(p_role text, p_user text) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT r.document_type FROM role_required_document r
    WHERE r.role_id = p_role AND NOT EXISTS (SELECT FROM document d
        WHERE d.user_id = p_user AND d.type = r.document_type AND d.status = 'approved'
            AND (d.valid_until IS NULL OR d.valid_until > now()))
    ORDER BY r.document_type
$$;

INSERT INTO schema_version (version, compatible_from) VALUES (12, '0.1.0');
