-- What groups bring of their own: keys for servers, and servers' addresses. Here `tenant_id` is a group name; the tables
-- may stand already, from an earlier gateway, with more columns and other keys.

CREATE TABLE IF NOT EXISTS tenant_server_keys (
    tenant_id text NOT NULL, -- a group name
    server_id text NOT NULL,
    key_name  text NOT NULL,
    key_value text NOT NULL, -- sealed by `portcullis keys set`
    PRIMARY KEY (tenant_id, server_id, key_name)
);

CREATE TABLE IF NOT EXISTS tenant_endpoint_overrides (
    tenant_id    text NOT NULL, -- a group name
    server_id    text NOT NULL,
    endpoint_url text NOT NULL,
    PRIMARY KEY (tenant_id, server_id)
);

-- The other name that earlier gateways gave it.
CREATE TABLE IF NOT EXISTS tenant_server_endpoints (
    tenant_id    text NOT NULL, -- a group name
    server_id    text NOT NULL,
    endpoint_url text NOT NULL,
    PRIMARY KEY (tenant_id, server_id)
);

-- A table of an earlier gateway may lack a column that is read here. It is added, empty: a row without a name or a value
-- refuses what it is about. Asked first, because adding needs the owner even where there is nothing to add.
DO $$
DECLARE
    needed record;
BEGIN
    FOR needed IN
        SELECT * FROM (VALUES
            ('tenant_server_keys', 'tenant_id'), ('tenant_server_keys', 'server_id'),
            ('tenant_server_keys', 'key_name'), ('tenant_server_keys', 'key_value'),
            ('tenant_endpoint_overrides', 'tenant_id'), ('tenant_endpoint_overrides', 'server_id'),
            ('tenant_endpoint_overrides', 'endpoint_url'),
            ('tenant_server_endpoints', 'tenant_id'), ('tenant_server_endpoints', 'server_id'),
            ('tenant_server_endpoints', 'endpoint_url')) AS columns (of_table, named)
        WHERE NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute
            WHERE attrelid = pg_catalog.to_regclass(columns.of_table) AND attname = columns.named AND NOT attisdropped)
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %I ADD COLUMN %I text', needed.of_table, needed.named);
    END LOOP;
END $$;

CREATE FUNCTION portcullis_note_tenants() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    subjects text[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT pg_catalog.array_agg(name) INTO subjects FROM (
            SELECT DISTINCT tenant_id::text AS name FROM new_rows WHERE tenant_id IS NOT NULL LIMIT 501
        ) AS touched;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT pg_catalog.array_agg(name) INTO subjects FROM (
            SELECT DISTINCT tenant_id::text AS name FROM old_rows WHERE tenant_id IS NOT NULL LIMIT 501
        ) AS touched;
    ELSIF TG_OP = 'UPDATE' THEN
        SELECT pg_catalog.array_agg(name) INTO subjects FROM (
            SELECT tenant_id::text AS name FROM old_rows WHERE tenant_id IS NOT NULL
            UNION
            SELECT tenant_id::text FROM new_rows WHERE tenant_id IS NOT NULL
            LIMIT 501
        ) AS touched;
    ELSE
        subjects := pg_catalog.array_fill(NULL::text, ARRAY[501]); -- TRUNCATE: everything
    END IF;
    PERFORM portcullis_add_changes('group', subjects);
    RETURN NULL;
END $$;

-- As for the other tables: see 0002_changes.sql.
DO $$
BEGIN
    EXECUTE pg_catalog.format(
        'ALTER FUNCTION portcullis_note_tenants() SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
        current_schema());
END $$;
REVOKE ALL ON FUNCTION portcullis_note_tenants() FROM PUBLIC;

CREATE TRIGGER portcullis_inserted AFTER INSERT ON tenant_server_keys
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();
CREATE TRIGGER portcullis_updated AFTER UPDATE ON tenant_server_keys
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();
CREATE TRIGGER portcullis_deleted AFTER DELETE ON tenant_server_keys
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();
CREATE TRIGGER portcullis_truncated AFTER TRUNCATE ON tenant_server_keys
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();

CREATE TRIGGER portcullis_inserted AFTER INSERT ON tenant_endpoint_overrides
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();
CREATE TRIGGER portcullis_updated AFTER UPDATE ON tenant_endpoint_overrides
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();
CREATE TRIGGER portcullis_deleted AFTER DELETE ON tenant_endpoint_overrides
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();
CREATE TRIGGER portcullis_truncated AFTER TRUNCATE ON tenant_endpoint_overrides
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();

CREATE TRIGGER portcullis_inserted AFTER INSERT ON tenant_server_endpoints
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();
CREATE TRIGGER portcullis_updated AFTER UPDATE ON tenant_server_endpoints
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();
CREATE TRIGGER portcullis_deleted AFTER DELETE ON tenant_server_endpoints
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();
CREATE TRIGGER portcullis_truncated AFTER TRUNCATE ON tenant_server_endpoints
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_tenants();
