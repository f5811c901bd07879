-- Rules about single tools, as in Postgres.

CREATE TABLE tool_rules (
    subject_kind text NOT NULL,
    subject      text NOT NULL, -- a user_email or a group_name
    tenant_id    text NOT NULL, -- a server id
    tool_pattern text NOT NULL, -- a tool's name, `*` for any characters
    effect       text NOT NULL,
    PRIMARY KEY (subject_kind, subject, tenant_id, tool_pattern),
    CONSTRAINT subject_kind_is_user_or_group CHECK (subject_kind IN ('user', 'group')),
    CONSTRAINT subject_is_an_email_or_a_group_name CHECK (
        subject <> '' AND subject = trim(subject, char(32, 9, 13, 10))
        AND (subject_kind <> 'user' OR subject LIKE '%_@_%' AND subject NOT LIKE '% %')),
    CONSTRAINT tenant_id_is_a_server_id CHECK (
        length(tenant_id) <= 63 AND tenant_id GLOB '[a-z0-9]*' AND tenant_id NOT GLOB '*[^a-z0-9_-]*'),
    CONSTRAINT tool_pattern_is_letters_digits_and_stars CHECK (
        length(tool_pattern) BETWEEN 1 AND 128 AND tool_pattern NOT GLOB '*[^A-Za-z0-9_.*-]*'),
    CONSTRAINT effect_is_allow_or_deny CHECK (effect IN ('allow', 'deny'))
);

CREATE INDEX portcullis_tool_rules_email ON tool_rules (lower(subject)) WHERE subject_kind = 'user';

CREATE TRIGGER portcullis_tool_rules_inserted AFTER INSERT ON tool_rules BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES (NEW.subject_kind, NEW.subject);
END;
CREATE TRIGGER portcullis_tool_rules_updated AFTER UPDATE ON tool_rules BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES (OLD.subject_kind, OLD.subject);
    INSERT INTO portcullis_changes (kind, subject) SELECT NEW.subject_kind, NEW.subject
    WHERE NEW.subject_kind <> OLD.subject_kind OR NEW.subject <> OLD.subject;
END;
CREATE TRIGGER portcullis_tool_rules_deleted AFTER DELETE ON tool_rules BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES (OLD.subject_kind, OLD.subject);
END;
