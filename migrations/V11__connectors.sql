-- Connectors: other systems that steps call. A definition names one by its id or its name.
CREATE TABLE connector_definition (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE CHECK (name <> ''),
    type text NOT NULL CHECK (type IN ('http', 'delay')),
    -- Secrets in it are sealed: texts that begin with `enc:v1:`, each for the connector of this name alone.
    connector_config jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(connector_config) = 'object'),
    -- Answers come from `mocks`, which has one for each command, instead of from the other system.
    mock_enabled boolean NOT NULL DEFAULT false,
    mocks jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(mocks) = 'object'),
    enabled boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- Where a definition says `delay`, a run waits.
    CHECK (name <> 'delay' OR type = 'delay'),
    -- Where it says `http`, it says all of the call itself, which is checked when the definition is published.
    CONSTRAINT http_is_built_in CHECK (name <> 'http')
);

CREATE TRIGGER touch_updated_at BEFORE UPDATE ON connector_definition
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

INSERT INTO schema_version (version, compatible_from) VALUES (11, '0.1.0');
