-- Whose tables a function finds, and whom an answer names.

-- Functions that run with their owner's rights must not find a caller's temporary tables first.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- The one of them that was made without that path.
ALTER FUNCTION retry_of_scheduled_run() SET search_path FROM CURRENT;

-- Whether a text can be somebody's address, to the worker as well.
CREATE FUNCTION is_address(p_text text) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT btrim(p_text) ~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$' AND octet_length(btrim(p_text)) <= 254
$$;

-- As before, except that the `email` of an object is an address and never an id: the worker reads it so, and would fail the
-- step when nobody can answer again.
CREATE OR REPLACE FUNCTION names_person(p_value jsonb) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT CASE jsonb_typeof(p_value)
        WHEN 'string' THEN EXISTS (SELECT FROM app_user u WHERE u.id = btrim(p_value #>> '{}')) OR is_address(p_value #>> '{}')
        WHEN 'object' THEN CASE
            WHEN jsonb_typeof(coalesce(p_value -> 'id', 'null')) = 'null' THEN
                jsonb_typeof(coalesce(p_value -> 'email', 'null')) = 'string' AND is_address(p_value ->> 'email')
            ELSE jsonb_typeof(p_value -> 'id') = 'string'
                AND EXISTS (SELECT FROM app_user u WHERE u.id = p_value ->> 'id') END
        ELSE false END
$$;

INSERT INTO schema_version (version, compatible_from) VALUES (20, '0.1.0');
