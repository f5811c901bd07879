-- One row for each call that was answered: who made it, what it was and what came of it. The first columns are those of
-- an earlier gateway, whose table may stand already; then it keeps its rows and gets what it lacks.

DO $$
DECLARE
    kind "char";
    needed record;
    id_sequence text;
BEGIN
    SELECT relkind INTO kind FROM pg_catalog.pg_class
        WHERE relname = 'api_analytics' AND relnamespace = pg_catalog.quote_ident(current_schema())::regnamespace;
    IF kind IS NULL THEN
        CREATE TABLE api_analytics (
            id               bigserial NOT NULL,
            timestamp        timestamptz NOT NULL DEFAULT now(),
            user_email       varchar(255),
            method           varchar(10),
            endpoint         varchar(512),
            status_code      integer,
            response_time_ms integer,
            user_agent       text,
            client_ip        varchar(45),
            -- It has the name of an index that earlier gateways' tables have, and serves as such.
            CONSTRAINT idx_api_analytics_timestamp PRIMARY KEY (timestamp, id)
        ) PARTITION BY RANGE (timestamp);
        -- Gateways make one for each month ahead; what has none goes here, so that nothing is ever refused.
        CREATE TABLE api_analytics_default PARTITION OF api_analytics DEFAULT;
        CREATE INDEX idx_api_analytics_user ON api_analytics (user_email);
        CREATE INDEX idx_api_analytics_endpoint ON api_analytics (endpoint);
    ELSIF kind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION 'api_analytics is not a table'
            USING HINT = 'the gateway writes its audit there: rename what has that name';
    END IF;

    FOR needed IN
        SELECT * FROM (VALUES
            ('timestamp', 'timestamptz NOT NULL DEFAULT now()'), ('user_email', 'varchar(255)'), ('method', 'varchar(10)'),
            ('endpoint', 'varchar(512)'), ('status_code', 'integer'), ('response_time_ms', 'integer'),
            ('user_agent', 'text'), ('client_ip', 'varchar(45)'),
            ('entry_id', 'uuid'), ('request_id', 'text'), ('call', 'integer'), ('caller', 'text'), ('directory', 'text'),
            ('scheme', 'text'), ('granted_by', 'text'), ('tenant', 'text'), ('route', 'text'), ('rpc_method', 'text'),
            ('server', 'text'), ('tool', 'text'), ('outcome', 'text'), ('code', 'text'), ('reason', 'text'),
            ('gateway_ms', 'double precision'), ('upstream_ms', 'double precision'), ('request_bytes', 'bigint'),
            ('response_bytes', 'bigint'), ('retries', 'integer'), ('argument_digest', 'text'), ('arguments', 'text'),
            ('trace_id', 'text'), ('instance', 'text')) AS columns (named, typed)
        WHERE NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute
            WHERE attrelid = 'api_analytics'::regclass AND attname = columns.named AND NOT attisdropped)
    LOOP
        -- Without a default, so that a table of any size has it at once.
        EXECUTE pg_catalog.format('ALTER TABLE api_analytics ADD COLUMN %I %s', needed.named, needed.typed);
    END LOOP;

    -- An id of four bytes comes to its end after two billion rows, and then every INSERT would fail. Widening it would
    -- write a large table anew; its sequence goes on with negative numbers instead, which nobody has had.
    SELECT pg_catalog.pg_get_serial_sequence('api_analytics', 'id') INTO id_sequence
        FROM pg_catalog.pg_attribute
        WHERE attrelid = 'api_analytics'::regclass AND attname = 'id' AND atttypid = 'integer'::regtype;
    IF id_sequence IS NOT NULL THEN
        EXECUTE pg_catalog.format(
            'ALTER SEQUENCE %s MINVALUE -2147483648 MAXVALUE 2147483647 CYCLE', id_sequence);
    END IF;
END $$;

-- What makes a row that is written again no second one. Rows of others have none. With the time in it, because a key of
-- a partitioned table has to have it.
-- It may be there: a backup that was restored without this table brings back an older record of migrations.
CREATE UNIQUE INDEX IF NOT EXISTS api_analytics_entry ON api_analytics (entry_id, timestamp) WHERE entry_id IS NOT NULL;
-- What people ask for: somebody's calls (rows of earlier gateways name an email alone), and one request.
CREATE INDEX IF NOT EXISTS api_analytics_caller ON api_analytics (lower(coalesce(caller, user_email)));
CREATE INDEX IF NOT EXISTS api_analytics_request ON api_analytics (request_id) WHERE request_id IS NOT NULL;
