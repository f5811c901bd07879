-- The change feed: which users and groups the grant tables were changed for.

CREATE TABLE portcullis_changes (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Ids commit out of order, so readers go by transaction: see migrations/README.md.
    txid    xid8 NOT NULL DEFAULT pg_current_xact_id(),
    kind    text NOT NULL, -- `user` or `group`
    subject text,          -- the user_email or group_name as written; NULL: everything may have changed
    at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX portcullis_changes_txid ON portcullis_changes (txid);

CREATE FUNCTION portcullis_add_changes(change_kind text, subjects text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF subjects IS NULL THEN
        RETURN; -- the statement touched no row
    END IF;
    IF pg_catalog.cardinality(subjects) > 500 THEN
        INSERT INTO portcullis_changes (kind, subject) VALUES (change_kind, NULL);
    ELSE
        INSERT INTO portcullis_changes (kind, subject)
        SELECT change_kind, touched.subject FROM pg_catalog.unnest(subjects) AS touched (subject);
    END IF;
    -- A hint only: readers look into the table.
    PERFORM pg_catalog.pg_notify('portcullis_changes'::text, change_kind);
END $$;

CREATE FUNCTION portcullis_note_users() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    subjects text[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT pg_catalog.array_agg(email) INTO subjects FROM (
            SELECT DISTINCT user_email::text AS email FROM new_rows WHERE user_email IS NOT NULL LIMIT 501
        ) AS touched;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT pg_catalog.array_agg(email) INTO subjects FROM (
            SELECT DISTINCT user_email::text AS email FROM old_rows WHERE user_email IS NOT NULL LIMIT 501
        ) AS touched;
    ELSIF TG_OP = 'UPDATE' THEN
        SELECT pg_catalog.array_agg(email) INTO subjects FROM (
            SELECT user_email::text AS email FROM old_rows WHERE user_email IS NOT NULL
            UNION
            SELECT user_email::text FROM new_rows WHERE user_email IS NOT NULL
            LIMIT 501
        ) AS touched;
    ELSE
        subjects := pg_catalog.array_fill(NULL::text, ARRAY[501]); -- TRUNCATE: everything
    END IF;
    PERFORM portcullis_add_changes('user', subjects);
    RETURN NULL;
END $$;

CREATE FUNCTION portcullis_note_groups() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    subjects text[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT pg_catalog.array_agg(name) INTO subjects FROM (
            SELECT DISTINCT group_name::text AS name FROM new_rows WHERE group_name IS NOT NULL LIMIT 501
        ) AS touched;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT pg_catalog.array_agg(name) INTO subjects FROM (
            SELECT DISTINCT group_name::text AS name FROM old_rows WHERE group_name IS NOT NULL LIMIT 501
        ) AS touched;
    ELSIF TG_OP = 'UPDATE' THEN
        SELECT pg_catalog.array_agg(name) INTO subjects FROM (
            SELECT group_name::text AS name FROM old_rows WHERE group_name IS NOT NULL
            UNION
            SELECT group_name::text FROM new_rows WHERE group_name IS NOT NULL
            LIMIT 501
        ) AS touched;
    ELSE
        subjects := pg_catalog.array_fill(NULL::text, ARRAY[501]); -- TRUNCATE: everything
    END IF;
    PERFORM portcullis_add_changes('group', subjects);
    RETURN NULL;
END $$;

-- The triggers run as the owner of the feed, so that whoever may write a grant table can, whatever their
-- search_path. `pg_temp` comes last and nobody else may attach these functions to a table of their own:
-- otherwise a stranger's temporary `portcullis_changes` would run code as the owner.
DO $$
BEGIN
    EXECUTE pg_catalog.format(
        'ALTER FUNCTION portcullis_note_users() SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
        current_schema());
    EXECUTE pg_catalog.format(
        'ALTER FUNCTION portcullis_note_groups() SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
        current_schema());
END $$;
REVOKE ALL ON FUNCTION
    portcullis_add_changes(text, text[]), portcullis_note_users(), portcullis_note_groups() FROM PUBLIC;

CREATE TRIGGER portcullis_inserted AFTER INSERT ON user_tenant_access
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_users();
CREATE TRIGGER portcullis_updated AFTER UPDATE ON user_tenant_access
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_users();
CREATE TRIGGER portcullis_deleted AFTER DELETE ON user_tenant_access
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_users();
CREATE TRIGGER portcullis_truncated AFTER TRUNCATE ON user_tenant_access
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_users();

CREATE TRIGGER portcullis_inserted AFTER INSERT ON user_group_membership
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_users();
CREATE TRIGGER portcullis_updated AFTER UPDATE ON user_group_membership
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_users();
CREATE TRIGGER portcullis_deleted AFTER DELETE ON user_group_membership
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_users();
CREATE TRIGGER portcullis_truncated AFTER TRUNCATE ON user_group_membership
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_users();

CREATE TRIGGER portcullis_inserted AFTER INSERT ON group_tenant_mapping
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_groups();
CREATE TRIGGER portcullis_updated AFTER UPDATE ON group_tenant_mapping
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_groups();
CREATE TRIGGER portcullis_deleted AFTER DELETE ON group_tenant_mapping
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_groups();
CREATE TRIGGER portcullis_truncated AFTER TRUNCATE ON group_tenant_mapping
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_groups();
