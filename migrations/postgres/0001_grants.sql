-- The grant tables. Those of an earlier gateway may stand here already, with more columns and other keys.

CREATE TABLE IF NOT EXISTS user_tenant_access (
    user_email   text NOT NULL,
    tenant_id    text NOT NULL, -- a server id
    access_level text NOT NULL DEFAULT 'read',
    PRIMARY KEY (user_email, tenant_id)
);

CREATE TABLE IF NOT EXISTS group_tenant_mapping (
    group_name text NOT NULL,
    tenant_id  text NOT NULL, -- a server id
    PRIMARY KEY (group_name, tenant_id)
);

CREATE TABLE IF NOT EXISTS user_group_membership (
    user_email text NOT NULL,
    group_name text NOT NULL,
    PRIMARY KEY (user_email, group_name)
);

-- Emails match without regard to the case of ASCII letters. `COLLATE "C"` says so in every locale:
-- a Turkish database would fold `I` to a dotless i, and a revocation would miss its row.
CREATE INDEX IF NOT EXISTS portcullis_user_tenant_access_email
    ON user_tenant_access (lower(user_email::text COLLATE "C"));
CREATE INDEX IF NOT EXISTS portcullis_user_group_membership_email
    ON user_group_membership (lower(user_email::text COLLATE "C"));
-- A predecessor's table may lack the key that answers "which servers has this group".
CREATE INDEX IF NOT EXISTS portcullis_group_tenant_mapping_group
    ON group_tenant_mapping (group_name);
