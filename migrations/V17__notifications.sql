-- What people are told in the application itself. The API server shows the rows of a person and sets read_at.

CREATE TABLE notification (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    -- For whom: the id of a person, or, where a workflow names somebody who has none, the address.
    user_id text CHECK (user_id <> ''),
    email text CHECK (email <> ''),
    -- The visit of the step that says it, if a run does.
    run_id uuid REFERENCES workflow_run ON DELETE CASCADE,
    step_id text,
    visit integer,
    -- What it is about, in a word: `notification`, or what other parts have to say.
    kind text NOT NULL DEFAULT 'notification' CHECK (kind <> ''),
    title text NOT NULL,
    body text NOT NULL DEFAULT '',
    -- Where more can be seen: a path in the application, or a URL.
    link text CHECK (link <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    read_at timestamptz,
    CHECK (user_id IS NOT NULL OR email IS NOT NULL),
    CHECK ((run_id IS NULL) = (step_id IS NULL) AND (run_id IS NULL) = (visit IS NULL))
);

-- A step that is executed again says the same thing once.
CREATE UNIQUE INDEX notification_of_visit
    ON notification (run_id, step_id, visit, kind, coalesce(user_id, ''), lower(coalesce(email, '')))
    WHERE run_id IS NOT NULL;
-- What a person has to see, the newest first.
CREATE INDEX notification_of_user ON notification (user_id, created_at DESC) WHERE user_id IS NOT NULL;
CREATE INDEX notification_of_email ON notification (lower(email), created_at DESC) WHERE email IS NOT NULL;

INSERT INTO schema_version (version, compatible_from) VALUES (17, '0.1.0');
