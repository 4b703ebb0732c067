-- The audit log: append-only, hash-chained by the database at commit, so that rows are chained whoever inserts them.
-- docs/audit-chain.md describes the canonical form of a row, with test vectors.

-- Functions that run with their owner's rights must not find a caller's temporary tables first.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity text NOT NULL,
    entity_id text NOT NULL,
    action text NOT NULL,
    actor text,
    actor_id text,
    -- Within what every reader's calendar can hold.
    timestamp timestamptz NOT NULL DEFAULT now()
        CHECK (timestamp >= '0001-01-01 00:00:00+00' AND timestamp < '10000-01-01 00:00:00+00'),
    previous_state jsonb,
    new_state jsonb,
    -- Text, because an odd address of a proxy must not cost an audit row.
    ip_address text
);

CREATE INDEX audit_log_entity ON audit_log (entity, entity_id, id);

-- The order in which audit rows were committed. There is no foreign key: verification finds what is missing, and names
-- it. The unique previous_hash makes a fork impossible.
CREATE TABLE audit_chain (
    position bigint PRIMARY KEY CHECK (position > 0),
    audit_id bigint NOT NULL UNIQUE,
    previous_hash bytea NOT NULL UNIQUE CHECK (octet_length(previous_hash) = 32),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);

-- One signed statement: at that time the chain went from one position to the other and ended in this hash.
CREATE TABLE audit_checkpoint (
    number bigint PRIMARY KEY CHECK (number > 0),
    from_position bigint NOT NULL UNIQUE CHECK (from_position > 0),
    to_position bigint NOT NULL UNIQUE,
    row_count bigint NOT NULL CHECK (row_count = to_position - from_position + 1 AND row_count > 0),
    head_hash bytea NOT NULL CHECK (octet_length(head_hash) = 32),
    key_id text NOT NULL CHECK (key_id <> ''),
    -- HMAC-SHA256.
    signature bytea NOT NULL CHECK (octet_length(signature) = 32),
    created_at timestamptz NOT NULL
        CHECK (created_at >= '0001-01-01 00:00:00+00' AND created_at < '10000-01-01 00:00:00+00')
);

-- The one row that says which checkpoint is the last: two at once queue here, and a checkpoint that somebody removed
-- from the end of the table is missed.
CREATE TABLE audit_checkpoint_head (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    number bigint NOT NULL,
    to_position bigint NOT NULL
);
INSERT INTO audit_checkpoint_head (number, to_position) VALUES (0, 0);

-- A field of the canonical form: 00 for NULL, else 01, the length in bytes (4 bytes, big-endian) and the text in UTF-8.
CREATE FUNCTION audit_field(value text) RETURNS bytea
LANGUAGE sql STABLE
RETURN CASE WHEN value IS NULL THEN '\x00'::bytea
    ELSE '\x01'::bytea || int4send(octet_length(convert_to(value, 'UTF8'))) || convert_to(value, 'UTF8') END;

-- The canonical form of an audit row.
CREATE FUNCTION audit_canonical(r audit_log) RETURNS bytea
LANGUAGE sql STABLE
RETURN '\x01'::bytea || int8send((r).id)
    || audit_field((r).entity) || audit_field((r).entity_id) || audit_field((r).action)
    || audit_field((r).actor) || audit_field((r).actor_id)
    || int8send((extract(epoch FROM (r).timestamp) * 1000000)::bigint)
    || audit_field((r).previous_state::text) || audit_field((r).new_state::text)
    || audit_field((r).ip_address);

-- Chains an audit row, at the commit of the transaction that inserted it.
--
-- The lock is taken as late as a transaction can take one, and gives the position: commits queue here, transactions do
-- not. It is held until the row is visible to the next one, whose statement below therefore sees the chain's end; a
-- transaction with an older snapshot (REPEATABLE READ, SERIALIZABLE) does not, collides with the row that follows the
-- end it sees, and gets a serialisation failure.
CREATE FUNCTION audit_chain_append() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    -- 'floh' and the chain's own table: schemas in one database do not wait for each other.
    PERFORM pg_advisory_xact_lock(1718382440, 'audit_chain'::regclass::oid::integer);
    INSERT INTO audit_chain (position, audit_id, previous_hash, hash)
        SELECT coalesce(tail.position, 0) + 1, NEW.id, start.hash, sha256(start.hash || audit_canonical(NEW))
        FROM (SELECT) AS one
            LEFT JOIN (SELECT c.position, c.hash FROM audit_chain c ORDER BY c.position DESC LIMIT 1) tail ON true
            CROSS JOIN LATERAL (SELECT coalesce(tail.hash, decode(repeat('00', 32), 'hex')) AS hash) start
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the audit chain cannot be continued after its last row'
            USING ERRCODE = 'data_corrupted', HINT = 'Run "flohctl audit verify".';
    END IF;
    RETURN NULL;
END $$;

-- Nobody else may hang it on a table of their own.
REVOKE ALL ON FUNCTION audit_chain_append() FROM PUBLIC;

CREATE CONSTRAINT TRIGGER audit_chain_append AFTER INSERT ON audit_log
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION audit_chain_append();

-- A checkpoint continues the last one, whoever inserts it.
CREATE FUNCTION audit_checkpoint_advance() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE audit_checkpoint_head h SET number = NEW.number, to_position = NEW.to_position
        WHERE h.number = NEW.number - 1 AND h.to_position = NEW.from_position - 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'checkpoint % from position % does not continue the last one', NEW.number, NEW.from_position
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

REVOKE ALL ON FUNCTION audit_checkpoint_advance() FROM PUBLIC;

CREATE TRIGGER audit_checkpoint_advance BEFORE INSERT ON audit_checkpoint
    FOR EACH ROW EXECUTE FUNCTION audit_checkpoint_advance();

CREATE FUNCTION refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_checkpoint
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- This one row is updated, by the trigger above only.
CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON audit_checkpoint_head
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_back BEFORE UPDATE ON audit_checkpoint_head
    FOR EACH ROW WHEN (NEW.number <> OLD.number + 1 OR NEW.to_position <= OLD.to_position)
    EXECUTE FUNCTION refuse_change();

INSERT INTO schema_version (version, compatible_from) VALUES (3, '0.1.0');
