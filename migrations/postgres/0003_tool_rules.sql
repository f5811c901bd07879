-- Rules about single tools. They narrow what a grant gives: one that is malformed is refused here, with a sentence
-- that names the column, because a rule that counts for nobody would look like protection.

CREATE TABLE tool_rules (
    subject_kind text NOT NULL,
    subject      text NOT NULL, -- a user_email or a group_name
    tenant_id    text NOT NULL, -- a server id
    tool_pattern text NOT NULL, -- a tool's name, `*` for any characters
    effect       text NOT NULL,
    PRIMARY KEY (subject_kind, subject, tenant_id, tool_pattern),
    CONSTRAINT subject_kind_is_user_or_group CHECK (subject_kind IN ('user', 'group')),
    CONSTRAINT subject_is_an_email_or_a_group_name CHECK (
        subject <> '' AND subject = pg_catalog.btrim(subject, E' \t\r\n')
        AND (subject_kind <> 'user' OR subject LIKE '%_@_%' AND subject NOT LIKE '% %')),
    CONSTRAINT tenant_id_is_a_server_id CHECK (tenant_id COLLATE "C" ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    CONSTRAINT tool_pattern_is_letters_digits_and_stars CHECK (tool_pattern COLLATE "C" ~ '^[A-Za-z0-9_.*-]{1,128}$'),
    CONSTRAINT effect_is_allow_or_deny CHECK (effect IN ('allow', 'deny'))
);

CREATE INDEX portcullis_tool_rules_email ON tool_rules (lower(subject COLLATE "C")) WHERE subject_kind = 'user';

CREATE FUNCTION portcullis_note_rules() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    changed_kind text;
    subjects text[];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM portcullis_add_changes('group', pg_catalog.array_fill(NULL::text, ARRAY[501])); -- everything
        RETURN NULL;
    END IF;
    FOREACH changed_kind IN ARRAY ARRAY['user', 'group'] LOOP
        IF TG_OP = 'INSERT' THEN
            SELECT pg_catalog.array_agg(touched.subject) INTO subjects FROM (
                SELECT DISTINCT subject FROM new_rows WHERE subject_kind = changed_kind LIMIT 501
            ) AS touched;
        ELSIF TG_OP = 'DELETE' THEN
            SELECT pg_catalog.array_agg(touched.subject) INTO subjects FROM (
                SELECT DISTINCT subject FROM old_rows WHERE subject_kind = changed_kind LIMIT 501
            ) AS touched;
        ELSE
            SELECT pg_catalog.array_agg(touched.subject) INTO subjects FROM (
                SELECT subject FROM old_rows WHERE subject_kind = changed_kind
                UNION
                SELECT subject FROM new_rows WHERE subject_kind = changed_kind
                LIMIT 501
            ) AS touched;
        END IF;
        PERFORM portcullis_add_changes(changed_kind, subjects);
    END LOOP;
    RETURN NULL;
END $$;

-- As for the other tables: see 0002_changes.sql.
DO $$
BEGIN
    EXECUTE pg_catalog.format(
        'ALTER FUNCTION portcullis_note_rules() SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp',
        current_schema());
END $$;
REVOKE ALL ON FUNCTION portcullis_note_rules() FROM PUBLIC;

CREATE TRIGGER portcullis_inserted AFTER INSERT ON tool_rules
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_rules();
CREATE TRIGGER portcullis_updated AFTER UPDATE ON tool_rules
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_rules();
CREATE TRIGGER portcullis_deleted AFTER DELETE ON tool_rules
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_rules();
CREATE TRIGGER portcullis_truncated AFTER TRUNCATE ON tool_rules
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_note_rules();
