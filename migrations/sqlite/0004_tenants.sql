-- What groups bring of their own, as in Postgres. Here `tenant_id` is a group name.

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

CREATE TRIGGER portcullis_tenant_server_keys_inserted AFTER INSERT ON tenant_server_keys BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', NEW.tenant_id);
END;
CREATE TRIGGER portcullis_tenant_server_keys_updated AFTER UPDATE ON tenant_server_keys BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', OLD.tenant_id);
    INSERT INTO portcullis_changes (kind, subject) SELECT 'group', NEW.tenant_id WHERE NEW.tenant_id <> OLD.tenant_id;
END;
CREATE TRIGGER portcullis_tenant_server_keys_deleted AFTER DELETE ON tenant_server_keys BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', OLD.tenant_id);
END;

CREATE TRIGGER portcullis_tenant_endpoint_overrides_inserted AFTER INSERT ON tenant_endpoint_overrides BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', NEW.tenant_id);
END;
CREATE TRIGGER portcullis_tenant_endpoint_overrides_updated AFTER UPDATE ON tenant_endpoint_overrides BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', OLD.tenant_id);
    INSERT INTO portcullis_changes (kind, subject) SELECT 'group', NEW.tenant_id WHERE NEW.tenant_id <> OLD.tenant_id;
END;
CREATE TRIGGER portcullis_tenant_endpoint_overrides_deleted AFTER DELETE ON tenant_endpoint_overrides BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', OLD.tenant_id);
END;

CREATE TRIGGER portcullis_tenant_server_endpoints_inserted AFTER INSERT ON tenant_server_endpoints BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', NEW.tenant_id);
END;
CREATE TRIGGER portcullis_tenant_server_endpoints_updated AFTER UPDATE ON tenant_server_endpoints BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', OLD.tenant_id);
    INSERT INTO portcullis_changes (kind, subject) SELECT 'group', NEW.tenant_id WHERE NEW.tenant_id <> OLD.tenant_id;
END;
CREATE TRIGGER portcullis_tenant_server_endpoints_deleted AFTER DELETE ON tenant_server_endpoints BEGIN
    INSERT INTO portcullis_changes (kind, subject) VALUES ('group', OLD.tenant_id);
END;
