-- What servers say of their tools, as it was approved (by first sight or by an operator) and as it was last seen to
-- differ. A hash is the SHA-256 of the definition beside it.

CREATE TABLE tool_pins (
    server_id          text NOT NULL,
    tool_name          text NOT NULL,
    hash               text, -- NULL: never approved
    definition         text,
    pending_hash       text, -- seen since and not approved; NULL: nothing
    pending_definition text,
    former_definition  text, -- what was approved before
    first_seen         timestamptz NOT NULL DEFAULT now(),
    changed_at         timestamptz,
    PRIMARY KEY (server_id, tool_name),
    CONSTRAINT hash_is_sha256 CHECK (hash COLLATE "C" ~ '^[0-9a-f]{64}$'),
    CONSTRAINT pending_hash_is_sha256 CHECK (pending_hash COLLATE "C" ~ '^[0-9a-f]{64}$')
);

-- One row, which gateways look at every second instead of the table above.
CREATE TABLE tool_pin_version (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    version bigint NOT NULL
);
INSERT INTO tool_pin_version (version) VALUES (0);

CREATE FUNCTION portcullis_note_pins() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tool_pin_version SET version = version + 1;
    RETURN NULL;
END $$;

-- As for the other tables: see 0002_changes.sql.
DO $$
BEGIN
    EXECUTE pg_catalog.format(
        'ALTER FUNCTION portcullis_note_pins() SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
        current_schema());
END $$;
REVOKE ALL ON FUNCTION portcullis_note_pins() FROM PUBLIC;

CREATE TRIGGER portcullis_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tool_pins
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_pins();
