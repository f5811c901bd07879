-- What servers say of their tools, as in Postgres.

CREATE TABLE tool_pins (
    server_id          text NOT NULL,
    tool_name          text NOT NULL,
    hash               text, -- NULL: never approved
    definition         text,
    pending_hash       text, -- seen since and not approved; NULL: nothing
    pending_definition text,
    former_definition  text, -- what was approved before
    first_seen         integer NOT NULL DEFAULT (unixepoch()),
    changed_at         integer,
    PRIMARY KEY (server_id, tool_name),
    CONSTRAINT hash_is_sha256 CHECK (length(hash) = 64 AND hash NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT pending_hash_is_sha256 CHECK (length(pending_hash) = 64 AND pending_hash NOT GLOB '*[^0-9a-f]*')
);

-- One row, which gateways look at every second instead of the table above.
CREATE TABLE tool_pin_version (
    is_only integer PRIMARY KEY DEFAULT 1 CHECK (is_only = 1),
    version integer NOT NULL
);
INSERT INTO tool_pin_version (version) VALUES (0);

CREATE TRIGGER portcullis_tool_pins_inserted AFTER INSERT ON tool_pins BEGIN
    UPDATE tool_pin_version SET version = version + 1;
END;
CREATE TRIGGER portcullis_tool_pins_updated AFTER UPDATE ON tool_pins BEGIN
    UPDATE tool_pin_version SET version = version + 1;
END;
CREATE TRIGGER portcullis_tool_pins_deleted AFTER DELETE ON tool_pins BEGIN
    UPDATE tool_pin_version SET version = version + 1;
END;
