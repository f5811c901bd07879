-- The change feed: which users and groups the grant tables were changed for.

-- AUTOINCREMENT: an id is never used twice, and SQLite's single writer makes ids commit in order.
CREATE TABLE portcullis_changes (
    id      integer PRIMARY KEY AUTOINCREMENT,
    kind    text NOT NULL, -- `user` or `group`
    subject text,          -- the user_email or group_name as written; NULL: everything may have changed
    at      integer NOT NULL DEFAULT (unixepoch())
);
CREATE INDEX portcullis_changes_at ON portcullis_changes (at);

CREATE TRIGGER portcullis_user_tenant_access_inserted AFTER INSERT ON user_tenant_access BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('user', NEW.user_email);
END;
CREATE TRIGGER portcullis_user_tenant_access_updated AFTER UPDATE ON user_tenant_access BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('user', OLD.user_email);
    INSERT INTO portcullis_changes (kind, subject) SELECT 'user', NEW.user_email WHERE NEW.user_email <> OLD.user_email;
END;
CREATE TRIGGER portcullis_user_tenant_access_deleted AFTER DELETE ON user_tenant_access BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('user', OLD.user_email);
END;

CREATE TRIGGER portcullis_user_group_membership_inserted AFTER INSERT ON user_group_membership BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('user', NEW.user_email);
END;
CREATE TRIGGER portcullis_user_group_membership_updated AFTER UPDATE ON user_group_membership BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('user', OLD.user_email);
    INSERT INTO portcullis_changes (kind, subject) SELECT 'user', NEW.user_email WHERE NEW.user_email <> OLD.user_email;
END;
CREATE TRIGGER portcullis_user_group_membership_deleted AFTER DELETE ON user_group_membership BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('user', OLD.user_email);
END;

CREATE TRIGGER portcullis_group_tenant_mapping_inserted AFTER INSERT ON group_tenant_mapping BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', NEW.group_name);
END;
CREATE TRIGGER portcullis_group_tenant_mapping_updated AFTER UPDATE ON group_tenant_mapping BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', OLD.group_name);
    INSERT INTO portcullis_changes (kind, subject) SELECT 'group', NEW.group_name WHERE NEW.group_name <> OLD.group_name;
END;
CREATE TRIGGER portcullis_group_tenant_mapping_deleted AFTER DELETE ON group_tenant_mapping BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', OLD.group_name);
END;
